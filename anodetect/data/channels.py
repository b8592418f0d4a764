"""Several files of one study as the channels of one image or volume: their names, and the patterns
by which their files are known."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from anodetect.data.formats import suffix_of
from anodetect.errors import ConfigError
from anodetect.words import amount

MOST = 12  # channels of an image; features have more
NAME = re.compile(r"\w[\w.+-]*")
BETWEEN = "-_. "  # characters between the words of a name


@dataclass(frozen=True, slots=True)
class ChannelFile:
    """The file that is one channel of a record; `path` is None where the channel is absent.

    `id` is its path relative to the root, as a record's. `files` are those of a DICOM series.
    """

    name: str
    id: str = ""
    path: Path | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Match:
    """A file that is a channel by its name.

    `rest` are the parts of the name that wildcards stand for, which files of one study have in
    common. `folders` counts the folders that the pattern names, and `literal` its other characters.
    """

    rest: tuple[str, ...]
    folders: int
    literal: int


@dataclass(frozen=True)
class Channels:
    """The channels of images, in order: the pattern of each by its name, "" where a manifest names
    files. With `allow_missing` a study may lack some of them."""

    patterns: Mapping[str, str] = field(default_factory=dict)
    allow_missing: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the channels."""
        return tuple(self.patterns)

    @property
    def listed(self) -> bool:
        """True if only a manifest can say which files are which."""
        return not all(self.patterns.values())

    def state(self) -> dict[str, Any]:
        """Return the channels for JSON."""
        return {"patterns": dict(self.patterns), "allow_missing": self.allow_missing}

    def described(self) -> str:
        """Return the channels in words."""
        return " + ".join(self.names)


def channels_of(state: Mapping[str, Any] | None) -> Channels | None:
    """Return the channels whose `state` this was; None for None."""
    if state is None:
        return None
    patterns = {str(name): str(pattern) for name, pattern in state["patterns"].items()}
    return Channels(patterns, bool(state["allow_missing"]))


def joined_notes(notes: Mapping[str, str]) -> str:
    """Return the notes of channels, by their names, in one; "" if none has one."""
    return "; ".join(f"{name}: {note}" for name, note in notes.items() if note)


def same_channels(one: Channels | None, other: Channels | None) -> bool:
    """Return whether channels are the same, in the same order."""
    return one == other and (one is None or other is None or one.names == other.names)


def parse_channels(text: str, *, allow_missing: bool = False) -> Channels:
    """Return the channels of `--channels`, such as "t1=*T1w*,flair=*FLAIR*"; a name alone is its
    own pattern. ConfigError if that is wrong."""
    patterns: dict[str, str] = {}
    for part in text.split(","):
        name, equals, pattern = (each.strip() for each in part.partition("="))
        pattern = pattern if equals else name
        check_name(name, patterns, f"--channels {text}")
        if not pattern:
            raise ConfigError(f"--channels {text}: no pattern for {name}, as in {name}=*T1w*")
        patterns[name] = pattern
    check_count(patterns, f"--channels {text}")
    return Channels(patterns, allow_missing)


def check_name(name: str, before: Mapping[str, object], where: str) -> None:
    """Raise ConfigError if a channel's name is none, or is one of those `before`."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name for a channel; as in t1=*T1w*,flair=*FLAIR*"
        )
    if name.casefold() in {each.casefold() for each in before}:
        raise ConfigError(f"{where}: the channel {name} is named twice")


def check_count(names: Sequence[str] | Mapping[str, object], where: str) -> None:
    """Raise ConfigError if there are too few or too many channels."""
    if not 2 <= len(names) <= MOST:
        channels = amount(len(names), "channel")
        raise ConfigError(f"{where}: {channels}; 2 to {MOST} are expected")


def matched(pattern: str, path: Sequence[str], others: Sequence[str] = ()) -> Match | None:
    """Return how a pattern fits a file; None if it does not.

    `path` are the folders from the root on and the file's name, `others` further names of it, such
    as a series' description. A pattern without wildcards is the last word of the name; one with
    "/" is compared with as many folders, too.
    """
    folders = pattern.count("/")
    if folders >= len(path):
        return None
    name = "/".join(path[len(path) - folders - 1 :])
    for text in (name, *others):
        found = _expression(pattern).fullmatch(text[: -len(suffix_of(text)) or None])
        found = found or _expression(pattern).fullmatch(text)
        if found:
            return Match(_rest(found.groups()), folders, len(re.sub(r"[*?]", "", pattern)))
    return None


def _rest(groups: Sequence[str]) -> tuple[str, ...]:
    """Return what wildcards stand for, without case and characters between words."""
    rest = [group.casefold().strip(BETWEEN) for group in groups]
    return tuple(part for part in rest if part)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression with a group for each wildcard."""
    if not set("*?") & set(pattern):
        return re.compile(rf"(.*[{re.escape(BETWEEN)}]|){re.escape(pattern)}", re.IGNORECASE)
    parts = []
    for character in pattern:
        wildcards = {"*": "(.*)", "?": "(.)"}
        parts.append(wildcards.get(character, re.escape(character)))
    return re.compile("".join(parts), re.IGNORECASE)
