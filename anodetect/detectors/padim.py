"""PaDiM: distance to the Gaussian that normal features have at each place.

    A_p = √((x_p − μ_p)ᵀ Σ_p⁻¹ (x_p − μ_p)),   Σ_p = covariance of the fit images at p + ε·I

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and
localization", ICPR Workshops 2021. As in the paper, a random choice of 100 channels is modelled, ε
is .01, and an image's score is the highest value of its smoothed map. Larger = more anomalous.

The distance needs about as many fit images as channels: with fewer, most directions were never seen
to vary, and only ε says how far a departure along them is. train.jsonl then says so.

Fails where images are not aligned: each place has a model of its own, and a texture is at another
one in every image. Cost: seconds to train, hardly more an image than its features take; at the
defaults 20 MB of weights, and memory that does not grow with the number of images.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from anodetect.config import Config, Pooling
from anodetect.imaging.arrays import array_in, check_array
from anodetect.imaging.heatmaps import finish
from anodetect.nn import single_pass
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import pick_device, to_tensor
from anodetect.nn.single_pass import Pass
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16
READ_AT_ONCE = 32  # images, when the Gaussians are learned
PLACES_AT_ONCE = 256  # so that little beside the covariances is in memory


class PaDiMConfig(Config):
    """The channels that the Gaussians are of, and how a map becomes an image score."""

    channels: PositiveInt = Field(
        default=100,
        description="The number of channels, chosen at random, that are modelled; all if there are "
        "no more.",
    )
    shrinkage: PositiveFloat = Field(
        default=0.01,
        description="The variance ε that is added to each channel's, so that the covariance of few "
        "images can be inverted.",
    )
    pooling: Pooling = Field(
        default=Pooling(smooth=0.5, top=1e-6, erode=0),
        description="How a map becomes an image score.",
    )


class PaDiM:
    """The baseline for features of aligned images."""

    Config = PaDiMConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: PaDiMConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.channels = np.zeros(0, np.int64)  # [c], the channels that are modelled
        self.mean = np.zeros((0, 0), np.float32)  # [P, c], P = H·W
        self.whitening = np.zeros((0, 0, 0), np.float32)  # [P, c, c], lower triangular

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn the Gaussian of each place from the fit images."""
        self.device = pick_device(context.device)
        total = fit.images.shape[1]
        count = min(self.config.channels, total)
        rng = np.random.default_rng(context.seed)
        self.channels = np.sort(rng.permutation(total)[:count])

        mean, covariance = _moments(fit, self.channels)
        self.mean = mean.astype(np.float32)
        self.whitening = _whitening(covariance, self.config.shrinkage)

        entry = {"images": len(fit), "channels": count}
        if len(fit) <= count:
            entry["note"] = (
                f"fewer images ({len(fit)}) than a covariance of {count} channels needs; "
                "take fewer channels"
            )
        context.log(entry)

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps of distances; nothing is random."""
        (maps,) = in_micro_batches(self._measure, batch.images, size=MICRO_BATCH)
        return Scores(*finish(maps, batch.foreground, self.config.pooling))

    @torch.no_grad()
    def _measure(self, images: Floats) -> tuple[Floats]:
        """Return the distance of each place to its Gaussian, [N, H, W], for images [N, C, H, W]."""
        departures = _by_place(images, self.channels) - self.mean[:, None]  # [P, N, c]
        whitening = torch.from_numpy(self.whitening).to(self.device)
        whitened = to_tensor(departures, self.device) @ whitening.mT
        distances = whitened.norm(dim=2).T.reshape(len(images), *images.shape[2:])
        return (distances.cpu().numpy(),)

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape."""
        channels, mean = torch.from_numpy(self.channels), torch.from_numpy(self.mean)
        whitening = torch.from_numpy(self.whitening)

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            departures = x[0, channels].flatten(1).T - mean  # [P, c]
            whitened = (whitening @ departures[:, :, None])[:, :, 0]
            distances = whitened.square().sum(1).sqrt().reshape(1, *shape[1:])
            return single_pass.finish(distances, self.config.pooling)

        return score

    def state(self) -> State:
        """Return the channels [c], the means [P, c], and the lower triangles of the matrices that
        whiten, [P, c (c + 1) / 2]."""
        lower = np.tril_indices(len(self.channels))
        whitening = np.ascontiguousarray(self.whitening[:, *lower])
        return {"channels": self.channels, "mean": self.mean, "whitening": whitening}

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the Gaussians."""
        self.device = pick_device(device)
        self.channels = array_in(state, "channels", (None,), np.int64)
        count = len(self.channels)
        self.mean = array_in(state, "mean", (None, count))
        places = len(self.mean)
        array_in(state, "whitening", (places, count * (count + 1) // 2))
        self.whitening = np.zeros((places, count, count), np.float32)
        self.whitening[:, *np.tril_indices(count)] = state["whitening"]

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the Gaussians are none of the places and channels of such images."""
        check_array("mean", self.mean, (math.prod(shape[1:]), len(self.channels)))
        if self.channels.min() < 0 or self.channels.max() >= shape[0]:
            raise ValueError(f"channels has others than the {shape[0]} that there are")


def _moments(
    batch: Batch, channels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [P, c] and the covariance [P, c, c] of some channels at each place.

    A few images are read at a time, twice: deviations from the mean are exact where squares are
    not. The covariance of one image is 0.
    """
    places, count = batch.foreground[0].size, len(channels)
    mean = np.zeros((places, count))
    for _, part in batch.parts(READ_AT_ONCE):
        mean += _by_place(part.images, channels).sum(1, dtype=np.float64)
    mean /= len(batch)

    covariance = np.zeros((places, count, count))
    for _, part in batch.parts(READ_AT_ONCE):
        values = _by_place(part.images, channels)
        for start in range(0, places, PLACES_AT_ONCE):
            some = slice(start, start + PLACES_AT_ONCE)
            deviations = values[some] - mean[some, None]
            covariance[some] += deviations.transpose(0, 2, 1) @ deviations
    covariance /= max(len(batch) - 1, 1)
    return mean, covariance


def _whitening(covariance: NDArray[np.float64], shrinkage: float) -> Floats:
    """Return L⁻¹ [P, c, c] of Σ = covariance + shrinkage · I = LLᵀ. A departure multiplied by it
    has the Mahalanobis distance as its length."""
    whitening = np.empty(covariance.shape, np.float32)
    shrunk = shrinkage * np.eye(covariance.shape[1])
    for start in range(0, len(covariance), PLACES_AT_ONCE):
        some = slice(start, start + PLACES_AT_ONCE)
        lower = np.linalg.cholesky(covariance[some] + shrunk)
        whitening[some] = np.tril(np.linalg.inv(lower))
    return whitening


def _by_place(images: Floats, channels: NDArray[np.int64]) -> Floats:
    """Return some channels of images [N, C, H, W] by place, [H·W, N, c]."""
    chosen = images[:, channels].reshape(len(images), len(channels), -1)
    by_place: Floats = np.ascontiguousarray(chosen.transpose(2, 0, 1))
    return by_place
