"""Batches over time: what the score directories of a folder say of themselves, as plain data."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from anodetect.errors import AnodetectError
from anodetect.record import directories, reviews, study
from anodetect.record.directories import ScoreDirectory
from anodetect.record.reviews import Review
from anodetect.record.rows import OK
from anodetect.stats.agreement import Rate, precision_of
from anodetect.stats.batches import FlaggedShare, flagged_share, jumps

from .store import Store


@dataclass(frozen=True)
class Batch:
    """One scoring. `ended` is UTC in ISO 8601; `far` is None where flags keep a false-discovery
    rate. `drift` and `change` are what the checks against the calibration images and over time
    say, "" where one was not possible. `precision` is that of the flags by the verdicts so far."""

    folder: Path
    ended: str
    run: str
    run_path: str
    model: str
    far: float | None
    failed: int
    share: FlaggedShare
    drift_p: float | None
    drift_fires: bool
    drift: str
    change_fires: bool
    change: str
    calibration_groups: int
    judged: int
    precision: Rate

    @property
    def warns(self) -> bool:
        """True where something speaks against this batch's p-values."""
        return self.drift_fires or self.change_fires or self.share.above


@dataclass(frozen=True)
class Found:
    """Batches in the order in which they were scored, which of them have another share of flags
    than those of the same model and rate before, and what could not be read."""

    batches: tuple[Batch, ...]
    jumped: tuple[bool, ...]
    problems: tuple[str, ...]


def names_of(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each folder: its own, after those of as many folders above it as it takes
    to tell it from the others."""
    names = {}
    for folder in folders:
        parts, others = folder.parts, [each.parts for each in folders if each != folder]
        count = 1
        while count < len(parts) and any(each[-count:] == parts[-count:] for each in others):
            count += 1
        names[folder] = Path(*parts[-count:]).as_posix()
    return names


def read(folder: Path, url: str = "") -> Batch:
    """Return what a score directory says of itself; raise RunError where it is none, or where its
    verdicts cannot be read. `url` names the database of verdicts, "" for the file beside it."""
    scored = directories.read_as_written(folder)
    audit, ok = scored.audit, pc.equal(scored.table["status"], OK)
    table = scored.table.filter(ok)
    flagged = table.filter(pc.fill_null(table["flagged"], False))["path"].to_pylist()
    judgements = reviews.in_force(_verdicts(scored, url))
    drift, change = audit.drift.batch, audit.drift.time

    return Batch(
        folder=folder,
        ended=audit.ended,
        run=audit.run,
        run_path=audit.run_path,
        model=audit.model_sha256,
        far=audit.far,
        failed=audit.counts.get("failed", 0),
        share=flagged_share(len(flagged), len(table), audit.far),
        drift_p=None if drift is None else drift.p_value,
        drift_fires=drift is not None and drift.fires,
        drift="" if drift is None else drift.text,
        change_fires=change is not None and change.fires,
        change="" if change is None else change.text,
        calibration_groups=len(set(audit.calibration.groups)),
        judged=len(judgements),
        precision=precision_of(flagged, judgements),
    )


def _verdicts(scored: ScoreDirectory, url: str) -> list[Review]:
    """Return the verdicts on a score directory."""
    head, file = scored.audit.verdicts_start, scored.path / reviews.FILE
    if url:
        store = Store(scored.path, head, url)
        try:
            return store.read()
        finally:
            store.close()
    if not file.is_file():
        return []
    return [review for review in reviews.read(file) if review.head == head]


def changed(folder: Path) -> tuple[int, ...]:
    """Return when what `read` reads was changed, 0 for what is not there."""
    names = (directories.AUDIT_FILE, reviews.FILE, f"{reviews.FILE}-wal", study.FILE)
    found = []
    for name in names:
        try:
            found.append((folder / name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


def in_order(batches: Sequence[Batch], problems: Sequence[str] = ()) -> Found:
    """Return batches in the order in which they were scored, and where the share of flags jumped.

    Only batches of one model and one false-alarm rate are compared with each other.
    """
    ordered = sorted(batches, key=lambda batch: (batch.ended, os.fspath(batch.folder)))
    alike: dict[tuple[str, float | None], list[int]] = {}
    for place, batch in enumerate(ordered):
        alike.setdefault((batch.model, batch.far), []).append(place)

    jumped = [False] * len(ordered)
    for places in alike.values():
        shares = [ordered[place].share for place in places]
        for place, jump in zip(places, jumps(shares), strict=True):
            jumped[place] = jump
    return Found(tuple(ordered), tuple(jumped), tuple(problems))


def all_of(folders: Sequence[Path], url: str = "") -> Found:
    """Return the batches of these score directories; what cannot be read is said."""
    batches, problems = list[Batch](), list[str]()
    for folder in folders:
        try:
            batches.append(read(folder, url))
        except AnodetectError as error:
            problems.append(str(error))
    return in_order(batches, problems)
