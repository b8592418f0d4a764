"""A classifier of places: fully convolutional, without norms over places, so that what it says of
one place depends on its receptive field alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalNet(nn.Module):
    """Maps x [N, inputs, H, W] to logits [N, classes, H / stem, W / stem]."""

    def __init__(self, inputs: int, classes: int, width: int, *, blocks: int, stem: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(stem)
        self.first = nn.Conv2d(inputs * stem**2, width, 3, padding=1, padding_mode="replicate")
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(self.fold(x))
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.last(F.silu(h))
        return out


class Block(nn.Module):
    """h + W₂ silu(W₁ ∗ norm(h)): a 3 × 3 convolution and a 1 × 1 one, normed over a place's
    channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.inner = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.outer = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        places = h.permute(0, 2, 3, 1)  # channels last, as they lie in memory: one fused kernel
        normed = F.layer_norm(places, places.shape[3:], self.scale, self.shift).permute(0, 3, 1, 2)
        out: Tensor = h + self.outer(F.silu(self.inner(normed)))
        return out


def receptive_field(blocks: int, stem: int) -> int:
    """The side in pixels of what one output place sees."""
    return stem * (3 + 2 * blocks)
