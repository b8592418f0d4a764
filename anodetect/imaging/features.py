"""`features`: a detector models what a network trained on photographs sees, on a coarse grid.

The network is a backbone of `imaging.backbones`. Its layers have grids of different sizes; all are
brought to the finest, and each channel is scaled to mean 0 and deviation 1 over fit images. By
default it is EfficientNet-Lite0: its blocks 4 and 10 have 40 and 112 channels at an eighth and a
sixteenth of the input's side. Textures that no two images share pixel by pixel, as of cast metal or
crystal, look much alike there. Shapes smaller than the grid and faint changes of brightness are
lost.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from torch import Tensor

from anodetect.config import Config
from anodetect.imaging.backbones.cache import open_cache
from anodetect.imaging.backbones.extraction import Extractor
from anodetect.imaging.backbones.loading import load_backbone, outline_of
from anodetect.imaging.backbones.table import DEFAULT, BackboneFacts, check_layers, fitting_side
from anodetect.imaging.representations import (
    LEAST_FEATURE_SIZE,
    Panels,
    encode_each,
)
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Encoded, Floats

DEFAULT_SIZE = 256


class FeaturesConfig(Config):
    """The network, the size at which images are given to it, and what is made of its features."""

    backbone: str = Field(
        default=DEFAULT,
        min_length=1,
        description="The network: `efficientnet-lite0` or `efficientnet-lite2`, a file of weights "
        "of one of them (`.safetensors`), a folder with a checkpoint of Hugging Face, or the name "
        "of one that `anodetect backbone get` has fetched.",
    )
    layers: tuple[int, ...] = Field(
        default=(),
        description="The layers whose outputs are the features, counted from 0, such as `[6, 9]`; "
        "if none are named, those that suit the backbone.",
    )
    size: Annotated[int, Field(ge=LEAST_FEATURE_SIZE, le=4096)] | Literal["auto"] = Field(
        default=DEFAULT_SIZE,
        description="The side in pixels, from 32 to 4096, to which images are resampled before the "
        "network sees them; the nearest multiple that the network needs is taken, for most of 32, "
        "14 or 16. The grid of features has a fraction of it, for the default an eighth. `auto` is "
        "256, or the images' own side where that is smaller.",
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
        self.extractor = Extractor(self.backbone, open_cache())
        self.use_side(DEFAULT_SIZE if config.size == "auto" else config.size)
        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)

    def use_side(self, side: int) -> None:
        """Resample images to this side from now on, or to the nearest that the network can take;
        ConfigError if that is too small for it."""
        self.side = fitting_side(side, self.backbone.multiple)
        self.channels, self.grid = self.backbone.outputs(self.side)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape [c, h, w] of features; with `size` "auto" it may change in `learn`."""
        return self.channels, self.grid, self.grid

    def shape_of(self, channels: int) -> tuple[int, int, int]:
        """Return the shape of features, whatever the images."""
        return self.shape

    def source(self) -> BackboneFacts:
        """Return what is known of the network."""
        return self.backbone.facts

    def without_cache(self) -> None:
        """Compute all features from now on, though they may have been kept."""
        self.extractor.cache = None

    def run_on(self, device: str) -> None:
        """Compute on this device from now on; ConfigError if there is none."""
        self.extractor.run_on(device)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Learn each channel's mean and deviation from fit images, and with `size` "auto" how large
        they are."""
        if self.config.size == "auto":
            images = self._sized(images)
        if not self.config.scaled:
            self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)
            return

        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for features, inside in encode_each(self, images):
            values = features.reshape(len(features), -1).astype(np.float64)
            count += inside.size
            total = total + values.sum(1)
            squares = squares + (values**2).sum(1)

        mean = total / max(count, 1)
        variance = np.maximum(squares / max(count, 1) - mean**2, 1e-12)
        self.mean, self.deviation = mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def _sized(self, images: Iterable[tuple[Floats, Bools]]) -> list[tuple[Floats, Bools]]:
        """Let images be resampled to the median of their longer sides, to the default at most;
        return them no larger than that."""
        kept, sides = [], []
        for image, _ in images:
            side = max(image.shape[1:])
            sides.append(side)
            small = image if side <= DEFAULT_SIZE else resize(image, DEFAULT_SIZE, DEFAULT_SIZE)
            kept.append((small, np.ones((1, 1), bool)))
        if sides:
            self.use_side(min(DEFAULT_SIZE, int(np.median(sides))))
        return kept

    def prepare(self, image: Floats, foreground: Bools) -> Encoded:
        """Return a scaled image [C, H, W] as the network takes it [C, side, side], and its
        foreground [H, W] on the grid of features."""
        return resize(image, self.side, self.side), on_grid(foreground, self.grid)

    def represent(self, prepared: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield the features [c, h, w] of prepared images, with their foregrounds [h, w]."""
        mean, deviation = self.mean[:, None, None], self.deviation[:, None, None]
        for outputs, batch in self.extractor.batches(prepared):
            for layers, (_, inside) in zip(outputs, batch, strict=True):
                averaged = []
                for layer in layers:
                    averaged.append(averaged_over(layer.float()[None], self.config.neighbours))
                features: Floats = on_finest_grid(averaged)[0].numpy()
                yield (features - mean) / deviation, inside

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

    def state(self) -> dict[str, list[float]]:
        """Return the mean and the deviation of each channel, the side of images, and that features
        are rounded, which those of older releases were not."""
        scale = {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}
        return scale if self.extractor.exact else scale | {"rounded": [16.0], "side": [self.side]}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Take the mean and the deviation of each channel from `state`."""
        self.extractor.exact = "rounded" not in state
        if "side" in state:
            self.use_side(int(np.array(state["side"]).item()))
        self.mean = np.array(state["mean"], np.float32)
        self.deviation = np.array(state["deviation"], np.float32)
        if (
            self.mean.shape not in ((1,), (self.channels,))
            or self.deviation.shape != self.mean.shape
        ):
            raise ValueError(f"mean and deviation are not of {self.channels} channels")


def averaged_over(layer: Tensor, side: int) -> Tensor:
    """Return a layer [N, c, h, w], of which each place is the mean of a square of this side."""
    return layer if side == 1 else F.avg_pool2d(layer, side, 1, side // 2)


def on_finest_grid(layers: Sequence[Tensor]) -> Tensor:
    """Return grids [N, c, h, w] of several layers on the finest of them, [N, Σc, h, w]."""
    finest = max(layer.shape[-1] for layer in layers)
    resized = []
    for layer in layers:
        same = layer.shape[-1] == finest
        resized.append(layer if same else F.interpolate(layer, (finest, finest), mode="bilinear"))
    return torch.cat(resized, dim=1)
