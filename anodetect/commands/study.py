"""Reader studies: write a study's plan, and export its readings as one table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anodetect.commands import reviews as exported
from anodetect.errors import ConfigError, RunError
from anodetect.files import write_atomic
from anodetect.record import directories, readings, reviews, study
from anodetect.record.partial import only_writer
from anodetect.record.readings import ReadingRow, Results
from anodetect.record.rows import to_table
from anodetect.record.tables import write_table
from anodetect.stats.metrics import Interval
from anodetect.stats.readings import ReaderResult, Share
from anodetect.words import amount

TABLE, RESULTS = "readings.csv", "results.json"


@dataclass(frozen=True)
class Planned:
    """A plan that was written: its file and hash, and how many cases each reader has."""

    file: Path
    hash: str
    cases: int
    to_read: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return what `reviews plan --json` prints."""
        return asdict(self) | {"file": str(self.file)}

    def text(self) -> str:
        shares = ", ".join(f"{name} {count}" for name, count in self.to_read.items())
        return (
            f"{self.file}: {amount(self.cases, 'case')} to read: {shares}\n"
            f"plan {self.hash}, which each verdict will name; keep it elsewhere"
        )


@dataclass(frozen=True)
class StudyExport:
    """An export: its folder, the number of readings in the table, and the results."""

    out: Path
    readings: int
    results: Results

    def as_json(self) -> dict[str, Any]:
        """Return what `reviews export --as study --json` prints."""
        return self.results.as_json() | {"out": str(self.out), "readings": self.readings}

    def text(self) -> str:
        readings = f"{amount(self.readings, 'reading')}: {self.out / TABLE}"
        return "\n".join([*lines(self.results), readings])


def plan(
    directory: Path,
    *,
    name: str = "",
    readers: Sequence[str],
    adjudicators: Sequence[str] = (),
    viewers: Sequence[str] = (),
    each: int = 2,
    sample: int | None = None,
    seed: int = 0,
    login: bool = False,
) -> Planned:
    """Write the plan of a study on a score directory; see `record.study.make`.

    Raises ConfigError where the plan cannot be, and where there is one already; RunError where
    verdicts were given before, by people who may have seen what the study is to hide, and where
    another process writes the directory.
    """
    scored = directories.read_as_written(directory)
    head = scored.audit.verdicts_start
    _refuse_second(directory)
    file = directory / reviews.FILE
    if file.is_file() and any(review.head == head for review in reviews.read(file)):
        raise RunError(
            f"{directory}: there are verdicts already; plan a study on a copy without {file.name}"
        )

    made = study.make(
        scored.rows,
        head,
        name=name,
        readers=readers,
        adjudicators=adjudicators,
        viewers=viewers,
        each=each,
        sample=sample,
        seed=seed,
        login=login,
    )
    with only_writer(directory):
        _refuse_second(directory)  # another process may just have written one
        study.write(directory, made)
    to_read = {each: len(readings.to_do(made, scored.rows, {}, each)) for each in made.readers}
    return Planned(directory / study.FILE, made.hash, len(made.cases), to_read)


def _refuse_second(directory: Path) -> None:
    if (directory / study.FILE).exists():
        raise ConfigError(f"{directory / study.FILE} is there already, and a plan is not changed")


def export(directory: Path, out: Path) -> StudyExport:
    """Write the readings of a study as one table, and its results, to a new folder.

    Raises RunError where there is no study, where its verdicts do not hold, or if `out` is used.
    """
    scored = directories.read_as_written(directory)
    made = study.read(directory, scored.audit.verdicts_start)
    if made is None:
        raise RunError(f"{directory}: no {study.FILE}; `anodetect reviews plan` writes one")
    given = exported.intact_reviews(scored)
    rows = {row.path: row for row in scored.rows}
    kept = [review for review in given if review.verdict != reviews.ERASED]
    if fault := study.fault(made, kept, rows):
        raise RunError(f"{directory / reviews.FILE}: {fault}")

    directories.prepare(out)
    table = readings.table(made, scored.rows, given)
    results = readings.results(made, scored.rows, given)
    write_table(out / Path(TABLE).stem, to_table(table, ReadingRow), ("csv",))
    write_atomic(out / RESULTS, json.dumps(results.as_json(), indent=1) + "\n")
    return StudyExport(out, len(table), results)


# -- Text ------------------------------------------------------------------------------------------


def lines(results: Results) -> list[str]:
    """Return the results of a study as lines of text."""
    found = [
        f"{results.complete} of {amount(results.cases, 'case')} complete; readers differed on "
        f"{results.disputed}, of which {amount(results.adjudicated, 'was', 'were')} adjudicated"
    ]
    for reader in results.readers:
        found.append(f"{reader.reader}: {_reader_text(reader, results.to_read[reader.reader])}")
    if results.outcome.read:
        found.append(f"outcome: {_shares_text(results.outcome)}")
    for pair in results.pairs:
        names = " and ".join(pair.readers)
        found.append(
            f"{names}: {pair.agreed} of {pair.cases} alike; Cohen's κ {number(pair.kappa, 2)}"
        )
    return found


def _reader_text(reader: ReaderResult, to_read: int) -> str:
    text = f"{reader.read} of {to_read} read; {_shares_text(reader)}"
    if reader.times.total:
        times = reader.times
        text += f"; {times.median:.0f} s a case ({times.low:.0f}–{times.high:.0f})"
    return text


def _shares_text(reader: ReaderResult) -> str:
    text = f"sensitivity {share(reader.sensitivity)}, specificity {share(reader.specificity)}"
    if reader.undecided:
        text += f", {reader.undecided} undecided"
    return text


def share(found: Share) -> str:
    """Return a share with its counts and interval as text, "–" where there is none."""
    if not found.total:
        return "–"
    return f"{number(found.interval, 2)}, {found.hits} of {found.total}"


def number(interval: Interval, digits: int) -> str:
    """Return a value with its interval, or with the reason why it has none, as text."""
    if interval.value != interval.value:
        return f"– ({interval.note})"
    if interval.low != interval.low:
        return f"{interval.value:.{digits}f} ({interval.note})"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}–{interval.high:.{digits}f})"
