"""MONAI's diffusion U-Net, for images and for volumes, behind a stem.

The stem folds r × r pixels into channels, so that the U-Net works on a grid r times smaller: r²
times less work for the same image, without losing a pixel.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.nn.checks import check_multiple
from anodetect.nn.monai_parts import diffusion_unet
from anodetect.nn.norm import use_fast_norms

# Channels per level; group norm has groups of 16.
Widths = Annotated[tuple[Annotated[int, Field(gt=0, multiple_of=16)], ...], Field(min_length=1)]


def check_size(
    size: int, widths: Sequence[int], stem: int, name: str = "representation.size"
) -> None:
    """Raise ConfigError if images of `size`, which the setting `name` has, do not fit a `UNet` of
    these widths and stem."""
    stride = stem * 2 ** (len(widths) - 1)
    check_multiple(size, stride, "the U-Net's stride (stem × levels)", name)


def check_patch(sides: Sequence[int], widths: Sequence[int], stem: Sequence[int]) -> None:
    """Raise ConfigError if patches of these sides do not fit a `VolumeUNet` like this."""
    strides = [fold * 2 ** (len(widths) - 1) for fold in stem]
    if any(side % stride for side, stride in zip(sides, strides, strict=True)):
        raise ConfigError(
            f"tiling.patch: {_product(sides)} are not multiples of {_product(strides)}, "
            "the U-Net's strides (stem × levels)"
        )


def _product(numbers: Sequence[int]) -> str:
    return " × ".join(map(str, numbers))


class UNet(nn.Module):
    """Maps (x [N, inputs, H, W], t int64 [N]) to [N, outputs, H, W].

    H and W are multiples of stem · 2^(levels − 1), with as many levels as `widths`. The `attention`
    deepest levels have self-attention.
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
    """Maps (x [N, inputs, D, H, W], t int64 [N]) to [N, outputs, D, H, W].

    Each side is a multiple of its entry of `stem` · 2^(levels − 1). With a stem of its own for each
    axis, cells of flat voxels are about as deep as they are wide, so that thick slices are not
    mixed earlier than necessary.
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
        # deep (torch 2.13), so small grids stay in float32.
        device = x.device.type
        smallest = min(folded.shape[2:]) >> self.halvings
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and smallest > 2):
            out = self.net(folded, t)

        unfolded: Tensor = rearrange(out, "n (c i j k) d h w -> n c (d i) (h j) (w k)", **self.stem)
        return unfolded


def _diffusion_unet(
    dims: int, inputs: int, outputs: int, widths: Sequence[int], blocks: int, attention: int
) -> nn.Module:
    levels = len(widths)
    with_attention = [level >= levels - attention for level in range(levels)]

    net: nn.Module = diffusion_unet()(
        spatial_dims=dims,
        in_channels=inputs,
        out_channels=outputs,
        num_res_blocks=blocks,
        channels=tuple(widths),
        attention_levels=with_attention,
        norm_num_groups=16,
        num_head_channels=16,
    )
    use_fast_norms(net)
    return net
