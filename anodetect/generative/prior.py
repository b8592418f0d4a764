"""A Gaussian model of normal images and the exact denoiser that goes with it.

x ~ N(μ, V diag(λ_k − ρ²) Vᵀ + ρ² I): probabilistic PCA (Tipping & Bishop, JRSS B 1999). For
x_t = √ᾱ·x + √(1−ᾱ)·ε the posterior mean of x is linear, component by component (Wiener filter),

    E[x | x_t] = μ + Σ_k  √ᾱ λ_k / (ᾱ λ_k + (1−ᾱ) s_k) · v_k v_kᵀ (x_t − √ᾱ μ)  +  the same with ρ² off the basis,

where s_k is the noise's own variance along v_k (1 for white noise). At most noise levels trained
denoisers are close to it (Wang & Vastola, TMLR 2024); where images are registered it finds defects
as well as they do, at no cost.
"""

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.types import Floats

MAX_IMAGES = 2000


class GaussianPrior(nn.Module):
    """Buffers: mean [P], basis [K, P], variance [K], noise [K] and the values off the basis, rest
    [2]; P = C·H·W."""

    mean: Tensor
    basis: Tensor
    variance: Tensor
    noise: Tensor
    rest: Tensor

    def __init__(self, components: int, pixels: int) -> None:
        super().__init__()
        shapes = {
            "mean": (pixels,),
            "basis": (components, pixels),
            "variance": (components,),
            "noise": (components,),
            "rest": (2,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def learn(
        cls, fit: Floats, tune: Floats, noise: Tensor, *, components: int, seed: int
    ) -> "GaussianPrior":
        """Basis from `fit` [N, C, H, W], variances along it from `tune`, on which they are not
        overfitted."""
        from sklearn.decomposition import PCA  # here, because scoring is to begin at once

        rows = np.sort(np.random.default_rng(seed).permutation(len(fit))[:MAX_IMAGES])
        flat = fit[rows].reshape(len(rows), -1)
        count = max(1, min(components, len(flat) // 2, flat.shape[1] // 2))
        pca = PCA(count, svd_solver="randomized", random_state=seed).fit(flat)
        basis, mean = torch.from_numpy(pca.components_).float(), torch.from_numpy(pca.mean_).float()
        held_out = torch.from_numpy(np.ascontiguousarray(tune[:MAX_IMAGES])).flatten(1) - mean
        prior = cls(count, flat.shape[1])
        along, off = _variances(held_out, basis)
        noise_along, noise_off = _variances(noise.flatten(1), basis)
        # fit's own variances are too large, tune's are noisy: shrink the first by the smoothed
        # ratio of the two.
        ratio = _running_mean(along.numpy() / np.maximum(pca.explained_variance_, 1e-12))
        prior.mean.copy_(mean)
        prior.basis.copy_(basis)
        prior.variance.copy_(torch.from_numpy(pca.explained_variance_ * np.minimum(ratio, 1)))
        prior.noise.copy_(noise_along)
        prior.rest.copy_(torch.tensor([off, noise_off]))
        return prior

    def denoise(self, xt: Tensor, alpha_bar: Tensor) -> Tensor:
        """x_t [N, C, H, W] and ᾱ [N] → posterior mean [N, C, H, W]."""
        a = alpha_bar[:, None]
        centred = xt.flatten(1) - a.sqrt() * self.mean
        along = self._gain(a, self.variance, self.noise)  # [N, K]
        off = self._gain(a, self.rest[0], self.rest[1])  # [N, 1]
        mean = self.mean + off * centred + ((along - off) * (centred @ self.basis.T)) @ self.basis
        return mean.reshape(xt.shape)

    @staticmethod
    def _gain(a: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        return a.sqrt() * variance / (a * variance + (1 - a) * noise + 1e-12)


def _variances(flat: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """Mean square of [N, P] along each component [K], and per remaining dimension."""
    along = flat @ basis.T
    off = (flat.square().sum() - along.square().sum()) / (
        len(flat) * max(1, basis.shape[1] - basis.shape[0])
    )
    return along.square().mean(0), max(float(off), 1e-8)


def _running_mean(values: Floats, width: int = 5) -> Floats:
    padded = np.pad(values, width // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(width) / width, mode="valid"), np.float32)
