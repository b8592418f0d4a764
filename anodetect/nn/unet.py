"""MONAI's diffusion U-Net behind a PixelUnshuffle stem.

The stem folds r × r pixels into channels, so that the U-Net works on a grid r times smaller: the same
image for r² times less work, at no loss of pixels.
"""

from collections.abc import Sequence
from typing import Annotated

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


class UNet(nn.Module):
    """Maps (x [N,inputs,H,W], t int64 [N]) to [N,outputs,H,W]; H and W must be multiples of stem · 2^(levels − 1).

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
        from monai.networks.nets import DiffusionModelUNet  # here: MONAI imports all it has, which takes two seconds

        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(stem), nn.PixelShuffle(stem)
        self.net = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=inputs * stem**2,
            out_channels=outputs * stem**2,
            num_res_blocks=blocks,
            channels=tuple(widths),
            attention_levels=[level >= len(widths) - attention for level in range(len(widths))],
            norm_num_groups=16,
            num_head_channels=16,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.unfold(self.net(self.fold(x), t))
        return out
