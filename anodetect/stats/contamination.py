"""Do normals to calibrate with hold anomalies? NumPy only.

They are compared with earlier calibration images of the same model, one image of each group. If
both are normals from one place, the number of m new ones above the highest of n earlier ones is
beta-binomial, whatever the scores are: with t above it, P(t or more) is about (m / (n + m))^t. A
place whose images all look odder has more above it, too: where the rest differs, which
`drift.compare` tells, nothing is said.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anodetect.stats import drift
from anodetect.stats.realised import beta_binomial
from anodetect.words import amount, first_of

Doubles = NDArray[np.float64]
ALPHA = 0.01  # of sets without anomalies that are reported, at most
NAMED = 3  # groups


def suspects(
    scores: Doubles,
    groups: Sequence[str],
    earlier: Doubles,
    earlier_groups: Sequence[str],
    *,
    seed: int = 0,
) -> list[str]:
    """Return the groups, oddest first, whose scores lie above all earlier ones, if there are more
    than chance and a change of the whole explain; else none. Scores [n] belong to n groups."""
    rng = np.random.default_rng(seed)
    names, new = _one_each(scores, groups, rng)
    _, known = _one_each(earlier, earlier_groups, rng)
    if not len(new) or not len(known):
        return []

    above = np.flatnonzero(new > known.max())
    if _chance(len(above), len(new), len(known)) > ALPHA:
        return []
    moved = drift.compare(earlier, earlier_groups, scores, groups)
    if moved is None or moved.fires:
        return []
    return [str(names[number]) for number in above[np.argsort(-new[above])]]


def caveat(suspected: Sequence[str], images: int) -> str:
    """Return in words that groups of `images` to calibrate with are suspected."""
    of = f"of these {images} images, one of each group,"
    return (
        f"{amount(len(suspected), f'{of} looks', f'{of} look')} odder than all that the run was "
        "calibrated with before, which chance explains in 1 of 100 sets at most. Anomalies among "
        f"them would raise the threshold: look at {first_of(suspected, NAMED)}"
    )


def _chance(above: int, new: int, known: int) -> float:
    """Return the probability that so many of `new` images, or more, lie above all known ones."""
    return math.fsum(beta_binomial(count, new, 1, known) for count in range(above, new + 1))


def _one_each(
    scores: Doubles, groups: Sequence[str], rng: np.random.Generator
) -> tuple[NDArray[np.str_], Doubles]:
    """Return the groups, and of each the score of one image, drawn at random."""
    order = rng.permutation(len(scores))
    names, first = np.unique(np.array(groups)[order], return_index=True)
    return names, scores[order][first]
