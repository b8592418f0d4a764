"""The review session that a page is drawn from: the open score directory, its verdicts, and the
reviewer. Files are read once and cached.

Streamlit's session state holds which case is open and what is hidden; verdicts are in the store and
nowhere else.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import streamlit as st

from anodetect.record import directories, moved, readings, study
from anodetect.record.directories import ScoreDirectory
from anodetect.record.failures import differences
from anodetect.record.reviews import Review, first_blind, in_force
from anodetect.record.rows import ScoreRow, SliceRow

from . import display, known, loading, thumbnails
from .large import LargeScores, open_large
from .scores import LARGE, MOST_CHOICES, Scores
from .store import Store


@dataclass(frozen=True)
class ReviewSession:
    """One reviewer at one score directory: all reviews of it, and the judgements in force.

    `reviewer` is "" as long as nobody has given a name.
    """

    scores: Scores
    store: Store
    reviews: list[Review]
    judgements: Mapping[str, Mapping[str, Review]]
    reviewer: str

    @property
    def directory(self) -> ScoreDirectory:
        return self.scores.directory

    @cached_property
    def first_blind(self) -> Mapping[str, Mapping[str, Review]]:
        """Return each reviewer's first verdict on each image, if it was blind."""
        return first_blind(self.reviews)

    @property
    def reviewers(self) -> list[str]:
        """Return who is on record, in the order of their first verdicts."""
        names = dict.fromkeys(review.reviewer for review in self.reviews)
        return [name for name in names if name]

    def own_verdict(self, path: str) -> Review | None:
        """Return the reviewer's own verdict on an image."""
        return self.judgements.get(path, {}).get(self.reviewer)

    def is_hidden(self, path: str, blind: bool) -> bool:
        """Return whether an image's name and scores are hidden: in blind mode, until the reviewer
        has judged it; in a study, as long as the reviewer is blinded."""
        return self.is_blinded or (blind and self.own_verdict(path) is None)

    @cached_property
    def is_blinded(self) -> bool:
        """Return whether a study hides everything but the images from the reviewer: until it is
        complete from all but its viewers."""
        plan = self.store.plan
        if plan is None or plan.role_of(self.reviewer) == "viewer":
            return False
        return not readings.is_complete(plan, self.directory.rows, readings.verdicts(self.reviews))

    @cached_property
    def to_read(self) -> list[ScoreRow]:
        """Return the cases of a study that are the reviewer's, in the order of reading."""
        plan = self.store.plan
        if plan is None:
            return []
        given = readings.verdicts(self.reviews)
        return readings.to_do(plan, self.directory.rows, given, self.reviewer)


@dataclass(frozen=True)
class Thumbnails:
    """Data URIs of small pictures, "" where there is none; `pending` while some are being made."""

    pictures: list[str]
    pending: bool


def open_session(
    path: Path, url: str, reviewer: str, moved_to: Path | None = None
) -> ReviewSession:
    """Read what has changed since the last reading, and return the session.

    `moved_to` is a folder that images were moved to. `url` names the database of reviews, "" for
    the file in the directory. Raises RunError or ConfigError with what to do.
    """
    scores = _read_scores(path, _changed(path / directories.AUDIT_FILE), moved_to)
    head = scores.directory.audit.verdicts_start
    changed = _changed(path / directories.AUDIT_FILE), _changed(path / study.FILE)
    store = _store(path, head, url, changed, scores.by_path)
    if isinstance(scores, LargeScores):
        store.guard = scores.check.require
        if scores.check.is_done:
            scores.check.require()

    # Streamlit's session keeps the reviews it has read, and only new ones are read again.
    known: dict[str, list[Review]] = st.session_state.setdefault("reviews", {})
    # Two threads may draw a page at once for a moment, so that no list is changed in place.
    key = f"{store.place}#{store.head}"
    reviews = known.get(key, [])
    last = reviews[-1].number if reviews else 0
    reviews = known[key] = [*reviews, *store.read(after=last)]
    return ReviewSession(scores, store, reviews, in_force(reviews), reviewer)


def _changed(file: Path) -> int:
    """Return when a file was changed; 0 where it cannot be read, which reading it says."""
    try:
        return file.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


@st.cache_resource(max_entries=4, show_spinner="Reading the scores …")
def _read_scores(path: Path, changed: int, moved_to: Path | None = None) -> Scores:
    """Return a score directory; `changed` is part of the key, so that a new one is read anew."""
    root = None if moved_to is None else moved.root_in(path, moved_to)
    if directories.row_count(path) > LARGE:
        return open_large(path, root)
    directory = directories.read_as_written(path)
    if root is not None:
        directory = replace(directory, audit=replace(directory.audit, root=str(root)))
    slices: dict[str, list[SliceRow]] = {}
    for each in directories.read_slices(path):
        slices.setdefault(each.path, []).append(each)

    rows = directory.rows
    group_names, most = sorted({row.group for row in rows}), min(len(rows), MOST_CHOICES)
    groups = {group.group: group for group in directories.read_groups(path)}
    # All sessions share these, and none may change them.
    return Scores(
        directory=directory,
        by_path=MappingProxyType({row.path: row for row in rows}),
        groups=MappingProxyType(groups),
        slices=MappingProxyType({name: tuple(each) for name, each in slices.items()}),
        statuses=tuple(sorted({row.status for row in rows})),
        kinds=tuple(sorted({row.kind or "" for row in rows})),
        group_names=tuple(group_names) if len(group_names) < most else (),
        notes=known.of_batch(directory.audit, differences(directory.table), len(rows)),
    )


@st.cache_resource(show_spinner=False)
def _store(
    path: Path, head: str, url: str, changed: tuple[int, int], _rows: Mapping[str, ScoreRow]
) -> Store:
    """Return the store; `changed` says when record and plan were, and is part of the key, so that a
    study's plan is kept to at once, and nothing is kept of what was forgotten."""
    return Store(path, head, url, _rows)


# -- Views -----------------------------------------------------------------------------------------
#
# Streamlit leaves arguments whose names start with an underscore out of a cache's key. The key is
# the directory, its head and root, the image, and whether its map was made again.


def view_of(directory: ScoreDirectory, row: ScoreRow) -> display.View | None:
    """Return the view of an image, of several channels that of the first."""
    made = loading.is_made_again(directory, row)
    return _view(*_key(directory), row.path, made, directory, row)


# A view is not kept for long: missing files can be put back.
@st.cache_resource(max_entries=64, ttl=60, show_spinner=False)
def _view(
    path: Path,
    head: str,
    root: str,
    image: str,
    made: bool,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> display.View | None:
    return display.view(loading.load(_directory, _row))


def volume_of(directory: ScoreDirectory, row: ScoreRow, plane: str) -> display.VolumeCase:
    """Return a volume along the plane that it was scored in."""
    made = loading.is_made_again(directory, row)
    return _volume(*_key(directory), row.path, plane, made, directory, row)


@st.cache_resource(max_entries=2, ttl=600, show_spinner="Reading the volume …")
def _volume(
    path: Path,
    head: str,
    root: str,
    image: str,
    plane: str,
    made: bool,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> display.VolumeCase:
    return loading.load_volume(_directory, _row, plane)


def _key(directory: ScoreDirectory) -> tuple[Path, str, str]:
    """Return what a score directory is recognised by: its folder, its head and its root."""
    return directory.path, directory.audit.head, directory.audit.root


# -- Thumbnails ------------------------------------------------------------------------------------


def thumbnails_of(
    scores: Scores, rows: Sequence[ScoreRow], hidden: Sequence[bool], side: int = thumbnails.SIDE
) -> Thumbnails:
    """Return a small picture for each row, whose longer side has so many pixels; `hidden` has True
    where a row's scores are hidden.

    A volume is shown by the slice with the highest score, or by the middle one where that is
    hidden. Volumes and large images take long to read, so a thread beside the page reads them.
    """
    directory = scores.directory
    key = *_key(directory), side
    pictures, pending = list[str](), False

    for row, is_hidden in zip(rows, hidden, strict=True):
        slices = scores.slices.get(row.path)
        if slices:
            shown = slices[len(slices) // 2] if is_hidden else highest_slice(slices)
            future = _slice_thumbnail(*key, row.path, shown.axis, shown.slice, directory, row)
        elif thumbnails.is_large(row):
            future = _large_thumbnail(*key, row.path, directory, row)
        else:
            pictures.append(_thumbnail(*key, row.path, directory, row))
            continue
        pictures.append(future.result() if future.done() else "")
        pending |= not future.done()
    return Thumbnails(pictures, pending)


def highest_slice(slices: Sequence[SliceRow]) -> SliceRow:
    """Return the slice with the highest score, or the middle one where none was scored."""
    known = [each for each in slices if each.score is not None]
    return max(known, key=lambda each: each.score or 0.0, default=slices[len(slices) // 2])


@st.cache_resource(max_entries=5000, ttl=3600, show_spinner=False)
def _thumbnail(
    path: Path,
    head: str,
    root: str,
    side: int,
    image: str,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> str:
    return thumbnails.thumbnail(_directory, _row, side)


_background = ThreadPoolExecutor(1, "thumbnails")


@st.cache_resource(max_entries=5000, ttl=3600, show_spinner=False)
def _slice_thumbnail(
    path: Path,
    head: str,
    root: str,
    side: int,
    image: str,
    plane: str,
    index: int,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> Future[str]:
    return _background.submit(thumbnails.slice_thumbnail, _directory, _row, plane, index, side)


@st.cache_resource(max_entries=5000, ttl=3600, show_spinner=False)
def _large_thumbnail(
    path: Path,
    head: str,
    root: str,
    side: int,
    image: str,
    _directory: ScoreDirectory,
    _row: ScoreRow,
) -> Future[str]:
    return _background.submit(thumbnails.thumbnail, _directory, _row, side)
