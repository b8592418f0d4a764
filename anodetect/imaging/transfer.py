"""Arrays on their way to a device and back, while it computes.

On a GPU copies go through page-locked memory and run beside the computation, on a stream for each
direction. On other devices an array is handed over when its turn comes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anodetect.types import Floats

Array = NDArray[Any]


@dataclass(frozen=True)
class OnItsWay:
    """A tensor that is being copied; `arrived` is an event of the device, None where nothing is
    waited for."""

    values: Tensor
    arrived: Any = None


class Copies(Protocol):
    """Copies to and from one device. `ahead` is how many batches are under way while one is worked
    on."""

    ahead: int

    def send(self, array: Array) -> OnItsWay:
        """Begin to copy an array to the device."""

    def receive(self, sent: OnItsWay) -> Tensor:
        """Return a tensor on the device, which what is computed from now on waits for."""

    def fetch(self, values: Tensor) -> OnItsWay:
        """Begin to copy a tensor from the device, when it has been computed."""

    def array(self, fetched: OnItsWay) -> Floats:
        """Wait for a tensor that was fetched, and return it as an array."""


class DirectCopies:
    """Copies that are made when they are needed."""

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def send(self, array: Array) -> OnItsWay:
        return OnItsWay(torch.from_numpy(np.ascontiguousarray(array)))

    def receive(self, sent: OnItsWay) -> Tensor:
        return sent.values.to(self.device)

    def fetch(self, values: Tensor) -> OnItsWay:
        return OnItsWay(values.cpu())

    def array(self, fetched: OnItsWay) -> Floats:
        return fetched.values.numpy()


class StreamCopies:
    """Copies beside the computation, by way of page-locked memory, one batch ahead of it."""

    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sending = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.fetching = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, array: Array) -> OnItsWay:
        locked = torch.from_numpy(np.ascontiguousarray(array)).pin_memory()
        with torch.cuda.stream(self.sending):
            values = locked.to(self.device, non_blocking=True)
        return OnItsWay(values, self.sending.record_event())

    def receive(self, sent: OnItsWay) -> Tensor:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(sent.arrived)
        sent.values.record_stream(computing)  # or its memory could be used again too early
        return sent.values

    def fetch(self, values: Tensor) -> OnItsWay:
        locked = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self.fetching.wait_event(torch.cuda.current_stream(self.device).record_event())
        with torch.cuda.stream(self.fetching):
            locked.copy_(values, non_blocking=True)
        values.record_stream(self.fetching)
        return OnItsWay(locked, self.fetching.record_event())

    def array(self, fetched: OnItsWay) -> Floats:
        fetched.arrived.synchronize()
        return fetched.values.numpy()


def copies_of(device: torch.device) -> Copies:
    """Return how arrays are copied to and from a device."""
    return StreamCopies(device) if device.type == "cuda" else DirectCopies(device)


def on_device(
    batches: Iterable[tuple[Array, ...]], copies: Copies
) -> Iterator[tuple[Tensor | Array, ...]]:
    """Yield batches whose float arrays are tensors on the device, in their order.

    While one is worked on, the next is copied, if the device can do both.
    """
    waiting: list[tuple[OnItsWay | Array, ...]] = []
    for batch in batches:
        waiting.append(tuple(copies.send(each) if _is_float(each) else each for each in batch))
        if len(waiting) > copies.ahead:
            yield _received(waiting.pop(0), copies)
    for sent in waiting:
        yield _received(sent, copies)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def _received(sent: tuple[OnItsWay | Array, ...], copies: Copies) -> tuple[Tensor | Array, ...]:
    return tuple(copies.receive(each) if isinstance(each, OnItsWay) else each for each in sent)


def to_tensor(images: Floats, device: torch.device) -> Tensor:
    """Return an array, which may be a memory map or a view, as a tensor on a device."""
    copies = copies_of(device)
    return copies.receive(copies.send(images))
