"""Where verdicts are kept: added one by one to a hash chain, never changed, by any number of
reviewers at once.

By default in reviews.sqlite in the score directory; any other database SQLAlchemy knows by its URL,
where one table holds the chains of many score directories, told apart by their heads. The format is
that of `anodetect.reviews`.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
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
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from anodetect.errors import ConfigError, RunError
from anodetect.record import reviews
from anodetect.record.reviews import JUDGEMENTS, WITHDRAWN, Judgement, Review

PATIENCE = 15.0  # seconds to wait for another writer
NETWORK = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afs",
        "ncpfs",
        "9p",
        "ceph",
        "glusterfs",
        "lustre",
    ),
    *(
        "beegfs",
        "gpfs",
        "davfs",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.davfs2",
        "fuse.glusterfs",
    ),
}
LOCK = 0x616E6F64  # of PostgreSQL's advisory locks, the one for these chains
LONGEST = 4000  # characters of a comment

_TYPES: dict[str, Any] = {
    "blind": Boolean, "withdraws": Integer, "score": Float(53), "p_value": Float(53), "threshold": Float(53),
}  # fmt: skip
TABLE = Table(
    "reviews",
    MetaData(),
    Column("head", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    *(
        Column(
            name,
            _TYPES.get(name, Text),
            nullable=name in ("withdraws", "score", "p_value", "threshold"),
        )
        for name in reviews.COLUMNS[2:]
    ),
)
_GUARDS = {  # rows stay as they are, as far as that can be said in SQL
    "sqlite": [
        f"""CREATE TRIGGER IF NOT EXISTS reviews_no_{action} BEFORE {action} ON reviews
            BEGIN SELECT RAISE(ABORT, 'reviews are only ever added'); END"""
        for action in ("UPDATE", "DELETE")
    ],
    "postgresql": [  # a trigger that is there is left alone: to make one takes the table's owner
        """DO $make$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_trigger
                WHERE tgname = 'reviews_refuse' AND tgrelid = CAST('reviews' AS regclass)) THEN
                CREATE OR REPLACE FUNCTION reviews_refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'reviews are only ever added'; END $$;
                CREATE TRIGGER reviews_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews
                    FOR EACH STATEMENT EXECUTE FUNCTION reviews_refuse();
            END IF;
        END $make$""",
    ],
}


class Store:
    """The verdicts on one score directory, whose head the chain starts from.

    RunError, with what to do, where the database is locked, damaged, out of reach or on a network
    drive.
    """

    def __init__(self, folder: Path, head: str, url: str = "") -> None:
        self.head = head
        self.place = (
            "the configured database" if url else str(folder / reviews.FILE)
        )  # a URL may hold a password
        if not url and (kind := network_drive(folder)):
            raise RunError(
                f"{folder} is on a network drive ({kind}), where SQLite can lose what two reviewers write at once; "
                "copy the directory to a local disk, or name a database in ANODETECT_REVIEWS (postgresql+psycopg://…)"
            )
        try:
            self.engine = _engine(url or f"sqlite:///{folder.absolute() / reviews.FILE}")
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"the database cannot be used ({error}); a SQLAlchemy URL is expected"
            ) from None
        try:
            with self._failing_clearly():
                _let_others_read(self.engine)
            with self._writing() as connection:
                _make_table(connection, self.place)
        except RunError:
            self.close()
            raise

    def add(
        self,
        row: Mapping[str, Any],
        reviewer: str,
        verdict: Judgement,
        *,
        comment: str = "",
        region: str = "",
        blind: bool = False,
    ) -> Review:
        """Add a verdict on a row of scores.parquet."""
        if verdict not in JUDGEMENTS:
            raise ConfigError(f"no verdict {verdict!r}; one of {', '.join(JUDGEMENTS)} is expected")
        facts = {
            "verdict": verdict,
            "comment": comment[:LONGEST],
            "region": region,
            "blind": blind,
            "withdraws": None,
            "path": row["path"],
            "image_sha256": row["sha256"] or "",
            "model_sha256": row["model_sha256"] or "",
            **{name: _finite(row[name]) for name in ("score", "p_value", "threshold")},
        }
        return self._append(reviewer, facts)

    def withdraw(self, taken_back: Review, reviewer: str) -> Review:
        """Take back one's own verdict by adding a record that says so."""
        if taken_back.reviewer != reviewer:
            raise ConfigError(f"only {taken_back.reviewer} can take back this verdict")
        said = ("blind", "path", "image_sha256", "model_sha256", "score", "p_value", "threshold")
        facts = {name: getattr(taken_back, name) for name in said}
        withdrawal = {
            "verdict": WITHDRAWN,
            "comment": "",
            "region": "",
            "withdraws": taken_back.number,
        }
        return self._append(reviewer, facts | withdrawal)

    def read(self, after: int = 0) -> list[Review]:
        """The records with numbers beyond `after`, in order."""
        query = (
            select(TABLE)
            .where(TABLE.c.head == self.head, TABLE.c.number > after)
            .order_by(TABLE.c.number)
        )
        with self._failing_clearly(), self.engine.connect() as connection:
            return [reviews.from_row(dict(row)) for row in connection.execute(query).mappings()]

    def verify(self) -> list[str]:
        """What is wrong with the chain; empty if nothing is."""
        return list(reviews.broken(self.read(), self.head))

    def close(self) -> None:
        self.engine.dispose()

    def _append(self, reviewer: str, facts: Mapping[str, Any]) -> Review:
        if not reviewer.strip():
            raise ConfigError("a verdict needs the reviewer's name")
        with (
            self._writing() as connection
        ):  # the end of the chain is read under the lock that the insertion needs
            query = select(TABLE.c.number, TABLE.c.hash).where(TABLE.c.head == self.head)
            last = connection.execute(query.order_by(TABLE.c.number.desc()).limit(1)).first()
            review = Review(
                head=self.head,
                number=last.number + 1 if last else 1,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                reviewer=reviewer.strip(),
                previous=last.hash if last else self.head,
                **facts,
            )
            review = replace(review, hash=reviews.hash_of(review))
            connection.execute(insert(TABLE).values(asdict(review)))
        return review

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._failing_clearly(), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
            yield connection
            connection.commit()  # leaving by an exception rolls back

    @contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except (
            IntegrityError
        ):  # the lock rules this out on SQLite and PostgreSQL; elsewhere the key does
            raise RunError(
                f"{self.place}: another reviewer was faster; nothing was recorded, judge again"
            ) from None
        except SQLAlchemyError as error:
            raise RunError(f"{self.place}: {_advice(error)}") from None


def network_drive(folder: Path) -> str:
    """The kind of network file system a folder is on, or "" (also where the system does not tell)."""
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
    """The file system of the innermost mount, of lines as in /proc/self/mounts, if it is one of the
    network."""
    below: tuple[int, str] = (-1, "")
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        if (
            folder.is_relative_to(place) and len(place.parts) >= below[0]
        ):  # a later mount covers an earlier one
            below = len(place.parts), kind
    return below[1] if below[1] in NETWORK else ""


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    # A connection of its own for every use: sessions are threads, and none may hold on to the file.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": PATIENCE})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where this module says so
        connection.execute(
            "PRAGMA synchronous = FULL"
        )  # a verdict that was shown as recorded survives a power failure

    return engine


def _let_others_read(engine: Engine) -> None:
    """Have an SQLite file keep a write-ahead log: who reads does not wait for who writes. The file
    remembers it."""
    if engine.dialect.name != "sqlite":
        return
    begun = time.monotonic()
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except (
            OperationalError
        ) as error:  # for this one lock SQLite does not wait, so two that start at once collide
            if "locked" not in str(error.orig) or time.monotonic() - begun > PATIENCE:
                raise
            time.sleep(0.02)


def _make_table(connection: Connection, place: str) -> None:
    """The table, and what keeps its rows as they are, also where an earlier version made it
    without; RunError where it is not the table expected."""
    found = inspect(connection)
    if found.has_table(TABLE.name):
        lacking = set(TABLE.columns.keys()) - {
            column["name"] for column in found.get_columns(TABLE.name)
        }
        if lacking:
            raise RunError(
                f"{place}: its table `reviews` has no column {', '.join(sorted(lacking))}: it is of another program or "
                "version; put back a copy from a backup, or keep the table under another name"
            )
    else:
        TABLE.create(connection)
    for statement in _GUARDS.get(connection.dialect.name, ()):
        connection.execute(text(statement))


def _finite(value: float | None) -> float | None:
    return (
        None if value is None or not isfinite(value) else float(value) + 0.0
    )  # SQLite keeps no -0.0


def _advice(error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    if "locked" in reason or "busy" in reason:
        return "another program holds the reviews; close it and judge again (nothing was recorded)"
    if "readonly" in reason or "read-only" in reason or "unable to open" in reason:
        return f"the reviews cannot be written ({reason}); make the directory writable for you"
    if (
        "malformed" in reason
        or "not a database" in reason
        or "no such column" in reason
        or "no column" in reason
    ):
        return f"the reviews are damaged or of another program ({reason}); put back a copy from a backup"
    return (
        f"the reviews cannot be kept ({reason}); is the database running, and may you write to it?"
    )
