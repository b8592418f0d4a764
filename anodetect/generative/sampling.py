"""Samplers that need no gradient, and sums over all states, as plain functions.

Conventions are those of `langevin`: the target is p(x) ∝ exp(−E(x)), an `energy` callable takes
x [N, ...] and returns one energy per row [N], rows are independent, and the randomness of a row
comes from its own generator where one per row is given. Arguments stay unchanged.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from anodetect.generative.langevin import Energy, Random, accept, standard_normal, uniform

MOST_PROPOSALS = 10_000  # of rejection sampling, for each draw


class Proposed(NamedTuple):
    """States y [N, ...] proposed from x, and log q(x|y) − log q(y|x), [N]."""

    y: Tensor
    log_ratio: Tensor


class Rejected(NamedTuple):
    """Independent draws [N, ...] of the target, and the share of proposals that were accepted."""

    draws: Tensor
    accepted: float


class Annealed(NamedTuple):
    """The ends of annealed chains [N, ...], and their log weights [N]."""

    ends: Tensor
    log_weights: Tensor


class LogMean(NamedTuple):
    """The logarithm of a mean, and its standard error."""

    value: float
    error: float


Proposal = Callable[[Tensor, Random], Proposed]


def gibbs(
    energy: Energy, x: Tensor, rng: Random, *, values: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Return x [N, ...] after one sweep, in which each value is drawn anew given all others.

    x has two possible `values` (Geman & Geman, IEEE PAMI 1984). A sweep takes two energies for each
    value of a row, in the order in which they lie in memory.
    """
    low, high = values
    x = x.clone(memory_format=torch.contiguous_format)
    columns = x.flatten(1)  # a view of the clone
    chances = uniform(columns, rng)

    for site in range(columns.shape[1]):
        columns[:, site] = low
        at_low = energy(x)
        columns[:, site] = high
        p_high = torch.sigmoid(at_low - energy(x))
        columns[:, site] = torch.where(chances[:, site] < p_high, high, low)
    return x


def metropolis_hastings(
    energy: Energy, x: Tensor, rng: Random, propose: Proposal
) -> tuple[Tensor, Tensor]:
    """Take one step (Hastings, Biometrika 1970); return x [N, ...] and which rows moved, bool [N].

    A proposal y is accepted with probability min(1, p(y) q(x|y) / p(x) q(y|x)).
    """
    y, log_ratio = propose(x, rng)
    return accept(x, y, energy(x) - energy(y) + log_ratio, rng)


def random_walk(deviation: float) -> Proposal:
    """Return the symmetric proposal x plus Gaussian noise of this deviation."""

    def propose(x: Tensor, rng: Random) -> Proposed:
        return Proposed(x + deviation * standard_normal(x, rng), x.new_zeros(len(x)))

    return propose


def rejection(
    energy: Energy,
    propose: Callable[[int], Tensor],
    proposal_energy: Energy,
    bound: float,
    count: int,
    rng: torch.Generator,
) -> Rejected:
    """Return `count` independent draws of p (von Neumann 1951).

    `propose(n)` draws n rows of q ∝ exp(−E_q). A row is accepted with probability
    exp(E_q(x) − E(x) − bound), so `bound` must be at least the largest E_q − E; ValueError where it
    is not, or where fewer than one in 10 000 is accepted. Z_p = Z_q · exp(bound) · accepted.
    """
    kept, accepted, tried = [], 0, 0
    while accepted < count:
        if tried >= MOST_PROPOSALS * count:
            raise ValueError(f"{accepted} of {tried} proposals were accepted; bound is too large")
        x = propose(count)
        log_chance = proposal_energy(x) - energy(x) - bound
        if bool((log_chance > 1e-5).any()):
            excess = float(log_chance.max())
            raise ValueError(f"bound {bound:g} is too small, at least by {excess:g}")

        chosen = x[uniform(log_chance, rng).log() < log_chance]
        kept.append(chosen)
        accepted += len(chosen)
        tried += count
    return Rejected(torch.cat(kept)[:count], accepted / tried)


def annealed_importance(
    energy_at: Callable[[float], Energy],
    x: Tensor,
    step: Callable[[Tensor, float], Tensor],
    betas: Sequence[float],
) -> Annealed:
    """Run annealed importance sampling (Neal, Statistics and Computing 2001).

    `energy_at(β)` is the energy of one distribution on the way from that of the first of `betas`,
    of which x [N, ...] are draws, to that of the last. `step(x, β)` keeps the distribution at β.
    The mean of exp(log weight) over rows is an unbiased estimate of Z_last / Z_first; `log_mean`
    returns its logarithm.
    """
    log_weights = x.new_zeros(len(x))
    for before, beta in pairwise(betas):
        log_weights = log_weights + energy_at(before)(x) - energy_at(beta)(x)
        x = step(x, beta)
    return Annealed(x, log_weights)


def log_mean(log_weights: Tensor) -> LogMean:
    """Return log of the mean of exp(log_weights [N]), and its standard error to first order."""
    count = len(log_weights)
    value = float(log_weights.logsumexp(0)) - math.log(count)
    relative = (log_weights - value).exp()  # weights over their mean
    return LogMean(value, float(relative.std()) / math.sqrt(count))


def every_state(count: int, values: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return all states of `count` variables with two values each, float32 [2^count, count]."""
    low, high = values
    numbers = torch.arange(2**count)
    bits = (numbers[:, None] >> torch.arange(count)) & 1
    return low + (high - low) * bits.float()
