"""kNN: distance to the nearest normal location. A_p = min over a memory m of ‖x_p − m‖₂ / √C.

The idea of PatchCore (Roth et al., CVPR 2022) on whatever the representation gives, with a random
memory of fit locations in place of a greedy coreset, and the plain distance in place of its
reweighting. On features it is the bar any learned model of features has to clear; it has nothing to
say on pixels, where a location is a brightness.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from anodetect.config import Config, Pooling
from anodetect.imaging.heatmaps import finish
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import pick_device
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16


class KNNConfig(Config):
    """`memory` is the number of locations kept."""

    memory: PositiveInt = 8000
    pooling: Pooling = Pooling()


class KNN:
    Config = KNNConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: KNNConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.memory = np.zeros((0, 0), np.float32)  # [M, C]

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        self.device = pick_device(context.device)
        rng = np.random.default_rng(context.seed)
        each = -(-self.config.memory // len(fit))
        kept = []
        for image, inside in zip(fit.images, fit.foreground, strict=True):
            places = np.flatnonzero(inside if inside.any() else ~inside)
            kept.append(
                image.reshape(len(image), -1).T[
                    rng.choice(places, min(each, len(places)), replace=False)
                ]
            )
        memory: Floats = np.concatenate(kept)
        self.memory = memory[rng.permutation(len(memory))[: self.config.memory]]
        context.log({"images": len(fit), "memory": len(self.memory)})

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        (maps,) = in_micro_batches(self._distances, batch.images, size=MICRO_BATCH)
        return Scores(*finish(maps.astype(np.float32), batch.foreground, self.config.pooling))

    @torch.no_grad()
    def _distances(self, images: Floats) -> tuple[Floats]:
        memory = torch.from_numpy(self.memory).to(self.device)
        maps = []
        for image in images:  # one at a time, or the distances of all would have to fit into memory
            places = torch.from_numpy(np.ascontiguousarray(image.reshape(len(image), -1).T)).to(
                self.device
            )
            nearest = torch.cdist(places, memory).amin(1) / len(image) ** 0.5
            maps.append(nearest.reshape(image.shape[1:]).cpu().numpy())
        return (np.stack(maps),)

    def state(self) -> State:
        return {"memory": self.memory}

    def load_state(self, state: State, *, device: str) -> None:
        self.device, self.memory = pick_device(device), state["memory"]
