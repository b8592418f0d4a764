"""A model brought to life: configuration, and the path of an image from file to score.

read → preprocess → representation → detector.score → heatmap in the image's own grid

A volume is a series of slices, each an image; where `tiling.dims` is 3, one array that the detector
sees in patches.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anodetect.config import build
from anodetect.errors import ImageError, RunError
from anodetect.imaging import tiling
from anodetect.imaging.heatmaps import pool
from anodetect.imaging.preprocess import Prepared, Preprocess, PreprocessConfig
from anodetect.imaging.representations import representation_class
from anodetect.imaging.resize import resize, resize_depth
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.loading import BATCH, Loaded
from anodetect.model.settings import create_detector
from anodetect.record import runs
from anodetect.stats.calibration import Doubles
from anodetect.types import Batch, Bools, Floats, Scores, image_seeds


@dataclass
class Model:
    """Everything between an image in native units and its score."""

    preprocess: Preprocess
    tiling: TilingConfig
    representation: Any
    detector: Any

    @classmethod
    def create(cls, detector: str, representation: str, config: Mapping[str, Any]) -> "Model":
        seen = representation_class(representation)
        tiled = build(TilingConfig, config["tiling"], "tiling")
        return cls(
            Preprocess(build(PreprocessConfig, config["preprocess"], "preprocess")),
            tiled,
            seen(build(seen.Config, config["representation"], "representation")),
            create_detector(detector, config["detector"], tiled.dims),
        )

    @classmethod
    def load(cls, run: runs.Run, device: str) -> "Model":
        """RunError if what the run holds is no model, though its hashes fit."""
        try:
            model = cls.create(
                run.header["detector"], run.header["representation"], run.header["config"]
            )
            model.preprocess.load_state(run.header["preprocess"])
            model.representation.load_state(run.header["representation_state"])
            model.detector.load_state(run.state, device=device)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise RunError(
                f"{run.path}: not a usable model ({type(error).__name__}: {error})"
            ) from error
        return model

    def encode(
        self, image: Floats, of: Prepared | None = None, number: int = 0
    ) -> tuple[Floats, Bools]:
        """What the detector sees of an image, or `of` a volume of the slice `number`; with tiling
        the scaled image, from which tiles are cut."""
        if self.tiling.dims == 3:
            raise ImageError(
                "an image, but the model was trained on volumes in three dimensions (--dims 3)"
            )
        scaled, inside = self.preprocess.apply(image, of, number)
        return (scaled, inside) if self.tiling.tile else self.representation.encode(scaled, inside)

    def encode_volume(self, volume: Prepared) -> tuple[Floats, Bools]:
        """A volume from which patches are cut: scaled [C, D, H, W], and the foreground of slices
        that have enough of it [D, H, W]; with a spacing asked for as many slices, rows and columns
        as that gives."""
        applied = [
            self.preprocess.apply(volume.slices[:, n], volume, n) for n in range(len(volume.scored))
        ]
        inside = np.stack([foreground for _, foreground in applied]) & volume.scored[:, None, None]
        depth = self.preprocess.depth(volume.geometry)
        return resize_depth(np.stack([scaled for scaled, _ in applied], axis=1), depth), _masked_to(
            inside, depth
        )

    def crops(
        self, encoded: tuple[Floats, Bools], count: int, rng: np.random.Generator
    ) -> list[tuple[Floats, Bools]]:
        """What to learn from an encoded image: itself, or with tiling `count` random tiles; of a
        volume patches."""
        if not any(self.tiling.sides):
            return [encoded]
        tiles = tiling.random_crops(*encoded, self.tiling, count, rng)
        return (
            tiles
            if self.tiling.dims == 3
            else [self.representation.encode(*tile) for tile in tiles]
        )

    def score(
        self,
        images: Sequence[Floats],
        encoded: Sequence[tuple[Floats, Bools]],
        numbers: Iterable[int | None] = itertools.repeat(None),
    ) -> Scores:
        """Scores of `images` in native units, of which some are slices with `numbers`; with tiling,
        of one."""
        seeds = image_seeds(images, numbers)
        if not self.tiling.tile:
            batch = Batch(
                np.stack([image for image, _ in encoded]),
                np.stack([inside for _, inside in encoded]),
            )
            return self.detector.score(batch, seeds=seeds)  # type: ignore[no-any-return]
        ((image, inside),) = encoded
        return tiling.score(
            image,
            inside,
            self.tiling,
            seed=int(seeds[0]),
            encode=self.representation.encode,
            detect=lambda batch, seeds: self.detector.score(batch, seeds=seeds),
            decode=self.representation.decode,
        )

    def score_volume(self, volume: Prepared) -> tuple[Doubles, Floats]:
        """Scores of the slices to score [n], and the heatmap [D, H, W] in the volume's own slices,
        NaN in the others; in three dimensions. A slice is pooled as an image is."""
        numbers, (depth, height, width) = volume.numbers, volume.geometry.sides
        seed = int(image_seeds([volume.slices])[0])
        scaled, inside = self.encode_volume(volume)
        found = tiling.volume_heatmap(
            scaled,
            inside,
            self.tiling,
            seed=seed,
            detect=lambda batch, seeds: self.detector.score(batch, seeds=seeds),
        )
        found, inside = resize_depth(found[None], depth)[0], _masked_to(inside, depth)
        scores = pool(found[numbers], inside[numbers], self.detector.config.pooling).astype(
            np.float64
        )
        heatmap = np.full((depth, height, width), np.nan, np.float32)
        for number in numbers:
            heatmap[number] = self.decode(found[number], (height, width))
        return scores, heatmap

    def shown(
        self, loaded: "Loaded", heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image, heatmap and reconstruction on one grid, for a person to look at."""
        assert loaded.image is not None
        assert loaded.encoded is not None
        if self.tiling.tile:
            return loaded.encoded[0], heatmap, reconstruction
        seen: tuple[Floats, Floats, Floats | None] = self.representation.shown(
            loaded.image, loaded.encoded[0], heatmap, reconstruction
        )
        return seen

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A heatmap → the image's own grid [H, W]."""
        if any(self.tiling.sides):  # of the image's size, unless that was resampled
            decoded: Floats = resize(heatmap[None], *shape)[0]
        else:
            decoded = self.representation.decode(heatmap, shape)
        return decoded

    @property
    def batch(self) -> int:
        """Images to score at a time: whole large images are scored one by one."""
        return 1 if self.tiling.tile else BATCH


def _masked_to(foreground: Bools, depth: int) -> Bools:
    """A foreground [D, H, W] with `depth` slices."""
    if len(foreground) == depth:
        return foreground
    resized: Bools = resize_depth(foreground[None].astype(np.float32), depth)[0] >= 0.5
    return resized
