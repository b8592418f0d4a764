"""Pull: series of an archive to a folder that `train` and `score` read.

    OUT/manifest.csv                       a row for each series: path, group, study, modality …
    OUT/<series UID>/<instance UID>.dcm    the objects as the archive has them

A second pull into the same folder asks only for what is not there. What a user adds to the
manifest stays: columns and values of other names than those of COLUMNS.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from anodetect.data import dicom
from anodetect.data.series import records_of
from anodetect.data.walk import PassedOverCounts
from anodetect.errors import ConfigError, DataError, ImageError, Interrupted, RunError
from anodetect.files import WRITING, refuse_unwritable, write_atomic
from anodetect.pacs.archive import Archive, ArchiveError, FoundSeries, StudyQuery
from anodetect.pacs.instances import SUFFIX, instance_of, is_uid
from anodetect.types import Reporter
from anodetect.words import amount

MANIFEST = "manifest.csv"
COLUMNS = ("path", "group", "study", "modality", "description", "images", "missing")
PATIENTS_AT_MOST = 100_000
FAILURES_IN_A_ROW = 3  # series of which nothing comes, after which a pull ends


@dataclass(frozen=True)
class Wanted:
    """The series to pull: of a modality, with a description that matches a pattern of `*` and `?`
    in any case, of days, of patients. What is empty does not count."""

    modality: str = ""
    description: str = ""
    since: date | None = None
    until: date | None = None
    patients: tuple[str, ...] = ()

    def studies(self) -> Iterator[StudyQuery]:
        """Yield the searches for studies: one for each patient."""
        query = StudyQuery("", self.since, self.until, self.modality)
        for patient in self.patients or ("",):
            yield replace(query, patient=patient)

    def takes(self, series: FoundSeries) -> bool:
        """Return whether a series is wanted. Without a modality all but reports, segmentations and
        the like are."""
        if self.modality and series.modality != self.modality:
            return False
        if not self.modality and series.modality in dicom.NO_IMAGES:
            return False
        pattern = self.description.casefold() or "*"
        return fnmatchcase(series.description.casefold().strip(), pattern)


@dataclass(frozen=True)
class PullResult:
    """A pulled folder `out`: how many series were found, objects fetched now and there before, and
    missing of series that are not complete; and how many series were passed over."""

    out: Path
    series: int
    fetched: int
    present: int
    incomplete: int
    missing: int
    passed_over: int

    def as_json(self) -> dict[str, object]:
        """Return what `pacs pull --json` prints."""
        return {
            "out": str(self.out),
            "series": self.series,
            "fetched": self.fetched,
            "present": self.present,
            "incomplete": self.incomplete,
            "missing": self.missing,
            "passed_over": self.passed_over,
        }


@dataclass
class _Counts:
    fetched: int = 0
    present: int = 0
    passed_over: int = 0
    missing: dict[str, int] = field(default_factory=dict)  # of each series by its UID
    failed: set[str] = field(default_factory=set)  # series of which it is not even known
    studies: dict[str, str] = field(default_factory=dict)

    def incomplete(self) -> int:
        """Return how many series are not complete."""
        lacking = {series for series, number in self.missing.items() if number}
        return len(lacking | self.failed)


def read_patients(file: Path) -> tuple[str, ...]:
    """Return the patient IDs of a file, one a line, each once; empty lines and those that start
    with # do not count. ConfigError, which quotes none, if it cannot be used."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{file}: not a readable list of patients in UTF-8") from None
    found: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        patient = line.strip()
        if not patient or patient.startswith("#"):
            continue
        if len(patient) > 64 or any(sign in patient for sign in "*?\\"):
            raise ConfigError(
                f"{file}, line {number}: not a patient's ID: at most 64 characters without *, ? "
                "and \\ are expected"
            )
        found[patient] = None

    if not found:
        raise ConfigError(f"{file}: it lists no patients")
    if len(found) > PATIENTS_AT_MOST:
        raise ConfigError(f"{file}: more than {PATIENTS_AT_MOST} patients")
    return tuple(found)


def pull(archive: Archive, wanted: Wanted, out: Path, reporter: Reporter) -> PullResult:
    """Fetch what is wanted and not in the folder `out` yet; DataError if the archive has nothing
    of it, ArchiveError if it stops answering. What has come stays in any case."""
    refuse_unwritable(out)
    counts = _Counts()
    found = list(_found(archive, wanted, counts))
    if not found:
        raise DataError(f"{archive.name}: no series there is as wanted")
    series = amount(len(found), "series is", "series are")
    others = amount(counts.passed_over, "other is", "others are")
    reporter.say(f"{series} as wanted, {others} not")
    out.mkdir(parents=True, exist_ok=True)

    try:
        _fetch_all(archive, found, out, counts, reporter)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command fetches what is missing") from None
    finally:
        _write_manifest(out, counts)
    return PullResult(
        out=out,
        series=len(found),
        fetched=counts.fetched,
        present=counts.present,
        incomplete=counts.incomplete(),
        missing=sum(counts.missing.values()),
        passed_over=counts.passed_over,
    )


def _found(archive: Archive, wanted: Wanted, counts: _Counts) -> Iterator[FoundSeries]:
    """Yield the series that are wanted, each once."""
    studies: dict[str, None] = {}
    for query in wanted.studies():
        studies.update(dict.fromkeys(archive.studies(query)))
    seen = set()
    for study in studies:
        for series in archive.series(study):
            if series.series in seen:
                continue
            seen.add(series.series)
            if wanted.takes(series):
                yield series
            else:
                counts.passed_over += 1


# -- Objects ---------------------------------------------------------------------------------------


def _fetch_all(
    archive: Archive, found: Sequence[FoundSeries], out: Path, counts: _Counts, reporter: Reporter
) -> None:
    """Fetch all series, one after another."""
    failures = 0
    for number, series in enumerate(found):
        fetched = amount(counts.fetched, "object")
        reporter.progress("pull", number, len(found), f"{fetched} fetched")
        before = counts.fetched
        try:
            _fetch(archive, series, out, counts)
        except ArchiveError as error:
            failures = 0 if counts.fetched > before else failures + 1
            counts.failed.add(series.series)
            if failures == FAILURES_IN_A_ROW:
                raise
            reporter.warn(f"series {number + 1} of {len(found)}: {error}")
        else:
            failures = 0
    fetched = amount(counts.fetched, "object")
    reporter.progress("pull", len(found), len(found), f"{fetched} fetched")

    if partial := counts.incomplete():
        those = amount(partial, f"of {len(found)} series is", f"of {len(found)} series are")
        objects = amount(sum(counts.missing.values()), "object is", "objects are")
        reporter.warn(
            f"{those} not complete, {objects} missing; the same command fetches what is missing, "
            "and manifest.csv says where"
        )


def _fetch(archive: Archive, series: FoundSeries, out: Path, counts: _Counts) -> None:
    """Fetch what is missing of a series."""
    folder = out / series.series
    counts.studies[series.series] = series.study
    listed = archive.instances(series.study, series.series)
    todo = [each for each in listed if not (folder / f"{each}{SUFFIX}").is_file()]
    counts.present += len(listed) - len(todo)
    counts.missing[series.series] = len(todo)
    if not todo:
        return

    folder.mkdir(exist_ok=True)
    shelf = _Shelf(series, folder, set(todo))
    whole = len(todo) == len(listed)
    try:
        archive.fetch(series.study, series.series, None if whole else todo, shelf.keep)
    finally:
        counts.fetched += len(todo) - len(shelf.todo)
        counts.missing[series.series] = len(shelf.todo)
    if shelf.error is not None:
        raise shelf.error


@dataclass
class _Shelf:
    """Writes the objects of a series that are `todo`. An archive may send others: they are not
    written. `error` is that of a disk that takes no more, of which a connection tells nothing."""

    series: FoundSeries
    folder: Path
    todo: set[str]
    error: RunError | None = None

    def keep(self, content: bytes) -> None:
        """Write an object that was asked for."""
        try:
            instance = instance_of(content)
        except ImageError:
            return
        asked = (instance.study, instance.series) == (self.series.study, self.series.series)
        if not asked or instance.instance not in self.todo:
            return
        try:
            write_atomic(self.folder / instance.file_name, content)
        except RunError as error:
            self.error = error
            raise
        self.todo.remove(instance.instance)


# -- Manifest --------------------------------------------------------------------------------------


def _write_manifest(out: Path, counts: _Counts) -> None:
    """Write the manifest of all series in the folder. Columns and values that were added to it
    stay."""
    file = out / MANIFEST
    header, rows = list(COLUMNS), dict[str, dict[str, str]]()
    if file.is_file():
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header += [name for name in reader.fieldnames or [] if name not in COLUMNS]
            rows = {row.get("path") or "": row for row in reader}

    fresh: dict[str, dict[str, str]] = {}
    for folder in sorted(out.iterdir()):
        if folder.is_dir() and is_uid(folder.name):
            for row in _rows(out, folder, rows, counts):
                fresh[row["path"]] = rows.get(row["path"], {}) | row

    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(fresh.values())
    write_atomic(file, text.getvalue())


def _rows(
    out: Path, folder: Path, known: dict[str, dict[str, str]], counts: _Counts
) -> Iterator[dict[str, str]]:
    """Yield the rows of a series: one for the folder if it is one volume or image, else one for
    each image that stands alone."""
    files = sorted(each for each in folder.iterdir() if not each.name.startswith(WRITING))
    records = list(records_of(out, files, PassedOverCounts()))
    for record in records:
        path = folder.name if len(records) == 1 else record.id
        missing = counts.missing.get(folder.name)
        before = known.get(path, {})
        yield {
            "path": path,
            "group": record.group,
            "study": counts.studies.get(folder.name) or before.get("study", ""),
            "modality": record.modality,
            "description": record.description,
            "images": str(len(record.files)),
            "missing": before.get("missing", "") if missing is None else str(missing),
        }
