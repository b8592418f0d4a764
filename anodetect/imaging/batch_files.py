"""Batches that are too large for memory: arrays in files that are mapped into it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from anodetect.files import reserve
from anodetect.types import Batch, Bools, Floats


class BatchWriter:
    """Writes images and foregrounds of one shape, one by one, to two new files.

    The files are `stem`-images.npy and `stem`-inside.npy, with room for `count` images, which is
    taken at once: DiskFullError if there is not so much.
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
            rows, stem = self.count, self.stem
            self.images = _mapped(f"{stem}-images.npy", np.float32, (rows, *image.shape))
            self.foreground = _mapped(f"{stem}-inside.npy", np.bool_, (rows, *foreground.shape))
        self.images[self.written], self.foreground[self.written] = image, foreground
        self.absent.append(np.zeros(len(image), bool) if absent is None else absent)
        self.written += 1

    def batch(self, kinds: NDArray[np.int64] | None = None) -> Batch:
        """Return what was written, at least one image, without reading it into memory."""
        rows = slice(self.written)
        absent = np.stack(self.absent)
        lacking = absent if absent.any() else None
        return Batch(self.images[rows], self.foreground[rows], kinds, lacking)


def _mapped(file: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a new array in a file. Its space is taken now: where a disk became full later, the
    system would end the process."""
    array: NDArray[Any] = open_memmap(file, "w+", dtype, shape)
    reserve(Path(file))
    return array
