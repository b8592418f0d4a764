"""Batches: one fixed size for scoring, and files of those that are too large for memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Bools, Floats

Arrays = tuple[NDArray[np.generic], ...]


def in_micro_batches(
    function: Callable[..., Arrays], *arrays: NDArray[np.generic], size: int
) -> Arrays:
    """Apply `function` to `size` rows of all arrays at a time, the last part padded by repetition,
    so that an image's result does not depend on its company."""
    count = len(arrays[0])
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        kept = min(size, count - start)
        parts.append([out[:kept] for out in function(*(array[rows] for array in arrays))])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def mapped(stem: Path, count: int, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
    """Arrays for `count` images and foregrounds like these, in new files that are mapped into
    memory."""
    kinds = (("images", np.float32, image), ("inside", np.bool_, foreground))
    images, inside = (
        np.lib.format.open_memmap(f"{stem}-{name}.npy", "w+", kind, (count, *like.shape))
        for name, kind, like in kinds
    )
    return images, inside
