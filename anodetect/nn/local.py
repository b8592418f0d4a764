"""A classifier of locations: fully convolutional, and no norm averages over locations.

What it says of a location therefore depends on the location's receptive field alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalNet(nn.Module):
    """Maps x [N, inputs, H, W] to logits [N, classes, H / stem, W / stem].

    H and W are multiples of `stem`, the side of the pixel squares that become one location.
    """

    def __init__(self, inputs: int, classes: int, width: int, *, blocks: int, stem: int) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(stem)
        self.first = nn.Conv2d(inputs * stem**2, width, 3, padding=1, padding_mode="replicate")
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden(x))
        return logits

    def hidden(self, x: Tensor) -> Tensor:
        """Return the values that logits are linear in, [N, width, H / stem, W / stem]."""
        h = self.first(self.fold(x))
        for block in self.blocks:
            h = block(h)
        return F.silu(h)


class Block(nn.Module):
    """Maps h to h + W₂ silu(W₁ ∗ norm(h)), with W₁ 3 × 3 and W₂ 1 × 1.

    The norm is over the channels of a location.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.inner = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.outer = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        # Channels last, as they lie in memory: one fused kernel.
        locations = h.permute(0, 2, 3, 1)
        normed = F.layer_norm(locations, (len(self.scale),), self.scale, self.shift)
        inner = self.inner(normed.permute(0, 3, 1, 2))
        out: Tensor = h + self.outer(F.silu(inner))
        return out


def receptive_field(blocks: int, stem: int) -> int:
    """Return the side in pixels of the square that the logits of one location depend on."""
    return stem * (3 + 2 * blocks)
