"""The demands of networks on images, as errors of one line."""

from collections.abc import Sized

from anodetect.errors import ConfigError, DataError

FEWEST = 16  # images to learn from


def check_fewest(images: Sized, what: str) -> None:
    """Raise DataError if there are too few images to train what is named."""
    if len(images) < FEWEST:
        raise DataError(f"{what} needs {FEWEST} images to learn from, there are {len(images)}")


def check_multiple(size: int, divisor: int, what: str, name: str = "representation.size") -> None:
    """Raise ConfigError if the `size` of images, which the setting `name` has, is not a multiple of
    a divisor, of which `what` says where it is from."""
    if size % divisor:
        raise ConfigError(f"{name}: {size} is not a multiple of {divisor}, {what}")
