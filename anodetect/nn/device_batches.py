"""Images scored on a device, as many together as its memory holds."""

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anodetect.errors import RunError
from anodetect.imaging.transfer import Copies, OnItsWay, copies_of, on_device
from anodetect.nn.batching import LARGER, row_numbers
from anodetect.types import Floats

Array = NDArray[Any]
# Takes tensors on the device in place of float arrays, and other arrays as they are.
Function = Callable[..., tuple[Tensor, ...]]

SHARE = 0.5  # of the memory that batches may fill; parts of it cannot be used, or are someone's


def in_device_batches(
    function: Function,
    *arrays: Array,
    size: int,
    device: torch.device,
    owner: object | None = None,
) -> tuple[Floats, ...]:
    """Apply `function` on a device as `in_micro_batches` does, to `size` rows of all arrays at a
    time; on a GPU to up to LARGER times as many, as far as its memory holds them.

    While a batch is computed, the next one is copied to a GPU and the last one's results come back.
    How many rows a memory holds is tried once for each `owner`, which is what `function` is a
    method of unless it is named. Raise RunError if its memory is full.
    """
    try:
        if device.type == "cuda":
            owner = getattr(function, "__self__", function) if owner is None else owner
            size = _rows_on_gpu(owner, function, arrays, LARGER * size, device)
        return apply(function, arrays, size, copies_of(device))
    except torch.OutOfMemoryError:
        raise RunError(
            f"the memory of {device} is full: give it fewer processes (--workers), or take another "
            "device (--device cpu)"
        ) from None


def apply(
    function: Function, arrays: tuple[Array, ...], size: int, copies: Copies
) -> tuple[Floats, ...]:
    """Apply `function` to `size` rows of all arrays at a time, by way of these copies."""
    count = len(arrays[0])
    parts = (tuple(array[rows] for array in arrays) for rows in row_numbers(count, size))
    under_way: deque[list[OnItsWay]] = deque()
    results: list[list[Floats]] = []

    for part in on_device(parts, copies):
        under_way.append([copies.fetch(values) for values in function(*part)])
        if len(under_way) > copies.ahead:
            results.append([copies.array(each) for each in under_way.popleft()])
    for fetched in under_way:
        results.append([copies.array(each) for each in fetched])
    return tuple(np.concatenate(each)[:count] for each in zip(*results, strict=True))


def rows_that_fit(bytes_of_one: int, memory: float, most: int) -> int:
    """Return how many rows are computed together: the largest power of two, at most `most`, that
    takes no more than SHARE of the memory, in bytes; at least 1.

    A power of two, so that small differences of what is measured do not change it, and scores with
    it.
    """
    rows = 1
    while 2 * rows <= most and 2 * rows * bytes_of_one <= SHARE * memory:
        rows *= 2
    return rows


# By what computes, and the shape of a row: how many rows are computed together.
_known: WeakKeyDictionary[object, dict[tuple[int, ...], int]] = WeakKeyDictionary()


def _rows_on_gpu(
    owner: object, function: Function, arrays: tuple[Array, ...], most: int, device: torch.device
) -> int:
    """Return how many rows a GPU computes together, after a trial with one, which is made once for
    an owner."""
    known = _known.setdefault(owner, {})
    shape = arrays[0].shape[1:]
    if shape not in known:
        one = bytes_of_one(function, arrays, device)
        known[shape] = rows_that_fit(one, memory_of(device), most)
    return known[shape]


def bytes_of_one(function: Function, arrays: tuple[Array, ...], device: torch.device) -> int:
    """Return how many bytes of a GPU's memory `function` takes for one row."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    apply(function, tuple(array[:1] for array in arrays), 1, copies_of(device))
    return torch.cuda.max_memory_allocated(device) - before


def memory_of(device: torch.device) -> float:
    """Return the bytes of a GPU's memory that this process may take, whatever others take now: what
    is computed together must be the same in every run."""
    _, total = torch.cuda.mem_get_info(device)
    return total * torch.cuda.get_per_process_memory_fraction(device)
