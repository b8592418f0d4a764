"""What reviewers decided about a score directory: records that are only ever added, each holding
the hash of the last.

    reviews.sqlite, table `reviews`: one row per record, columns: COLUMNS, unique in (head, number)

The chain starts at the head of the score directory: with h_0 the head, record n holds `previous` =
h_{n−1} and `hash` = h_n = sha256(canonical JSON of all its other columns). A verdict taken back is
one more record, WITHDRAWN, that names the number of the one it takes back. Nothing here writes; the
review app does.

A chain cut off at its end is as whole as before: keep the hash of the last record elsewhere to
notice that.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from anodetect.config import canonical
from anodetect.errors import RunError
from anodetect.record.rows import ScoreRow

FILE = "reviews.sqlite"
Judgement = Literal["normal", "anomalous", "unsure", "bad image"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
WITHDRAWN = "withdrawn"
# a database's URL; not an argument, which everybody on the machine could read
DATABASE = "ANODETECT_REVIEWS"


@dataclass(frozen=True)
class Review:
    """One record.

    `verdict` is one of JUDGEMENTS or WITHDRAWN, and `withdraws` the number of the record taken
    back, else None. `score`, `p_value` and `threshold` are those the reviewer was deciding at, None
    where there were none or they were not finite; `blind`: they and the map were hidden. `region`
    is a box "x,y,width,height", an outline "x,y x,y x,y …", in pixels of the image, (0, 0) the
    corner of the upper left one, or "". `time` is UTC in ISO 8601.
    """

    head: str
    number: int
    time: str
    reviewer: str
    verdict: str
    comment: str
    region: str
    blind: bool
    withdraws: int | None
    path: str
    image_sha256: str
    model_sha256: str
    score: float | None
    p_value: float | None
    threshold: float | None
    previous: str
    hash: str = ""


COLUMNS = tuple(field.name for field in fields(Review))


def hash_of(review: Review) -> str:
    """The hash of everything a record says, its predecessor's hash included."""
    return sha256(
        canonical({name: value for name, value in asdict(review).items() if name != "hash"})
    ).hexdigest()


def from_row(row: Mapping[str, Any]) -> Review:
    """A record from a row of the table."""
    return Review(**{name: row[name] for name in COLUMNS} | {"blind": bool(row["blind"])})


def in_force(reviews: Iterable[Review]) -> dict[str, dict[str, Review]]:
    """For each path each reviewer's last verdict that was not taken back."""
    kept = list(reviews)
    withdrawn = {review.withdraws for review in kept if review.verdict == WITHDRAWN}
    latest: dict[str, dict[str, Review]] = {}
    for review in kept:
        if review.verdict != WITHDRAWN and review.number not in withdrawn:
            latest.setdefault(review.path, {})[review.reviewer] = review
    return latest


def broken(reviews: Sequence[Review], head: str) -> Iterator[str]:
    """The first record, in the order of their numbers, that does not follow from the one before."""
    previous = head
    for number, review in enumerate(reviews, start=1):
        name = f"review {number} ({review.reviewer} on {review.path})"
        if review.number != number:
            yield f"review {number} is missing"
        elif review.head != head or review.previous != previous:
            yield f"{name} does not follow from the one before"
        elif review.hash != hash_of(review):
            yield f"{name} was changed"
        else:
            previous = review.hash
            continue
        return


def misfits(reviews: Sequence[Review], rows: Sequence[ScoreRow]) -> Iterator[str]:
    """The first record about something that was not scored, or by another model, or without a
    reviewer's verdict."""
    by_path = {row.path: row for row in rows}
    numbers = {review.number: review for review in reviews}
    for review in reviews:
        name = f"review {review.number} ({review.reviewer} on {review.path})"
        row = by_path.get(review.path)
        taken_back = numbers.get(review.withdraws or 0)
        if row is None:
            yield f"{name} is about an image that is not in scores.parquet"
        elif (review.image_sha256, review.model_sha256) != (
            row.sha256 or "",
            row.model_sha256,
        ):
            yield f"{name} is about other contents or another model than scores.parquet"
        elif review.verdict not in (*JUDGEMENTS, WITHDRAWN):
            yield f"{name} has no known verdict"
        elif (review.verdict == WITHDRAWN) != (
            taken_back is not None
            and (taken_back.reviewer, taken_back.path) == (review.reviewer, review.path)
        ):
            yield f"{name} takes back what is not there"
        else:
            continue
        return


def verify(folder: Path, head: str, rows: Sequence[ScoreRow]) -> tuple[list[str], list[str]]:
    """What is wrong with the reviews of a score directory, and what is worth knowing; both empty
    without reviews."""
    if not (folder / FILE).is_file():
        return [], []
    try:
        everything = read(folder / FILE)
    except RunError as error:
        return [str(error)], []
    mine = [review for review in everything if review.head == head]
    problems = [*broken(mine, head), *misfits(mine, rows)]
    if others := len(everything) - len(mine):
        problems.append(f"{others} reviews in {FILE} are of another record than this one")
    end = mine[-1].hash if mine else head
    return problems, [f"{len(mine)} reviews; their chain ends with {end}"]


def read(file: Path) -> list[Review]:
    """All records of an SQLite file, in the order of their numbers; RunError if it cannot be read."""
    columns = ", ".join(COLUMNS)
    try:
        # In a folder that cannot be written SQLite reads only what it is told will not change.
        still = (
            ""
            if os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists()
            else "&immutable=1"
        )
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro{still}", uri=True, timeout=10)
        ) as connection:
            connection.row_factory = sqlite3.Row
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'reviews'"
            ).fetchone():
                return []
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("database disk image is malformed")
            found = connection.execute(
                f"SELECT {columns} FROM reviews ORDER BY head, number"
            ).fetchall()
            return [from_row(row) for row in found]
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: the reviews cannot be read ({error}); put back a copy from a backup, or close the program that "
            "holds the file"
        ) from None
