"""Random small changes of training images: where there are few, a network would learn them by
heart."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anodetect.config import Config


class Augment(Config):
    """Each image is turned by up to `rotation` degrees, enlarged or shrunk by up to a share
    `scale`, moved by up to a share `shift` of half its side, all uniform, and mirrored left to
    right with probability `flip`."""

    rotation: float = Field(default=0.0, ge=0, le=180)
    scale: float = Field(default=0.0, ge=0, le=0.5)
    shift: float = Field(default=0.0, ge=0, le=0.5)
    flip: float = Field(default=0.0, ge=0, le=1)


def augmented(images: Tensor, generators: Sequence[torch.Generator], config: Augment) -> Tensor:
    """[N, C, H, W], each image changed by draws from its own generator; what comes in at the edges
    is mirrored. Of [N, C, D, H, W] all slices are changed alike, in their plane."""
    if config == Augment():
        return images
    matrices = torch.stack([_matrix(rng, config) for rng in generators]).to(images.device)
    planes = images.flatten(1, -3)
    grid = F.affine_grid(matrices, list(planes.shape), align_corners=False)
    changed = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return changed.reshape(images.shape)


def _matrix(rng: torch.Generator, config: Augment) -> Tensor:
    """From places in the changed image to places in the original, [2, 3], both in [-1, 1]."""
    turn, grow, right, down, mirror = (2 * torch.rand(5, generator=rng) - 1).tolist()
    angle, size = math.radians(config.rotation * turn), (1 + config.scale) ** grow
    side = -1.0 if (mirror + 1) / 2 < config.flip else 1.0
    cosine, sine = size * math.cos(angle), size * math.sin(angle)
    return torch.tensor([
        [side * cosine, -sine, config.shift * right],
        [side * sine, cosine, config.shift * down],
    ])  # fmt: skip
