"""Gaussian diffusion in a few plain functions (Ho et al., NeurIPS 2020; Salimans & Ho, ICLR 2022).

    x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · ε

The noise ε may be of any kind with unit variance. A `denoise` callable takes (x_t [N, C, H, W] or
[N, C, D, H, W], t int64 [N]) and returns the predicted x_0; samplers know nothing else of the
network.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> Tensor:
    """Return ᾱ_t for t = 0 … steps, float32 [steps + 1], with ᾱ_0 = 1 (Ho et al., section 4)."""
    beta = torch.linspace(first, last, steps, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]).float()


def alpha_bar(schedule: Tensor, t: Tensor, dims: int = 4) -> Tensor:
    """Return ᾱ_t for steps t [N] with `dims` dimensions: [N, 1, 1, 1] for use with images."""
    return schedule.to(t.device)[t].reshape(-1, *[1] * (dims - 1))


def steps_for(x: Tensor, step: int) -> Tensor:
    """Return the same step for each row of x [N, ...], int64 [N]."""
    return torch.full((len(x),), step, device=x.device)


def diffuse(x0: Tensor, noise: Tensor, t: Tensor, schedule: Tensor) -> Tensor:
    """Return x_t from x_0 (Ho et al., eq. 4)."""
    a = alpha_bar(schedule, t, x0.dim())
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def x0_from_velocity(xt: Tensor, v: Tensor, t: Tensor, schedule: Tensor) -> Tensor:
    """Return x̂_0 from v = √ᾱ·ε − √(1−ᾱ)·x_0 (Salimans & Ho, eq. 11)."""
    a = alpha_bar(schedule, t, xt.dim())
    return a.sqrt() * xt - (1 - a).sqrt() * v


def x0_from_noise(xt: Tensor, noise: Tensor, t: Tensor, schedule: Tensor) -> Tensor:
    """Return x̂_0 from ε (Ho et al., eq. 4 solved for x_0)."""
    a = alpha_bar(schedule, t, xt.dim())
    return (xt - (1 - a).sqrt() * noise) / a.sqrt()


def ddim(denoise: Denoise, xt: Tensor, start: int, steps: int, schedule: Tensor) -> Tensor:
    """Return x̂_0 from x_start in `steps` deterministic steps.

    Song et al., "Denoising diffusion implicit models", ICLR 2021, eq. 12 with σ = 0.
    """
    times = torch.linspace(start, 0, steps + 1).round().long()
    for now, later in itertools.pairwise(times):
        t = now.to(xt.device).expand(len(xt))
        u = later.to(xt.device).expand(len(xt))
        x0 = denoise(xt, t)
        noise = (xt - alpha_bar(schedule, t).sqrt() * x0) / (1 - alpha_bar(schedule, t)).sqrt()
        xt = diffuse(x0, noise, u, schedule)
    return xt


def ancestral(
    denoise: Denoise, xt: Tensor, start: int, noise: Callable[[int], Tensor], schedule: Tensor
) -> Tensor:
    """Return x̂_0 from x_start, one step at a time, with new `noise(t)` at each but the last.

    Ho et al., algorithm 2 with the mean and variance of eq. 7.
    """
    for step in range(start, 0, -1):
        t = steps_for(xt, step)
        a, before = alpha_bar(schedule, t), alpha_bar(schedule, t - 1)
        beta = 1 - a / before
        mean = before.sqrt() * beta * denoise(xt, t) + (1 - beta).sqrt() * (1 - before) * xt
        mean = mean / (1 - a)
        deviation = ((1 - before) / (1 - a) * beta).sqrt()
        xt = mean + deviation * noise(step) if step > 1 else mean
    return xt


def settle(
    denoise: Denoise,
    x0: Tensor,
    noise: Callable[[], Tensor],
    schedule: Tensor,
    levels: Iterable[int],
    draws: int = 4,
) -> Iterator[Tensor]:
    """Yield x_0 after each level: what the denoiser makes of it under new noise, mean of `draws`.

    Noise is always new, of the kind that the denoiser was trained on; a sampler's own estimate of
    it is not. Each x_0 is a posterior mean, so that this ends near what the denoiser takes for
    likely, with less variety than its data has (cf. walkback, Bengio et al., NeurIPS 2013).
    """
    for level in levels:
        t = steps_for(x0, level)
        cleaned = [denoise(diffuse(x0, noise(), t, schedule), t) for _ in range(draws)]
        x0 = torch.stack(cleaned).mean(0)
        yield x0
