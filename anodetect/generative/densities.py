"""The density of short vectors, one for each image: how far is a vector from those of normal ones?

    "mixture"      p(v) = Σ_k w_k N(v; μ_k, Σ_k), as many components as BIC takes; the distance is
                   √(2 (log Σ_k w_k |2πΣ_k|^−½ − log p(v))), that of Mahalanobis where K = 1
    "neighbours"   the distance to the k-th nearest of the normal vectors

Mahmood et al. ("Multiscale score matching for out-of-distribution detection", ICLR 2021) compare
both. Vectors are taken as logarithms, each value scaled to mean 0 and deviation 1. NumPy only, but
for learning a mixture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.imaging.arrays import array_in
from anodetect.types import Floats, State

MOST_COMPONENTS = 4
VECTORS_A_VALUE = (
    3  # for each value of a component's vectors, at least, so that it has a covariance
)
NEIGHBOURS = 5
RIDGE = 1e-3  # added to the variances of a component, of values with variance 1
TINY = 1e-12

Doubles = NDArray[np.float64]
Kind = Literal["mixture", "neighbours"]


@dataclass(frozen=True)
class Mixture:
    """K Gaussians of D values: log w [K], means [K, D], and matrices [K, D, D] that whiten."""

    log_weights: Doubles
    means: Doubles
    whitening: Doubles

    def log_peaks(self) -> Doubles:
        """Return log w_k |2πΣ_k|^−½, the largest value of each weighted component, [K]."""
        _, log_determinants = np.linalg.slogdet(self.whitening)
        dimensions = self.means.shape[1]
        peaks: Doubles = self.log_weights + log_determinants - dimensions * np.log(2 * np.pi) / 2
        return peaks

    def log_density(self, vectors: Doubles) -> Doubles:
        """Return log p(v) of vectors [N, D], [N]."""
        away = np.einsum("nkd,kde->nke", vectors[:, None] - self.means, self.whitening)
        density: Doubles = np.logaddexp.reduce(self.log_peaks() - np.square(away).sum(2) / 2, 1)
        return density

    def distance(self, vectors: Doubles) -> Doubles:
        """Return the distance [N] of vectors [N, D], which is 0 where p is highest or lower."""
        below = np.logaddexp.reduce(self.log_peaks()) - self.log_density(vectors)
        distance: Doubles = np.sqrt(2 * np.maximum(below, 0))
        return distance


@dataclass(frozen=True)
class Neighbours:
    """Normal vectors [M, D]."""

    vectors: Doubles

    def distance(self, vectors: Doubles) -> Doubles:
        """Return the distance [N] of vectors [N, D] to the k-th nearest, or the furthest of
        fewer."""
        distances = np.linalg.norm(vectors[:, None] - self.vectors, axis=2)
        k = min(NEIGHBOURS, len(self.vectors)) - 1
        nearest: Doubles = np.partition(distances, k, axis=1)[:, k]
        return nearest


class VectorDensity:
    """A density of positive vectors, with the scale on which it was learned."""

    def __init__(self, scale: Doubles, density: Mixture | Neighbours) -> None:
        self.scale = scale  # mean and deviation of logarithms, [2, D]
        self.density = density

    @classmethod
    def learn(cls, vectors: Floats, kind: Kind, seed: int) -> "VectorDensity":
        """Return the density of normal vectors [M, D], of which there are two at least."""
        logarithms = np.log(np.maximum(vectors.astype(np.float64), TINY))
        scale = np.stack([logarithms.mean(0), np.maximum(logarithms.std(0), 1e-6)])
        scaled = (logarithms - scale[0]) / scale[1]
        return cls(scale, Neighbours(scaled) if kind == "neighbours" else fit_mixture(scaled, seed))

    def distance(self, vectors: Floats) -> Floats:
        """Return how far vectors [N, D] are from normal ones, [N], not negative."""
        logarithms = np.log(np.maximum(vectors.astype(np.float64), TINY))
        scaled = (logarithms - self.scale[0]) / self.scale[1]
        return self.density.distance(scaled).astype(np.float32)

    def state(self) -> State:
        """Return everything learned, as named arrays."""
        if isinstance(self.density, Neighbours):
            return {"scale": self.scale, "vectors": self.density.vectors}
        mixture = self.density
        return {
            "scale": self.scale,
            "log_weights": mixture.log_weights,
            "means": mixture.means,
            "whitening": mixture.whitening,
        }

    @classmethod
    def from_state(cls, state: State) -> "VectorDensity":
        """Return the density whose `state` this was; ValueError if its parts do not fit."""
        scale = array_in(state, "scale", (2, None), np.float64)
        size = scale.shape[1]
        if "vectors" in state:
            return cls(scale, Neighbours(array_in(state, "vectors", (None, size), np.float64)))

        log_weights = array_in(state, "log_weights", (None,), np.float64)
        count = len(log_weights)
        means = array_in(state, "means", (count, size), np.float64)
        whitening = array_in(state, "whitening", (count, size, size), np.float64)
        return cls(scale, Mixture(log_weights, means, whitening))


def fit_mixture(vectors: Doubles, seed: int) -> Mixture:
    """Return the mixture of vectors [M, D] with the lowest BIC (Schwarz, 1978), of one component to
    four; a component needs three vectors for each value."""
    from sklearn.mixture import GaussianMixture  # not at the top: scoring has to start quickly

    count, dimensions = vectors.shape
    most = max(1, min(MOST_COMPONENTS, count // (VECTORS_A_VALUE * dimensions)))
    fitted = []
    for components in range(1, most + 1):
        mixture = GaussianMixture(components, reg_covar=RIDGE, random_state=seed, max_iter=500)
        fitted.append(mixture.fit(vectors))
    best = min(fitted, key=lambda mixture: mixture.bic(vectors))
    return Mixture(np.log(best.weights_), best.means_, best.precisions_cholesky_)
