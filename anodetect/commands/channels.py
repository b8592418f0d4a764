"""Several files as the channels of one image: the options of `train`, and the channels of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anodetect.data.channels import Channels, channels_of, parse_channels
from anodetect.errors import ConfigError, RunError, one_line
from anodetect.imaging.brain import BrainConfig
from anodetect.record.runs import Run, RunHeader


def wanted_channels(text: str | None, *, allow_missing: bool) -> Channels | None:
    """Return what the option `--channels` says, None if it is not given; ConfigError if it is
    wrong."""
    if text is not None:
        return parse_channels(text, allow_missing=allow_missing)
    if allow_missing:
        raise ConfigError("--allow-missing is for --channels, which may lack some of their files")
    return None


def check_settings(config: Mapping[str, Any], channels: Channels, *, few: bool) -> None:
    """Raise ConfigError for settings that do not suit several channels, or if few images are to do
    and may lack some of these."""
    if few and channels.allow_missing:
        raise ConfigError(
            "--allow-few and --allow-missing: each of a few images has to have all channels; leave "
            "one of the two out"
        )
    if config["preprocess"].get("frames"):
        raise ConfigError(
            "preprocess.frames: nothing says which frame of one file belongs to which of another; "
            "leave it out"
        )
    if config["preprocess"]["brain"] != BrainConfig().model_dump(mode="json"):
        raise ConfigError(
            "preprocess.brain is for volumes of one file; prepare several sequences before, or "
            "leave it out"
        )

    if config["preprocess"]["exported"] is not None:
        raise ConfigError(
            "preprocess.exported is in the units of one file, and channels have units of their "
            "own; leave it out"
        )
    check_window(config["preprocess"]["window"], len(channels.names))


def check_window(window: Sequence[Any] | None, count: int) -> None:
    """Raise ConfigError if the setting `window` is not one pair for images of one file, whose
    `count` is 0, or one for each of so many channels."""
    if window is None:
        return
    several = isinstance(window[0], Sequence)
    if count and not (several and len(window) == count):
        raise ConfigError(
            f"preprocess.window: {count} channels need a level and a width each, in their order: "
            "--set 'window=[[level, width], …]'"
        )
    if several and not count:
        raise ConfigError(
            "preprocess.window: several windows are for several channels (--channels); give one "
            "level and width"
        )


def channels_of_run(run: Run) -> Channels | None:
    """Return the channels that a run was trained on, None if its images are single files; RunError
    if the run does not say it."""
    return channels_of_header(run.path, run.header)


def channels_of_header(path: Path, header: RunHeader) -> Channels | None:
    """Return what `channels_of_run` does, from the header of the run at `path` alone."""
    try:
        return channels_of(header.preprocess.get("named"))
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a usable model ({one_line(error)})") from error
