"""PCA: distance to the subspace that normal images span.

    x̂ = μ + VVᵀ(x − μ),   A_p = mean over channels of |x_p − x̂_p|

V holds the leading principal components of the fit images (Turk & Pentland, "Eigenfaces for
recognition", J. Cognitive Neuroscience 1991; scikit-learn's randomised SVD), at most half as many
as there are images, so that the subspace cannot simply remember them. Larger = more anomalous.

On registered images any deep detector should find more than this one. Fails where images are not
registered, on fine texture, and on constant and blurred images of real data, which are easy to
project. Cost: seconds to train, a millisecond an image.
"""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from anodetect.config import Config, Pooling
from anodetect.imaging.heatmaps import finish
from anodetect.nn.batching import in_micro_batches
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16


class PCAConfig(Config):
    """The size of the subspace and what it is learned from."""

    components: PositiveInt = Field(
        default=120,
        description="The number of principal components; at most half as many as fit images.",
    )
    max_images: int = Field(
        default=5000,
        ge=2,
        description="The largest number of fit images used, which bounds memory; of more, a random "
        "subset is taken.",
    )
    pooling: Pooling = Field(default=Pooling(), description="How a map becomes an image score.")


class PCA:
    """The linear baseline for registered images."""

    Config = PCAConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: PCAConfig) -> None:
        self.config = config
        self.mean = np.zeros(0, np.float32)  # [P], P = C·H·W
        self.basis = np.zeros((0, 0), np.float32)  # [K, P]

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn mean and components from fit images."""
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

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps and the projected images; nothing is random."""
        (projected,) = in_micro_batches(self._project, batch.images, size=MICRO_BATCH)
        residual: Floats = np.abs(batch.images - projected).mean(1)
        return Scores(*finish(residual, batch.foreground, self.config.pooling), projected)

    def _project(self, images: Floats) -> tuple[Floats]:
        """Return images [N, C, H, W] projected to the subspace."""
        flat = images.reshape(len(images), -1) - self.mean
        # One row at a time: in a product of all, its last bits may depend on its place.
        along = np.stack([row @ self.basis.T @ self.basis for row in flat])
        return (np.asarray((along + self.mean).reshape(images.shape), np.float32),)

    def state(self) -> State:
        """Return the mean [P] and the basis [K, P]."""
        return {"mean": self.mean, "basis": self.basis}

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the mean and the basis; it runs on the CPU."""
        self.mean, self.basis = state["mean"], state["basis"]
