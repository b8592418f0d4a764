"""Forget: erase a patient or lot from a score directory, and leave hashed gaps.

The new directory is made beside the old one and takes its place when it is complete.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyarrow import compute as pc

from anodetect.errors import ConfigError, RunError
from anodetect.files import path_or_none, sha256_of, write_atomic
from anodetect.output import report
from anodetect.output.regions import FILE as REGIONS_FILE
from anodetect.record import alike, directories, made_maps, reviews, signatures, verification
from anodetect.record.audit import Audit, Erasure, ShownCases
from anodetect.record.chain import GAP
from anodetect.record.directories import ScoreDirectory, Tables
from anodetect.record.objects import content_of, parsed
from anodetect.record.partial import LOCK, only_writer
from anodetect.record.reports import NOTE, REPORT
from anodetect.record.rows import ChainRow, OutputRow, ScoreRow, rows_of, to_table
from anodetect.stats.evaluation import Evaluation
from anodetect.words import amount

ERASED = "(erased)"
NOT_ERASED = (
    "images, the run, copies of this directory, and maps that were made again in another folder "
    "(maps --out), of which nothing here knows"
)


@dataclass(frozen=True)
class ForgetResult:
    """The numbers of rows, of files and of verdicts that were erased. `head` is that of the record
    from now on, `before` the one that it had."""

    rows: int
    files: int
    verdicts: int
    head: str
    before: str

    def as_json(self) -> dict[str, Any]:
        """Return what `forget --json` prints."""
        return asdict(self) | {"not_erased": NOT_ERASED}

    def text(self) -> str:
        """Return it in words."""
        rows, files = amount(self.rows, "row"), amount(self.files, "file")
        return (
            f"{rows}, {files} and {amount(self.verdicts, 'verdict')} erased\n"
            f"chain head {self.head}; before it was {self.before}\n"
            f"not erased: {NOT_ERASED}"
        )


def forget(path: Path | str, group: str, *, sign: Path | str | None = None) -> ForgetResult:
    """Erase the rows, files and verdicts of a patient or lot from a score directory.

    `sign` is a file with an Ed25519 private key; without it a signature of the record is removed.
    RunError if the directory is not what was written, ConfigError if it has no such group, or if
    its verdicts are in a database that is not erased here.
    """
    path, sign = Path(path), path_or_none(sign)
    key = signatures.private_key(sign) if sign else None
    _put_back(path)
    with only_writer(path), reviews.held(path / reviews.FILE):
        return _forget(path, group, key)


def _put_back(path: Path) -> None:
    """Let a directory have its name again if a process was killed while it replaced it; remove what
    one had still to remove."""
    old = _aside(path)
    if old.is_dir() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _forget(path: Path, group: str, key: Ed25519PrivateKey | None) -> ForgetResult:
    """Do what `forget` does, as the only writer."""
    scored = directories.read(path)
    erased = [row for row in scored.rows if row.group == group]
    _refuse(scored, group, erased)

    new = path.with_name(f"{path.name}.forgetting")
    shutil.rmtree(new, ignore_errors=True)
    paths = {row.path for row in erased}
    tables = directories.read_tables(path)
    gone = {row.name for row in rows_of(tables.outputs, OutputRow) if row.path in paths}
    _copy(path, new, without=gone)

    verdicts = 0
    if (path / reviews.FILE).is_file():
        verdicts = reviews.erase(path / reviews.FILE, new / reviews.FILE, paths)
    head = _write(scored, tables, new, erased, verdicts)
    if key is not None:
        signatures.sign(new, head, key)
    report.write(new, key)
    made_maps.erase(made_maps.folder_of(path), scored.audit.head, paths)
    _replace(path, new)
    made_maps.move(made_maps.folder_of(path), scored.audit.head, head)
    return ForgetResult(len(erased), len(gone), verdicts, head, scored.audit.head)


def _refuse(scored: ScoreDirectory, group: str, erased: Sequence[ScoreRow]) -> None:
    """Raise an error if there is nothing to erase, or if the record would not hold."""
    if os.environ.get(reviews.DATABASE):
        raise ConfigError(
            f"verdicts are in the database of {reviews.DATABASE}, which forget does not change: "
            "erase them there first, then unset it"
        )
    if not erased:
        raise ConfigError(f"{scored.path} has no group {group!r}; groups.csv lists them")
    if scored.audit.format != directories.FORMAT or (scored.path / directories.JOURNAL).exists():
        raise RunError(f"{scored.path}: unfinished, or of an older format, and not changed")
    if problems := verification.record_problems(scored):
        raise RunError(f"{scored.path} is not what was written: {problems[0]}")


def _write(
    scored: ScoreDirectory, tables: Tables, new: Path, erased: Sequence[ScoreRow], verdicts: int
) -> str:
    """Write the record without the erased rows, and return its head."""
    paths = {row.path for row in erased}
    _thin_regions(new, paths)
    outputs = []
    for row in rows_of(_without(tables.outputs, paths), OutputRow):
        is_thinned = row.name == REGIONS_FILE
        outputs.append(replace(row, sha256=sha256_of(new / row.name)) if is_thinned else row)
    links = []
    for link in directories.read_chain(scored.path):
        links.append(replace(link, path=GAP) if link.path in paths else link)

    kept = Tables(
        scores=_without(tables.scores, paths),
        groups=tables.groups.filter(pc.not_equal(tables.groups["group"], erased[0].group)),
        timings=_without(tables.timings, paths),
        slices=_without(tables.slices, paths),
        outputs=to_table(outputs, OutputRow),
    )
    now = Erasure(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        head=scored.audit.head,
        rows=dict(Counter(row.status for row in erased)),
        reviews=verdicts,
    )
    audit = _thinned(scored.audit, {*paths, erased[0].group})
    audit = replace(audit, erased=(*audit.erased, now))
    return directories.write(new, audit, kept, to_table(links, ChainRow))


def _without(table: pa.Table, paths: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["path"], value_set=pa.array(sorted(paths)))))


def _thinned(audit: Audit, names: Collection[str]) -> Audit:
    """Return what audit.json says without these names of files and of their group."""
    cases = {
        which: tuple(path for path in paths if path not in names)
        for which, paths in asdict(audit.cases).items()
    }
    reasons: dict[str, int] = {}
    for reason, count in audit.reasons.items():
        text = _scrubbed(reason, names)
        reasons[text] = reasons.get(text, 0) + count

    return replace(
        audit,
        cases=ShownCases(**cases),
        repeated=tuple(path for path in audit.repeated if path not in names),
        caveats=tuple(_scrubbed(text, names) for text in audit.caveats),
        command=tuple(_scrubbed(text, names) for text in audit.command),
        reasons=reasons,
        evaluation=_thinned_evaluation(audit.evaluation, names),
    )


def _thinned_evaluation(evaluation: Evaluation | None, names: Collection[str]) -> Evaluation | None:
    """Return an evaluation of which masks that could not be used are counted without these
    names."""
    if evaluation is None or evaluation.masks is None:
        return evaluation

    def thinned(known: Iterable[str]) -> tuple[str, ...]:
        return tuple(ERASED if name in names else name for name in known)

    masks = evaluation.masks
    masks = replace(
        masks,
        missing=thinned(masks.missing),
        empty=thinned(masks.empty),
        wrong=thinned(masks.wrong),
        large=thinned(masks.large),
    )
    return replace(evaluation, masks=masks)


def _scrubbed(text: str, names: Collection[str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, ERASED)
    return text


# -- Files -----------------------------------------------------------------------------------------


def _copy(path: Path, new: Path, without: Collection[str]) -> None:
    """Make a directory with the same files but for some; files are linked where that is possible.
    What is written anew is left out, as are SQLite's files and what the head before has signed."""
    database = {reviews.FILE, f"{reviews.FILE}-wal", f"{reviews.FILE}-shm"}
    anew = {REPORT, NOTE, directories.AUDIT_FILE, signatures.SIGNATURE}
    anew |= {directories.PUSHED_LOCK, LOCK, alike.FILE}  # the last names images, too
    for parent, _, names in os.walk(path):
        for each in names:
            source = Path(parent, each)
            name = source.relative_to(path).as_posix()
            if name in {*without, *database, *anew}:
                continue
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copy2(source, target)
    _thin_pushed(new, without)


def _thin_pushed(new: Path, without: Collection[str]) -> None:
    """Take the lines about erased files out of the list of what an archive has."""
    file = new / directories.PUSHED
    if file.is_file():
        lines = file.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not any(json.dumps(name) in line for name in without)]
        write_atomic(file, "".join(kept))


def _thin_regions(new: Path, paths: Collection[str]) -> None:
    """Take erased images and their outlines out of regions.json."""
    file = new / REGIONS_FILE
    if not file.is_file():
        return
    content: Mapping[str, Any] = parsed(content_of(file))
    images = [each for each in content["images"] if each["file_name"] not in paths]
    numbers = {each["id"] for each in images}
    marks = [each for each in content["annotations"] if each["image_id"] in numbers]
    write_atomic(file, json.dumps({**content, "images": images, "annotations": marks}))


def _aside(path: Path) -> Path:
    """Return where a directory lies for the moment in which it is replaced."""
    return path.with_name(f"{path.name}.forgotten")


def _replace(path: Path, new: Path) -> None:
    """Put the new directory in the place of the old one, which is removed."""
    old = _aside(path)
    try:
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        new.rename(path)
        shutil.rmtree(old)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be replaced ({error.strerror}); {new.name} or {path.name} is the one "
            f"without the group, {old.name} the one before: remove that"
        ) from None
