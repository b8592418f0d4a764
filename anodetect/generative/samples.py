"""Images that a model makes: generators for chains, their states as arrays, starts between two."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anodetect.generative.noise import generator
from anodetect.types import Samples


def chain_generators(seed: int, count: int) -> list[torch.Generator]:
    """Return generators for so many chains; a chain's does not depend on how many there are."""
    children = np.random.SeedSequence(seed).spawn(count)
    return [generator(int(child.generate_state(1, np.uint64)[0])) for child in children]


def samples_of(states: Sequence[Tensor]) -> Samples:
    """Return the states of chains [N, C, H, W], of which the last one is the result."""
    chain = torch.stack(list(states)).float().cpu().numpy()
    return Samples(chain[-1], chain)


def arc(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Return `count` points on the arc from one point [...] to another, both included, evenly
    spread: [count, ...] (Shoemake, SIGGRAPH 1985).

    With two draws of Gaussian noise each is a likely draw, too; on a straight line those in the
    middle would be too short.
    """
    cosine = F.cosine_similarity(first.flatten(), last.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-4, max=math.pi - 1e-4)
    share = torch.linspace(0, 1, count).reshape(-1, *[1] * first.dim())
    weights = ((1 - share) * angle).sin(), (share * angle).sin()
    return (weights[0] * first + weights[1] * last) / angle.sin()
