"""Odd normals: the images that are hardest to explain from the others.

Each image, as features or pixels on GRID × GRID places, is projected to the principal components of
images of other folds (k-fold PCA reconstruction error), so that none is explained by itself. What
an odd image is made of would be learned from others like it, too. So the components are learned
twice, the second time without the oddest tenth of the first.

    x̂ = μ + VVᵀ(x − μ),   r_p = root mean over channels of ((x − x̂)_p / error of the channel)²,
    score = mean of the highest r_p / (mean of r at p over all images), in medians of all images
"""

import math

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
    parts = [means_on_grid(part.images) for _, part in batch.parts(PART)]
    return np.concatenate(parts), means_on_grid(batch.foreground.astype(np.float32))


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
    group. Memory grows with `places`, time with N.
    """
    count, channels, *grid = places.shape
    folds = fold_numbers(groups, seed)
    mean, deviation = places.mean((0, 2, 3), keepdims=True), places.std((0, 2, 3), keepdims=True)
    inside = places - mean
    inside /= np.maximum(deviation, 1e-6)  # in place, as it may be large
    inside *= share[:, None]
    flat = inside.reshape(count, -1)

    scores = np.ones(count, np.float32)
    usable = np.ones(count, bool)
    for _ in range(2):
        residuals = _residuals(flat, folds, usable, seed).reshape(count, channels, *grid)
        scores = _pooled(residuals, share)
        suspect = np.argsort(-scores, kind="stable")[: int(SUSPECT * count)]
        usable[:] = True
        usable[suspect] = False
    return scores


def fold_numbers(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Return a fold for each image [N], from 0, whole groups in each; at most FOLDS of them."""
    names, of_group = np.unique(groups, return_inverse=True)
    folds = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    numbers: NDArray[np.int64] = folds[of_group]
    return numbers


def _residuals(flat: Floats, folds: NDArray[np.int64], usable: Bools, seed: int) -> Floats:
    """Return what the components of `usable` images of other folds leave of each image, [N, P]."""
    rng = np.random.default_rng(seed)
    left: Floats = np.empty_like(flat)
    for fold in np.unique(folds):
        others = np.flatnonzero((folds != fold) & usable)
        if not len(others):
            others = np.flatnonzero(folds != fold)
        chosen = np.sort(rng.permutation(others)[:LEARNED_FROM])
        mean, basis = _components(flat[chosen])

        (own,) = np.nonzero(folds == fold)
        centred = flat[own] - mean
        left[own] = centred - (centred @ basis) @ basis.T
    return left


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


def _pooled(residuals: Floats, share: Floats) -> Floats:
    """Return image scores [N] of what is left of images [N, C, h, w]."""
    count, channels, *grid = residuals.shape
    squares = np.einsum("nchw,nchw->c", residuals, residuals) / (count * math.prod(grid))
    weights = 1 / (np.maximum(squares, 1e-12) * channels)
    maps = np.sqrt(np.einsum("nchw,nchw,c->nhw", residuals, residuals, weights)) * share
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
