"""PCA: distance to the subspace normal images span. x̂ = μ + VVᵀ(x − μ), A_p = mean over channels
of |x_p − x̂_p|.

The bar any deep detector has to clear on registered images. V holds the leading principal
components of the fit images (scikit-learn's randomised SVD), at most half as many as there are
images, so that the subspace cannot simply remember them.
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
    """`max_images` bounds memory: of more fit images, a random subset is used."""

    components: PositiveInt = 120
    max_images: int = Field(default=5000, ge=2)
    pooling: Pooling = Pooling()


class PCA:
    Config = PCAConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: PCAConfig) -> None:
        self.config = config
        self.mean = np.zeros(0, np.float32)  # [P], P = C·H·W
        self.basis = np.zeros((0, 0), np.float32)  # [K, P]

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        from sklearn import decomposition  # here, because scoring is to begin at once

        rng = np.random.default_rng(context.seed)
        rows = np.sort(rng.permutation(len(fit))[: self.config.max_images])
        images = fit.images[rows].reshape(len(rows), -1)
        count = max(1, min(self.config.components, len(images) // 2, images.shape[1]))
        model = decomposition.PCA(count, svd_solver="randomized", random_state=context.seed).fit(
            images
        )
        # In the order a checkpoint keeps: another one gives other rounding.
        self.mean, self.basis = (
            model.mean_.astype(np.float32),
            model.components_.astype(np.float32, order="C"),
        )
        context.log(
            {
                "images": len(rows),
                "components": count,
                "explained": float(model.explained_variance_ratio_.sum()),
            }
        )

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        (projected,) = in_micro_batches(self._project, batch.images, size=MICRO_BATCH)
        reconstruction = projected.astype(np.float32)
        residual: Floats = np.abs(batch.images - reconstruction).mean(1)
        return Scores(*finish(residual, batch.foreground, self.config.pooling), reconstruction)

    def _project(self, images: Floats) -> tuple[Floats]:
        flat = images.reshape(len(images), -1) - self.mean
        # One at a time: of a product of all, the last bits of a row may depend on its place.
        along = np.stack([row @ self.basis.T @ self.basis for row in flat])
        return (np.asarray((along + self.mean).reshape(images.shape), np.float32),)

    def state(self) -> State:
        return {"mean": self.mean, "basis": self.basis}

    def load_state(self, state: State, *, device: str) -> None:
        self.mean, self.basis = state["mean"], state["basis"]
