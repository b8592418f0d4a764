"""Mixtures of two Gaussians in the plane, of which densities and scores are known."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from anodetect.generative import langevin
from anodetect.types import Batch

CENTRES = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians with these weights, at CENTRES, `spread` wide in both directions."""

    weights: tuple[float, float]
    spread: float

    def draws(self, count, rng):
        """Return points [count, 2]."""
        weights = torch.tensor(self.weights)
        which = torch.multinomial(weights, count, replacement=True, generator=rng)
        return CENTRES[which] + self.spread * torch.randn(count, 2, generator=rng)

    def log_density(self, x, sigma=0.0):
        """Return the log-density at points [M, 2], [M], of draws with noise of this deviation."""
        variance = self.spread**2 + sigma**2
        squares = (x[:, None] - CENTRES).square().sum(-1)
        logs = torch.tensor(self.weights).log() - squares / (2 * variance)
        return torch.logsumexp(logs, 1) - math.log(2 * math.pi * variance)

    def score(self, x, sigma):
        """Return the gradient of `log_density` at points [M, 2], [M, 2], by autograd."""
        return -langevin.energy_and_gradient(lambda x: -self.log_density(x, sigma), x).gradient

    def images(self, count, seed, side=4, stretch=(1.0, 1.0)):
        """Return images [count, 2, side, side] of which each place is a draw, stretched."""
        draws = torch.tensor(stretch) * self.draws(count * side * side, generator(seed))
        images = draws.reshape(count, side, side, 2).movedim(-1, 1).numpy()
        return Batch(np.ascontiguousarray(images), np.ones((count, side, side), bool))
