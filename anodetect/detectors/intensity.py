"""Intensity: the map is the image.

    A_p = max(0, (x_p + 1) / 2)

x is the mean over channels, ±1 at the ends of the normal range. The image score pools the brightest
pixels. Larger = more anomalous.

It beats many published methods on FLAIR (Meissen et al., "Challenging current semi-supervised
anomaly segmentation methods for brain MRI", MIDL 2021), where lesions are bright.

Fails by design on dark, constant and blurred images: a score is high only where something is
bright. Cost: nothing to train, less than a millisecond an image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from anodetect.config import Config, Pooling
from anodetect.imaging.heatmaps import finish
from anodetect.types import Batch, Scores, Seeds, State, TrainContext

if TYPE_CHECKING:
    from torch import Tensor

    from anodetect.nn.single_pass import Pass


class IntensityConfig(Config):
    """The step from map to score, the only one with settings."""

    pooling: Pooling = Field(default=Pooling(), description="How a map becomes an image score.")


class Intensity:
    """The baseline that takes bright for anomalous."""

    Config = IntensityConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: IntensityConfig) -> None:
        self.config = config

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Do nothing: there is nothing to learn."""

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps of brightness; nothing is random."""
        weights = batch.channel_weights[:, :, None, None]
        mean = (batch.images * weights).mean(1)
        brightness = np.maximum(0, (mean + 1) / 2).astype(np.float32)
        return Scores(*finish(brightness, batch.foreground, self.config.pooling))

    def one_pass(self, shape: Sequence[int]) -> "Pass":
        """Return the pass for images of this shape."""
        from anodetect.nn import single_pass  # not at the top: nothing else here needs torch

        def score(x: "Tensor") -> "tuple[Tensor, Tensor]":
            brightness = ((x.mean(1) + 1) / 2).clamp(min=0)
            return single_pass.finish(brightness, self.config.pooling)

        return score

    def state(self) -> State:
        """Return no arrays."""
        return {}

    def load_state(self, state: State, *, device: str) -> None:
        """Do nothing."""
