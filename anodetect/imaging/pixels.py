"""`pixels`: a detector models the image itself, on a square grid."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from anodetect.config import Config
from anodetect.imaging.resize import on_grid, resize
from anodetect.types import Bools, Floats


class PixelsConfig(Config):
    """The grid on which images are modelled."""

    size: int = Field(
        default=128,
        ge=16,
        le=4096,
        description="The side of the square grid in pixels, from 16 to 4096.",
    )


class Pixels:
    """Image → grid, and map → image grid."""

    Config = PixelsConfig

    def __init__(self, config: PixelsConfig) -> None:
        self.config = config

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Scaled image [C, H, W] and foreground [H, W] → the same on the grid, [C, size, size] and
        [size, size]."""
        side = self.config.size
        return resize(image, side, side), on_grid(foreground, side)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """There is nothing to learn."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """There is nothing to load."""

    def shown(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image, heatmap and reconstruction for a person to look at: as they are."""
        return encoded, heatmap, reconstruction

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A map on the grid [size, size] → on the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized
