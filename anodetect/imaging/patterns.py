"""Normal patterns: places of fit images that cover all of them, to judge other places by.

A density takes for anomalous what is rare, and a rim, a corner or a print is rare and normal. So a
map A is divided, at each place p, by what it is at the most similar places q of fit images:

    A'(p) = A(p) / mean of A(q) over the K nearest q

The places q are chosen by greedy k-centre (`imaging.coreset`), so that rare patterns are among
them. The distance to the nearest of them is a map of its own, that of PatchCore (Roth et al., CVPR
2022). What a place is like is the vector of its channels; so this is for features, not for pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.imaging.coreset import k_centre
from anodetect.types import Batch, Bools, Floats

LEAST_CHANNELS = 8  # fewer values than that do not say what a place is like
NEIGHBOURS = 5
CANDIDATES = 60_000  # random places among which the patterns are chosen


@dataclass(frozen=True)
class Similar:
    """The patterns nearest to each place of images: `distance` [N, H, W] to the nearest, root mean
    square over channels, and `rows` [N, H, W, K] of the K nearest, the nearest first."""

    distance: Floats
    rows: NDArray[np.int64]


def choose_patterns(fit: Batch, count: int, seed: int, candidates: int = CANDIDATES) -> Floats:
    """Return up to `count` vectors [M, C] that cover the foregrounds of fit images [N, C, H, W].

    They are chosen among so many random places as `candidates`, about as many of each image.
    """
    rng = np.random.default_rng(seed)
    each = -(-max(candidates, count) // len(fit))

    found = []
    for image, inside in zip(fit.images, fit.foreground, strict=True):
        places = np.flatnonzero(inside if inside.any() else ~inside)
        chosen = rng.choice(places, min(each, len(places)), replace=False)
        found.append(image.reshape(len(image), -1).T[chosen])

    places_found: Floats = np.ascontiguousarray(np.concatenate(found))
    vectors: Floats = places_found[k_centre(places_found, count, seed)]
    return vectors


def similar_patterns(images: Floats, vectors: Floats) -> Similar:
    """Return the nearest of the vectors [M, C] to each place of images [N, C, H, W]."""
    import torch  # imported here, so that scoring without patterns begins at once

    memory = torch.from_numpy(vectors)
    half_norms = memory.square().sum(1) / 2
    count = min(NEIGHBOURS, len(vectors))
    _, channels, height, width = images.shape

    distances, rows = [], []
    for image in images:  # one at a time: an image's result does not depend on the others
        places = torch.from_numpy(np.ascontiguousarray(image.reshape(channels, -1).T))
        closeness = torch.addmm(half_norms, places, memory.T, beta=-1)
        highest, nearest = closeness.topk(count, 1)
        squared = places.square().sum(1) - 2 * highest[:, 0]
        distances.append((squared.clamp_min(0) / channels).sqrt().numpy())
        rows.append(nearest.numpy())
    return Similar(
        np.stack(distances).reshape(-1, height, width),
        np.stack(rows).reshape(-1, height, width, count),
    )


def as_images(vectors: Floats, side: int) -> Batch:
    """Return vectors [M, C] as the places of images [N, C, side, side], all of them foreground; the
    last vector fills what is left."""
    per_image = side * side
    count = -(-len(vectors) // per_image)
    padded = np.concatenate([vectors, np.repeat(vectors[-1:], count * per_image - len(vectors), 0)])
    images = padded.reshape(count, side, side, -1).transpose(0, 3, 1, 2)
    inside: Bools = np.ones((count, side, side), bool)
    return Batch(np.ascontiguousarray(images), inside)
