"""kNN: distance to the nearest normal location.

    A_p = min over a memory of vectors m of ‖x_p − m‖₂ / √C

This is the idea of PatchCore (Roth et al., "Towards total recall in industrial anomaly detection",
CVPR 2022) on whatever the representation gives, with a random memory of fit locations in place of a
greedy coreset, and the plain distance in place of its reweighting. Larger = more anomalous.

A learned model of features should find more than this one. Fails on pixels, where a location is a
brightness, and on aligned images, where density counts more than distance: on chest radiographs
with pneumonia its image AUROC is 0.53 where `anoddpm` on the same features has 0.74. Cost: seconds
to train, tens of milliseconds an image.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt

from anodetect.config import Config, Pooling
from anodetect.imaging.heatmaps import finish
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import pick_device, to_tensor
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16


class KNNConfig(Config):
    """The size of the memory."""

    memory: PositiveInt = Field(
        default=8000, description="The number of locations of fit images that are kept."
    )
    pooling: Pooling = Field(default=Pooling(), description="How a map becomes an image score.")


class KNN:
    """The baseline for features."""

    Config = KNNConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: KNNConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.memory = np.zeros((0, 0), np.float32)  # [M, C]

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Keep random locations of the foreground, about as many of each fit image."""
        self.device = pick_device(context.device)
        rng = np.random.default_rng(context.seed)
        each = -(-self.config.memory // len(fit))

        kept = []
        for image, inside in zip(fit.images, fit.foreground, strict=True):
            places = np.flatnonzero(inside if inside.any() else ~inside)
            chosen = rng.choice(places, min(each, len(places)), replace=False)
            kept.append(image.reshape(len(image), -1).T[chosen])

        memory: Floats = np.concatenate(kept)
        self.memory = memory[rng.permutation(len(memory))[: self.config.memory]]
        context.log({"images": len(fit), "memory": len(self.memory)})

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps of distances; nothing is random."""
        (maps,) = in_micro_batches(self._distances, batch.images, size=MICRO_BATCH)
        return Scores(*finish(maps, batch.foreground, self.config.pooling))

    @torch.no_grad()
    def _distances(self, images: Floats) -> tuple[Floats]:
        """Return each location's distance to the memory, [N, H, W], for images [N, C, H, W]."""
        memory = torch.from_numpy(self.memory).to(self.device)
        maps = []
        for image in images:  # one at a time, or the distances of all would have to fit into memory
            places = to_tensor(image.reshape(len(image), -1).T, self.device)
            nearest = torch.cdist(places, memory).amin(1) / len(image) ** 0.5
            maps.append(nearest.reshape(image.shape[1:]).cpu().numpy())
        return (np.stack(maps),)

    def state(self) -> State:
        """Return the memory [M, C]."""
        return {"memory": self.memory}

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the memory."""
        self.device, self.memory = pick_device(device), state["memory"]
