"""Settings that prepare brains: what does not go together, and what is to be said of it."""

from collections.abc import Mapping
from typing import Any

from anodetect.config import build
from anodetect.errors import ConfigError
from anodetect.imaging.brain import BrainConfig
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.skulls import THRESHOLD, TOOLS
from anodetect.record.runs import Run

OF_IMAGES = ("frames", "flip_right", "exported")  # settings of what is no volume


def check_brain(config: Mapping[str, Any], *, has_roi: bool) -> None:
    """Raise ConfigError for settings that do not go with the preparation of brains."""
    preprocess = config["preprocess"]
    brain = build(BrainConfig, preprocess["brain"], "preprocess.brain")
    if not brain.wanted:
        return
    if has_roi:
        raise ConfigError("--roi is of images, and preprocess.brain of volumes; leave one out")
    for name in OF_IMAGES:
        if preprocess[name]:
            raise ConfigError(
                f"preprocess.{name} is of images, and preprocess.brain of volumes; leave one out"
            )

    if brain.bias != "none" and preprocess["bias"]:
        raise ConfigError(
            "preprocess.bias and preprocess.brain.bias remove the same from volumes; leave one out"
        )


def brain_warnings(preprocess: Preprocess) -> list[str]:
    """Return what is to be said of the tools that were found."""
    tool = preprocess.tools.skull
    if preprocess.config.brain.skull != "auto" or tool is None or tool.name != THRESHOLD:
        return []
    return [
        f"brain.skull=auto: none of {', '.join(TOOLS)} is on PATH; the head above a threshold is "
        "taken, with its skull"
    ]


def check_tools_of(run: Run) -> None:
    """Raise ConfigError if what prepared the brains of a run is not here."""
    config = build(PreprocessConfig, run.header.config["preprocess"], "preprocess")
    if config.brain.wanted:
        preprocess = Preprocess(config)
        preprocess.load_state(run.header.preprocess)
        preprocess.find_same_tools()
