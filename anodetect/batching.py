"""One fixed batch size for scoring."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.generic], ...]


def in_micro_batches(function: Callable[..., Arrays], *arrays: NDArray[np.generic], size: int) -> Arrays:
    """Apply `function` to `size` rows of all arrays at a time, the last part padded by repetition, so that an
    image's result does not depend on its company."""
    count = len(arrays[0])
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        kept = min(size, count - start)
        parts.append([out[:kept] for out in function(*(array[rows] for array in arrays))])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
