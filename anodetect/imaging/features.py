"""`features`: a detector models what a network trained on photographs sees, on a coarse grid.

The network is a backbone of `imaging.backbones`. Its layers have grids of different sizes; all are
brought to the finest, and each channel is scaled to mean 0 and deviation 1 over fit images. By
default it is EfficientNet-Lite0: its blocks 4 and 10 have 40 and 112 channels at an eighth and a
sixteenth of the input's side. Textures that no two images share pixel by pixel, as of cast metal or
crystal, look much alike there. Shapes smaller than the grid and faint changes of brightness are
lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from torch import Tensor

from anodetect.config import Config
from anodetect.imaging.backbones.loading import load_backbone
from anodetect.imaging.backbones.table import DEFAULT, check_layers, fitting_side, outline_of
from anodetect.imaging.representations import LEAST_FEATURE_SIZE, Panels
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Floats


class FeaturesConfig(Config):
    """The network, the size at which images are given to it, and what is made of its features."""

    backbone: str = Field(
        default=DEFAULT,
        min_length=1,
        description="The network: `efficientnet-lite0` or `efficientnet-lite2`.",
    )
    layers: tuple[int, ...] = Field(
        default=(),
        description="The layers whose outputs are the features, counted from 0, such as `[6, 9]`; "
        "if none are named, those that suit the backbone.",
    )
    size: int = Field(
        default=256,
        ge=LEAST_FEATURE_SIZE,
        le=4096,
        description="The side in pixels, from 32 to 4096, to which images are resampled before the "
        "network sees them; the nearest multiple that the network needs is taken, for most of 32, "
        "14 or 16. The grid of features has a fraction of it, for the default an eighth.",
    )
    neighbours: Literal[1, 3, 5] = Field(
        default=1,
        description="The side of the square of places over which features are averaged, on the "
        "grid of each layer, with zeros beyond the edge.",
    )
    scaled: bool = Field(
        default=True,
        description="Whether each channel is scaled to mean 0 and deviation 1 over fit images.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_layers(cls, values: Any) -> Any:
        """Name the layers that suit the backbone if none are named."""
        if not isinstance(values, Mapping) or values.get("layers"):
            return values
        backbone = values.get("backbone", DEFAULT)
        if not isinstance(backbone, str):
            return values
        return {**values, "layers": outline_of(backbone).layers}

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        check_layers(outline_of(self.backbone), self.layers)
        return self


class Features:
    """Features of images on a square grid, each channel with mean 0 and deviation 1."""

    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.backbone = load_backbone(config.backbone, config.layers)
        self.side = fitting_side(config.size, self.backbone.multiple)
        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Learn each channel's mean and deviation from fit images."""
        if not self.config.scaled:
            self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)
            return

        extracted = []
        for image, _ in images:
            features = self._extract(image)
            extracted.append(features.reshape(len(features), -1))
        values = np.concatenate(extracted, axis=1)
        self.mean, self.deviation = values.mean(1), np.maximum(values.std(1), 1e-6)

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Return the features [c, h, w] of a scaled image [C, H, W], and its foreground [H, W] on
        their grid."""
        features = (self._extract(image) - self.mean[:, None, None]) / self.deviation[:, None, None]
        return features, on_grid(foreground, features.shape[-1])

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return a map on the grid of features in the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized

    def panels(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> Panels:
        """Return the image and the heatmap as large as the network sees images. Features and
        reconstructions of them cannot be looked at."""
        side = self.side
        return Panels(resize(image, side, side), self.decode(heatmap, (side, side)), None)

    @torch.no_grad()
    def _extract(self, image: Floats) -> Floats:
        """Return the features [c, h, w] as the network gives them, on its finest grid."""
        x = torch.from_numpy(resize(image, self.side, self.side)).expand(3, -1, -1)[None]
        layers = []
        for layer in self.backbone.net(x):
            layers.append(self._averaged(layer))
        features: Floats = on_finest_grid(layers)[0].numpy()
        return features

    def _averaged(self, layer: Tensor) -> Tensor:
        """Return a layer [1, c, h, w] averaged over neighbouring places."""
        side = self.config.neighbours
        return layer if side == 1 else F.avg_pool2d(layer, side, 1, side // 2)

    def state(self) -> dict[str, list[float]]:
        """Return the mean and the deviation of each channel."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Take the mean and the deviation of each channel from `state`."""
        self.mean = np.array(state["mean"], np.float32)
        self.deviation = np.array(state["deviation"], np.float32)


def on_finest_grid(layers: Sequence[Tensor]) -> Tensor:
    """Return grids [N, c, h, w] of several layers on that of the first, [N, Σc, h, w]."""
    finest = layers[0].shape[-2:]
    resized = [layers[0]]
    for layer in layers[1:]:
        same = layer.shape[-2:] == finest
        resized.append(layer if same else F.interpolate(layer, finest, mode="bilinear"))
    return torch.cat(resized, dim=1)
