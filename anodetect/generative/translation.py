"""Translation of one channel of an image into another, by diffusion.

    from pairs       √ᾱ·s + √(1−ᾱ)·ε, then by DDIM with f(y_t, t | s) down to ŷ
    without pairs    s up the probability flow of f_s to z, then z down that of f_y to ŷ

s is the source, y the target, and each f a denoiser. From pairs, a denoiser of noisy targets is
shown the clean source as well, and the target is generated from the noised source (UNIT-DDPM,
Sasaki et al., 2021; SDEdit, Meng et al., ICLR 2022). Without pairs there are two diffusion models,
one of each channel, which never see both channels of an image: what the first makes of a source is
an image in the noise of the second (dual diffusion implicit bridges, Su et al., ICLR 2023). For
Gaussians of independent values that is the map μ_y + (σ_y / σ_s)(s − μ_s).

Networks see a source and a target of unit variance, and from pairs only what no line through the
pairs of values explains, so that they need not learn what two moments say (`LinearPart`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.generative import denoiser, diffusion, langevin, scores
from anodetect.generative.denoiser import Denoiser, NoisyImages
from anodetect.generative.diffusion import Denoise
from anodetect.generative.linear import LEAST_VARIANCE, location_moments
from anodetect.nn.inference import autocast
from anodetect.types import Batch


class LinearPart(NamedTuple):
    """The part of a translation that is linear in single values: y = mean + slope · (s − mean of
    s), with `scale` the deviation of what is left. Without pairs the slope is 0."""

    source_mean: float
    source_scale: float
    target_mean: float
    slope: float
    target_scale: float

    @classmethod
    def learn(cls, pairs: Batch, *, paired: bool) -> "LinearPart":
        """Return that of images [N, 2, H, W], the source first, by least squares where paired."""
        mean, covariance = location_moments(pairs)
        variance = np.maximum(np.diag(covariance), LEAST_VARIANCE)
        slope = covariance[0, 1] / variance[0] if paired else 0.0
        left = max(variance[1] - slope**2 * variance[0], LEAST_VARIANCE)
        return cls(
            float(mean[0]),
            float(variance[0] ** 0.5),
            float(mean[1]),
            float(slope),
            float(left**0.5),
        )

    def source(self, s: Tensor) -> Tensor:
        """Return a source with mean 0 and variance 1."""
        return (s - self.source_mean) / self.source_scale

    def rest(self, s: Tensor, y: Tensor) -> Tensor:
        """Return what is left of a target, with mean 0 and variance 1."""
        return (y - self.target_mean - self.slope * (s - self.source_mean)) / self.target_scale

    def line(self, s: Tensor, *, paired: bool) -> Tensor:
        """Return the targets that no network has a part in: on the line through pairs, or without
        pairs as many deviations from the mean as the source."""
        return self.target(s, torch.zeros_like(s) if paired else self.source(s))

    def target(self, s: Tensor, rest: Tensor) -> Tensor:
        """Return the target of which `rest` is left."""
        linear = self.target_mean + self.slope * (s - self.source_mean)
        return linear + self.target_scale * rest


class Translator(nn.Module):
    """The denoisers of a translation; `make(channels)` returns one with new weights.

    `target` denoises targets, where there are pairs as the second of two channels, of which the
    first is the clean source. `source` denoises sources; it is None where there are pairs. Noise
    goes up to the step `trained_to`.
    """

    def __init__(self, make: Callable[[int], Denoiser], *, paired: bool, trained_to: int) -> None:
        super().__init__()
        self.trained_to = trained_to
        self.target = make(2 if paired else 1)
        self.source = None if paired else make(1)

    def loss(self, source: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the mean square error of what is denoised, in units of the networks' output, for
        sources and targets [N, 1, H, W] with random noise."""
        noisy = self._noisy(target, generators)
        if self.source is None:
            return self._error_given(source, noisy)
        of_target = denoiser.denoising_error(self.target, noisy)
        of_source = denoiser.denoising_error(self.source, self._noisy(source, generators))
        return (of_target + of_source) / 2

    def _noisy(self, x0: Tensor, generators: Sequence[torch.Generator]) -> NoisyImages:
        t = denoiser.random_steps(generators, self.trained_to).to(x0.device)
        return NoisyImages(x0, langevin.standard_normal(x0, generators), t)

    def _error_given(self, source: Tensor, noisy: NoisyImages) -> Tensor:
        x0, noise, t = noisy
        with autocast(x0.device):
            predicted = self.given(source)(diffusion.diffuse(x0, noise, t, self.schedule), t)
        error: Tensor = (predicted - x0) / self.target.output_scale(t)
        return error.square().mean()

    def given(self, source: Tensor) -> Denoise:
        """Return the denoiser of targets that belong to these sources [N, 1, H, W]."""
        return lambda yt, t: self.target(torch.cat([source, yt], 1), t)[:, 1:]

    @property
    def schedule(self) -> Tensor:
        """ᾱ_t for all steps from 0."""
        return self.target.schedule

    def translate(self, source: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Return the targets [N, 1, H, W] of sources of the same shape.

        There are so many steps in each direction. `noise`, of the same shape, is what the source
        is noised with where there are pairs; without, nothing is random.
        """
        last = self.trained_to
        with autocast(source.device):
            if self.source is None:
                t = diffusion.steps_for(source, last)
                start = diffusion.diffuse(source, noise, t, self.schedule)
                return diffusion.ddim(self.given(source), start, last, steps, self.schedule)
            down = scores.flow_steps(last, steps)
            noisy = scores.flow(self.source, source, down[::-1])
            return scores.flow(self.target, noisy, down)
