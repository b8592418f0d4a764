"""Pictures of the most anomalous and the most borderline images. They are chosen while a batch is
scored, and a limited number is kept on the disk."""

from bisect import insort
from math import isfinite
from pathlib import Path

from anodetect.files import write_atomic
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.imaging.representations import Panels
from anodetect.output import volumes
from anodetect.output.pictures import case_strip
from anodetect.record.audit import ShownCases
from anodetect.record.directories import picture_of
from anodetect.types import Floats

KEPT = {"highest": 50, "borderline": 12}


class Cases:
    """The most anomalous images, and those nearest to the threshold, as strips of pictures in
    `out`/cases."""

    def __init__(self, out: Path, threshold: float, scale: tuple[float, float]) -> None:
        self.out, self.threshold, self.scale = out, threshold, scale
        self.kept: dict[str, list[tuple[float, str]]] = {name: [] for name in KEPT}

    def admits(self, identity: str, score: float) -> bool:
        """Rank an image, and return whether it is among the first by its score or by its nearness
        to the threshold, of all so far."""
        admitted = False
        for name, rank in self._ranks(score).items():
            if self._is_among(name, (rank, identity)):
                insort(self.kept[name], (rank, identity))
                del self.kept[name][KEPT[name] :]
                admitted = True
        return admitted

    def _ranks(self, score: float) -> dict[str, float]:
        """Return the place of a score in each ranking, from low to high."""
        return {"highest": -score, "borderline": abs(score - self.threshold)}

    def _is_among(self, name: str, ranked: tuple[float, str]) -> bool:
        """Return whether an image is among the first of a ranking, of all so far."""
        kept = self.kept[name]
        return isfinite(ranked[0]) and (len(kept) < KEPT[name] or ranked < kept[-1])

    def draw_image(self, identity: str, panels: Panels) -> None:
        """Write the picture of an image that was admitted: its panels."""
        picture = case_strip(
            panels.image, panels.heatmap, panels.reconstruction, self.scale, planes=panels.planes
        )
        write_atomic(picture_of(self.out, identity), picture, durable=False)

    def draw_volume(
        self,
        identity: str,
        heatmap: Floats,
        volume: PreparedVolume,
        window: tuple[float, float] | None,
    ) -> None:
        """Write the picture of a volume that was admitted: three planes through its peak."""
        picture = volumes.picture(heatmap, volume, self.scale, window)
        write_atomic(picture_of(self.out, identity), picture, durable=False)

    def recall(self, identity: str, score: float) -> None:
        """Rank an image that was scored before, if its picture was kept."""
        ranks = self._ranks(score).items()
        is_first = any(self._is_among(name, (rank, identity)) for name, rank in ranks)
        if is_first and picture_of(self.out, identity).is_file():
            self.admits(identity, score)

    def settle(self) -> ShownCases:
        """Return the images that are kept in the end; pictures of others are removed."""
        wanted = {picture_of(self.out, identity) for identity in self._names()}
        for picture in picture_of(self.out, "").parent.glob("*"):
            if picture not in wanted:
                picture.unlink()
        return ShownCases(self._ranked("highest"), self._ranked("borderline"))

    def _ranked(self, name: str) -> tuple[str, ...]:
        """Return the images of one ranking, the first ones first."""
        return tuple(identity for _, identity in self.kept[name])

    def _names(self) -> set[str]:
        return {*self._ranked("highest"), *self._ranked("borderline")}
