"""The files of several channels in a row of scores.parquet: the column `channels` as JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anodetect.data.channels import ChannelFile
from anodetect.data.readers import DecodedChannel, digest_of_channels
from anodetect.data.series import series_of


@dataclass(frozen=True)
class ListedChannel:
    """A channel with its file's path relative to the input root and its SHA-256, both None where it
    is absent."""

    name: str
    path: str | None
    sha256: str | None


def to_text(channels: Sequence[DecodedChannel]) -> str:
    """Return channels as the column has them, "" for none."""
    files = []
    for each in channels:
        path, sha256 = (each.path, each.sha256) if each.sha256 else (None, None)
        files.append({"name": each.name, "path": path, "sha256": sha256})
    return json.dumps(files) if files else ""


def from_text(text: str) -> list[ListedChannel]:
    """Return the channels in a cell of the column; ValueError if it is damaged."""
    if not text:
        return []
    try:
        return [ListedChannel(**each) for each in json.loads(text)]
    except TypeError:
        raise ValueError("the column channels is damaged") from None


def joint_sha256(channels: Sequence[ListedChannel]) -> str:
    """Return the SHA-256 that a row with these channels has."""
    return digest_of_channels((each.name, each.sha256 or "") for each in channels)


def files_of(
    text: str, place: Callable[[str], Path], root: Path | None = None
) -> tuple[ChannelFile, ...]:
    """Return the channels of a record as a cell of the column lists them. `place` returns where the
    file of a path lies; of a DICOM series those beside it are found below `root`."""
    channels = []
    for each in from_text(text):
        path: Path | None = None
        files: tuple[Path, ...] = ()
        if each.path is not None:
            path = place(each.path)
            files = series_of(path, root=root) if path.is_file() else ()
        channels.append(ChannelFile(each.name, each.path or "", path, files))
    return tuple(channels)
