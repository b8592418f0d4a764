"""Pictures of the images worth looking at, chosen while a batch is scored; a bounded number is kept, on the disk."""

from pathlib import Path

import numpy as np

from anodetect.files import write_atomic
from anodetect.model import Scored
from anodetect.records import picture_of
from anodetect.writers import volumes
from anodetect.writers.images import case_strip

KEPT = {"highest": 50, "borderline": 12}


class Cases:
    """The most anomalous images, and those nearest to the threshold, as strips of pictures in `out`/cases."""

    def __init__(self, out: Path, threshold: float, scale: tuple[float, float]) -> None:
        self.out, self.threshold, self.scale = out, threshold, scale
        self.kept: dict[str, list[tuple[float, str]]] = {name: [] for name in KEPT}

    def offer(self, scored: Scored) -> None:
        """Keep the image's picture if it ranks among the first by score or by nearness to the threshold."""
        identity = scored.loaded.record.id
        if self._admit(identity, scored.score):
            write_atomic(picture_of(self.out, identity), self._picture(scored), durable=False)

    def _picture(self, scored: Scored) -> bytes:
        if scored.loaded.volume is not None and scored.heatmap is not None:
            return volumes.picture(scored.heatmap, scored.loaded.volume, self.scale)
        assert scored.grid is not None
        image, heatmap, reconstruction = scored.grid
        return case_strip(image, heatmap, reconstruction, self.scale)

    def recall(self, identity: str, score: float) -> None:
        """Rank an image that was scored before; its picture is there if it was worth one."""
        if picture_of(self.out, identity).is_file():
            self._admit(identity, score)

    def _admit(self, identity: str, score: float) -> bool:
        before = self._names()
        for name, rank in (("highest", -score), ("borderline", abs(score - self.threshold))):
            if np.isfinite(rank):
                self.kept[name] = sorted([*self.kept[name], (rank, identity)])[: KEPT[name]]
        now = self._names()
        for dropped in before - now:
            picture_of(self.out, dropped).unlink(missing_ok=True)
        return identity in now

    def _names(self) -> set[str]:
        return {identity for kept in self.kept.values() for _, identity in kept}

    def names(self) -> dict[str, list[str]]:
        """The images' ids, the first ones first."""
        return {name: [identity for _, identity in kept] for name, kept in self.kept.items()}
