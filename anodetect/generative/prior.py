"""A Gaussian model of normal images and its exact denoiser.

    x ~ N(μ, V diag(λ_k − ρ²) Vᵀ + ρ² I)       probabilistic PCA (Tipping & Bishop, JRSS B 1999)

For x_t = √ᾱ·x + √(1−ᾱ)·ε the posterior mean of x is linear in x_t, component by component (a Wiener
filter):

    E[x | x_t] = μ + Σ_k g_k · v_k v_kᵀ (x_t − √ᾱ μ) + the same with ρ² off the basis,
    g_k = √ᾱ λ_k / (ᾱ λ_k + (1−ᾱ) s_k),

where s_k is the variance of the noise along v_k (1 for white noise). At most noise levels trained
denoisers are close to it (Wang & Vastola, TMLR 2024). Where images are registered it finds defects
as well as they do, at no cost.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.types import Floats

MAX_IMAGES = 2000


class GaussianPrior(nn.Module):
    """The model of images with P = C·H·W values and K components; all of it is in buffers.

    They are mean μ [P], basis V [K, P], variance λ [K], noise s [K], and rest [2]: the variance of
    images, ρ², and of noise, per dimension off the basis.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    noise: Tensor
    rest: Tensor

    def __init__(self, components: int, pixels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(components, pixels))
        self.register_buffer("variance", torch.zeros(components))
        self.register_buffer("noise", torch.zeros(components))
        self.register_buffer("rest", torch.zeros(2))

    @classmethod
    def learn(
        cls, fit: Floats, tune: Floats, noise: Tensor, *, components: int, seed: int
    ) -> "GaussianPrior":
        """Return the model of images `fit` and `tune`, [N, C, H, W], with samples of the noise.

        The basis is learned from `fit`, the variances along it from `tune`, on which they are not
        overfitted. There are at most half as many components as images and as values.
        """
        from sklearn.decomposition import PCA  # not at the top: scoring has to start quickly

        rows = np.sort(np.random.default_rng(seed).permutation(len(fit))[:MAX_IMAGES])
        flat = fit[rows].reshape(len(rows), -1)
        count = max(1, min(components, len(flat) // 2, flat.shape[1] // 2))
        pca = PCA(count, svd_solver="randomized", random_state=seed).fit(flat)
        basis, mean = torch.from_numpy(pca.components_).float(), torch.from_numpy(pca.mean_).float()

        held_out = torch.from_numpy(np.ascontiguousarray(tune[:MAX_IMAGES])).flatten(1) - mean
        along, off = _variances(held_out, basis)
        noise_along, noise_off = _variances(noise.flatten(1), basis)

        # The variances of fit are too large and those of tune are noisy, so the first are reduced
        # by the smoothed ratio of the two.
        ratio = _running_mean(along.numpy() / np.maximum(pca.explained_variance_, 1e-12))
        variance = torch.from_numpy(pca.explained_variance_ * np.minimum(ratio, 1))

        prior = cls(count, flat.shape[1])
        prior.mean.copy_(mean)
        prior.basis.copy_(basis)
        prior.variance.copy_(variance)
        prior.noise.copy_(noise_along)
        prior.rest.copy_(torch.tensor([off, noise_off]))
        return prior

    def denoise(self, xt: Tensor, alpha_bar: Tensor) -> Tensor:
        """Return the posterior mean [N, C, H, W] of x given x_t [N, C, H, W] and ᾱ [N]."""
        a = alpha_bar[:, None]
        centred = xt.flatten(1) - a.sqrt() * self.mean
        along = _wiener_gain(a, self.variance, self.noise)  # [N, K]
        off = _wiener_gain(a, self.rest[0], self.rest[1])  # [N, 1]
        mean = self.mean + off * centred + ((along - off) * (centred @ self.basis.T)) @ self.basis
        return mean.reshape(xt.shape)

    def draw(self, generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
        """Return images of the model [N, C, H, W], one from each generator; `shape` is theirs."""
        images = []
        for rng in generators:
            white = torch.randn(len(self.mean), generator=rng).to(self.mean.device)
            along = self.basis @ white
            scale = self.variance.clamp_min(0).sqrt() - self.rest[0].sqrt()
            images.append(self.mean + self.rest[0].sqrt() * white + (scale * along) @ self.basis)
        return torch.stack(images).reshape(len(images), *shape)


def _wiener_gain(a: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    return a.sqrt() * variance / (a * variance + (1 - a) * noise + 1e-12)


def _variances(flat: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """Return the mean square of rows [N, P] along each component [K], and off the basis.

    The second is per remaining dimension.
    """
    components, dimensions = basis.shape
    along = flat @ basis.T
    total_off = flat.square().sum() - along.square().sum()
    off = total_off / (len(flat) * max(1, dimensions - components))
    return along.square().mean(0), max(float(off), 1e-8)


def _running_mean(values: Floats, width: int = 5) -> Floats:
    padded = np.pad(values, width // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(width) / width, mode="valid"), np.float32)
