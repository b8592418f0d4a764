"""The verdicts of reviewers on a score directory: reviews are only added, never changed, and each
holds the hash of the one before.

    reviews.sqlite, table `reviews`: one row per review, columns: COLUMNS, unique in (head, number)

The chain starts at the head of the score directory: with h_0 the head, review n holds `previous` =
h_{n−1} and `hash` = h_n = sha256(canonical JSON of all its other columns). A verdict is withdrawn
by one more review, WITHDRAWN, that names its number. This module only reads; the review app writes.

A chain that was cut off at its end still holds: keep the hash of the last review elsewhere to
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
# The environment variable with a database's URL: everybody on the machine could read an argument.
DATABASE = "ANODETECT_REVIEWS"


@dataclass(frozen=True)
class Review:
    """One verdict of one reviewer on one image.

    `verdict` is one of JUDGEMENTS or WITHDRAWN; `withdraws` is the number of the review that is
    withdrawn, else None. `score`, `p_value` and `threshold` are those at the time of the verdict,
    None where there were none or they were not finite. `blind` says that they and the map were
    hidden. `region` is a box "x,y,width,height" or an outline "x,y x,y x,y …" in pixels of the
    image, where (0, 0) is the corner of the upper left pixel, or "". `time` is UTC in ISO 8601.
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
    """Return the hash of everything a review says, the hash of the one before included."""
    content = asdict(review)
    del content["hash"]
    return sha256(canonical(content)).hexdigest()


def from_row(row: Mapping[str, Any]) -> Review:
    """Return the review in a row of the table."""
    return Review(**{name: row[name] for name in COLUMNS} | {"blind": bool(row["blind"])})


def in_force(reviews: Iterable[Review]) -> dict[str, dict[str, Review]]:
    """Return for each path each reviewer's last verdict that was not withdrawn."""
    all_reviews = list(reviews)
    withdrawn = {review.withdraws for review in all_reviews if review.verdict == WITHDRAWN}
    latest: dict[str, dict[str, Review]] = {}
    for review in all_reviews:
        if review.verdict != WITHDRAWN and review.number not in withdrawn:
            latest.setdefault(review.path, {})[review.reviewer] = review
    return latest


# -- Verification ----------------------------------------------------------------------------------


def verify(folder: Path, head: str, rows: Sequence[ScoreRow]) -> tuple[list[str], list[str]]:
    """Return what is wrong with the reviews of a score directory, and what is worth knowing; both
    are empty without reviews."""
    if not (folder / FILE).is_file():
        return [], []
    try:
        all_reviews = read(folder / FILE)
    except RunError as error:
        return [str(error)], []

    own = [review for review in all_reviews if review.head == head]
    problems = [*broken(own, head), *mismatches(own, rows)]
    if others := len(all_reviews) - len(own):
        problems.append(f"{others} reviews in {FILE} are of another record than this one")
    end = own[-1].hash if own else head
    return problems, [f"{len(own)} reviews; their chain ends with {end}"]


def broken(reviews: Sequence[Review], head: str) -> Iterator[str]:
    """Yield what is wrong with the first review, in the order of their numbers, that does not
    follow from the one before."""
    previous = head
    for number, review in enumerate(reviews, start=1):
        name = f"review {number} ({review.reviewer} on {review.path})"
        if review.number != number:
            yield f"review {number} is missing"
            return
        if review.head != head or review.previous != previous:
            yield f"{name} does not follow from the one before"
            return
        if review.hash != hash_of(review):
            yield f"{name} was changed"
            return
        previous = review.hash


def mismatches(reviews: Sequence[Review], rows: Sequence[ScoreRow]) -> Iterator[str]:
    """Yield what is wrong with the first review that does not fit the rows or the other reviews."""
    by_path = {row.path: row for row in rows}
    by_number = {review.number: review for review in reviews}
    for review in reviews:
        problem = _mismatch(review, by_path.get(review.path), by_number.get(review.withdraws or 0))
        if problem:
            yield f"review {review.number} ({review.reviewer} on {review.path}) {problem}"
            return


def _mismatch(review: Review, row: ScoreRow | None, withdrawn: Review | None) -> str:
    """Return why a review does not fit the row of its path, or the review it withdraws; "" if it
    fits."""
    if row is None:
        return "is about an image that is not in scores.parquet"
    if (review.image_sha256, review.model_sha256) != (row.sha256 or "", row.model_sha256):
        return "is about other contents or another model than scores.parquet"
    if review.verdict not in (*JUDGEMENTS, WITHDRAWN):
        return "has no known verdict"

    own = withdrawn is not None and (withdrawn.reviewer, withdrawn.path) == (
        review.reviewer,
        review.path,
    )
    if (review.verdict == WITHDRAWN) != own:
        return "takes back what is not there"
    return ""


# -- Files -----------------------------------------------------------------------------------------


def read(file: Path) -> list[Review]:
    """Return all reviews in an SQLite file, in the order of their numbers; RunError if it cannot be
    read."""
    # In a folder without write access SQLite reads only a file that it may assume not to change.
    writable = os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists()
    address = f"{file.absolute().as_uri()}?mode=ro{'' if writable else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return _read(connection)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: the reviews cannot be read ({error}); put back a copy from a backup, or "
            "close the program that holds the file"
        ) from None


def _read(connection: sqlite3.Connection) -> list[Review]:
    exists = "SELECT 1 FROM sqlite_master WHERE name = 'reviews'"
    if not connection.execute(exists).fetchone():
        return []
    if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("database disk image is malformed")

    query = f"SELECT {', '.join(COLUMNS)} FROM reviews ORDER BY head, number"
    return [from_row(row) for row in connection.execute(query).fetchall()]
