"""A multilayer perceptron that sees one location at a time: residual blocks of 1 × 1 convolutions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_CHANNELS = 64


class LocationMLP(nn.Module):
    """Maps (x [N,inputs,H,W], t int64 [N]) to [N,outputs,H,W], each location from its own channels
    alone."""

    def __init__(self, inputs: int, outputs: int, width: int, *, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.time = nn.Linear(TIME_CHANNELS, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(x.flatten(2).mT)  # [N, H·W, width]
        h = h + self.time(waves(t))[:, None]
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.last(F.silu(h))
        return out.mT.reshape(len(x), -1, *x.shape[2:])


def waves(t: Tensor) -> Tensor:
    """Steps [N] → cos(t·ω) and sin(t·ω) for falling frequencies ω from 1 to nearly 10⁻⁴, [N,
    TIME_CHANNELS] (Ho et al., NeurIPS 2020)."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class Block(nn.Module):
    """h + W₂ silu(W₁ norm(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.outer(F.silu(self.inner(self.norm(h))))
        return out
