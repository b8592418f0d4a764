"""Odd normals: the images that are hardest to explain from the others.

Each image, as features or pixels on GRID × GRID places, is projected to the principal components of
images of other folds (k-fold PCA reconstruction error), so that none is explained by itself. What
an odd image is made of would be learned from others like it, too. So the components are learned
twice, the second time without the oddest tenth of the first.

    x̂ = μ + VVᵀ(x − μ),   r_p = root mean over channels of ((x − x̂)_p / error of the channel)²,
    score = mean of the highest r_p / (mean of r at p over all images), in medians of all images
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from anodetect.types import Batch, Bools, Floats

GRID = 8  # places along each side
PIXEL_BLOCKS = 8  # pixels along each side of a place
FOLDS = 5
COMPONENTS = 80  # at most, and at most a quarter of the images learned from
LEARNED_FROM = 600  # images of other folds, at most
SUSPECT = 0.1  # share of the images that nothing is learned from the second time
FLOOR = 0.3  # of the mean error, added to the error that each place has on all images
TOP = 0.05  # share of the places of an image that count
PART = 32  # images at a time


def places_of_features(batch: Batch) -> tuple[Floats, Floats]:
    """Return features [N, C, h, w] averaged on the grid of places, [N, C, GRID, GRID], and the
    share of foreground of each place [N, GRID, GRID]."""
    places = np.empty((0, 0, 0, 0), np.float32)
    for rows, part in batch.parts(PART):
        means = means_on_grid(part.images)
        if not places.size:
            places = np.empty((len(batch), *means.shape[1:]), np.float32)
        places[rows] = means
    return places, means_on_grid(batch.foreground.astype(np.float32))


def places_of_pixels(batch: Batch) -> tuple[Floats, Floats]:
    """Return the pixels [N, C, h, w] of each place, [N, C · PIXEL_BLOCKS², GRID, GRID], and the
    share of foreground of each place [N, GRID, GRID].

    h and w are GRID · PIXEL_BLOCKS.
    """
    count, channels, *_ = batch.images.shape
    blocks = batch.images.reshape(count, channels, GRID, PIXEL_BLOCKS, GRID, PIXEL_BLOCKS)
    places = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(count, -1, GRID, GRID)
    return np.ascontiguousarray(places), means_on_grid(batch.foreground.astype(np.float32))


def odd_scores(places: Floats, share: Floats, groups: NDArray[np.str_], seed: int) -> Floats:
    """Return how hard each image is to explain from images of other groups [N]: 1 for the typical
    image, larger for odder ones.

    `places` are [N, C, h, w], with the `share` of foreground of each place [N, h, w]. `groups` [N]
    names each image's patient or lot, at least two of them: no image is explained by one of its own
    group. Beside `places` there is memory for LEARNED_FROM images; time grows with N.
    """
    count = len(places)
    folds = fold_numbers(groups, seed)
    scaled = _Scaled(places, share)

    scores = np.ones(count, np.float32)
    usable = np.ones(count, bool)
    for _ in range(2):
        components = _components_for(scaled, folds, usable, seed)
        scores = _pooled(_maps(scaled, folds, components), share)
        suspect = np.argsort(-scores, kind="stable")[: int(SUSPECT * count)]
        usable[:] = True
        usable[suspect] = False
    return scores


class _Scaled:
    """Images in deviations of each channel, 0 outside their foregrounds, made when asked for."""

    def __init__(self, places: Floats, share: Floats) -> None:
        self.places, self.share = places, share
        size = places.size / places.shape[1]
        total, squares = 0.0, 0.0
        for rows in _parts(np.arange(len(places))):
            total = total + places[rows].sum((0, 2, 3), np.float64)
        self.mean = (total / size).astype(np.float32)[:, None, None]
        for rows in _parts(np.arange(len(places))):
            squares = squares + np.square(places[rows] - self.mean).sum((0, 2, 3), np.float64)
        deviation = np.sqrt(squares / size).astype(np.float32)[:, None, None]
        self.deviation = np.maximum(deviation, 1e-6)

    def flat(self, rows: NDArray[np.int64]) -> Floats:
        """Return the images in these rows, [n, P]."""
        inside: Floats = self.places[rows] - self.mean
        inside /= self.deviation
        inside *= self.share[rows][:, None]
        return inside.reshape(len(rows), -1)


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), PART):
        yield rows[start : start + PART]


def fold_numbers(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return a fold for each image [N], from 0, whole groups in each; at most FOLDS of them."""
    names, of_group = np.unique(groups, return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    numbers: NDArray[np.int64] = folds[of_group]
    return numbers


def _components_for(
    scaled: _Scaled, folds: NDArray[np.int64], usable: Bools, seed: int
) -> dict[int, tuple[Floats, Floats]]:
    """Return for each fold the mean and components of `usable` images of other folds."""
    rng = np.random.default_rng(seed)
    components = {}
    for fold in np.unique(folds).tolist():
        others = np.flatnonzero((folds != fold) & usable)
        if not len(others):
            others = np.flatnonzero(folds != fold)
        chosen = np.sort(rng.permutation(others)[:LEARNED_FROM])
        components[fold] = _components(scaled.flat(chosen))
    return components


def _residuals(
    scaled: _Scaled, folds: NDArray[np.int64], components: Mapping[int, tuple[Floats, Floats]]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield rows of a few images, and what the components of their fold leave of them,
    [n, C, h, w]."""
    for fold, (mean, basis) in components.items():
        for rows in _parts(np.flatnonzero(folds == fold)):
            centred = scaled.flat(rows) - mean
            left = (centred - (centred @ basis) @ basis.T).astype(np.float32)
            yield rows, left.reshape(len(rows), *scaled.places.shape[1:])


def _maps(
    scaled: _Scaled, folds: NDArray[np.int64], components: Mapping[int, tuple[Floats, Floats]]
) -> Floats:
    """Return the root mean square over channels of what is left of images [N, h, w], each channel
    in units of what is left of it in all of them."""
    count, channels, *grid = scaled.places.shape
    squares = np.zeros(channels)
    for _, left in _residuals(scaled, folds, components):
        squares += np.einsum("nchw,nchw->c", left, left)

    errors = np.maximum(squares / (count * math.prod(grid)), 1e-12)
    weights = (1 / (errors * channels)).astype(np.float32)
    maps = np.empty((count, *grid), np.float32)
    for rows, left in _residuals(scaled, folds, components):
        maps[rows] = np.sqrt(np.einsum("nchw,nchw,c->nhw", left, left, weights))
    return maps


def _components(images: Floats) -> tuple[Floats, Floats]:
    """Return the mean [P] and the leading principal components [P, K] of images [n, P]."""
    mean: Floats = images.mean(0)
    centred = images - mean
    count = min(COMPONENTS, len(images) // 4)
    values, vectors = np.linalg.eigh(centred @ centred.T)

    # Of images that are much alike few components have a length.
    leading = np.flatnonzero(values > 1e-6 * max(values[-1], 1e-12))[::-1][:count]
    basis: Floats = (centred.T @ vectors[:, leading]) / np.sqrt(values[leading])
    return mean, basis.astype(np.float32)


def _pooled(maps: Floats, share: Floats) -> Floats:
    """Return image scores [N] of maps of what is left of images, [N, h, w]."""
    maps = maps * share
    usual = maps.mean(0) + FLOOR * maps.mean()
    ratios = (maps / np.maximum(usual, 1e-6)).reshape(len(maps), -1)

    highest = np.sort(ratios, 1)[:, -max(1, int(TOP * ratios.shape[1])) :]
    scores = highest.mean(1)
    relative: Floats = (scores / max(float(np.median(scores)), 1e-6)).astype(np.float32)
    return relative


def means_on_grid(maps: Floats) -> Floats:
    """Return the means of maps [..., h, w] over GRID × GRID blocks of about the same size; of maps
    with fewer places, those places."""
    for axis in (-2, -1):
        length = maps.shape[axis]
        edges = np.linspace(0, length, min(GRID, length) + 1).astype(np.int64)
        sums = np.add.reduceat(maps, edges[:-1], axis)
        sizes = np.diff(edges).astype(np.float32)
        means = sums / (sizes[:, None] if axis == -2 else sizes)
        maps = means.astype(np.float32)
    return maps
