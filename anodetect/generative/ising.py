"""The Ising model on a torus: small enough to be summed exactly, to test samplers with.

    E(s) = −Σ s_i s_j over neighbours i, j,   p(s) ∝ exp(−E(s) / T),   s_i = ±1

Spins are float [N, L, L]. L is at least 3, so that no two sites are neighbours twice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from anodetect.generative.langevin import Random, uniform
from anodetect.generative.sampling import every_state

MOST_SITES = 20  # of a lattice whose states are enumerated: a million of them


class Exact(NamedTuple):
    """Sums over all states: log Z, and the means of the energy and of the magnetisation |m|, both
    per site."""

    log_partition: float
    energy: float
    magnetisation: float


def energy(spins: Tensor) -> Tensor:
    """Return E of spins [N, L, L], [N]."""
    bonds = spins * (spins.roll(1, -1) + spins.roll(1, -2))
    return -bonds.sum((-2, -1))


def magnetisation(spins: Tensor) -> Tensor:
    """Return |m| of spins [N, L, L], the absolute mean of a lattice's spins, [N] in [0, 1]."""
    return spins.mean((-2, -1)).abs()


def heat_bath(spins: Tensor, rng: Random, temperature: float) -> Tensor:
    """Return spins [N, L, L] after one Gibbs sweep, half of a chessboard after the other.

    The sites of one colour are independent given the others. ValueError where L is odd: colours
    would meet themselves.
    """
    side = spins.shape[-1]
    if side % 2:
        raise ValueError(f"a torus of side {side} has no chessboard; take an even one")

    places = torch.arange(side, device=spins.device)
    black = (places[:, None] + places) % 2 == 1
    chances = uniform(spins, rng)
    for colour in (black, ~black):
        around = spins.roll(1, -1) + spins.roll(-1, -1) + spins.roll(1, -2) + spins.roll(-1, -2)
        up = torch.sigmoid(2 * around / temperature)
        drawn = torch.where(chances < up, 1.0, -1.0)
        spins = torch.where(colour, drawn, spins)
    return spins


def exact(side: int, temperature: float) -> Exact:
    """Return the sums over all 2^(side²) states; ValueError for more than a million."""
    if side**2 > MOST_SITES:
        raise ValueError(f"a lattice of side {side} has too many states to be summed")
    spins = every_state(side**2, (-1.0, 1.0)).reshape(-1, side, side)
    energies = energy(spins).double()
    weights = (-energies / temperature).softmax(0)

    return Exact(
        log_partition=float((-energies / temperature).logsumexp(0)),
        energy=float(weights @ energies) / side**2,
        magnetisation=float(weights @ magnetisation(spins).double()),
    )
