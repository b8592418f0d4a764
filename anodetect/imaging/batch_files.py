"""Batches that are too large for memory: arrays in files that are mapped into it."""

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from anodetect.types import Batch, Bools, Floats


class BatchWriter:
    """Writes images and foregrounds of one shape, one by one, to two new files.

    The files are `stem`-images.npy and `stem`-inside.npy, with room for `count` images.
    """

    def __init__(self, stem: Path, count: int) -> None:
        self.stem, self.count = stem, count
        self.written = 0
        self.images: Floats
        self.foreground: Bools
        self.absent: list[Bools] = []

    def append(self, image: Floats, foreground: Bools, absent: Bools | None = None) -> None:
        """Write an image and its foreground. `absent` [C] says which channels it lacks."""
        if self.written == 0:
            rows = self.count
            self.images = open_memmap(
                f"{self.stem}-images.npy", "w+", np.float32, (rows, *image.shape)
            )
            self.foreground = open_memmap(
                f"{self.stem}-inside.npy", "w+", np.bool_, (rows, *foreground.shape)
            )
        self.images[self.written], self.foreground[self.written] = image, foreground
        self.absent.append(np.zeros(len(image), bool) if absent is None else absent)
        self.written += 1

    def batch(self, kinds: NDArray[np.int64] | None = None) -> Batch:
        """Return what was written, at least one image, without reading it into memory."""
        rows = slice(self.written)
        absent = np.stack(self.absent)
        lacking = absent if absent.any() else None
        return Batch(self.images[rows], self.foreground[rows], kinds, lacking)
