"""What a page is drawn from: the score directory that is open, its verdicts, and who is looking.

Which case is open, and what is hidden, stands in the session; verdicts stand in the store and
nowhere else. No file name, comment or message is ever drawn as Markdown or HTML: `st.text` and
tables show text.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from anodetect.errors import AnodetectError, RunError
from anodetect.files import sha256_of
from anodetect.record import directories
from anodetect.record.directories import ScoreDirectory
from anodetect.record.reviews import Review, in_force
from anodetect.record.rows import GroupRow, ScoreRow, SliceRow
from anodetect.stats.agreement import Rate

from . import display
from .store import Store


@dataclass(frozen=True)
class Scored:
    """A score directory as it was read: its rows by path, the rows of groups.csv by name, those of
    slices.parquet by path, and what can be filtered by."""

    directory: ScoreDirectory
    by_path: Mapping[str, ScoreRow]
    groups: Mapping[str, GroupRow]
    slices: Mapping[str, Sequence[SliceRow]]
    statuses: tuple[str, ...]
    kinds: tuple[str, ...]
    group_names: tuple[str, ...]  # none where every image is its own


@dataclass(frozen=True)
class Opened:
    """A score directory, all records about it, the judgements in force, and the reviewer's name or
    ""."""

    scored: Scored
    store: Store
    everything: list[Review]
    judgements: Mapping[str, Mapping[str, Review]]
    reviewer: str

    @property
    def directory(self) -> ScoreDirectory:
        return self.scored.directory

    def mine(self, path: str) -> Review | None:
        return self.judgements.get(path, {}).get(self.reviewer)


def open_directory(path: Path, url: str, reviewer: str) -> Opened:
    """Read what has changed since it was read last; RunError or ConfigError with what to do."""
    try:
        stamp = (path / directories.AUDIT_FILE).stat().st_mtime_ns
    except (OSError, ValueError):
        stamp = 0  # reading it says what is wrong
    scored = _read(path, stamp)
    store = _store(path, scored.directory.audit["head"], url)
    known: dict[str, list[Review]] = st.session_state.setdefault("reviews", {})
    everything = known.setdefault(f"{store.place}#{store.head}", [])
    everything += store.read(
        after=len(everything)
    )  # those this session has read before are not read again
    return Opened(scored, store, everything, in_force(everything), reviewer)


@st.cache_resource(max_entries=4, show_spinner="Reading the scores …")
def _read(
    path: Path, stamp: int
) -> Scored:  # `stamp` is part of the key: a directory written anew is read anew
    directory = directories.read(path)
    _as_written(directory)
    rows = directory.rows
    names = sorted({row.group for row in rows})
    slices: dict[str, list[SliceRow]] = {}
    for each in directories.read_slices(path):
        slices.setdefault(each.path, []).append(each)
    return Scored(
        directory=directory,
        by_path={row.path: row for row in rows},
        groups={group.group: group for group in directories.read_groups(path)},
        slices=slices,
        statuses=tuple(sorted({row.status for row in rows})),
        kinds=tuple(sorted({row.kind or "" for row in rows})),
        group_names=tuple(names) if len(names) < len(rows) else (),
    )


def _as_written(directory: ScoreDirectory) -> None:
    """RunError if what pages are drawn from is not what was written: it could not be trusted, or
    not even be drawn."""

    def digest(name: str) -> str | None:
        file = directory.path / name
        return sha256_of(file) if file.is_file() else None

    audit, tables = directory.audit, ("scores.parquet", "groups.csv", "slices.parquet")
    try:
        if directories.head_of(audit) != audit["head"]:
            raise ValueError
        wrong = [name for name in tables if digest(name) != audit["outputs"].get(name)]
    except (ValueError, TypeError, AttributeError):
        wrong = [directories.AUDIT_FILE]
    if wrong:
        raise RunError(
            f"{directory.path}: {', '.join(wrong)} changed or missing since the images were scored; anodetect verify "
            "says what else is; put back a copy, or score again"
        )


@st.cache_resource(show_spinner=False)
def _store(path: Path, head: str, url: str) -> Store:
    return Store(path, head, url)


def view(directory: ScoreDirectory, row: ScoreRow) -> tuple[display.View | None, tuple[str, ...]]:
    """What there is to see of a row, and notes on what is missing."""
    audit = directory.audit
    return _view(directory.path, audit["head"], audit.get("root", ""), row.path, directory, row)


@st.cache_resource(
    max_entries=64, ttl=60, show_spinner=False
)  # not for long: files can be put back
def _view(
    path: Path, head: str, root: str, image: str, _directory: ScoreDirectory, _row: ScoreRow
) -> tuple[display.View | None, tuple[str, ...]]:
    case = display.load(_directory, _row)
    return display.view(case), case.notes


def volume(directory: ScoreDirectory, row: ScoreRow, plane: str) -> display.VolumeCase:
    """What there is to see of a volume."""
    audit = directory.audit
    return _volume(
        directory.path, audit["head"], audit.get("root", ""), row.path, plane, directory, row
    )


@st.cache_resource(max_entries=2, ttl=600, show_spinner="Reading the volume …")
def _volume(
    path: Path,
    head: str,
    root: str,
    image: str,
    plane: str,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> display.VolumeCase:
    return display.load_volume(_directory, _row, plane)


def thumbnails(
    scored: Scored, rows: Sequence[ScoreRow], hidden: Sequence[bool]
) -> tuple[list[str], bool]:
    """For each row its image, small, as a data URI, or "", and whether some are still being made.

    Of a volume it is the slice with the highest score, the middle one where that is hidden. Volumes
    take long to read, so they are read beside the page.
    """
    directory = scored.directory
    key = (directory.path, directory.audit["head"], directory.audit.get("root", ""))
    found, pending = list[str](), False
    for row, is_hidden in zip(rows, hidden, strict=True):
        slices = scored.slices.get(row.path)
        if not slices:
            found.append(_thumbnail(*key, row.path, directory, row))
            continue
        shown = slices[len(slices) // 2] if is_hidden else highest(slices)
        made = _slice_thumbnail(*key, row.path, shown.axis, shown.slice, directory, row)
        found.append(made.result() if made.done() else "")
        pending |= not made.done()
    return found, pending


def highest(slices: Sequence[SliceRow]) -> SliceRow:
    """The slice with the highest score, the middle one where none was scored."""
    known = [each for each in slices if each.score is not None]
    return max(known, key=lambda each: each.score or 0.0, default=slices[len(slices) // 2])


@st.cache_resource(max_entries=5000, ttl=3600, show_spinner=False)
def _thumbnail(
    path: Path, head: str, root: str, image: str, _directory: ScoreDirectory, _row: ScoreRow
) -> str:
    return display.thumbnail(_directory, _row)


_beside = ThreadPoolExecutor(1, "thumbnails")


@st.cache_resource(max_entries=5000, ttl=3600, show_spinner=False)
def _slice_thumbnail(
    path: Path,
    head: str,
    root: str,
    image: str,
    plane: str,
    index: int,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> Future[str]:
    return _beside.submit(display.slice_thumbnail, _directory, _row, plane, index)


# -- Drawn by several pages ------------------------------------------------------------------------


def problem(text: str) -> None:
    """Something that the user can mend."""
    st.error("This needs your attention:")
    st.text(text)


def careful(action: Callable[..., object], *arguments: Any) -> Callable[[], None]:
    """The action as a callback whose failure becomes a message in the page."""

    def run() -> None:
        try:
            action(*arguments)
        except AnodetectError as error:
            st.session_state.problem = str(error)

    return run


def rate(column: Any, name: str, value: Rate) -> None:
    """A share with its interval."""
    if not value.total:
        column.metric(name, "–")
        return
    low, high = value.interval
    told = f"{value.hits} of {value.total}; {low:.0%}–{high:.0%}"
    column.metric(name, f"{value.value:.0%}", told, delta_color="off", delta_arrow="off")


def number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.4g}"
