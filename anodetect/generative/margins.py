"""Losses of an energy-based model that knows the right answer y to an input x, and wrong ones.

    "energy"       E(x, y)
    "perceptron"   E(x, y) − min over all answers of E(x, ·)
    "hinge"        max(0, m + E(x, y) − E(x, ȳ))

ȳ is the most offending wrong answer, that with the lowest energy. LeCun, Chopra, Hadsell, Ranzato &
Huang, "A tutorial on energy-based learning", 2006, section 2.2.

The answers to an image are "normal" and "anomalous". As in their two-class classifier one function
gives both energies, E(x, normal) = F(x) and E(x, anomalous) = −F(x), so F is driven down on normal
images and up on anomalous ones. The energy loss alone has no end to that; the other two have.
"""

from typing import Literal

from torch import Tensor

Margin = Literal["energy", "perceptron", "hinge"]
HIGHEST = 0.05  # the share of an image's locations that its energy is the mean of


def energy_loss(right: Tensor) -> Tensor:
    """Return the loss for the energies [...] of right answers: these energies."""
    return right


def perceptron_loss(right: Tensor, wrong: Tensor) -> Tensor:
    """Return how far the energies [...] of right answers are above the lowest ones.

    `wrong` has the lowest energies of wrong answers. The loss is 0 where the right answer is the
    better one, however little.
    """
    return right - right.minimum(wrong)


def hinge_loss(right: Tensor, wrong: Tensor, margin: float) -> Tensor:
    """Return how much the energies [...] of right answers lack to be `margin` below wrong ones."""
    return (margin + right - wrong).clamp_min(0)


def two_class_loss(loss: Margin, energies: Tensor, *, anomalous: bool, margin: float) -> Tensor:
    """Return the losses [N] of images with energies F(x) [N], all normal or all `anomalous`."""
    right = -energies if anomalous else energies
    if loss == "energy":
        return energy_loss(right)
    if loss == "perceptron":
        return perceptron_loss(right, -right)
    return hinge_loss(right, -right, margin)


def highest_mean(local: Tensor) -> Tensor:
    """Return the mean over the highest values of each map [N, h, w], a share HIGHEST of it, [N].

    An anomalous image is anomalous in some place, which is not known; elsewhere it may be normal.
    """
    flat = local.flatten(1)
    count = max(1, round(HIGHEST * flat.shape[1]))
    return flat.topk(count, 1).values.mean(1)
