"""The readings of a study: what its chain of verdicts says of every case, as rows of one table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from anodetect.config import without_nan
from anodetect.record import study
from anodetect.record.reviews import ERASED, Review, in_force
from anodetect.record.rows import Row, ScoreRow
from anodetect.record.study import Plan
from anodetect.stats import readings as stats
from anodetect.stats.readings import PairResult, ReaderResult, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRow(Row):
    """One reader or adjudicator and one case that is theirs to read: a row of readings.csv.

    `place` is that of the case in the reader's own order, from 1. `verdict` is "" where there is
    none yet; `seconds` are those of all visits to the case that ended with a verdict. `outcome` is
    what the study comes to on the case, by `decided_by`: "agreement" or "adjudication"; both are ""
    as long as it is open. `truth` is 0 for normal, 1 for anomalous, None where it is not known.
    """

    study: str
    path: str
    group: str
    reader: str
    role: str
    place: int
    verdict: str = ""
    comment: str = ""
    region: str = ""
    seconds: float | None = None
    time: str = ""
    review: int | None = None
    outcome: str = ""
    decided_by: str = ""
    truth: int | None = field(default=None, metadata={"arrow": pa.int8()})
    kind: str | None = None
    score: float | None = None
    p_value: float | None = None
    flagged: bool | None = None


@dataclass(frozen=True)
class Results:
    """Where a study stands, and its results: cases, how many of them are complete, are disputed,
    and were adjudicated; how many cases each reader has to read; the readers' results and their
    agreement; and the results of what the study came to, as if it were a reader."""

    name: str
    plan: str
    cases: int
    complete: int
    disputed: int
    adjudicated: int
    to_read: Mapping[str, int]
    readers: Sequence[ReaderResult]
    pairs: Sequence[PairResult]
    outcome: ReaderResult

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON values; NaN becomes null, and draws are left out."""
        content = asdict(self)
        shares = [content["outcome"], *content["readers"]]
        for each in shares:
            for name in ("sensitivity", "specificity"):
                del each[name]["interval"]["draws"]
        for each in content["pairs"]:
            del each["kappa"]["draws"]
        values: dict[str, Any] = without_nan(content)
        return values


def verdicts(reviews: Iterable[Review]) -> dict[str, dict[str, str]]:
    """Return the verdicts in force, by path and by who gave them."""
    found = {}
    for path, given in in_force(reviews).items():
        found[path] = {name: review.verdict for name, review in given.items()}
    return found


class Progress:
    """Where a study stands: the verdicts in force, and which cases are open. It is brought on
    record by record, so that a further one takes equally long however many there are."""

    def __init__(self, plan: Plan, rows: Iterable[ScoreRow]) -> None:
        self._plan = plan
        self._cases = {row.path: row for row in plan.cases_in(rows)}
        self._given: dict[str, dict[str, dict[int, str]]] = {}  # by path, reader and number
        self._open = {path for path in self._cases if not self._is_complete(path)}
        self.number, self.hash = 0, ""  # of the last record

    def add(self, reviews: Iterable[Review]) -> None:
        """Take in the records that follow the last one."""
        for review in reviews:
            self.number, self.hash = review.number, review.hash
            given = self._given.setdefault(review.path, {}).setdefault(review.reviewer, {})
            if review.withdraws is not None:
                given.pop(review.withdraws, None)
            elif review.verdict != ERASED:
                given[review.number] = review.verdict

            if self._is_complete(review.path):
                self._open.discard(review.path)
            elif review.path in self._cases:
                self._open.add(review.path)

    def verdicts(self, path: str) -> dict[str, str]:
        """Return the verdicts in force on a path, by who gave them."""
        found = {}
        for name, given in self._given.get(path, {}).items():
            if given:
                found[name] = given[max(given)]
        return found

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to do in the study."""
        return not self._open

    def _is_complete(self, path: str) -> bool:
        row = self._cases.get(path)
        return row is not None and study.is_complete(self._plan, row, self.verdicts(path))


def to_do(
    plan: Plan, rows: Iterable[ScoreRow], given: Mapping[str, Mapping[str, str]], name: str
) -> list[ScoreRow]:
    """Return the cases that are somebody's, in the order of reading: of a reader all that were
    assigned, of an adjudicator those that are disputed."""
    role, own = plan.role_of(name), list[ScoreRow]()
    for row in plan.cases_in(rows):
        if role == "reader" and name in plan.readers_of(row):
            own.append(row)
        disputed = role == "adjudicator" and name == plan.adjudicator_of(row)
        if disputed and study.is_disputed(plan, row, given.get(row.path, {})):
            own.append(row)
    return plan.in_order(own, name)


def is_complete(
    plan: Plan, rows: Iterable[ScoreRow], given: Mapping[str, Mapping[str, str]]
) -> bool:
    """Return whether nothing is left to do in a study."""
    cases = plan.cases_in(rows)
    return all(study.is_complete(plan, row, given.get(row.path, {})) for row in cases)


def table(plan: Plan, rows: Sequence[ScoreRow], reviews: Sequence[Review]) -> list[ReadingRow]:
    """Return all readings, those still to come too, by people and in their order."""
    given, kept, spent = verdicts(reviews), in_force(reviews), _seconds(reviews)
    found = []
    for name in (*plan.readers, *plan.adjudicators):
        for place, row in enumerate(to_do(plan, rows, given, name), start=1):
            said = given.get(row.path, {})
            outcome = study.outcome(plan, row, said)
            disputed = study.is_disputed(plan, row, said)
            by = "adjudication" if disputed else "agreement"
            review = kept.get(row.path, {}).get(name)
            found.append(
                ReadingRow(
                    study=plan.hash,
                    path=row.path,
                    group=row.group,
                    reader=name,
                    role=plan.role_of(name) or "",
                    place=place,
                    verdict="" if review is None else review.verdict,
                    comment="" if review is None else review.comment,
                    region="" if review is None else review.region,
                    seconds=spent.get((row.path, name)),
                    time="" if review is None else review.time,
                    review=None if review is None else review.number,
                    outcome=outcome,
                    decided_by=by if outcome else "",
                    truth=row.label,
                    kind=row.kind,
                    score=row.score,
                    p_value=row.p_value,
                    flagged=row.flagged,
                )
            )
    return found


def _seconds(reviews: Iterable[Review]) -> dict[tuple[str, str], float]:
    """Return the seconds that each reader spent on each path, as far as they are known."""
    spent: dict[tuple[str, str], float] = {}
    for review in reviews:
        if review.seconds is not None:
            key = review.path, review.reviewer
            spent[key] = spent.get(key, 0.0) + review.seconds
    return spent


def results(plan: Plan, rows: Sequence[ScoreRow], reviews: Sequence[Review]) -> Results:
    """Return where a study stands, and its results so far."""
    readings, outcomes, adjudicated = list[Reading](), dict[str, Reading](), set[str]()
    to_read: dict[str, int] = {}
    lines = table(plan, rows, reviews)
    for line in lines:
        reading = Reading(
            line.path, line.group, line.reader, line.verdict, line.truth, line.seconds
        )
        to_read[line.reader] = to_read.get(line.reader, 0) + 1
        if line.verdict:
            readings.append(reading)
        if line.outcome:
            outcomes[line.path] = Reading(line.path, line.group, "", line.outcome, line.truth)
        if line.outcome and line.decided_by == "adjudication":
            adjudicated.add(line.path)

    given, cases = verdicts(reviews), plan.cases_in(rows)
    said = [(row, given.get(row.path, {})) for row in cases]
    known = stats.by_reader(readings)
    read = [each for each in readings if each.reader in plan.readers]
    return Results(
        name=plan.name,
        plan=plan.hash,
        cases=len(cases),
        complete=sum(study.is_complete(plan, *each) for each in said),
        disputed=sum(study.is_disputed(plan, *each) for each in said),
        adjudicated=len(adjudicated),
        to_read=to_read,
        readers=[known[name] for name in to_read if name in known],
        pairs=stats.pair_results(read),
        outcome=stats.reader_result("", list(outcomes.values())),
    )
