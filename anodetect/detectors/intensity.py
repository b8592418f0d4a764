"""Intensity: the map is the image. A_p = max(0, (x_p + 1) / 2), x averaged over channels, x = ±1 at
the ends of the normal range; the score pools the brightest pixels.

The baseline that beats many published methods on FLAIR (Meissen et al., MIDL 2021), where lesions
are bright. It learns nothing, and it fails by design on dark, constant and blurred images: a score
is high only where something is bright.
"""

from typing import Any, ClassVar

import numpy as np

from anodetect.config import Config, Pooling
from anodetect.imaging.heatmaps import finish
from anodetect.types import Batch, Scores, Seeds, State, TrainContext


class IntensityConfig(Config):
    pooling: Pooling = Pooling()


class Intensity:
    Config = IntensityConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: IntensityConfig) -> None:
        self.config = config

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """There is nothing to learn."""

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        brightness = np.maximum(0, (batch.images.mean(1) + 1) / 2).astype(np.float32)
        return Scores(*finish(brightness, batch.foreground, self.config.pooling))

    def state(self) -> State:
        return {}

    def load_state(self, state: State, *, device: str) -> None:
        """There is nothing to load."""
