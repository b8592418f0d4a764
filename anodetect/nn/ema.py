"""Exponential moving average of weights, with warm-up."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


class EMA(Generic[Net]):
    """Keeps `average`, a copy of a network whose weights follow the network's.

    The decay at step n is min(limit, (1 + n) / (10 + n)). Buffers are copied as they are.
    """

    def __init__(self, net: Net, limit: float = 0.999) -> None:
        self.average = copy.deepcopy(net).requires_grad_(False).eval()
        self.limit = limit

    @torch.no_grad()
    def update(self, net: Net, step: int) -> None:
        """Move the averaged weights towards those of `net`, as of this step."""
        decay = min(self.limit, (1 + step) / (10 + step))
        averaged = [p.detach() for p in self.average.parameters()]
        current = [p.detach() for p in net.parameters()]
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), net.buffers(), strict=True):
            kept.copy_(buffer)
