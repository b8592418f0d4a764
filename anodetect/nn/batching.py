"""Batches of one fixed size, in which images are scored, and what is known of all from a few."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Floats

_small = ContextVar("_small", default=False)

LARGER = 4  # times as many images in a batch on a GPU, which has enough to do only with these
SOME = 100  # images, or up to twice as many, that stand for all


def variance_of(images: Floats) -> float:
    """Return the variance of the values of images [N, ...], from some of them; never 0."""
    return float(np.var(images[:: max(1, len(images) // SOME)])) + 1e-6


def in_micro_batches(
    function: Callable[..., tuple[Floats, ...]], *arrays: NDArray[np.generic], size: int
) -> tuple[Floats, ...]:
    """Apply `function` to `size` rows of all arrays at a time; return its results, joined by rows.

    The last batch is filled up with copies of its last row, so that `function` always gets `size`
    rows and the result of a row does not depend on how many others there are. Within
    `small_batches` it is not.
    """
    count, results = len(arrays[0]), []
    for rows in row_numbers(count, size):
        results.append(function(*[array[rows] for array in arrays]))
    return tuple(np.concatenate(parts)[:count] for parts in zip(*results, strict=True))


def row_numbers(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of `size` of `count` rows at a time; the last one fills up its batch, but
    not within `small_batches`."""
    if _small.get():
        size = min(size, count)
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def images_together(size: int, *detectors: object) -> int:
    """Return how many images to hand to detectors at once, where `size` are right for a processor:
    LARGER times as many if one of them computes on a GPU."""
    for detector in detectors:
        device = getattr(detector, "device", None)
        if device is not None and device.type == "cuda":
            return LARGER * size
    return size


@contextmanager
def small_batches() -> Iterator[None]:
    """Fill no batch up: a single image then takes a fraction of the time, and its score may differ
    in its last bits from that in a full batch."""
    token = _small.set(True)
    try:
        yield
    finally:
        _small.reset(token)
