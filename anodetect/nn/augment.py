"""Random small changes of training images: where there are few, a network would memorise them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anodetect.config import Config


class Augment(Config):
    """The limits of random changes, which are uniform; by default there are none."""

    rotation: float = Field(
        default=0.0,
        ge=0,
        le=180,
        description="The largest rotation, in degrees, in both directions.",
    )
    scale: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="The largest change of size: 0.1 is from 1 / 1.1 to 1.1 times the size.",
    )
    shift: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="The largest shift along each axis, as a share of half the image's side.",
    )
    flip: float = Field(
        default=0.0, ge=0, le=1, description="The probability of mirroring left to right."
    )


# The changes that pictures of parts are trained with, where no setting says otherwise.
SLIGHT = Augment(rotation=10, scale=0.1, shift=0.05, flip=0.5)


def augmented(images: Tensor, generators: Sequence[torch.Generator], config: Augment) -> Tensor:
    """Return changed copies of images [N, C, H, W], each by draws from its own generator.

    What enters at the edges is mirrored. All slices of a volume [N, C, D, H, W] are changed alike,
    in their plane.
    """
    if config == Augment():
        return images

    matrices = torch.stack([_random_matrix(rng, config) for rng in generators]).to(images.device)
    planes = images.flatten(1, -3)
    grid = F.affine_grid(matrices, list(planes.shape), align_corners=False)
    changed = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return changed.reshape(images.shape)


def _random_matrix(rng: torch.Generator, config: Augment) -> Tensor:
    """Return an affine matrix [2, 3] from places in the changed image to places in the original.

    Both are in [-1, 1].
    """
    turn, grow, right, down, mirror = (2 * torch.rand(5, generator=rng) - 1).tolist()
    angle, size = math.radians(config.rotation * turn), (1 + config.scale) ** grow
    cosine, sine = size * math.cos(angle), size * math.sin(angle)
    side = -1.0 if (mirror + 1) / 2 < config.flip else 1.0
    return torch.tensor([
        [side * cosine, -sine, config.shift * right],
        [side * sine, cosine, config.shift * down],
    ])  # fmt: skip
