"""Filters of images as tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of [N, C, H, W], borders repeated."""
    if sigma == 0:
        return x
    radius = int(3 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(
        F.pad(planes, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None]
    )
    planes = F.conv2d(
        F.pad(planes, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None]
    )
    return planes.reshape(x.shape)
