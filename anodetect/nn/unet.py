"""MONAI's diffusion U-Net, of images and of volumes, behind a stem.

The stem folds r × r pixels into channels, so that the U-Net works on a grid r times smaller: the
same image for r² times less work, at no loss of pixels.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from anodetect.errors import ConfigError

# Channels per level; group norm has groups of 16.
Widths = Annotated[tuple[Annotated[int, Field(gt=0, multiple_of=16)], ...], Field(min_length=1)]


def check_size(size: int, widths: Sequence[int], stem: int) -> None:
    """ConfigError if images of `size` do not fit a network of these widths and stem."""
    stride = stem * 2 ** (len(widths) - 1)
    if size % stride:
        raise ConfigError(
            f"representation.size: {size} is not a multiple of {stride}, the U-Net's stride (stem × levels)"
        )


def check_patch(sides: Sequence[int], widths: Sequence[int], stem: Sequence[int]) -> None:
    """ConfigError if patches of these sides do not fit a `VolumeUNet` of these widths and stem."""
    strides = [fold * 2 ** (len(widths) - 1) for fold in stem]
    if any(side % stride for side, stride in zip(sides, strides, strict=True)):
        needed, given = (" × ".join(map(str, each)) for each in (strides, sides))
        raise ConfigError(
            f"tiling.patch: {given} are not multiples of {needed}, the U-Net's strides (stem × levels)"
        )


class UNet(nn.Module):
    """Maps (x [N,inputs,H,W], t int64 [N]) to [N,outputs,H,W]; H and W must be multiples of stem ·
    2^(levels − 1).

    The `attention` deepest levels have self-attention.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        *,
        stem: int = 4,
        blocks: int = 1,
        attention: int = 0,
    ) -> None:
        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(stem), nn.PixelShuffle(stem)
        self.net = _diffusion_unet(
            2, inputs * stem**2, outputs * stem**2, widths, blocks, attention
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.unfold(self.net(self.fold(x), t))
        return out


class VolumeUNet(nn.Module):
    """Maps (x [N,inputs,D,H,W], t int64 [N]) to [N,outputs,D,H,W]; each side is a multiple of its
    entry of `stem` · 2^(levels − 1).

    A stem of its own for each axis brings flat voxels to cells that are about as deep as they are
    wide, so that thick slices are not mixed before they have to be.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        *,
        stem: tuple[int, int, int],
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.stem, self.halvings = dict(zip("ijk", stem, strict=True)), len(widths) - 1
        cell = math.prod(stem)
        self.net = _diffusion_unet(3, inputs * cell, outputs * cell, widths, blocks, attention=0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        folded = rearrange(x, "n c (d i) (h j) (w k) -> n (c i j k) d h w", **self.stem)
        # oneDNN's gradient of a 3 × 3 × 3 convolution's weights is wrong in bfloat16 on grids 2
        # deep (torch 2.13).
        smallest = min(folded.shape[2:]) >> self.halvings
        with torch.autocast(
            x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and smallest > 2
        ):
            out = self.net(folded, t)
        unfolded: Tensor = rearrange(out, "n (c i j k) d h w -> n c (d i) (h j) (w k)", **self.stem)
        return unfolded


def _diffusion_unet(
    dims: int, inputs: int, outputs: int, widths: Sequence[int], blocks: int, attention: int
) -> nn.Module:
    from monai.networks.nets import (
        DiffusionModelUNet,
    )  # here: MONAI imports all it has, which takes two seconds

    net: nn.Module = DiffusionModelUNet(
        spatial_dims=dims,
        in_channels=inputs,
        out_channels=outputs,
        num_res_blocks=blocks,
        channels=tuple(widths),
        attention_levels=[level >= len(widths) - attention for level in range(len(widths))],
        norm_num_groups=16,
        num_head_channels=16,
    )
    return net
