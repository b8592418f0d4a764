"""Exponential moving average of weights, with warm-up."""

import copy

import torch
from torch import nn


class EMA:
    """Keeps `average`, a copy of a network whose weights follow it with decay min(limit, (1 + n) /
    (10 + n))."""

    def __init__(self, net: nn.Module, limit: float = 0.999) -> None:
        self.average = copy.deepcopy(net).requires_grad_(False).eval()
        self.limit = limit

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        decay = min(self.limit, (1 + step) / (10 + step))
        ours, theirs = ([p.detach() for p in each.parameters()] for each in (self.average, net))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, other in zip(self.average.buffers(), net.buffers(), strict=True):
            mine.copy_(other)
