"""Verdicts: nothing lost, nothing changed unnoticed, whoever writes at the same time."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

import anodetect
from anodetect.errors import ConfigError, RunError
from anodetect.output import report
from anodetect.record import directories, reviews, verification
from anodetect.record.marks import Shown
from anodetect.record.rows import ScoreRow
from apps.review import store as module
from apps.review.store import Store

HEAD = "a" * 64
ROW = ScoreRow(
    path="a.png",
    sha256="1" * 64,
    group="a.png",
    score=0.1 + 0.2,
    p_value=0.05,
    threshold=0.25,
    model_sha256="2" * 64,
    status="ok",
)


def seen(row, **place):
    """What the browser says that has painted a row's image, or a picture at a place of it."""
    return [Shown(row.path, row.sha256 or "", painted=True, **place)]


SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts them, out of PATH


@pytest.fixture(scope="module")
def postgres():
    """The URL of an empty PostgreSQL server on a socket of its own, which ends with the tests."""
    if not SERVERS:
        pytest.skip("no PostgreSQL server on this machine: apt-get install postgresql")
    # PostgreSQL refuses to run as root.
    owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    # The path of a socket must be short, and the server must own its folder.
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    if owner:
        shutil.chown(folder, "postgres")

    def run(*command):
        subprocess.run(
            [*owner, SERVERS[-1] / command[0], *command[1:]],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    try:
        run("initdb", "-D", folder / "data", "-A", "trust", "-U", "reviewer", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql+psycopg://reviewer@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    """ "" for the file in the score directory, and the URL of a PostgreSQL server."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def opened(tmp_path, url):
    """A store with a chain of its own."""
    kept = Store(tmp_path, os.urandom(32).hex(), url)
    yield kept
    kept.close()


def edit(store, statement, **values):
    """Change the table as somebody with the rights to it could."""
    sqlite = store.engine.dialect.name == "sqlite"
    with store.engine.begin() as connection:
        guards = [f"DROP TRIGGER IF EXISTS reviews_no_{action}" for action in ("update", "delete")]
        for guard in guards if sqlite else ["ALTER TABLE reviews DISABLE TRIGGER USER"]:
            connection.execute(text(guard))
        connection.execute(text(f"{statement} AND head = :head"), values | {"head": store.head})
        if not sqlite:
            connection.execute(text("ALTER TABLE reviews ENABLE TRIGGER USER"))


@pytest.mark.parametrize("name", ["what?mode=ro", "100%41", "#1", "cost_$5 {x}", "ü"])
def test_the_database_lies_in_its_folder_whatever_that_is_called(tmp_path, name):
    (tmp_path / name).mkdir()
    store = Store(tmp_path / name, "0" * 64)
    store.add(ROW, "Ada", "normal", seen(ROW))
    store.close()
    assert len(reviews.read(tmp_path / name / reviews.FILE)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_verdict_says_what_was_known_when_it_was_given(opened):
    added = opened.add(
        ROW, " Ada ", "anomalous", seen(ROW), comment="scratch", region="1,2,3,4", blind=True
    )
    (kept,) = opened.read()
    assert kept == added
    assert (kept.number, kept.reviewer, kept.verdict, kept.comment) == (
        1,
        "Ada",
        "anomalous",
        "scratch",
    )
    assert (kept.score, kept.p_value, kept.threshold, kept.blind) == (0.1 + 0.2, 0.05, 0.25, True)
    assert (kept.image_sha256, kept.model_sha256, kept.region) == ("1" * 64, "2" * 64, "1,2,3,4")
    assert kept.time.endswith("+00:00")
    assert kept.previous == opened.head


def test_the_chain_starts_at_the_head_and_each_record_holds_the_last_ones_hash(opened):
    first, second = (
        opened.add(ROW, "Ada", "normal", seen(ROW)),
        opened.add(replace(ROW, threshold=0.5), "Ben", "unsure", seen(replace(ROW, threshold=0.5))),
    )
    assert (second.number, second.previous, second.threshold) == (2, first.hash, 0.5)
    assert opened.verify() == []
    assert opened.read(after=1) == [second]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_kept_as_none(opened, value):
    row = replace(ROW, score=value, p_value=value, threshold=value, sha256=None)
    kept = opened.add(row, "Ada", "bad image", seen(row))
    assert (kept.score, kept.p_value, kept.threshold, kept.image_sha256) == (None, None, None, "")
    assert opened.read() == [kept]


def test_a_negative_zero_does_not_break_the_chain(opened):
    opened.add(replace(ROW, score=-0.0), "Ada", "normal", seen(replace(ROW, score=-0.0)))
    assert opened.verify() == []


def test_text_stays_what_it_was(opened):
    comment = "<script>alert(1)</script> ' ; DROP TABLE reviews; -- \u202e ü\n日本"
    opened.add(
        replace(ROW, path=comment),
        comment,
        "unsure",
        seen(replace(ROW, path=comment)),
        comment=comment,
    )
    (kept,) = opened.read()
    assert kept.comment == kept.path == kept.reviewer == comment
    assert opened.verify() == []


@pytest.mark.parametrize(
    "shown",
    [
        (),
        (Shown(ROW.path, "1" * 64),),
        (Shown("b.png", "1" * 64, painted=True),),
        (Shown(ROW.path, "3" * 64, painted=True),),
    ],
)
def test_no_verdict_on_an_image_that_was_not_painted(opened, shown):
    with pytest.raises(RunError, match="not on the screen"):
        opened.add(ROW, "Ada", "normal", shown)
    assert opened.read() == []


def test_a_verdict_says_which_slices_were_painted(opened):
    numbers = (12, 3, 4, 5)
    shown = [each for n in numbers for each in seen(ROW, plane="axial", slice=n)]
    shown += [*seen(ROW, plane="coronal", slice=7), Shown(ROW.path, "1" * 64, "axial", 6)]
    assert opened.add(ROW, "Ada", "normal", shown).shown == "axial 3-5,12; coronal 7"
    assert opened.add(ROW, "Ada", "normal", seen(ROW)).shown == "image"
    frames = [each for n in (0, 1) for each in seen(ROW, plane="frames", frame=n)]
    assert opened.add(ROW, "Ada", "normal", frames).shown == "frames 0-1"
    assert opened.verify() == []


def test_undo_is_one_more_record(opened):
    kept = opened.add(ROW, "Ada", "normal", seen(ROW))
    other = opened.add(ROW, "Ben", "anomalous", seen(ROW))
    mistake = opened.add(ROW, "Ada", "anomalous", seen(ROW))
    undone = opened.withdraw(mistake, "Ada")
    assert (undone.verdict, undone.withdraws) == (reviews.WITHDRAWN, mistake.number)
    assert len(opened.read()) == 4
    assert reviews.in_force(opened.read()) == {"a.png": {"Ada": kept, "Ben": other}}
    with pytest.raises(ConfigError, match="only Ben"):
        opened.withdraw(other, "Ada")


def test_a_verdict_needs_a_reviewer_and_a_known_judgement(opened):
    with pytest.raises(ConfigError, match="name"):
        opened.add(ROW, "  ", "normal", seen(ROW))
    with pytest.raises(ConfigError, match="no verdict 'good'"):
        opened.add(ROW, "Ada", "good", seen(ROW))
    assert opened.read() == []


@pytest.mark.parametrize(
    "statement", ["UPDATE reviews SET verdict = 'normal'", "DELETE FROM reviews"]
)
def test_the_database_refuses_changes(opened, statement):
    opened.add(ROW, "Ada", "anomalous", seen(ROW))
    with pytest.raises(DBAPIError, match="only ever added"), opened.engine.begin() as connection:
        connection.execute(text(statement))
    assert [kept.verdict for kept in opened.read()] == ["anomalous"]


@pytest.mark.parametrize(
    "column", [name for name in reviews.COLUMNS if name not in ("head", "number")]
)
def test_a_change_of_any_column_is_named(opened, column):
    for _ in range(3):
        opened.add(ROW, "Ada", "anomalous", seen(ROW))
    edit(
        opened,
        f"UPDATE reviews SET {column} = '{'true' if column == 'blind' else 7}' WHERE number = 2",
    )
    (problem,) = opened.verify()
    assert problem.startswith("review 2 (")


def test_a_missing_record_is_named(opened):
    for _ in range(3):
        opened.add(ROW, "Ada", "anomalous", seen(ROW))
    edit(opened, "DELETE FROM reviews WHERE number = 2")
    assert opened.verify() == ["review 2 is missing"]


def test_a_record_that_was_rewritten_with_its_hash_breaks_the_next(opened):
    first, _ = (
        opened.add(ROW, "Ada", "anomalous", seen(ROW)),
        opened.add(ROW, "Ada", "anomalous", seen(ROW)),
    )
    forged = reviews.hash_of(replace(first, verdict="normal"))
    edit(
        opened,
        "UPDATE reviews SET verdict = 'normal', hash = :forged WHERE number = 1",
        forged=forged,
    )
    (problem,) = opened.verify()
    assert problem.startswith("review 2 (") and "does not follow" in problem


def test_records_of_several_directories_keep_apart(tmp_path):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    one, two = Store(tmp_path, HEAD, url), Store(tmp_path, "b" * 64, url)
    one.add(ROW, "Ada", "normal", seen(ROW))
    two.add(ROW, "Ada", "anomalous", seen(ROW))
    assert [kept.number for kept in one.read() + two.read()] == [1, 1]
    assert one.verify() == two.verify() == []


# -- Two at once -----------------------------------------------------------------------------------


def write_many(folder, url, head, reviewer, count, together):
    kept = Store(folder, head, url)
    for number in range(count):
        if number % 20 == 0:  # or one ends before the other begins, or gets the lock each time
            together.wait(50)
        kept.add(
            replace(ROW, path=f"{number}.png"),
            reviewer,
            "anomalous",
            seen(replace(ROW, path=f"{number}.png")),
            comment=str(number),
        )
    kept.close()


def test_two_processes_lose_nothing(tmp_path, url):
    head = os.urandom(32).hex()
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    writers = [
        spawn.Process(target=write_many, args=(tmp_path, url, head, name, 200, together))
        for name in ("Ada", "Ben")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    kept = Store(tmp_path, head, url)
    everything, problems = kept.read(), kept.verify()
    kept.close()
    assert problems == []
    for name in ("Ada", "Ben"):
        assert [review.comment for review in everything if review.reviewer == name] == [
            str(n) for n in range(200)
        ]
    turns = sum(a.reviewer != b.reviewer for a, b in pairwise(everything))
    assert turns > 1, "the two did not write at the same time, so this showed nothing"


def test_reviewers_who_open_a_new_record_at_the_same_moment_both_can(tmp_path):
    def open_and_add(folder, start):
        start.wait()
        kept = Store(folder, HEAD)
        kept.add(ROW, "Ada", "normal", seen(ROW))
        kept.close()

    with ThreadPoolExecutor(4) as pool:
        for number in range(12):
            folder, start = tmp_path / str(number), Barrier(4)
            folder.mkdir()
            for opening in [pool.submit(open_and_add, folder, start) for _ in range(4)]:
                opening.result()
            assert len(reviews.read(folder / reviews.FILE)) == 4


# -- Bad databases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"this is no database, whatever it is called" * 100, b"SQLite format 3\0" + b"x" * 5000],
)
def test_a_damaged_file_is_reported(tmp_path, content):
    (tmp_path / reviews.FILE).write_bytes(content)
    with pytest.raises(RunError, match="backup"):
        Store(tmp_path, HEAD)
    with pytest.raises(RunError, match="backup"):
        reviews.read(tmp_path / reviews.FILE)


def test_a_table_of_another_program_is_reported(tmp_path):
    with closing(sqlite3.connect(tmp_path / reviews.FILE)) as connection, connection:
        connection.execute("CREATE TABLE reviews (stars INTEGER)")
    with pytest.raises(RunError, match=r"no column .*region.* another program"):
        Store(tmp_path, HEAD)


def test_a_table_of_an_earlier_version_gets_its_guards_and_keeps_its_rows(opened, url, tmp_path):
    opened.add(ROW, "Ada", "normal", seen(ROW))
    sqlite = not url
    guards = ["reviews_no_update", "reviews_no_delete"] if sqlite else ["reviews_refuse"]
    with opened.engine.begin() as connection:
        for guard in guards:
            connection.execute(text(f"DROP TRIGGER {guard}{'' if sqlite else ' ON reviews'}"))
    again = Store(tmp_path, opened.head, url)
    with pytest.raises(DBAPIError, match="only ever added"), again.engine.begin() as connection:
        connection.execute(text("UPDATE reviews SET verdict = 'anomalous'"))
    assert [review.verdict for review in again.read()] == ["normal"]
    again.close()


# The part of a record that its verdicts follow, and the columns of release 0.2.
AUDIT = SimpleNamespace(verdicts_start=HEAD, ended="", erased=())
OLD_COLUMNS = reviews.COLUMNS[: -len(reviews.ADDED)]


def old_table(folder):
    """A file of an older release with one verdict and its own hash, as that release computed it."""
    values = dict.fromkeys(OLD_COLUMNS, "")
    values |= {"head": HEAD, "number": 1, "time": "2026-01-01", "reviewer": "Ada"}
    values |= {"verdict": "normal", "blind": False, "withdraws": None, "path": ROW.path}
    values |= {"image_sha256": ROW.sha256, "model_sha256": ROW.model_sha256, "score": ROW.score}
    values |= {"p_value": 0.05, "threshold": 0.25, "previous": HEAD}
    del values["hash"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    values["hash"] = sha256(text.encode()).hexdigest()
    with closing(sqlite3.connect(folder / reviews.FILE)) as connection, connection:
        connection.execute(f"CREATE TABLE reviews ({', '.join(OLD_COLUMNS)})")
        places = ", ".join("?" * len(values))
        row = [values[name] for name in OLD_COLUMNS]
        connection.execute(f"INSERT INTO reviews VALUES ({places})", row)


def test_the_table_of_an_older_release_is_read_verified_and_gone_on_with(tmp_path):
    old_table(tmp_path)
    found = reviews.verify(tmp_path, AUDIT, [ROW])
    assert found.part.problems == ()
    assert "1 of a release that did not record whether the image was shown" in found.part.why
    for _ in range(2):
        kept = Store(tmp_path, HEAD)
        kept.add(ROW, "Ben", "anomalous", seen(ROW))
        kept.close()
    old, *new = reviews.read(tmp_path / reviews.FILE)
    assert old.shown is None and [review.shown for review in new] == ["image"] * 2
    assert reviews.verify(tmp_path, AUDIT, [ROW]).part.problems == ()


PUT_IN = [(1, "region_mm", "'image'"), (1, "shown", "'image'"), (1, "study", "'image'")]
PUT_IN += [(1, "seconds", "1.5")]
TAKEN_OUT = [(2, "region_mm", "NULL"), (2, "shown", "NULL")]  # test_studies.py has the others


@pytest.mark.parametrize(("number", "column", "value"), PUT_IN + TAKEN_OUT)
def test_a_column_that_came_later_cannot_be_put_in_or_taken_out(tmp_path, column, number, value):
    old_table(tmp_path)
    kept = Store(tmp_path, HEAD)
    marked = {"region": "1,2,3,4", "region_mm": "1,2,3", "id": "b"}
    kept.add(ROW, "Ben", "anomalous", seen(ROW), **marked)
    edit(kept, f"UPDATE reviews SET {column} = {value} WHERE number = {number}")
    kept.close()
    assert "was changed" in reviews.verify(tmp_path, AUDIT, [ROW]).part.problems[0]


def test_a_verdict_is_recorded_once_by_its_id(opened):
    first = opened.add(ROW, "Ada", "normal", seen(ROW), comment="chip", id="a")
    assert opened.add(ROW, "Ada", "normal", seen(ROW), comment="chip", id="a") == first
    back = opened.withdraw(first, "Ada", id="b")
    assert opened.withdraw(first, "Ada", id="b") == back and opened.find("b") == back
    with pytest.raises(RunError, match="record 1 has the same id"):
        opened.add(ROW, "Ada", "anomalous", seen(ROW), id="a")
    with pytest.raises(RunError, match="record 1 has the same id"):
        opened.add(ROW, "Ben", "normal", seen(ROW), comment="chip", id="a")
    with pytest.raises(ConfigError, match="1 to 64 characters"):
        opened.add(ROW, "Ada", "normal", seen(ROW), id="a" * 65)
    for _ in range(2):  # without an id nothing is taken for the same
        opened.add(ROW, "Ada", "normal", seen(ROW))
    assert [review.id for review in opened.read()] == ["a", "b", None, None]
    assert opened.verify() == []


def test_an_id_that_is_there_twice_breaks_the_record(tmp_path):
    old_table(tmp_path)
    kept = Store(tmp_path, HEAD)
    given = kept.add(ROW, "Ada", "normal", seen(ROW), id="a")
    kept._append(replace(given, id=None))
    twice = reviews.hash_of(replace(kept.read()[-1], id="a", hash=""))
    with kept.engine.begin() as connection:
        connection.execute(text("DROP INDEX reviews_ids"))
    edit(kept, "UPDATE reviews SET id = 'a', hash = :hash WHERE number = 3", hash=twice)
    kept.close()
    problems = reviews.verify(tmp_path, AUDIT, [ROW]).part.problems
    assert problems == ("review 3 (Ada on a.png) has the id of review 2: it was recorded twice",)


def test_a_verdict_without_an_image_breaks_the_record(tmp_path):
    kept = Store(tmp_path, HEAD)
    kept.add(ROW, "Ada", "normal", seen(ROW))
    forged = replace(kept.read()[0], shown="", id=None)
    kept._append(forged)
    kept.close()
    problems = reviews.verify(tmp_path, AUDIT, [ROW]).part.problems
    assert problems == ("review 2 (Ada on a.png) is about an image that was not shown",)


def test_a_table_of_a_version_with_other_columns_is_reported(opened, url, tmp_path):
    with opened.engine.begin() as connection:
        connection.execute(text("ALTER TABLE reviews RENAME COLUMN region TO place"))
    try:
        with pytest.raises(RunError, match="no column region: it is of another program or version"):
            Store(tmp_path, opened.head, url)
    finally:
        with opened.engine.begin() as connection:
            connection.execute(text("ALTER TABLE reviews RENAME COLUMN place TO region"))


def test_a_locked_file_is_reported_and_nothing_recorded(tmp_path, monkeypatch):
    Store(tmp_path, HEAD)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    impatient = Store(tmp_path, HEAD)
    with closing(sqlite3.connect(tmp_path / reviews.FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match="another program holds the reviews"):
            impatient.add(ROW, "Ada", "normal", seen(ROW))
        assert impatient.read() == []
    impatient.add(ROW, "Ada", "normal", seen(ROW))


def test_a_folder_that_is_not_there_and_an_url_that_is_none(tmp_path):
    with pytest.raises(RunError, match="writable"):
        Store(tmp_path / "nowhere", HEAD)
    for url in ("secret-password", "nosuch://x:secret-password@host/y"):
        with pytest.raises(ConfigError, match="no SQLAlchemy URL of a known kind") as failure:
            Store(tmp_path, HEAD, url)
        assert "secret-password" not in str(failure.value)
    with pytest.raises(ConfigError, match="used: oracledb is not installed"):
        Store(tmp_path, HEAD, "oracle+oracledb://x@host/y")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("database is locked", "another program holds the reviews"),
        ("database or disk is full", "there is no room for the reviews; make room"),
        ("attempt to write a readonly database", "make the directory writable"),
        ("unable to open database file", "make the directory writable"),
        ("database disk image is malformed", "put back a copy from a backup"),
        ("permission denied for table reviews", "have its owner grant it to you"),
        (
            "host 10.0.0.7 said SELECT secret",
            r"cannot be kept \(OperationalError\); is the database",
        ),
    ],
)
def test_errors_of_a_database_are_told_in_our_own_words(tmp_path, said, advice):
    store = Store(tmp_path, HEAD)
    error = OperationalError("SELECT secret", {}, sqlite3.OperationalError(said))
    with pytest.raises(RunError, match=advice) as told, store._clear_errors():
        raise error
    assert str(told.value).startswith(f"{tmp_path / reviews.FILE}: ")
    assert said not in str(told.value) and "SELECT" not in str(told.value)


def test_network_drives_are_told_apart():
    mounts = [
        "/dev/sda1 / ext4 rw 0 0",
        "nas:/x /data nfs4 rw 0 0",
        "tmpfs /data/local\\040disk tmpfs rw 0 0",
    ]
    assert module._network_mount(module.Path("/data/scores"), mounts) == "nfs4"
    assert module._network_mount(module.Path("/data/local disk/scores"), mounts) == ""
    assert module._network_mount(module.Path("/database"), mounts) == ""


def test_a_network_drive_is_refused_unless_there_is_a_database(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "network_drive", lambda _: "nfs")
    with pytest.raises(RunError, match="ANODETECT_REVIEWS"):
        Store(tmp_path, HEAD)
    Store(tmp_path, HEAD, f"sqlite:///{tmp_path / 'elsewhere.db'}")


# -- anodetect verify ------------------------------------------------------------------------------


@pytest.fixture
def reviewed(pca_run, synthetic_folder, tmp_path):
    """A score directory with two verdicts, and its rows."""
    out = tmp_path / "scores"
    head = anodetect.score(pca_run, [str(synthetic_folder)], out, far=0.2, heatmaps=()).head
    rows = directories.read(out).rows
    kept = Store(out, head)
    kept.add(rows[0], "Ada", "normal", seen(rows[0]))
    kept.withdraw(kept.read()[0], "Ada")
    return out, rows


def test_verify_covers_reviews_and_tells_where_their_chain_ends(reviewed):
    out, _ = reviewed
    verdict = verification.verify(out)
    assert verdict.intact
    end = reviews.read(out / reviews.FILE)[-1].hash
    assert verdict.verdicts.why == f"2 reviews; their chain ends with {end}"
    assert (verdict.verdict_count, verdict.verdict_end) == (2, end)


def test_the_report_has_the_agreement_of_first_blind_verdicts(reviewed):
    out, rows = reviewed
    kept = Store(out, verification.verify(out).head)
    for row, ada, ben in zip(rows[1:5], ("normal", "anomalous") * 2, ("normal",) * 4, strict=True):
        for reader, verdict in (("Ada", ada), ("Ben", ben)):
            kept.add(row, reader, verdict, seen(row), blind=True)
        kept.add(row, "Ben", ada, seen(row))  # having seen what Ada said

    page = report.html(out, kept.read())
    assert "<b>1.00</b><span>Cohen’s κ of Ada and Ben on 4 images; they agree on 4; " in page
    assert "; 0.00 on the 4 of which both gave their first verdicts blind</span>" in page
    assert "spellings of one" not in page
    kept.add(rows[1], "BEN", "normal", seen(rows[1]))
    page = report.html(out, kept.read())
    assert '<p class="alarm">BEN, Ben: these names look like spellings of one; they count' in page


def test_verify_names_a_changed_review(reviewed):
    out, rows = reviewed
    edit(
        Store(out, verification.verify(out).head),
        "UPDATE reviews SET verdict = 'anomalous' WHERE number = 1",
    )
    assert verification.verify(out).problems == (f"review 1 (Ada on {rows[0].path}) was changed",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"path": "no/such.png"}, "not in scores.parquet"),
        ({"sha256": "0" * 64}, "other contents"),
        ({"model_sha256": "0" * 64}, "another model"),
    ],
)
def test_verify_compares_reviews_with_what_was_scored(reviewed, change, problem):
    out, rows = reviewed
    Store(out, verification.verify(out).head).add(
        replace(rows[0], **change), "Ada", "normal", seen(replace(rows[0], **change))
    )
    assert problem in verification.verify(out).problems[0]


def test_reviews_of_another_record_are_noticed(reviewed):
    out, rows = reviewed
    Store(out, HEAD).add(rows[0], "Ada", "normal", seen(rows[0]))
    assert "1 review in reviews.sqlite is of another record" in verification.verify(out).problems[0]


def test_a_damaged_file_of_reviews_is_a_problem(reviewed):
    out, _ = reviewed
    (out / reviews.FILE).write_bytes(b"x" * 5000)
    assert "cannot be read" in verification.verify(out).problems[0]
