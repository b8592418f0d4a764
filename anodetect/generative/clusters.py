"""Clusters by Hartigan's definition: the connected components of level sets of the density.

    log p(x_i) = −d · log r_i + constant        {i : log p(x_i) ≥ λ} over a graph of near neighbours

r_i is the distance to the k-th nearest neighbour, and d the dimension that distances to the nearest
k grow with (Levina & Bickel, NIPS 2004; MacKay & Ghahramani, 2005). Two points are joined if one is
among the k nearest of the other. A component counts if it is persistent: its peak is so far above
the level that the deviation of the estimate, about 1 / √k, does not explain it, and it has as many
points as the estimate is made from. (In samples of one Gaussian or uniform distribution, 40 to 400
points in 1 to 16 dimensions, a second peak is rarely 4 deviations high.)

The level rises from the lowest. Where a cluster falls into two or more components that count, and
most of its points are in them, these take its place, as in the cluster tree. So both the levels and
the number of clusters come from the data.

Hartigan, "Clustering algorithms", 1975; Chaudhuri & Dasgupta, "Rates of convergence for the cluster
tree", NIPS 2010; persistence as in Chazal, Guibas, Oudot & Skraba, J. ACM 2013.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from anodetect.imaging.odd import means_on_grid
from anodetect.types import Batch, Floats

Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]

NEIGHBOURS = 5, 50  # at least and at most; between them √N
PERSISTENT = 4.0  # times 1 / √k: the least height of a peak above the level, in log density
LEVELS = 100
KEPT = 0.5  # the least share of a cluster's points that are in the components it falls into
OUTSIDE = -1  # the number of points in no cluster
PART = 32  # images at a time
FLOOR = 0.3  # of the mean deviation of all values, added to that of each
FAINT = 0.01  # added to the deviation of a place's pixels, on images in [-1, 1]
EXPLAINED, MOST_VALUES = 0.95, 16  # share of the variance that is kept, in at most so many values


@dataclass(frozen=True)
class Clusters:
    """The clusters of N points: `numbers` [N] has that of each, from 0, the largest first, and −1
    outside all of them.

    `persistence` says how far the lowest peak of a cluster is above the level, a log density, at
    which it stands apart, and `least` how far it has to be.
    """

    numbers: Rows
    persistence: float
    least: float

    @property
    def count(self) -> int:
        """The number of clusters, at least one."""
        return int(self.numbers.max()) + 1


def level_set_clusters(points: Doubles) -> Clusters:
    """Return the clusters of points [N, D]; one, of all points, if no two stand apart."""
    from sklearn.neighbors import NearestNeighbors  # not at the top: scoring has to start quickly

    fewest, most = NEIGHBOURS
    k = min(int(np.clip(round(np.sqrt(len(points))), fewest, most)), len(points) - 1)
    distances, nearest = NearestNeighbors(n_neighbors=k).fit(points).kneighbors()
    density, graph = log_density(distances), neighbour_graph(nearest)
    least = PERSISTENT / float(np.sqrt(k))

    numbers, persistence = np.zeros(len(points), np.int64), float(density.max() - density.min())
    for level in np.unique(np.quantile(density, np.linspace(0, 1, LEVELS, endpoint=False))):
        found = components_above(graph, density, float(level), least, smallest=k)
        for number in np.unique(numbers[numbers >= 0]):
            inside = (numbers == number) & (found >= 0)
            parts = np.unique(found[inside])
            if len(parts) < 2 or inside.sum() < KEPT * (numbers == number).sum():
                continue
            numbers[numbers == number] = OUTSIDE
            for part in parts:
                numbers[found == part] = numbers.max() + 1
                height = float(density[found == part].max() - level)
                persistence = min(persistence, height)
    return Clusters(in_order_of_size(numbers), persistence, least)


def log_density(distances: Doubles) -> Doubles:
    """Return −d · log r [N] of points whose k nearest neighbours are at `distances` [N, k], in
    ascending order; it is log p but for a constant."""
    # Copies of a point have no finite density.
    floor = max(1e-6 * float(np.median(distances[:, -1])), 1e-12)
    logs = np.log(np.maximum(distances, floor))
    growth = (logs[:, -1:] - logs[:, :-1]).mean()
    density: Doubles = -logs[:, -1] / max(float(growth), 1e-6)
    return density


def neighbour_graph(nearest: Rows) -> csr_array:
    """Return the graph [N, N] with an edge from each point to its `nearest` [N, k]."""
    count, k = nearest.shape
    starts = np.repeat(np.arange(count), k)
    ones = np.ones(count * k, np.int8)
    return csr_array((ones, (starts, nearest.ravel())), shape=(count, count))


def components_above(
    graph: csr_array, density: Doubles, level: float, least: float, *, smallest: int
) -> Rows:
    """Return the component of the level set that each point is in, [N], from 0.

    Components count that have a peak at least `least` above the level and `smallest` points or
    more; it is −1 in others and below the level.
    """
    (above,) = np.nonzero(density >= level)
    count, of_point = connected_components(graph[above][:, above], directed=False)
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, of_point, density[above])
    sizes = np.bincount(of_point, minlength=count)

    counts = (peaks - level >= least) & (sizes >= smallest)
    new = np.where(counts, np.cumsum(counts) - 1, OUTSIDE)
    numbers = np.full(len(density), OUTSIDE, np.int64)
    numbers[above] = new[of_point]
    return numbers


def in_order_of_size(numbers: Rows) -> Rows:
    """Return numbers [N] of clusters anew, from 0, the largest first; −1 stays."""
    found, sizes = np.unique(numbers[numbers >= 0], return_counts=True)
    ordered = np.full(len(numbers), OUTSIDE, np.int64)
    for new, number in enumerate(found[np.argsort(-sizes, kind="stable")]):
        ordered[numbers == number] = new
    return ordered


# -- Points ----------------------------------------------------------------------------------------


def describe(batch: Batch) -> Doubles:
    """Return a short vector for each image [N, D]: what it shows, and how.

    It has the means and the logarithms of the deviations of the pixels on 8 × 8 places, in their
    leading principal components. Products differ in the former, cameras and scanners also in
    the latter, which are contrast, blur and noise.
    """
    means, deviations = [], []
    for _, part in batch.parts(PART):
        mean = means_on_grid(part.images)
        variance = np.maximum(means_on_grid(np.square(part.images)) - np.square(mean), 0)
        means.append(mean.reshape(len(part), -1))
        deviations.append(np.log(np.sqrt(variance) + FAINT).reshape(len(part), -1))

    values = np.concatenate([_scaled(np.concatenate(each)) for each in (means, deviations)], 1)
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    explained = np.cumsum(np.square(sizes)) / max(float(np.square(sizes).sum()), 1e-12)
    count = min(int(np.searchsorted(explained, EXPLAINED)) + 1, MOST_VALUES)
    leading: Doubles = left[:, :count] * sizes[:count]
    return leading


def _scaled(values: Floats) -> Doubles:
    """Return values [N, V] with mean 0 and a deviation of about 1, less where they hardly vary."""
    centred = values.astype(np.float64) - values.mean(0)
    deviation = centred.std(0)
    floor = FLOOR * float(deviation.mean())
    scaled: Doubles = centred / np.maximum(deviation + floor, 1e-12)
    return scaled
