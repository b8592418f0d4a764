"""Images that a model makes: a random generator for each chain, and its states as arrays."""

from collections.abc import Sequence

import numpy as np
import torch
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
