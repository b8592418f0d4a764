"""Representations, the forms in which detectors see images: a table, imported on demand."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from anodetect.config import Config, build
from anodetect.errors import ConfigError, nearest
from anodetect.imaging.backbones.table import DEFAULT, BackboneFacts, is_installed
from anodetect.types import Batch, Bools, Detector, Encoded, Floats, StateChecker

REPRESENTATIONS = {
    "pixels": "anodetect.imaging.pixels:Pixels",
    "features": "anodetect.imaging.features:Features",
}
LEAST_FEATURE_SIZE = 32  # pixels of a side, from which on an image can become features


@dataclass(frozen=True)
class Panels:
    """The pictures of a scored image on one grid, to be shown: image [C, h, w], heatmap [h, w] and
    reconstruction [C, h, w], None if there is none. Of an image whose channels are several files
    `planes` counts those of each."""

    image: Floats
    heatmap: Floats
    reconstruction: Floats | None
    planes: tuple[int, ...] = ()


class Representation(Protocol):
    """Turns scaled images into what a detector models, and maps back into the image's grid.

    The class behind it also has `Config`, the type of its settings.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape [c, h, w] of what detectors see; grey images may have fewer channels."""

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Learn from scaled fit images [C, H, W] with foregrounds [H, W] what there is to learn."""

    def source(self) -> BackboneFacts | None:
        """Return what is known of the network that it uses, None if it uses none."""

    def without_cache(self) -> None:
        """Compute everything from now on, though it may have been kept."""

    def run_on(self, device: str) -> None:
        """Compute on this device from now on; ConfigError if there is none."""

    def prepare(self, image: Floats, foreground: Bools) -> Encoded:
        """Return a scaled image [C, H, W] with its foreground [H, W] as `represent` takes them.

        This is the part that is cheap, and safe on several threads.
        """

    def represent(self, prepared: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield images as the detector sees them [c, h, w], with their foregrounds on that grid
        [h, w], in batches of the representation's own choice; what they become does not depend on
        the batch."""

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return a map on the detector's grid [h, w] in the image's own grid `shape` [H, W]."""

    def panels(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> Panels:
        """Return what to show of an image [C, H, W] in native units, given what the detector saw of
        it and made of it."""

    def shape_of(self, channels: int) -> tuple[int, int, int]:
        """Return the shape [c, h, w] of what a detector sees of images with so many channels."""

    def state(self) -> dict[str, list[float]]:
        """Return everything learned, for JSON."""

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Become the representation whose `state` this was."""


@dataclass(frozen=True)
class Expert:
    """A detector with the representation it works on, as a member of an ensemble. It sees the
    channels from one number to another only, all of them if `planes` is None."""

    representation: Representation
    detector: Detector
    planes: tuple[int, int] | None = None

    def encode_each(self, images: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield what the detector sees of scaled images [C, H, W] with foregrounds [H, W]."""
        return encode_each(self.representation, ((self.part(image), own) for image, own in images))

    def part(self, image: Floats) -> Floats:
        """Return the channels [c, H, W] of an image [C, H, W] that the detector sees."""
        return image if self.planes is None else image[slice(*self.planes)]

    def lacks(self, batch: Batch) -> Bools:
        """Return which images of a batch lack the channels that the detector sees [N]; none where
        it sees all, as far as they are there."""
        if batch.absent is None or self.planes is None:
            return np.zeros(len(batch), bool)
        return np.asarray(batch.absent[:, slice(*self.planes)].any(1))


def check_state(detector: Detector, shape: Sequence[int]) -> None:
    """Raise ValueError if the arrays that a detector has loaded do not fit what it will see, images
    of this shape [c, h, w] or patches [c, d, h, w]: they would fail only when images are scored."""
    channels = getattr(detector, "channels", None)
    if isinstance(channels, int) and channels != shape[0]:
        raise ValueError(f"it is for {channels} channels, and would see {shape[0]}")
    for part in (detector, getattr(detector, "standardizer", None)):
        if isinstance(part, StateChecker):
            part.check_state(shape)


def encode_each(representation: Representation, images: Iterable[Encoded]) -> Iterator[Encoded]:
    """Yield what a detector sees of scaled images [C, H, W] with foregrounds [H, W]."""
    return representation.represent(
        representation.prepare(image, foreground) for image, foreground in images
    )


def representation_config(name: str) -> type[Config]:
    """Return the type of a representation's settings; ConfigError if there is no such name."""
    config: type[Config] = _class(name).Config
    return config


def create_representation(name: str, settings: Mapping[str, Any]) -> Representation:
    """Return the representation of this name with these settings; ConfigError if one is wrong."""
    cls = _class(name)
    representation: Representation = cls(build(cls.Config, settings, "representation"))
    return representation


def _class(name: str) -> Any:
    if name not in REPRESENTATIONS:
        raise ConfigError(f"no representation {name!r}; {nearest(name, REPRESENTATIONS)}")
    return resolve_name(REPRESENTATIONS[name])


def features_installed() -> bool:
    """Return whether the extra `features` is installed."""
    return is_installed(DEFAULT)
