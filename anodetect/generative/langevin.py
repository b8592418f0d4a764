"""Markov chains on an energy, as plain functions: SGLD, MALA, HMC and annealed Langevin dynamics.

The target is p(x) ∝ exp(−E(x)). An `energy` callable takes x [N, ...] and returns one energy per
row [N]. Rows are independent chains: the gradient is that of the energies' sum, and the noise of a
row comes from its own generator where one per row is given. Functions leave their arguments
unchanged and work under a caller's `torch.no_grad()`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
Score = Callable[[Tensor], Tensor]  # x [N, ...] → ∇ log p(x) = −∂E/∂x, of the same shape
Random = torch.Generator | Sequence[torch.Generator]


class EnergyAndGradient(NamedTuple):
    """E(x) [N] and ∂E/∂x [N, ...]."""

    energy: Tensor
    gradient: Tensor


def energy_and_gradient(energy: Energy, x: Tensor) -> EnergyAndGradient:
    """Return the energies of x [N, ...] and their gradients, detached from any graph."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energies = energy(x)
        (gradient,) = torch.autograd.grad(energies.sum(), x)
    return EnergyAndGradient(energies.detach(), gradient)


def sgld(
    energy: Energy,
    x: Tensor,
    rng: Random,
    *,
    step: float,
    noise: float | None = None,
    clip: float = math.inf,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """Return x − step · ∂E/∂x + noise · z, without correction (Welling & Teh, ICML 2011).

    `noise` None is √(2 step), which targets p for small steps; image models use less, a temperature
    below 1. `clip` bounds each component of the gradient, `bounds` each value of the result.
    """
    gradient = energy_and_gradient(energy, x).gradient
    return langevin_step(x, gradient, rng, step=step, noise=noise, clip=clip, bounds=bounds)


def langevin_step(
    x: Tensor,
    gradient: Tensor,
    rng: Random,
    *,
    step: float,
    noise: float | None = None,
    clip: float = math.inf,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """Return what `sgld` does, where the gradient is known."""
    deviation = math.sqrt(2 * step) if noise is None else noise
    moved = x - step * gradient.clamp(-clip, clip) + deviation * standard_normal(x, rng)
    return moved.clamp(*bounds)


def mala(energy: Energy, x: Tensor, rng: Random, *, step: float) -> tuple[Tensor, Tensor]:
    """Take a Metropolis-adjusted Langevin step (Roberts & Tweedie, Bernoulli 1996).

    Return x and which rows were accepted, bool [N]. The proposal is y = x − step · ∂E/∂x +
    √(2 step) z, accepted with probability min(1, p(y) q(x|y) / p(x) q(y|x)).
    """
    at_x = energy_and_gradient(energy, x)
    y = x - step * at_x.gradient + math.sqrt(2 * step) * standard_normal(x, rng)
    at_y = energy_and_gradient(energy, y)
    return accept(x, y, mala_log_ratio(x, at_x, y, at_y, step), rng)


def mala_log_ratio(
    x: Tensor, at_x: EnergyAndGradient, y: Tensor, at_y: EnergyAndGradient, step: float
) -> Tensor:
    """Return log p(y) q(x|y) − log p(x) q(y|x), [N]."""
    forward = (y - x + step * at_x.gradient).square().flatten(1).sum(1) / (4 * step)
    backward = (x - y + step * at_y.gradient).square().flatten(1).sum(1) / (4 * step)
    return at_x.energy - at_y.energy + forward - backward


def hmc(
    energy: Energy, x: Tensor, rng: Random, *, step: float, leapfrogs: int
) -> tuple[Tensor, Tensor]:
    """Follow one trajectory of Hamiltonian Monte Carlo (Neal 2011, section 3).

    Return x and which rows were accepted, bool [N]. Momenta are new; the end is accepted with
    probability min(1, exp(H − H′)), H = E(x) + |p|²/2.
    """
    momentum = standard_normal(x, rng)
    y, final = leapfrog(energy, x, momentum, step, leapfrogs)
    kinetic = (momentum.square() - final.square()).flatten(1).sum(1) / 2
    with torch.no_grad():
        log_ratio = energy(x) - energy(y) + kinetic
    return accept(x, y, log_ratio, rng)


def leapfrog(
    energy: Energy, x: Tensor, momentum: Tensor, step: float, count: int
) -> tuple[Tensor, Tensor]:
    """Return (x, momentum) after `count` leapfrog steps, which are reversible and keep volume."""
    momentum = momentum - step / 2 * energy_and_gradient(energy, x).gradient
    for k in range(count):
        x = x + step * momentum
        kick = step if k < count - 1 else step / 2
        momentum = momentum - kick * energy_and_gradient(energy, x).gradient
    return x, momentum


def annealed(
    energy_at: Callable[[float], Energy],
    x: Tensor,
    rng: Random,
    *,
    sigmas: Sequence[float],
    steps: int,
    step: float,
) -> Tensor:
    """Run annealed Langevin dynamics; return x (Song & Ermon, NeurIPS 2019, algorithm 1).

    `energy_at(σ)` is the energy of the data blurred by noise of deviation σ. At each σ, from large
    to small, there are `steps` steps of `sgld`, of size step · σ² / σ_last².
    """

    def score_at(sigma: float) -> Score:
        return lambda x: -energy_and_gradient(energy_at(sigma), x).gradient

    return annealed_states(score_at, x, rng, sigmas=sigmas, steps=steps, step=step)[-1]


def annealed_states(
    score_at: Callable[[float], Score],
    x: Tensor,
    rng: Random,
    *,
    sigmas: Sequence[float],
    steps: int,
    step: float,
) -> list[Tensor]:
    """Do what `annealed` does, where the score is known instead of an energy; return x before the
    first step and after the last step at each σ."""
    states = [x]
    for sigma in sigmas:
        score, size = score_at(sigma), step * (sigma / sigmas[-1]) ** 2
        for _ in range(steps):
            x = langevin_step(x, -score(x), rng, step=size)
        states.append(x)
    return states


def standard_normal(like: Tensor, rng: Random) -> Tensor:
    """Return standard normal noise of the shape of `like`, and on its device.

    Row n is from the n-th generator where there is one per row.
    """
    if isinstance(rng, torch.Generator):
        return torch.randn(like.shape, generator=rng).to(like.device)
    rows = [torch.randn(like.shape[1:], generator=each) for each in rng]
    return torch.stack(rows).to(like.device)


def uniform(like: Tensor, rng: Random) -> Tensor:
    """Return uniform noise in [0, 1) of the shape of `like`, drawn as `standard_normal` is."""
    if isinstance(rng, torch.Generator):
        return torch.rand(like.shape, generator=rng).to(like.device)
    rows = [torch.rand(like.shape[1:], generator=each) for each in rng]
    return torch.stack(rows).to(like.device)


def accept(x: Tensor, y: Tensor, log_ratio: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """Replace rows of x by those of y with probability min(1, exp(log_ratio)).

    Return the rows and which of them were replaced, bool [N].
    """
    accepted = uniform(log_ratio, rng).log() < log_ratio
    return torch.where(accepted.reshape(-1, *[1] * (x.dim() - 1)), y, x), accepted
