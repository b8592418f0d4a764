"""A classifier of locations read as an energy: JEM (Grathwohl et al., ICLR 2020).

    E_p(x) = −log Σ_y exp f_p(x)[y]

Labels y are [N, h, w], and UNKNOWN where none is known: such a location teaches what images look
like, and nothing about classes (semi-supervised learning).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anodetect.generative.langevin import Energy
from anodetect.nn.inference import autocast
from anodetect.nn.local import LocalNet

UNKNOWN = -1
CONTRASTED = 2048  # locations of a batch that are contrasted


def free_energy(net: LocalNet, x: Tensor) -> Tensor:
    """Return −logsumexp of the logits at each location, [N, h, w]."""
    with autocast(x.device):
        logits: Tensor = net(x)
    return -logits.float().logsumexp(1)


def total_energy(net: LocalNet) -> Energy:
    """Return the function x [N, C, H, W] → E(x) [N], the sum over locations."""
    return lambda x: free_energy(net, x).sum((1, 2))


def class_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of −log p(y | x) over locations with a known label, a scalar.

    `logits` are [N, classes, h, w]. Without any known label it is 0, and so is its gradient.
    """
    known = (y != UNKNOWN).sum().clamp_min(1)
    return F.cross_entropy(logits, y, ignore_index=UNKNOWN, reduction="sum") / known


def hdge_loss(logits: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Return −log of the share of f(x)[y] among locations of the batch, a scalar (HDGE).

    It is a mean over random locations. `logits` are [N, classes, h, w]. Where the label is not
    known, the sum over all classes takes the place of f(x)[y].
    """
    chosen = torch.randperm(y.numel(), generator=rng)[:CONTRASTED].to(y.device)
    rows = logits.movedim(1, -1).flatten(0, 2)[chosen]
    own = y.flatten()[chosen]

    # The last column is that of unknown labels, which an index of −1 takes.
    rows = torch.cat([rows, rows.logsumexp(1, keepdim=True)], 1)
    own = own.remainder(rows.shape[1])
    all_locations = rows.logsumexp(0)[own]
    own_location = rows.gather(1, own[:, None])[:, 0]
    return (all_locations - own_location).mean() - math.log(len(chosen))
