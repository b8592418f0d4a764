"""`pixels`: a detector models the image itself, on a square grid."""

from collections.abc import Iterable, Iterator, Mapping

from numpy.typing import ArrayLike
from pydantic import Field

from anodetect.config import Config
from anodetect.imaging.representations import Panels
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Encoded, Floats

COLOURS = 3  # channels, the most that images of one file have


class PixelsConfig(Config):
    """The grid on which images are modelled."""

    size: int = Field(
        default=128,
        ge=16,
        le=4096,
        description="The side of the square grid in pixels, from 16 to 4096.",
    )


class Pixels:
    """Images and maps on a square grid; nothing is learned."""

    Config = PixelsConfig

    def __init__(self, config: PixelsConfig) -> None:
        self.config = config

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of coloured images on the grid."""
        return COLOURS, self.config.size, self.config.size

    def shape_of(self, channels: int) -> tuple[int, int, int]:
        """Return the shape of images with so many channels on the grid."""
        return channels, self.config.size, self.config.size

    def source(self) -> None:
        """No network is used."""

    def without_cache(self) -> None:
        """Nothing is kept."""

    def run_on(self, device: str) -> None:
        """Nothing is computed on a device."""

    def prepare(self, image: Floats, foreground: Bools) -> Encoded:
        """Return a scaled image [C, H, W] and its foreground [H, W] on the grid: [C, size, size]
        and [size, size]."""
        side = self.config.size
        return resize(image, side, side), on_grid(foreground, side)

    def represent(self, prepared: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield what was prepared as it is."""
        yield from prepared

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return a map on the grid [size, size] in the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized

    def panels(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> Panels:
        """Return what the detector saw and made, as it is."""
        return Panels(encoded, heatmap, reconstruction)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """There is nothing to learn; the images are not even read."""

    def state(self) -> dict[str, list[float]]:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """There is nothing to load."""
