"""Greedy k-centre: vectors that cover a set, so that a rare but normal pattern has one near it.

Each step takes the vector that is furthest from those taken already (Gonzalez, "Clustering to
minimize the maximum intercluster distance", Theoretical Computer Science 1985). The largest
distance of any vector to the nearest one taken is at most twice the least possible.

One step at a time reads all vectors once for each that is taken, and memory is what limits it.
Here a block of steps is done among the furthest vectors alone. Distances only shrink, so a vector
that stays further than every vector outside the block is the one that the greedy choice takes. All
distances are then updated by one product of matrices for the whole block.
"""

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Floats

Rows = NDArray[np.int64]

FURTHEST = 2048  # the vectors among which a block of steps is done
PART = 1024  # the vectors whose distances are updated at a time, which bounds memory


def k_centre(vectors: Floats, count: int, seed: int) -> Rows:
    """Return the rows of `count` of the vectors [N, C], in the order in which they are taken.

    The first is random. Time grows with N · C · count and memory with N. With `count` ≥ N all rows
    are returned.
    """
    if count >= len(vectors):
        return np.arange(len(vectors))
    vectors = vectors - vectors.mean(0)  # or the differences of large norms would be inexact
    norms = np.einsum("nc,nc->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf, np.float32)
    taken = np.random.default_rng(seed).integers(len(vectors), size=1)
    rows = [taken]
    left = count - 1

    while left > 0:
        _update(nearest, vectors, norms, taken)
        taken = _next(nearest, vectors, norms)[:left]
        rows.append(taken)
        left -= len(taken)
    return np.concatenate(rows)


def _update(nearest: Floats, vectors: Floats, norms: Floats, taken: Rows) -> None:
    """Lower the squared distances `nearest` [N] to those of the rows just taken; of these they
    become -inf, so that no row is taken twice."""
    for start in range(0, len(vectors), PART):
        part = slice(start, start + PART)
        squared = norms[taken] - 2 * (vectors[part] @ vectors[taken].T)
        np.minimum(nearest[part], squared.min(1) + norms[part], out=nearest[part])
    nearest[taken] = -np.inf


def _next(nearest: Floats, vectors: Floats, norms: Floats) -> Rows:
    """Return the rows that the greedy choice takes next, as far as the furthest vectors alone can
    tell: at least one."""
    size = min(FURTHEST, len(vectors))
    some = np.argpartition(nearest, -size)[-size:]
    left = nearest[some]  # a copy: what remains of the distances within the block
    beyond = left.min()  # no vector outside the block is further than this one
    gram = vectors[some] @ vectors[some].T

    taken = [int(left.argmax())]
    while len(taken) < size:
        last = taken[-1]
        np.minimum(left, norms[some] - 2 * gram[last] + norms[some[last]], out=left)
        left[last] = -np.inf
        following = int(left.argmax())
        if left[following] <= beyond:
            break
        taken.append(following)
    return some[taken]
