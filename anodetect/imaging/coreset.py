"""Greedy k-centre: vectors that cover a set, so that a rare but normal pattern has one near it.

Each step takes the vector that is furthest from those taken already (Gonzalez, "Clustering to
minimize the maximum intercluster distance", Theoretical Computer Science 1985). The largest
distance of any vector to the nearest one taken is at most twice the least possible.
"""

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Floats


def k_centre(vectors: Floats, count: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of `count` of the vectors [N, C], in the order in which they are taken.

    The first is random. Distances are updated by one product of the matrix with a vector at each
    step, so that time grows with N · C · count and memory with N. With `count` ≥ N all rows are
    returned.
    """
    if count >= len(vectors):
        return np.arange(len(vectors))
    norms = np.einsum("nc,nc->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf, np.float32)
    rows = np.empty(count, np.int64)
    rows[0] = np.random.default_rng(seed).integers(len(vectors))

    for step in range(1, count):
        last = rows[step - 1]
        squared = norms - 2 * (vectors @ vectors[last]) + norms[last]
        np.minimum(nearest, squared, out=nearest)
        nearest[last] = -np.inf  # rounding must not let a row be taken twice
        rows[step] = np.argmax(nearest)
    return rows
