"""Filters of images as tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Return images [N, C, H, W] smoothed by a Gaussian of `sigma` pixels; borders are repeated."""
    if sigma == 0:
        return x

    sigma = float(sigma)  # where a graph is traced, sizes of tensors are tensors themselves
    radius = int(3 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()

    planes = x.flatten(0, 1)[:, None]
    planes = F.pad(planes, (radius, radius, 0, 0), mode="replicate")
    planes = F.conv2d(planes, kernel[None, None, None])
    planes = F.pad(planes, (0, 0, radius, radius), mode="replicate")
    planes = F.conv2d(planes, kernel[None, None, :, None])
    return planes.reshape(x.shape)
