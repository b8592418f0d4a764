"""Likeness of images by what a run's network sees where its detector finds something.

The vector of an image is the mean of its features f(x) over the places x of the grid, weighted by
how far the heatmap a(x) there is above its median m, so that a defect counts and its surroundings
hardly do, and brought to length 1:

    v = Σ_x max(a(x) − m, 0) f(x),    v / |v|

The likeness of two images is the cosine of their vectors, −1 to 1.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from anodetect.errors import ConfigError
from anodetect.imaging.resize import resize
from anodetect.model.loading import LoadedImage
from anodetect.model.model import Model
from anodetect.model.scoring import scores_and_maps
from anodetect.types import Encoded, Floats


def encoder(model: Model) -> Callable[[Iterable[Encoded]], Iterator[Encoded]]:
    """Return what yields the features of scaled images and their foregrounds; ConfigError for a
    model that sees none, or sees images in pieces."""
    encode = model.encode_features
    if encode is None:
        raise ConfigError(
            "this run sees pixels, by which images are hardly alike; likeness needs a run with "
            "features: train --representation features, or with the extra `features`"
        )
    if model.tiling.tile or model.tiling.dims == 3:
        raise ConfigError("likeness is not known for runs with --tile or --dims 3")
    return encode


def vectors(model: Model, images: Sequence[LoadedImage]) -> Floats:
    """Return the vectors [N, c] of images, at most as many as are scored together."""
    encode = encoder(model)
    found = [heatmap for _, heatmap in scores_and_maps(model, images)]
    seen = encode([model.preprocess.apply(each.image, each.of, 0) for each in images])

    rows = []
    for (features, inside), heatmap in zip(seen, found, strict=True):
        places = resize(heatmap[None], *inside.shape)[0]
        weights = np.maximum(places - np.median(places), 0) * inside
        if not weights.any():
            weights = np.ones_like(weights)
        vector = (features * weights).sum((1, 2))
        rows.append(vector / max(float(np.linalg.norm(vector)), 1e-12))
    return np.stack(rows).astype(np.float32)
