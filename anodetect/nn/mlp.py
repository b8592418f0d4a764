"""Multilayer perceptrons of single locations: residual blocks of linear layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_CHANNELS = 64


class LocationMLP(nn.Module):
    """Maps (x [N, inputs, H, W], t int64 [N]) to [N, outputs, H, W].

    Each location of the output depends on the channels of that location alone.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.time = nn.Linear(TIME_CHANNELS, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(x.flatten(2).transpose(1, 2))  # [N, H·W, width]
        h = h + self.time(timestep_embedding(t))[:, None]
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.last(F.silu(h))
        return out.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


def plain_mlp(inputs: int, outputs: int, width: int, *, blocks: int) -> nn.Sequential:
    """Return a map of vectors [M, inputs] to [M, outputs], which at first is 0 everywhere."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    middle = [Block(width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(inputs, width), *middle, nn.SiLU(), last)


def timestep_embedding(t: Tensor) -> Tensor:
    """Return cos(t·ω) and sin(t·ω) of steps t [N], [N, TIME_CHANNELS] (Ho et al., NeurIPS 2020).

    The frequencies ω fall geometrically from 1 to nearly 10⁻⁴.
    """
    half = TIME_CHANNELS // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10_000) * exponents / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class Block(nn.Module):
    """Maps h to h + W₂ silu(W₁ norm(h)), at each location by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.outer(F.silu(self.inner(self.norm(h))))
        return out
