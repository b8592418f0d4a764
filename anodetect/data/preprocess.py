"""Foreground and intensity scaling, before any detector sees an image. NumPy and SciPy only."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from anodetect.config import Config
from anodetect.errors import ImageError
from anodetect.types import Bools, Floats

FLAT_SHARE = 0.2  # of pixels make a background flat,
FLAT_LEVEL = 0.05  # where they lie below this share of the range (measured: LGG FLAIR .38–.66, tiles and cells < .02)
SAMPLE_PIXELS = 512  # per image, to learn the intensity range from
LOW, HIGH = 1.0, 99.5  # percentiles of the foreground that become -1 and 1
CLIP = 1.5


class PreprocessConfig(Config):
    """`intensity`: "dataset" scales by percentiles over all fit images, so that brightness keeps its meaning;
    "image" by each image's own foreground, for scanners without fixed units. `foreground`: "flat" takes what
    lies above a flat background, "all" every pixel, "auto" decides between them on the fit images."""

    intensity: Literal["dataset", "image"] = "dataset"
    foreground: Literal["auto", "flat", "all"] = "auto"


class Preprocess:
    """Native units → about [-1, 1] and a foreground. What it learns on the fit images is frozen."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        self.channels = 1
        self.flat_background = False
        self.range = (0.0, 1.0)

    def learn(self, images: Iterable[Floats]) -> None:
        """Learn channels, kind of background and intensity range from fit images [C, H, W], in one pass."""
        coloured, flat, values, inner_values = False, [], [], []
        for image in images:
            coloured |= to_channels(image, 1) is None
            flat.append(has_flat_background(image))
            values.append(_sample(image, np.ones(image.shape[1:], bool)))
            inner_values.append(_sample(image, foreground(image)))
        self.channels = 3 if coloured else 1
        wanted = self.config.foreground
        self.flat_background = bool(np.median(flat) >= 0.5) if wanted == "auto" else wanted == "flat"
        pool = np.concatenate(inner_values if self.flat_background else values)
        self.range = _span(pool)

    def apply(self, image: Floats) -> tuple[Floats, Bools]:
        """[C, H, W] in native units → (scaled [channels, H, W], foreground [H, W])."""
        same = to_channels(image, self.channels)
        if same is None:
            raise ImageError("a colour image, but the model was trained on grey ones")
        inside = foreground(same) if self.flat_background else np.ones(same.shape[1:], bool)
        low, high = self.range if self.config.intensity == "dataset" else _span(same[:, inside])
        scaled = (same - low) * (2 / (high - low)) - 1
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32), inside

    def state(self) -> dict[str, Any]:
        return {"channels": self.channels, "flat_background": self.flat_background, "range": list(self.range)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.channels, self.flat_background = int(state["channels"]), bool(state["flat_background"])
        self.range = (float(state["range"][0]), float(state["range"][1]))


def has_flat_background(image: Floats) -> bool:
    """Whether a fifth or more of the pixels is as good as at the lowest value, as around a head in MRI."""
    return bool((image <= _background_level(image)).all(0).mean() >= FLAT_SHARE and image.max() > image.min())


def foreground(image: Floats) -> Bools:
    """The largest connected part above a flat background, specks off and holes filled.

    [C, H, W] → bool [H, W]; everything is foreground where nothing would be left.
    """
    above = np.asarray((image > _background_level(image)).any(0))
    inside = ndimage.binary_opening(above)
    parts, count = ndimage.label(inside)
    if count == 0:
        return np.ones(image.shape[1:], bool)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return np.asarray(ndimage.binary_fill_holes(largest))


def _background_level(image: Floats) -> float:
    low, high = float(image.min()), float(np.percentile(image, HIGH))
    return low + FLAT_LEVEL * (high - low)


def to_channels(image: Floats, channels: int) -> Floats | None:
    """The image with 1 or 3 channels; None where colour would be lost."""
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    return image[:1] if (image == image[:1]).all() else None


def _sample(image: Floats, inside: Bools) -> Floats:
    values = image[:, inside].ravel()
    return values[:: max(1, values.size // SAMPLE_PIXELS)]


def _span(values: Floats) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, (LOW, HIGH)))
    return low, high if high > low else low + 1.0
