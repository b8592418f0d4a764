"""A model as one graph: from an image in native units to its score, p-value and heatmap.

    image [1, C, H, W] → scaled to about [-1, 1] → representation → detector.one_pass
                       → score [1], p-value [1], heatmap [H, W] on the image's own grid

H and W may be any. All that lies before the detector is done in tensors here as it is done in NumPy
elsewhere. What cannot be is refused: foregrounds, volumes, tiles and several channels.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.detectors import entry_named
from anodetect.errors import ConfigError
from anodetect.imaging.backbones.extraction import LARGEST
from anodetect.imaging.features import Features, averaged_over, on_finest_grid
from anodetect.imaging.foreground import HIGH, LOW
from anodetect.imaging.intensities import DEVIATIONS
from anodetect.imaging.pixels import Pixels
from anodetect.imaging.preprocess import CLIP, Preprocess
from anodetect.imaging.representations import Representation
from anodetect.model.model import Model
from anodetect.stats.calibration import Calibration
from anodetect.types import OnePass

Encode = Callable[[Tensor], Tensor]  # a scaled image [1, C, H, W] → what a detector sees of it


class Graph(nn.Module):
    """Maps an image [1, C, H, W] in native units to its score [1], its p-value at the level of
    `far` [1], and its heatmap [H, W].

    ConfigError for a model that is no graph of one pass, with the reason.
    """

    def __init__(self, model: Model, name: str, calibration: Calibration, far: float) -> None:
        super().__init__()
        _check_preprocess(model)
        reason = entry_named(name).several_passes
        if reason or not isinstance(model.detector, OnePass):
            raise ConfigError(f"{name} cannot be one graph: {reason or 'it has no single pass'}")
        if not calibration.groups:
            raise ConfigError(
                "the run has no calibration images, and so no p-values: `anodetect calibrate` "
                "gives it some from new normals"
            )

        self.preprocess = model.preprocess
        self.channels = model.preprocess.channels
        shape = (_channels_seen(model), *model.representation.shape[1:])
        self.encode = encoder_of(model.representation)
        self.detect = model.detector.one_pass(shape)
        weights, self.units = calibration.weights(calibration.level(far))
        self.known = torch.from_numpy(calibration.scores), torch.from_numpy(weights)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.encode(scaled(image, self.preprocess))
        score, heatmap = self.detect(encoded)
        decoded = resized(heatmap[:, None], image.shape[2], image.shape[3])
        return score, self.p_value(score), decoded[0, 0]

    def p_value(self, score: Tensor) -> Tensor:
        """Return (1 + the weight of the calibration scores that are not below it) / (units + 1)."""
        known, weights = self.known
        above = (weights * (known >= score.double())).sum(0, keepdim=True)
        return ((1 + above) / (self.units + 1)).clamp(max=1.0)


def _channels_seen(model: Model) -> int:
    """Return how many channels the detector sees."""
    if isinstance(model.representation, Features):
        return model.representation.channels
    return model.preprocess.channels


def _check_preprocess(model: Model) -> None:
    """Raise ConfigError for a model whose way to the detector is no graph."""
    config, preprocess = model.preprocess.config, model.preprocess
    reasons = {
        "it works on volumes (--dims 3)": model.tiling.dims == 3,
        "it learned from volumes, whose range and foreground are those of all slices": (
            preprocess.of_volumes
        ),
        "it cuts images into tiles (--tile)": bool(model.tiling.tile),
        "its images have several files as channels": preprocess.named is not None,
        "it prepares brains": config.brain.wanted,
        "its images have a region of interest (--roi)": preprocess.roi is not None,
        "it finds a foreground by its largest connected part; --set foreground=all has none": (
            preprocess.flat_background
        ),
        "it pads images to a square, and padding is no foreground (letterbox)": config.letterbox,
        "it mirrors images by what their DICOM header says (flip_right)": config.flip_right,
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"the run cannot be one graph: {reason}")


# -- Before the detector ---------------------------------------------------------------------------


def scaled(image: Tensor, preprocess: Preprocess) -> Tensor:
    """Return an image [1, C, H, W] in which the two values of its range have become -1 and 1, as
    `Preprocess.apply` does."""
    span = preprocess.shown_range()
    if span is not None:
        low, high = torch.tensor(span[0]), torch.tensor(span[1])
    elif preprocess.config.intensity == "zscore":
        low, high = _deviations_of(image)
    else:
        low, high = _range_of(image)
    return ((image - low) * (2 / (high - low)) - 1).clamp(-CLIP, CLIP)


def _range_of(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest of the values but for a few, at least 1 apart."""
    ordered = image.flatten().sort().values
    last = torch.ones_like(ordered, dtype=torch.float64).sum() - 1

    def quantile(percent: float) -> Tensor:
        place = percent / 100 * last
        below = place.floor()
        above = torch.minimum(below + 1, last)
        low, high = ordered[below.long()].double(), ordered[above.long()].double()
        return low + (high - low) * (place - below)

    return _apart(quantile(LOW), quantile(HIGH))


def _deviations_of(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values three standard deviations below and above the mean, at least 1 apart."""
    values = image.flatten().double()
    mean = values.mean()
    deviation = (values - mean).square().mean().sqrt()
    return _apart(mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation)


def _apart(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return low.float(), torch.where(high > low, high, low + 1).float()


def encoder_of(representation: Representation) -> Encode:
    """Return what makes of a scaled image what a detector sees; ConfigError for a representation
    that is not known here."""
    if isinstance(representation, Pixels):
        side = representation.config.size
        return lambda image: resized(image, side, side)
    if isinstance(representation, Features):
        return _features_of(representation)
    raise ConfigError(f"{type(representation).__name__} cannot be part of a graph")


def _features_of(representation: Features) -> Encode:
    """Return what makes features of a scaled image, rounded as they are where they are kept."""
    net, exact = representation.extractor.backbone.net, representation.extractor.exact
    mean = torch.from_numpy(representation.mean)[:, None, None]
    deviation = torch.from_numpy(representation.deviation)[:, None, None]
    side, neighbours = representation.side, representation.config.neighbours

    def encode(image: Tensor) -> Tensor:
        averaged = []
        for layer in net(resized(image, side, side).expand(-1, 3, -1, -1)):
            rounded = layer if exact else layer.clamp(-LARGEST, LARGEST).half().float()
            averaged.append(averaged_over(rounded, neighbours))
        return (on_finest_grid(averaged) - mean) / deviation

    return encode


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """Return [1, C, H, W] as [1, C, height, width]: bilinear, averaging where it shrinks, as
    `imaging.resize` does."""
    rows, columns = resampling(image.shape[2], height), resampling(image.shape[3], width)
    return rows @ image @ columns.T


def resampling(before: int, after: int) -> Tensor:
    """Return the matrix [after, before] that resamples a column of so many values: triangles around
    the middles of the new pixels, as wide as the larger of both kinds. Where a graph is traced, the
    numbers are tensors."""
    step = torch.as_tensor(before, dtype=torch.float64) / after
    middles = (torch.arange(after, dtype=torch.float64) + 0.5) * step
    places = torch.arange(before, dtype=torch.float64) + 0.5
    weights = (1 - (places - middles[:, None]).abs() / step.clamp(min=1.0)).clamp(min=0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


# -- Images to compare with ------------------------------------------------------------------------


def made_image(number: int, channels: int, low: float, high: float) -> np.ndarray:
    """Return an image [C, H, W] of coarse and fine noise between two values, always the same one
    for a number. `examples/onnx_reader.py` makes the same."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(48, 320, 2)
    coarse, fine = rng.random((channels, 8, 8)), rng.random((channels, height, width))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    share = 0.75 * coarse[:, rows][:, :, columns] + 0.25 * fine
    return (low + (high - low) * share).astype(np.float32)
