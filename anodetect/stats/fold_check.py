"""A check of calibration by folds: whether the models of all folds give scores of one size.

The images of a fold are a random part of all, so that without a difference between the models the
mean scores of groups have one distribution. The ranks of these means are compared between folds
(Kruskal & Wallis, JASA 47, 1952), ties with their mean rank:

    H = (N − 1) · Σ_k n_k (r̄_k − (N + 1) / 2)² / Σ_g (r_g − (N + 1) / 2)²,

which is χ² with K − 1 degrees of freedom where they are alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
ALPHA = 0.01  # of being told so where the models are alike


def folds_differ(scores: Doubles, groups: Sequence[str], folds: Numbers) -> bool:
    """Return whether the scores [n] of groups differ between folds [n] by more than chance."""
    return fold_p_value(scores, groups, folds) < ALPHA


def fold_p_value(scores: Doubles, groups: Sequence[str], folds: Numbers) -> float:
    """Return the p-value of the scores [n] of groups being alike in all folds [n]; 1 where nothing
    can be compared."""
    from scipy.special import chdtrc  # takes time to import

    _, first, number = np.unique(np.array(groups), return_index=True, return_inverse=True)
    means = np.bincount(number, scores) / np.bincount(number)
    _, place, sizes = np.unique(folds[first], return_inverse=True, return_counts=True)
    centred = _ranks(means) - (len(means) + 1) / 2
    total = float((centred**2).sum())
    if total == 0 or len(sizes) < 2:
        return 1.0

    between = float((np.bincount(place, centred) ** 2 / sizes).sum())
    return float(chdtrc(len(sizes) - 1, (len(means) - 1) * between / total))


def _ranks(values: Doubles) -> Doubles:
    """Return the ranks of values from 1, equal ones with their mean rank."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    not_above = np.searchsorted(ordered, values, "right")
    return (below + 1 + not_above) / 2
