"""Markov chains on an energy, as plain functions: SGLD, MALA, HMC and annealed Langevin dynamics.

The target is p(x) ∝ exp(−E(x)). An `energy` callable takes x [N, ...] and returns one energy per
row [N]. Rows are chains of their own: the gradient is that of the energies' sum, and a row's noise
comes from its own generator where one per row is given. Functions leave their arguments unchanged
and work under a caller's `torch.no_grad()`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
Known = tuple[Tensor, Tensor]  # energies and gradients
Random = torch.Generator | Sequence[torch.Generator]


def gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) [N] and ∂E/∂x [N, ...]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energies = energy(x)
        (slope,) = torch.autograd.grad(energies.sum(), x)
    return energies.detach(), slope


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
    """x − step · ∂E/∂x + noise · z (Welling & Teh, ICML 2011), unadjusted.

    `noise` None is √(2 step), which targets p for small steps; image models use less, a temperature
    below 1. `clip` bounds each component of the gradient, `bounds` each value of the result.
    """
    return move(x, gradient(energy, x)[1], rng, step=step, noise=noise, clip=clip, bounds=bounds)


def move(
    x: Tensor,
    slope: Tensor,
    rng: Random,
    *,
    step: float,
    noise: float | None = None,
    clip: float = math.inf,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """The step of `sgld` where the gradient is known."""
    deviation = math.sqrt(2 * step) if noise is None else noise
    moved = x - step * slope.clamp(-clip, clip) + deviation * normal(x, rng)
    return moved.clamp(*bounds)


def mala(energy: Energy, x: Tensor, rng: Random, *, step: float) -> tuple[Tensor, Tensor]:
    """One Metropolis-adjusted Langevin step (Roberts & Tweedie, Bernoulli 1996); x and what was
    accepted [N].

    y = x − step · ∂E/∂x + √(2 step) z, accepted with probability min(1, p(y) q(x|y) / p(x) q(y|x)).
    """
    here = gradient(energy, x)
    y = x - step * here[1] + math.sqrt(2 * step) * normal(x, rng)
    return _accept(x, y, mala_log_ratio(x, here, y, gradient(energy, y), step), rng)


def mala_log_ratio(x: Tensor, here: Known, y: Tensor, there: Known, step: float) -> Tensor:
    """log p(y) q(x|y) − log p(x) q(y|x), [N], from x and y with their energies and gradients."""
    (at_x, slope_x), (at_y, slope_y) = here, there
    forth = (y - x + step * slope_x).square().flatten(1).sum(1) / (4 * step)
    back = (x - y + step * slope_y).square().flatten(1).sum(1) / (4 * step)
    return at_x - at_y + forth - back


def hmc(
    energy: Energy, x: Tensor, rng: Random, *, step: float, leapfrogs: int
) -> tuple[Tensor, Tensor]:
    """One trajectory of Hamiltonian Monte Carlo (Neal 2011, section 3); x and what was accepted
    [N].

    Momenta are drawn anew; the end is accepted with probability min(1, exp(H − H′)), H = E(x) +
    |p|²/2.
    """
    momentum = normal(x, rng)
    y, end = leapfrog(energy, x, momentum, step, leapfrogs)
    kinetic = (momentum.square() - end.square()).flatten(1).sum(1) / 2
    with torch.no_grad():
        log_ratio = energy(x) - energy(y) + kinetic
    return _accept(x, y, log_ratio, rng)


def leapfrog(
    energy: Energy, x: Tensor, momentum: Tensor, step: float, count: int
) -> tuple[Tensor, Tensor]:
    """`count` leapfrog steps from (x, p): reversible, and preserving volume."""
    momentum = momentum - step / 2 * gradient(energy, x)[1]
    for k in range(count):
        x = x + step * momentum
        momentum = momentum - (step if k < count - 1 else step / 2) * gradient(energy, x)[1]
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
    """Annealed Langevin dynamics (Song & Ermon, NeurIPS 2019, algorithm 1).

    `energy_at(σ)` is the energy of the data blurred by noise of deviation σ. At each σ, from large
    to small, `steps` unadjusted steps of size step · σ² / σ_last².
    """
    for sigma in sigmas:
        for _ in range(steps):
            x = sgld(energy_at(sigma), x, rng, step=step * (sigma / sigmas[-1]) ** 2)
    return x


def normal(like: Tensor, rng: Random) -> Tensor:
    """Standard normal noise of this shape; row n from the n-th generator where there is one per
    row."""
    if isinstance(rng, torch.Generator):
        return torch.randn(like.shape, generator=rng).to(like.device)
    return torch.stack([torch.randn(like.shape[1:], generator=each) for each in rng]).to(
        like.device
    )


def _accept(x: Tensor, y: Tensor, log_ratio: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    if isinstance(rng, torch.Generator):
        chance = torch.rand(len(x), generator=rng)
    else:
        chance = torch.cat([torch.rand(1, generator=each) for each in rng])
    accepted = chance.to(x.device).log() < log_ratio
    return torch.where(accepted.reshape(-1, *[1] * (x.dim() - 1)), y, x), accepted
