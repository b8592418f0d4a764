"""Score matching: learning s(x) = ∇ log p(x) without a normaliser, and following it.

    denoising   ½ ‖σ s(x + σε) + ε‖²        for data blurred by noise (Vincent, Neural Comp. 2011)
    sliced      vᵀ ∂s/∂x v + ½ ‖s(x)‖²      for random directions v   (Song et al., UAI 2019)
    exact       tr ∂s/∂x + ½ ‖s(x)‖²        one pass back per value   (Hyvärinen, JMLR 2005)

The mean of each over data is least where s is the score of the data. They differ by a constant:
`denoising` is σ² times `exact` at x + σε, plus ½ a value. All are means over values, one for each
row. A `score` takes x [N, ...] and returns the same shape.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anodetect.generative import diffusion
from anodetect.generative.denoiser import Denoiser
from anodetect.generative.langevin import Score

ScoreAt = Callable[[Tensor, float], Tensor]  # (x [N, ...], σ) → s(x, σ)


# -- Objectives ------------------------------------------------------------------------------------


def denoising(score: Score, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return ½ (σ s(x + σε) + ε)², the mean over values of each row, [N].

    `noise` ε is standard normal, of the shape of x [N, ...]; `sigma` [N] is one for each row.
    """
    sigma = sigma.reshape(-1, *[1] * (x.dim() - 1))
    error = sigma * score(x + sigma * noise) + noise
    return error.square().flatten(1).mean(1) / 2


def sliced(score: Score, x: Tensor, directions: Tensor) -> Tensor:
    """Return vᵀ ∂s/∂x v + ½ ‖s(x)‖² for directions v of the shape of x [N, ...], over the number of
    values, [N].

    Directions are standard normal. The second term is that of the variance-reduced form.
    """
    x = x.detach().requires_grad_(True)
    s = score(x)
    (along,) = torch.autograd.grad((s * directions).sum(), x, create_graph=True)
    slope = (along * directions).flatten(1).mean(1)
    return slope + s.square().flatten(1).mean(1) / 2


def exact(score: Score, x: Tensor) -> Tensor:
    """Return tr ∂s/∂x + ½ ‖s(x)‖² over the number of values, [N]. It takes as many passes back as
    x [N, ...] has values in a row."""
    x = x.detach().requires_grad_(True)
    s = score(x)
    trace = torch.zeros(len(x), device=x.device)
    for number, values in enumerate(s.flatten(1).unbind(1)):
        (slopes,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        trace = trace + slopes.flatten(1)[:, number]
    return trace / x[0].numel() + s.square().flatten(1).mean(1) / 2


# -- Noise levels ----------------------------------------------------------------------------------


def geometric_levels(lowest: float, highest: float, count: int) -> list[float]:
    """Return σ_1 < … < σ_count, each by the same factor larger than the one before."""
    factor = (highest / lowest) ** (1 / (count - 1))
    return [lowest * factor**k for k in range(count)]


def schedule_of(sigmas: Sequence[float]) -> Tensor:
    """Return ᾱ = 1 / (1 + σ²) for each level, and before them 1 for no noise, float32 [L + 1].

    √ᾱ · (x + σε) has then as much noise as a diffusion's x_t with this ᾱ.
    """
    squares = torch.tensor([0.0, *sigmas], dtype=torch.float64).square()
    return (1 / (1 + squares)).float()


def denoiser_score(net: Denoiser, x: Tensor, level: Tensor) -> Tensor:
    """Return s(x, σ) = (f(x) − x) / σ² (Tweedie's formula) for x [N, ...] with noise σ.

    `level` [N], from 1, is the number of σ in the denoiser's schedule.
    """
    a = diffusion.alpha_bar(net.schedule, level, x.dim())
    variance = (1 - a) / a
    if net.start is None:
        score: Tensor = (net(a.sqrt() * x, level) - x) / variance
        return score

    correction = net.output_scale(level, x.dim()) * net.net(a.sqrt() * x, level)
    corrected: Tensor = net.start.score(x, variance.flatten()) + correction / variance
    return corrected


# -- The probability flow --------------------------------------------------------------------------


def probability_flow(score: ScoreAt, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Carry x from the first σ to the last along dx/dσ = −σ s(x, σ); return x.

    Data with noise σ_1 become data with noise σ_L without a random part (Song et al., ICLR 2021,
    eq. 13). Each step is one of Heun's.
    """
    for now, later in itertools.pairwise(sigmas):
        slope = -now * score(x, now)
        ahead = x + (later - now) * slope
        slope_there = -later * score(ahead, later)
        x = x + (later - now) * (slope + slope_there) / 2
    return x


def flow(net: Denoiser, x: Tensor, steps: Sequence[int]) -> Tensor:
    """Carry x = x_t / √ᾱ_t from the first of a denoiser's steps t to the last along its probability
    flow; return x. Steps are above 0, and may rise or fall."""
    step_at = {noise_level(net.schedule, step): step for step in steps}

    def score(x: Tensor, sigma: float) -> Tensor:
        return denoiser_score(net, x, diffusion.steps_for(x, step_at[sigma]))

    return probability_flow(score, x, [noise_level(net.schedule, step) for step in steps])


def noise_level(schedule: Tensor, step: int) -> float:
    """Return σ = √((1 − ᾱ_t) / ᾱ_t), the deviation of the noise in x_t / √ᾱ_t."""
    a = float(schedule[step])
    return float(((1 - a) / a) ** 0.5)


def flow_steps(start: int, count: int) -> list[int]:
    """Return `count` + 1 steps from `start` down to 1, closer together where noise is small: their
    square roots are evenly spread."""
    roots = torch.linspace(start**0.5, 1, count + 1, dtype=torch.float64)
    steps: list[int] = roots.square().round().long().tolist()
    return steps
