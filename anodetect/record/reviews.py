"""The verdicts of reviewers on a score directory: reviews are only added, never changed, and each
holds the hash of the one before.

    reviews.sqlite, table `reviews`: one row per review, columns: COLUMNS, unique in (head, number)

The chain starts at the head of the score directory: with h_0 the head, review n holds `previous` =
h_{n−1} and `hash` = h_n = sha256(canonical JSON of all its other columns). Columns of ADDED that
are null, as in reviews of older releases, are not in that JSON. A verdict is withdrawn by one more
review, WITHDRAWN, that names its number. This module only reads; the review app writes.

A chain that was cut off at its end, or written anew, still holds. So its end is kept elsewhere, as
`anodetect review` and each export print it, or signed: with `anodetect review --sign` each session
of the app leaves a file `reviews.signed.*.json` (SignedEnd) with the end that it has seen last.
"""

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from anodetect.config import canonical
from anodetect.errors import RunError, one_line
from anodetect.files import ON_WINDOWS, refuse_strange, write_atomic
from anodetect.record import study
from anodetect.record.audit import Audit
from anodetect.record.objects import object_of
from anodetect.record.parts import Part, State, part_of
from anodetect.record.rows import ScoreRow, first_problem
from anodetect.record.signatures import Signature, signature_of
from anodetect.words import amount

FILE, SIGNED = "reviews.sqlite", "reviews.signed."
CLOCKS = timedelta(minutes=10)  # by which the clocks of two machines may differ
Judgement = Literal["normal", "anomalous", "unsure", "bad image"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
WITHDRAWN = "withdrawn"
ERASED = "erased"  # a gap: number and hashes alone are left of a verdict that `forget` has erased
# The environment variable with a database's URL: everybody on the machine could read an argument.
DATABASE = "ANODETECT_REVIEWS"
SIGNING_KEY = "ANODETECT_REVIEW_KEY"  # and the one with the key's file, which `review --sign` sets


@dataclass(frozen=True)
class Review:
    """One verdict of one reviewer on one image.

    `verdict` is one of JUDGEMENTS or WITHDRAWN; `withdraws` is the number of the review that is
    withdrawn, else None. `score`, `p_value` and `threshold` are those at the time of the verdict,
    None where there were none or they were not finite. `blind` says that they and the map were
    hidden. `region` has the regions that were marked, in the source's pixels, as `record.marks`
    writes them, and `region_mm` their corners in millimetres; both are "" for none, and the latter
    for images. `shown` says which pictures the browser had painted: "image" or "axial 3-17,20",
    with "thumbnail" for small ones.
    Reviews of older releases have None in these two. `id` is the text that the viewer gave the
    verdict, by which one that is sent twice is recorded once; None where nothing could be sent
    twice. `study` is the hash of the plan under which the verdict was given (record.study), and
    `seconds` how long the case was on the screen before; None outside of studies. `time` is UTC in
    ISO 8601.
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
    region_mm: str | None = None
    shown: str | None = None
    id: str | None = None
    study: str | None = None
    seconds: float | None = None


ADDED = ("region_mm", "shown", "id", "study", "seconds")  # columns of newer releases alone
COLUMNS = tuple(field.name for field in fields(Review))


def hash_of(review: Review) -> str:
    """Return the hash of everything a review says, the hash of the one before included."""
    content = asdict(review)
    del content["hash"]
    for name in ADDED:
        if content[name] is None:
            del content[name]
    return sha256(canonical(content)).hexdigest()


def from_row(row: Mapping[str, Any]) -> Review:
    """Return the review in a row of the table."""
    present = set(row.keys())
    values = {name: row[name] for name in COLUMNS if name in present}
    return Review(**values | {"blind": bool(row["blind"])})


def in_force(reviews: Iterable[Review]) -> dict[str, dict[str, Review]]:
    """Return for each path each reviewer's last verdict that was not withdrawn."""
    all_reviews = list(reviews)
    withdrawn = {review.withdraws for review in all_reviews if review.verdict == WITHDRAWN}
    latest: dict[str, dict[str, Review]] = {}
    for review in all_reviews:
        counts = review.verdict not in (WITHDRAWN, ERASED)
        if counts and review.number not in withdrawn:
            latest.setdefault(review.path, {})[review.reviewer] = review
    return latest


def first_blind(reviews: Iterable[Review]) -> dict[str, dict[str, Review]]:
    """Return for each path each reviewer's first verdict, if it was blind.

    It counts even if it was changed or withdrawn: whatever followed it was given by someone who had
    seen the scores, and what others said.
    """
    first: dict[str, dict[str, Review]] = {}
    for review in reviews:
        if review.verdict not in (WITHDRAWN, ERASED):
            first.setdefault(review.path, {}).setdefault(review.reviewer, review)

    blind: dict[str, dict[str, Review]] = {}
    for path, given in first.items():
        kept = {name: review for name, review in given.items() if review.blind}
        if kept:
            blind[path] = kept
    return blind


# -- Verification ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reviewed:
    """A look at the reviews of a score directory: the part, how many there are, the hash
    that their chain `end`s with, and how many of the first ones a kept end or a trusted signature
    stands for."""

    part: Part
    count: int
    end: str
    covered: int = 0


@dataclass(frozen=True, kw_only=True)
class SignedEnd(Signature):
    """The end of a chain that a session of the app has signed: its number and hash, 0 and the head
    of the record where there was none. The signature is that of `text`."""

    head: str
    number: int
    end: str
    time: str

    @property
    def text(self) -> str:
        return f"verdicts {self.head} {self.number} {self.end} {self.time}"


def verify(
    folder: Path,
    audit: Audit,
    rows: Iterable[ScoreRow],
    *,
    kept: str | None = None,
    trusted: Ed25519PublicKey | None = None,
) -> Reviewed:
    """Return what is known of the reviews of a score directory. `kept` is the end of their chain as
    it was kept elsewhere."""
    file, head = folder / FILE, audit.verdicts_start
    try:
        all_reviews = read(file) if file.exists() else []
        signed = signed_ends(folder)
        plan = study.read(folder, head)
    except RunError as error:
        return Reviewed(part_of([str(error)], "broken", ""), 0, "")

    own = [review for review in all_reviews if review.head == head]
    named = {review.path for review in own}
    known = {row.path: row for row in rows if row.path in named} if own else {}
    problems = [*broken(own, head), *mismatches(own, known), *_wrong_times(own, audit.ended)]
    given = [review for review in own if review.verdict != ERASED]
    if fault := study.fault(plan, given, known):
        problems.append(fault)
    erased = len(own) - len(given)
    if own and erased != sum(each.reviews for each in audit.erased):
        are = amount(erased, "review is", "reviews are")
        problems.append(f"{are} erased, which audit.json does not say")
    if others := len(all_reviews) - len(own):
        theirs = amount(others, f"review in {FILE} is", f"reviews in {FILE} are")
        problems.append(f"{theirs} of another record than this one")

    ends = {head: 0} | {review.hash: review.number for review in own}
    covered = -1
    if kept is not None:
        covered = ends.get(kept.lower(), -1)
        if covered < 0:
            problems.append(_gone(f"the end {kept} that was kept", own))
    for each in signed:
        if not each.signs(each.text, trusted):
            problems.append(f"the signature of the verdicts until {each.end} does not fit")
        elif ends.get(each.end) != each.number:
            problems.append(_gone(f"the end {each.end} that was signed on {each.time}", own))
        elif trusted:
            covered = max(covered, each.number)

    end = own[-1].hash if own else head
    state, why = _state(len(own), covered, end, present=file.exists())
    if older := sum(review.shown is None and review.verdict != ERASED for review in own):
        why += f"; {older} of a release that did not record whether the image was shown"
    return Reviewed(part_of(problems, state, why), len(own), end, max(covered, 0))


def _gone(what: str, own: Sequence[Review]) -> str:
    if not own:
        return f"{what} has no verdicts here: they were deleted"
    return f"{what} is not among the verdicts: they were rewritten, cut off, or an older copy"


def _state(count: int, covered: int, end: str, *, present: bool) -> tuple[State, str]:
    """Return the state of unbroken reviews, of which the first `covered` are those that were kept
    or signed; -1 if nothing was."""
    why = f"{amount(count, 'review')}; their chain ends with {end}"
    if covered == count:
        return "authenticated", why
    if not present:
        return "not covered", "there are none, and nothing says whether there were"
    if covered >= 0:
        why += f"; the first {covered} are those that were kept or signed, {count - covered} later"
    return "consistent", why


def _wrong_times(reviews: Sequence[Review], ended: str) -> Iterator[str]:
    """Yield what is wrong with the first review that was made before the record was complete,
    before the review before it, or in the future. Clocks of machines may differ a little."""
    try:
        earliest = _time(ended) if ended else None
    except ValueError:
        earliest = None  # the record itself says so

    latest = datetime.now(UTC) + CLOCKS
    for review in reviews:
        if review.verdict == ERASED:
            continue
        name = f"review {review.number} ({review.reviewer} on {review.path})"
        try:
            made = _time(review.time)
        except ValueError:
            yield f"{name} has no time that can be read"
            return
        if earliest is not None and made < earliest - CLOCKS:
            yield f"{name} is older than what it follows: it was made on {review.time}"
            return
        if made > latest:
            yield f"{name} was made in the future, on {review.time}"
            return
        earliest = made


def _time(text: str) -> datetime:
    """Return a time, in UTC where it names no zone; ValueError if it is none."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


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
        if review.verdict != ERASED and review.hash != hash_of(review):
            yield f"{name} was changed"
            return
        previous = review.hash


def mismatches(reviews: Sequence[Review], by_path: Mapping[str, ScoreRow]) -> Iterator[str]:
    """Yield what is wrong with the first review that does not fit the row of its path or the other
    reviews."""
    by_number = {review.number: review for review in reviews}
    by_id: dict[str, int] = {}
    for review in reviews:
        if review.verdict == ERASED:
            continue
        problem = _mismatch(review, by_path.get(review.path), by_number.get(review.withdraws or 0))
        if review.id is not None and by_id.setdefault(review.id, review.number) != review.number:
            problem = f"has the id of review {by_id[review.id]}: it was recorded twice"
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
    recorded = (finite(row.score), finite(row.p_value), finite(row.threshold))
    if (review.score, review.p_value, review.threshold) != recorded:
        return "names another score, p-value or threshold than scores.parquet"
    if review.verdict not in (*JUDGEMENTS, WITHDRAWN):
        return "has no known verdict"

    own = withdrawn is not None and (withdrawn.reviewer, withdrawn.path) == (
        review.reviewer,
        review.path,
    )
    if (review.verdict == WITHDRAWN) != own:
        return "takes back what is not there"
    was_shown = review.shown != "" or review.verdict == WITHDRAWN
    return "" if was_shown else "is about an image that was not shown"


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is not finite; SQLite keeps no −0.0, so it becomes 0.0."""
    if value is None or not isfinite(value):
        return None
    return float(value) + 0.0


# -- Files -----------------------------------------------------------------------------------------


def signed_ends(folder: Path) -> list[SignedEnd]:
    """Return the ends that sessions of the app have signed; RunError if a file cannot be read."""
    files = sorted(folder.glob(f"{SIGNED}*.json"))
    return [object_of(file, _SIGNED_END) for file in files]


def sign_end(folder: Path, session: str, end: SignedEnd, key: Ed25519PrivateKey) -> None:
    """Write the end of a chain and its signature; it takes the place of that of the same
    session."""
    signed = replace(end, **asdict(signature_of(end.text, key)))
    write_atomic(folder / f"{SIGNED}{session}.json", json.dumps(asdict(signed), indent=2) + "\n")


KEPT = ("head", "number", "blind", "model_sha256", "previous", "hash")  # columns of a gap
EMPTY = ("time", "reviewer", "comment", "region", "path", "image_sha256")  # texts, "" in a gap


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Let nobody give a verdict in an SQLite file during the block, if there is one: who tries
    waits, and then is told that it is not recorded. RunError if that cannot be."""
    if ON_WINDOWS or not file.is_file():  # there no folder with an open file can be renamed
        yield
        return
    refuse_strange(file)
    with closing(sqlite3.connect(file, timeout=10, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise RunError(
                f"{file}: the reviews are in use, or damaged ({one_line(error)})"
            ) from None
        yield


def erase(file: Path, new: Path, paths: Collection[str]) -> int:
    """Copy an SQLite file of reviews, and leave of those on images at these paths the hashes alone;
    return how many they were. RunError if it cannot be done."""
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            with closing(sqlite3.connect(file, timeout=10)) as before:
                before.backup(connection)
            return _erase(connection, paths)
    except sqlite3.Error as error:
        raise RunError(f"{file}: the reviews cannot be erased ({one_line(error)})") from None


def _erase(connection: sqlite3.Connection, paths: Collection[str]) -> int:
    triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'reviews'"
    made = connection.execute(triggers).fetchall()
    changes = []
    for _, name, *_ in connection.execute("PRAGMA table_info(reviews)").fetchall():
        value = f"'{ERASED}'" if name == "verdict" else "''" if name in EMPTY else "NULL"
        if name not in KEPT:
            changes.append(f'"{name}" = {value}')

    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    for name, _ in made:  # they refuse every change
        connection.execute(f'DROP TRIGGER "{name}"')
    count = 0
    for path in sorted(paths):
        done = connection.execute(
            f"UPDATE reviews SET {', '.join(changes)} WHERE path = ?", (path,)
        )
        count += done.rowcount
    for _, statement in made:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.execute("VACUUM")  # no page keeps what was erased
    return count


def read(file: Path) -> list[Review]:
    """Return all reviews in an SQLite file, in the order of their numbers; RunError if it cannot be
    read."""
    refuse_strange(file)
    # In a folder without write access SQLite reads only a file that it may assume not to change.
    writable = os.access(file.parent, os.W_OK) or Path(f"{file}-wal").exists()
    address = f"{file.absolute().as_uri()}?mode=ro{'' if writable else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return _read(connection)
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else one_line(error)
        raise RunError(
            f"{file}: the reviews cannot be read ({reason}); put back a copy from a backup, or "
            "close the program that holds the file"
        ) from None


def _read(connection: sqlite3.Connection) -> list[Review]:
    exists = "SELECT 1 FROM sqlite_master WHERE name = 'reviews'"
    if not connection.execute(exists).fetchone():
        return []
    if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("database disk image is malformed")

    present = {row["name"] for row in connection.execute("PRAGMA table_info(reviews)")}
    names = [name for name in COLUMNS if name in present or name not in ADDED]
    query = f"SELECT {', '.join(names)} FROM reviews ORDER BY head, number"
    found = []
    for row in connection.execute(query).fetchall():
        content = json.dumps(asdict(from_row(row)))
        found.append(_REVIEW.validate_json(content, strict=True))
    return found


_REVIEW, _SIGNED_END = TypeAdapter(Review), TypeAdapter(SignedEnd)
