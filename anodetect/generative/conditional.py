"""Conditional energies E(x, y), low where an answer y fits an input x, and the best answer.

    y*(x) = argmin_y E(x, y)

LeCun, Chopra, Hadsell, Ranzato & Huang, "A tutorial on energy-based learning", 2006, section 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from anodetect.generative.langevin import energy_and_gradient

ConditionalEnergy = Callable[[Tensor, Tensor], Tensor]  # x [N, ...], y [N, ...] → [N]
FASTER, SLOWER = 1.2, 0.5  # times the rate of a row after a step that lowered its energy, or not


class Answer(NamedTuple):
    """The answers y [N, ...] found, and their energies [N]."""

    y: Tensor
    energy: Tensor


def infer(
    energy: ConditionalEnergy, x: Tensor, start: Tensor, *, steps: int, rate: float = 0.1
) -> Answer:
    """Return a local argmin of E(x, ·) for each row of x, by gradient descent from `start`.

    Steps that would raise the energy of a row are not taken and make its next one smaller, so the
    energy of an answer is never above that of its start.
    """
    y = start.detach()
    value, gradient = energy_and_gradient(lambda each: energy(x, each), y)
    rates = torch.full_like(value, rate)

    for _ in range(steps):
        moved = y - _per_row(rates, y) * gradient
        moved_value, moved_gradient = energy_and_gradient(lambda each: energy(x, each), moved)
        lower = moved_value < value
        y = torch.where(_per_row(lower, y), moved, y)
        gradient = torch.where(_per_row(lower, y), moved_gradient, gradient)
        value = torch.where(lower, moved_value, value)
        rates = rates * torch.where(lower, FASTER, SLOWER)
    return Answer(y, value)


def infer_from_each(
    energy: ConditionalEnergy, x: Tensor, starts: Tensor, *, steps: int, rate: float = 0.1
) -> Answer:
    """Return for each row of x the best answer that `infer` finds from S starts, [S, N, ...]."""
    answers = []
    for start in starts:
        answers.append(infer(energy, x, start, steps=steps, rate=rate))

    energies = torch.stack([answer.energy for answer in answers])
    best = energies.argmin(0)
    rows = torch.arange(len(x), device=best.device)
    y = torch.stack([answer.y for answer in answers])[best, rows]
    return Answer(y, energies[best, rows])


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return values [N] in the shape that multiplies rows of `like` [N, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
