"""The store of verdicts: records are added one by one to a hash chain and never changed, by any
number of reviewers at once.

The default is reviews.sqlite in the score directory. Any other database that SQLAlchemy knows by
its URL serves too; there one table holds the chains of many score directories, each with the head
of its directory. `anodetect.record.reviews` describes the format.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Inspector,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from anodetect.errors import ConfigError, RunError
from anodetect.record import marks, readings, reviews, signing, study
from anodetect.record.marks import Shown
from anodetect.record.reviews import JUDGEMENTS, WITHDRAWN, Judgement, Review
from anodetect.record.rows import ScoreRow
from anodetect.record.study import Plan

PATIENCE = 15.0  # seconds to wait for another writer
NOT_SHOWN = "the image is not on the screen; no verdict was recorded: judge once it is shown"
RETRY = 0.02  # seconds between two attempts
LOCK = 0x616E6F64  # number of the advisory lock that writers of these chains take in PostgreSQL
LONGEST = 4000  # characters of a comment
LONGEST_ID = 64  # characters of a verdict's own id
# File systems of the network, as /proc/self/mounts names them.
NETWORK = {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "ncpfs", "9p", "ceph"}
NETWORK |= {"glusterfs", "lustre", "beegfs", "gpfs", "davfs"}
NETWORK |= {"fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.davfs2", "fuse.glusterfs"}

_TYPES: dict[str, Any] = {
    "blind": Boolean,
    "withdraws": Integer,
    "seconds": Float(53),
    "score": Float(53),
    "p_value": Float(53),
    "threshold": Float(53),
    "id": String(LONGEST_ID),
}
_NULLABLE = ("withdraws", "score", "p_value", "threshold", *reviews.ADDED)


INDEX = "reviews_ids"


def _column(name: str) -> Column[Any]:
    """Return the column of the table that keeps a field of Review."""
    return Column(name, _TYPES.get(name, Text), nullable=name in _NULLABLE)


TABLE = Table(
    "reviews",
    MetaData(),
    Column("head", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    *map(_column, reviews.COLUMNS[2:]),
    Index(INDEX, "head", "id", unique=True),
)

# Triggers refuse to change and to delete rows, where the database has triggers.
_REFUSE_SQLITE = """CREATE TRIGGER IF NOT EXISTS reviews_no_{action} BEFORE {action} ON reviews
    BEGIN SELECT RAISE(ABORT, 'reviews are only ever added'); END"""
# An existing trigger is left alone: only the owner of the table may make one.
_REFUSE_POSTGRESQL = """DO $make$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
        WHERE tgname = 'reviews_refuse' AND tgrelid = CAST('reviews' AS regclass)) THEN
        CREATE OR REPLACE FUNCTION reviews_refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'reviews are only ever added'; END $$;
        CREATE TRIGGER reviews_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews
            FOR EACH STATEMENT EXECUTE FUNCTION reviews_refuse();
    END IF;
END $make$"""
_TRIGGERS = {
    "sqlite": (
        _REFUSE_SQLITE.format(action="UPDATE"),
        _REFUSE_SQLITE.format(action="DELETE"),
    ),
    "postgresql": (_REFUSE_POSTGRESQL,),
}


class Store:
    """The verdicts on one score directory; their chain starts from its `head`. `rows` are those of
    the record, by their paths: with a study's plan beside them only the verdicts are taken that it
    allows (record.study).

    Raises RunError, with what to do, where the database is locked, damaged, unreachable or on a
    network drive, and ConfigError where `url` is no URL of a database.
    """

    def __init__(
        self, folder: Path, head: str, url: str = "", rows: Mapping[str, ScoreRow] | None = None
    ) -> None:
        self.head = head
        self.guard: Callable[[], None] = lambda: None  # raises RunError where nothing may be added
        self.plan = study.read(folder, head)
        self._rows = rows or {}
        self._progress: readings.Progress | None = None  # of a study, as far as it was read
        self._reading = Lock()
        self.folder = None if url else folder
        # Messages name this place and never the URL, which may hold a password.
        self.place = "the configured database" if url else str(folder / reviews.FILE)

        drive = "" if url else network_drive(folder)
        if drive:
            raise RunError(
                f"{folder} is on a network drive ({drive}), where SQLite can lose what two "
                "reviewers write at once; copy the directory to a local disk, or name a database "
                "in ANODETECT_REVIEWS (postgresql+psycopg://…)"
            )

        try:
            self.engine = _make_engine(url or _url_of(folder))
        except ImportError as error:
            raise ConfigError(
                f"the database cannot be used: {error.name} is not installed, which its URL names"
            ) from None
        except (ArgumentError, NoSuchModuleError):
            raise ConfigError(
                "the database cannot be used: what names it is no SQLAlchemy URL of a known kind, "
                "such as postgresql+psycopg://…"
            ) from None

        try:
            with self._clear_errors():
                _use_write_ahead_log(self.engine)
            with self._transaction() as connection:
                _make_table(connection, self.place)
        except RunError:
            self.close()
            raise

    def add(
        self,
        row: ScoreRow,
        reviewer: str,
        verdict: Judgement,
        shown: Sequence[Shown],
        *,
        comment: str = "",
        region: str = "",
        region_mm: str = "",
        blind: bool = False,
        id: str | None = None,
        seconds: float | None = None,
    ) -> Review:
        """Add a verdict on a row of scores.parquet, of which these pictures were `shown`, and
        return its record. One that is on record by its `id` is not added again. In a study it keeps
        how many `seconds` it took.

        Raises ConfigError without a reviewer's name, for an unknown verdict, or where a study does
        not allow it, and RunError where none of the pictures is a painted one of this row's
        contents, or where the `id` is that of something else.
        """
        if verdict not in JUDGEMENTS:
            raise ConfigError(f"no verdict {verdict!r}; one of {', '.join(JUDGEMENTS)} is expected")
        seen = []
        for each in shown:
            if each.painted and (each.case, each.sha256) == (row.path, row.sha256 or ""):
                seen.append(each)
        if not seen:
            raise RunError(NOT_SHOWN)

        review = Review(
            head=self.head,
            number=0,
            time="",
            reviewer=reviewer.strip(),
            verdict=verdict,
            comment=comment[:LONGEST],
            region=region,
            blind=blind,
            withdraws=None,
            path=row.path,
            image_sha256=row.sha256 or "",
            model_sha256=row.model_sha256,
            score=_finite(row.score),
            p_value=_finite(row.p_value),
            threshold=_finite(row.threshold),
            previous="",
            region_mm=region_mm,
            shown=marks.shown_text(seen),
            id=id,
            study=None if self.plan is None else self.plan.hash,
            seconds=None if self.plan is None or seconds is None else round(seconds, 1),
        )
        return self._append(review)

    def withdraw(self, withdrawn: Review, reviewer: str, id: str | None = None) -> Review:
        """Add a record that withdraws one of the reviewer's own verdicts, and return it; one that
        is on record by its `id` is not added again.

        Raises ConfigError where the verdict is another reviewer's, or where a study does not allow
        it, and RunError where the `id` is that of something else.
        """
        if withdrawn.reviewer != reviewer:
            raise ConfigError(f"only {withdrawn.reviewer} can take back this verdict")

        review = replace(
            withdrawn,
            verdict=WITHDRAWN,
            comment="",
            region="",
            region_mm="",
            shown="",
            seconds=None,
            withdraws=withdrawn.number,
            id=id,
        )
        return self._append(review)

    def find(self, id: str) -> Review | None:
        """Return the record with this id, None where there is none."""
        with self._clear_errors(), self.engine.connect() as connection:
            return self._find(connection, id)

    def _find(self, connection: Connection, id: str) -> Review | None:
        query = select(TABLE).where(TABLE.c.head == self.head, TABLE.c.id == id)
        row = connection.execute(query).mappings().first()
        return None if row is None else reviews.from_row(dict(row))

    def read(self, after: int = 0) -> list[Review]:
        """Return the records whose numbers are greater than `after`, in order."""
        query = (
            select(TABLE)
            .where(TABLE.c.head == self.head, TABLE.c.number > after)
            .order_by(TABLE.c.number)
        )
        with self._clear_errors(), self.engine.connect() as connection:
            return [reviews.from_row(dict(row)) for row in connection.execute(query).mappings()]

    def verify(self) -> list[str]:
        """Return the faults of the chain; an empty list where it is unbroken."""
        return list(reviews.broken(self.read(), self.head))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _append(self, review: Review) -> Review:
        """Write a record at the end of the chain and return it with number, time and hashes; return
        the one that is there with its id, instead."""
        self.guard()
        if not review.reviewer:
            raise ConfigError("a verdict needs the reviewer's name")
        if review.id is not None and not 0 < len(review.id) <= LONGEST_ID:
            raise ConfigError(f"the id of a verdict has 1 to {LONGEST_ID} characters")

        # Ids and the end of the chain are read under the lock that the insertion needs.
        with self._transaction() as connection:
            known = None if review.id is None else self._find(connection, review.id)
            if known is not None:
                _check_same(review, known)
                return known
            if self.plan is not None:
                self._keep_to(self.plan, review)
            query = select(TABLE.c.number, TABLE.c.hash).where(TABLE.c.head == self.head)
            last = connection.execute(query.order_by(TABLE.c.number.desc()).limit(1)).first()

            review = replace(
                review,
                head=self.head,
                number=last.number + 1 if last else 1,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                previous=last.hash if last else self.head,
                hash="",
            )
            review = replace(review, hash=reviews.hash_of(review))
            connection.execute(insert(TABLE).values(asdict(review)))
        if self.folder is not None:
            signing.sign(self.folder, review)
        return review

    def _keep_to(self, plan: Plan, review: Review) -> None:
        """Raise ConfigError where a study's plan does not allow a record."""
        row = self._rows.get(review.path)
        if row is None:
            raise ConfigError("this is no case of the study; nothing was recorded")

        with self._reading:
            stands = self._progress = self._brought_on(plan)
            given, complete = stands.verdicts(review.path), stands.is_complete
        why = study.refusal(plan, row, given, review.reviewer, complete=complete)
        if not why and not review.blind:
            why = "in a study nothing is judged whose scores were shown"
        if why:
            raise ConfigError(f"nothing was recorded: {why}")

    def _brought_on(self, plan: Plan) -> readings.Progress:
        """Return where a study stands. Only records that follow those known are read, unless the
        last known one is not where it was."""
        known = self._progress
        if known is not None and known.number:
            found = self.read(after=known.number - 1)
            if found and found[0].hash == known.hash:
                known.add(found[1:])
                return known
        anew = readings.Progress(plan, self._rows.values())
        anew.add(self.read())
        return anew

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Open a transaction that holds the writers' lock; an exception rolls it back."""
        with self._clear_errors(), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(LOCK)))

            yield connection
            connection.commit()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Raise the database's errors as RunError that says what to do."""
        try:
            yield
        except IntegrityError:
            # SQLite and PostgreSQL exclude this by their lock, other databases by the key.
            raise RunError(
                f"{self.place}: another reviewer was faster; nothing was recorded, judge again"
            ) from None
        except SQLAlchemyError as error:
            raise RunError(f"{self.place}: {_advice(error)}") from None


def _check_same(review: Review, known: Review) -> None:
    """Raise RunError unless a record is the one that a review would become."""
    for name in ("reviewer", "verdict", "path", "comment", "region"):
        if getattr(review, name) != getattr(known, name):
            raise RunError(
                f"record {known.number} has the same id and is another one; judge the case again"
            )


# -- Network drives --------------------------------------------------------------------------------


def network_drive(folder: Path) -> str:
    """Return the kind of the network file system that a folder is on; "" where it is on none, or
    where the system does not say."""
    resolved = folder.resolve()
    if str(resolved).startswith("\\\\"):
        return "UNC path"
    if not sys.platform.startswith("linux"):
        return ""

    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return _network_mount(resolved, mounts)


def _network_mount(folder: Path, mounts: list[str]) -> str:
    """Return the file system of the innermost mount that holds a folder, if it is one of NETWORK.

    `mounts` are lines as in /proc/self/mounts.
    """
    depth, file_system = -1, ""
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        # A later mount at the same place covers an earlier one.
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            depth, file_system = len(place.parts), kind
    return file_system if file_system in NETWORK else ""


# -- The database ----------------------------------------------------------------------------------


def _url_of(folder: Path) -> str:
    """Return the URL of a score directory's own database, whatever letters its path has."""
    file = str(folder.absolute() / reviews.FILE)
    return URL.create("sqlite", database=file).render_as_string(hide_password=False)


def _make_engine(url: str) -> Engine:
    """Return SQLAlchemy's engine for a URL."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)

    # Every use opens a connection: sessions are threads, and none may keep the file open.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": PATIENCE})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # this module begins the transactions
        # A verdict that was shown as recorded survives a power failure.
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def _use_write_ahead_log(engine: Engine) -> None:
    """Have an SQLite file keep a write-ahead log, so that readers do not wait for writers.

    The file remembers the setting. SQLite does not wait for the lock that this takes, so that two
    programs that start at once collide; the attempt is repeated for PATIENCE seconds.
    """
    if engine.dialect.name != "sqlite":
        return

    start = time.monotonic()
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() - start > PATIENCE:
                raise
            time.sleep(RETRY)


def _make_table(connection: Connection, place: str) -> None:
    """Make the table and its triggers where they are missing, and the columns that a table of an
    older release lacks.

    Raises RunError where the database has another table of this name.
    """
    inspector = inspect(connection)
    if inspector.has_table(TABLE.name):
        _add_columns(connection, inspector, place)
    else:
        TABLE.create(connection)

    for statement in _TRIGGERS.get(connection.dialect.name, ()):
        connection.execute(text(statement))


def _add_columns(connection: Connection, inspector: Inspector, place: str) -> None:
    """Add the columns of reviews.ADDED that are missing; RunError where any other is missing, or
    where they cannot be added."""
    present = {column["name"] for column in inspector.get_columns(TABLE.name)}
    missing = sorted(set(TABLE.columns.keys()) - present)
    others = [name for name in missing if name not in reviews.ADDED]
    if others:
        raise RunError(
            f"{place}: its table `reviews` has no column {', '.join(others)}: it is of "
            "another program or version; put back a copy from a backup, or keep the table "
            "under another name"
        )

    commands = []
    for name in missing:
        kind = TABLE.c[name].type.compile(connection.dialect)
        commands.append(f"ALTER TABLE reviews ADD COLUMN {name} {kind}")
    if "id" in missing:
        commands.append(f"CREATE UNIQUE INDEX {INDEX} ON reviews (head, id)")
    try:
        for command in commands:
            connection.execute(text(command))
    except ProgrammingError:
        raise RunError(
            f"{place}: its table `reviews` is of an older release and belongs to somebody else; "
            f"have its owner run: {'; '.join(commands)}"
        ) from None


def _finite(value: float | None) -> float | None:
    """Return the value, or None where it is not finite; SQLite keeps no −0.0, so it becomes 0.0."""
    if value is None or not isfinite(value):
        return None
    return float(value) + 0.0


def _advice(error: Exception) -> str:
    """Return what a user can do about an error of the database, without the library's words, which
    may quote statements, names and addresses."""
    cause = getattr(error, "orig", None) or error
    reason = str(cause).lower()
    for words, advice in _ADVICE:
        if any(word in reason for word in words):
            return advice
    return (
        f"the reviews cannot be kept ({type(cause).__name__}); is the database running, and may "
        "you write to it?"
    )


# What libraries say, in small letters, and what is to be done; the first that fits counts.
_ADVICE = (
    (
        ("locked", "busy"),
        "another program holds the reviews; close it and judge again (nothing was recorded)",
    ),
    (
        ("is full", "no space"),
        "there is no room for the reviews; make room and judge again (nothing was recorded)",
    ),
    (
        ("readonly", "read-only", "unable to open"),
        "the reviews cannot be written; make the directory writable for you",
    ),
    (
        ("permission denied", "authentication", "must be owner"),
        "the database does not let you write the reviews; have its owner grant it to you",
    ),
    (
        ("malformed", "not a database", "no such column", "no column"),
        "the reviews are damaged or of another program; put back a copy from a backup",
    ),
)
