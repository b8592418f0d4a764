"""The exact denoiser of a Gaussian model of single locations, from which training can start.

    x_p ~ N(μ, V diag(s) Vᵀ),   x_t = √ᾱ·x + √(1−ᾱ)·ε with white noise ε

The posterior mean of x_p is linear in x_t (a Wiener filter), with no component left out:

    E[x_p | x_t] = μ + V diag(√ᾱ s_k / (ᾱ s_k + 1−ᾱ)) Vᵀ (x_t − √ᾱ μ)

Trained denoisers are close to it at most noise levels (Wang & Vastola, TMLR 2024). A network that
learns the difference to it finds anomalies before its first step, and never has to learn what two
moments say. `generative.prior` models whole images in the same way.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anodetect.types import Batch

MAX_IMAGES = 1000
LEAST_VARIANCE = 1e-6


class LocationGaussian(nn.Module):
    """The model of locations with C channels, in buffers: mean μ [C], basis V [C, C] with a
    component in each column, and the variance s [C] of each."""

    mean: Tensor
    basis: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("basis", torch.eye(channels))
        self.register_buffer("variance", torch.ones(channels))

    @classmethod
    def learn(cls, fit: Batch) -> "LocationGaussian":
        """Return the model of the foregrounds of fit images [N, C, H, W]."""
        mean, covariance = location_moments(fit)
        variance, basis = np.linalg.eigh(covariance)

        model = cls(len(mean))
        model.mean.copy_(torch.from_numpy(mean))
        model.basis.copy_(torch.from_numpy(basis))
        model.variance.copy_(torch.from_numpy(np.maximum(variance, LEAST_VARIANCE)))
        return model

    def denoise(self, xt: Tensor, alpha_bar: Tensor) -> Tensor:
        """Return the posterior mean [N, C, H, W] of x given x_t [N, C, H, W] and ᾱ [N]."""
        a = alpha_bar[:, None, None]
        centred = xt.flatten(2).transpose(1, 2) - a.sqrt() * self.mean  # [N, H·W, C]
        gain = a.sqrt() * self.variance / (a * self.variance + 1 - a)
        mean = self.mean + (gain * (centred @ self.basis)) @ self.basis.T
        return mean.transpose(1, 2).reshape(xt.shape)

    def score(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return ∇ log p(x) = −(Σ + σ²)⁻¹ (x − μ) of locations with white noise, [N, C, H, W].

        `noise` [N] is its variance σ². It is computed in float32, also under autocast: a score of
        little noise is the difference of nearly equal numbers where it is made of `denoise`.
        """
        with torch.autocast(x.device.type, enabled=False):
            centred = x.float().flatten(2).transpose(1, 2) - self.mean  # [N, H·W, C]
            along = centred @ self.basis / (self.variance + noise[:, None, None])
            score = -(along @ self.basis.T)
        return score.transpose(1, 2).reshape(x.shape)


def location_moments(fit: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [C] and the covariance [C, C] of locations in the foreground, in float64."""
    rows = np.linspace(0, len(fit) - 1, min(len(fit), MAX_IMAGES)).astype(np.int64)
    channels = fit.images.shape[1]
    count, total = 0, np.zeros(channels)
    products = np.zeros((channels, channels))

    for row in rows:
        inside = fit.foreground[row]
        counts = inside if inside.any() else ~inside
        values = np.asarray(fit.images[row][:, counts], np.float64)
        count += values.shape[1]
        total += values.sum(1)
        products += values @ values.T

    mean = total / count
    return mean, products / count - np.outer(mean, mean)
