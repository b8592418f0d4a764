"""What a detector sees of an image. A representation has a config, `encode` and `decode`."""

from anodetect.representations.pixels import Pixels, PixelsConfig

REPRESENTATIONS = {"pixels": (Pixels, PixelsConfig)}
