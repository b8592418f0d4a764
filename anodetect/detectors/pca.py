"""PCA: distance to the subspace that normal images, or their features, span.

On pixels the subspace is of whole images, and the map is

    x̂ = μ + VVᵀ(x − μ),   A_p = mean over channels of |x_p − x̂_p|

V holds the leading principal components of the fit images (Turk & Pentland, "Eigenfaces for
recognition", J. Cognitive Neuroscience 1991; scikit-learn's randomised SVD), at most half as many
as there are images, so that the subspace cannot simply remember them.

On features one subspace is learned for the places of all fit images, with the components that
explain 99 % of their variance, and the map is

    x̂_p = μ + VVᵀ(x_p − μ),   A_p = mean over channels of (x_p − x̂_p)²

As in Lendering et al., "SubspaceAD: training-free few-shot anomaly detection via subspace
modeling", CVPR 2026, an image's score is the mean of the top 1 % of its map. The paper turns the
few images it has to have more of them; here they are taken as they are. Larger = more anomalous.

On registered images any deep detector should find more than this one. On pixels it fails where
images are not registered, on fine texture, and on constant and blurred images of real data, which
are easy to project. On features it fails on whatever lies within the subspace, however far from any
normal place: where features are the pixels around a place, on constant, blurred and inverted images
too. It overrates patterns that are normal but rare. Cost: seconds to train, 1 to 3 ms an
image on pixels.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from anodetect.config import Config, Pooling
from anodetect.imaging.arrays import array_in, check_array
from anodetect.imaging.heatmaps import finish
from anodetect.nn.batching import in_micro_batches
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

if TYPE_CHECKING:
    from torch import Tensor

    from anodetect.nn.single_pass import Pass

MICRO_BATCH = 16


class PCAConfig(Config):
    """The size of the subspace and what it is learned from."""

    subspace: Literal["images", "places"] = Field(
        default="images",
        description="Whether the subspace is of whole images, or one for the single places of all "
        "images.",
    )
    components: PositiveInt = Field(
        default=120,
        description="With the subspace of `images`, the number of principal components; at most "
        "half as many as fit images.",
    )
    max_images: int = Field(
        default=5000,
        ge=2,
        description="With the subspace of `images`, the largest number of fit images used, which "
        "bounds memory; of more, a random subset is taken.",
    )
    explained: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="With the subspace of `places`, the share of their variance that the "
        "components explain; as few components are kept as reach it.",
    )
    pooling: Pooling = Field(default=Pooling(), description="How a map becomes an image score.")


class PCA:
    """The linear baseline."""

    Config = PCAConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 64}},
        "features": {"detector": {"subspace": "places", "pooling": {"top": 0.01, "erode": 0}}},
    }

    def __init__(self, config: PCAConfig) -> None:
        self.config = config
        self.mean = np.zeros(0, np.float32)  # [P], P = C·H·W; of places [C]
        self.basis = np.zeros((0, 0), np.float32)  # [K, P]; of places [K, C]

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn mean and components from fit images."""
        if self.config.subspace == "images":
            self._fit_images(fit, context)
        else:
            self._fit_places(fit, context)

    def _fit_images(self, fit: Batch, context: TrainContext) -> None:
        """Learn the subspace of whole images."""
        from sklearn import decomposition  # not at the top: scoring has to start quickly

        rng = np.random.default_rng(context.seed)
        rows = np.sort(rng.permutation(len(fit))[: self.config.max_images])
        images = fit.images[rows].reshape(len(rows), -1)

        count = max(1, min(self.config.components, len(images) // 2, images.shape[1]))
        model = decomposition.PCA(count, svd_solver="randomized", random_state=context.seed)
        model.fit(images)
        self.mean = model.mean_.astype(np.float32)
        # In the order in memory that a checkpoint keeps: another one gives other rounding.
        self.basis = model.components_.astype(np.float32, order="C")

        explained = float(model.explained_variance_ratio_.sum())
        context.log({"images": len(rows), "components": count, "explained": explained})

    def _fit_places(self, fit: Batch, context: TrainContext) -> None:
        """Learn the subspace of single places of the foreground, one image at a time."""
        channels = fit.images.shape[1]
        shift = places_of(fit, 0).mean(0, dtype=np.float64)  # or squares would lose digits
        total, products, count = np.zeros(channels), np.zeros((channels, channels)), 0
        for number in range(len(fit)):
            places = places_of(fit, number) - shift
            total += places.sum(0)
            products += places.T @ places
            count += len(places)

        offset = total / count
        variances, vectors = np.linalg.eigh(products / count - np.outer(offset, offset))
        variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
        shares = np.cumsum(variances) / max(variances.sum(), 1e-12)
        # With all components there would be nothing beside the subspace.
        kept = min(1 + int(np.sum(shares <= self.config.explained)), channels - 1)
        self.mean = (shift + offset).astype(np.float32)
        self.basis = np.ascontiguousarray(vectors[:, :kept].T, np.float32)
        explained = float(shares[:kept].max(initial=0))
        context.log({"images": len(fit), "components": kept, "explained": explained})

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps, and of whole images what they are projected to; nothing is
        random."""
        if self.config.subspace == "places":
            pairs = zip(batch.images, batch.channel_weights, strict=True)
            maps = np.stack([self._residual(image, weights) for image, weights in pairs])
            return Scores(*finish(maps, batch.foreground, self.config.pooling))

        (projected,) = in_micro_batches(self._project, batch.images, size=MICRO_BATCH)
        weights = batch.channel_weights[:, :, None, None]
        residual: Floats = (np.abs(batch.images - projected) * weights).mean(1)
        return Scores(*finish(residual, batch.foreground, self.config.pooling), projected)

    def _project(self, images: Floats) -> tuple[Floats]:
        """Return images [N, C, H, W] projected to the subspace."""
        flat = images.reshape(len(images), -1) - self.mean
        # One row at a time: in a product of all, its last bits may depend on its place.
        along = np.stack([row @ self.basis.T @ self.basis for row in flat])
        return (np.asarray((along + self.mean).reshape(images.shape), np.float32),)

    def _residual(self, image: Floats, weights: Floats) -> Floats:
        """Return the mean squared distance [H, W] of each place of an image [C, H, W] to the
        subspace, with the `weights` of channels [C]."""
        places = image.reshape(len(image), -1).T - self.mean
        beside = places - places @ self.basis.T @ self.basis
        residual: Floats = (np.square(beside) * weights).mean(1).reshape(image.shape[1:])
        return residual

    def one_pass(self, shape: Sequence[int]) -> "Pass":
        """Return the pass for images of this shape."""
        import torch  # not at the top: nothing else here needs it

        from anodetect.nn import single_pass

        mean, basis = torch.from_numpy(self.mean), torch.from_numpy(self.basis)

        def score(x: "Tensor") -> "tuple[Tensor, Tensor]":
            if self.config.subspace == "places":
                places = x[0].flatten(1).T - mean
                beside = places - places @ basis.T @ basis
                residual = beside.square().mean(1).reshape(1, *shape[1:])
            else:
                flat = x.flatten(1) - mean
                residual = (flat - flat @ basis.T @ basis).reshape(x.shape).abs().mean(1)
            return single_pass.finish(residual, self.config.pooling)

        return score

    def state(self) -> State:
        """Return the mean [P] and the basis [K, P]; of places [C] and [K, C]."""
        return {"mean": self.mean, "basis": self.basis}

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the mean and the basis; it runs on the CPU."""
        self.mean = array_in(state, "mean", (None,))
        self.basis = array_in(state, "basis", (None, len(self.mean)))

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the subspace is none of images of this shape, or of their places."""
        values = shape[0] if self.config.subspace == "places" else math.prod(shape)
        check_array("mean", self.mean, (values,))


def places_of(batch: Batch, number: int) -> Floats:
    """Return the places [n, C] of an image's foreground, all of them if it has none."""
    image, inside = batch.images[number], batch.foreground[number]
    places: Floats = image[:, inside if inside.any() else ~inside].T
    return places
