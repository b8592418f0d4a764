"""Images that arrive one by one: each is in a record once, however the command ends."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

import anodetect
from anodetect.commands import alarms as alarm_module
from anodetect.commands import watch as command
from anodetect.commands.alarms import Alarms
from anodetect.commands.watch import Closing, watch
from anodetect.errors import ConfigError, DiskFullError, RunError
from anodetect.record import directories
from anodetect.stats.drift import Follower, martingale
from anodetect.types import Silent

FAR = 0.2  # the finest rate of so few calibration images is 1 / 13


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(command, "LOOK", 0.05)
    monkeypatch.setattr(command, "PAUSE", 0.02)
    monkeypatch.setattr(alarm_module, "FIRST_DELAY", 0.01)


@pytest.fixture(scope="module")
def files(synthetic_folder):
    """Six images without a defect and six with one."""
    good = sorted((synthetic_folder / "test" / "good").glob("*.png"))[:6]
    return good + sorted((synthetic_folder / "test" / "defect").glob("*.png"))[:6]


class Said(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []
        self.say = self.warn = self.lines.append


def watched(run, folder, out, count, **options):
    """Watch until so many verdicts have come; return the result and the verdicts."""
    verdicts = []

    def heard(verdict):
        verdicts.append(verdict)
        if len(verdicts) == count:
            os.kill(os.getpid(), signal.SIGTERM)

    if count == 0:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    options = {"far": FAR, "on_verdict": heard} | options
    return watch(run, folder, out, **options), verdicts


def records(out):
    return sorted((out / "records").iterdir())


def rows_of(out):
    found = []
    for folder in records(out):
        found += directories.read(folder).rows
    return found


def test_images_that_appear_are_scored_as_a_folder_is(pca_run, files, tmp_path):
    folder, out, said = tmp_path / "in", tmp_path / "out", Said()
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    shutil.copy(files[0], folder)

    def deliver():
        for file in files[1:]:
            part = folder / f".{file.parent.name}-{file.name}"
            shutil.copy(file, part)
            part.rename(folder / part.name[1:])

    threading.Timer(0.3, deliver).start()
    result, verdicts = watched(pca_run, folder, out, len(files), heatmaps=["tiff"], reporter=said)
    assert (result.scored, result.failed, result.passed_over) == (len(files), 0, 1)
    (record,) = records(out)
    assert result.records == (record.name,)
    assert anodetect.verify(record, rescore=2).intact

    anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=FAR, heatmaps=["tiff"], workers=1)
    expected = {row.path: row for row in directories.read(tmp_path / "s").rows}
    for row in rows_of(out):
        other = expected.pop(row.path)
        assert row.score == pytest.approx(other.score, rel=1e-5)
        assert (row.p_value, row.flagged, row.sha256) == (
            other.p_value,
            other.flagged,
            other.sha256,
        )
    assert list(expected) == ["notes.txt"] or not expected
    assert {v.flagged for v in verdicts} == {True, False}
    assert result.flagged == sum(v.flagged for v in verdicts)
    assert f"{record.name} closed" in said.lines[-1]


def test_a_file_that_is_still_written_is_waited_for(pca_run, files, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = files[0].read_bytes()

    def write_slowly():
        with (folder / "slow.png").open("wb") as stream:
            for place in range(0, len(content), -(-len(content) // 8)):
                stream.write(content[place : place + -(-len(content) // 8)])
                stream.flush()
                time.sleep(0.03)

    threading.Timer(0.1, write_slowly).start()
    result, (verdict,) = watched(pca_run, folder, out, 1)
    assert (result.scored, result.failed) == (1, 0)
    assert verdict.entry.row.path == "slow.png"


@pytest.mark.parametrize("place", ["verdict", "note", "append"])
def test_what_a_killed_process_did_is_neither_lost_nor_done_twice(
    pca_run, files, tmp_path, monkeypatch, place
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file in files[:4]:
        shutil.copy(file, folder)
    calls = []

    class Killed(BaseException):
        pass

    def killing(honest):
        def called(*args):
            calls.append(place)
            if len(calls) == 3:
                raise Killed
            return honest(*args)

        return called

    with monkeypatch.context() as patch:
        if place == "note":
            patch.setattr(command.Watching, "_note", killing(command.Watching._note))
        if place == "append":
            patch.setattr(command.OpenRecord, "add", killing(command.OpenRecord.add))
        heard = killing(lambda verdict: None) if place == "verdict" else lambda verdict: None
        with pytest.raises(Killed):
            watch(pca_run, folder, out, far=FAR, on_verdict=heard)
    (left,) = records(out)
    assert (left / "journal.jsonl").exists()

    missing = {"verdict": 1, "note": 1, "append": 2}[place]
    result, _ = watched(pca_run, folder, out, missing)
    assert result.scored == missing
    assert sorted(row.path for row in rows_of(out)) == [file.name for file in files[:4]]
    again, _ = watched(pca_run, folder, out, 0)
    assert (again.scored, again.records) == (0, ())
    assert len(records(out)) == 1


def left_open(run, files, folder, out):
    """Let a process be killed when it has told three verdicts; return the journal it leaves."""

    class Killed(BaseException):
        pass

    heard = []

    def hear(verdict):
        heard.append(verdict)
        if len(heard) == 3:
            raise Killed

    folder.mkdir()
    for file in files[:4]:
        shutil.copy(file, folder)
    with pytest.raises(Killed):
        watch(run, folder, out, far=FAR, on_verdict=hear)
    (left,) = records(out)
    return left / "journal.jsonl"


@pytest.mark.parametrize("release", ["0.2.9", None])
def test_a_record_that_another_release_left_open_is_refused_and_left_as_it_is(
    pca_run, files, tmp_path, release
):
    """Its masks may follow another rule, which the record of this one would not say."""
    folder, out = tmp_path / "in", tmp_path / "out"
    journal = left_open(pca_run, files, folder, out)
    first, *lines = journal.read_bytes().splitlines(keepends=True)
    options = json.loads(first)["options"]
    del options["release"]
    options |= {"release": release} if release else {}
    content = json.dumps({"options": options}).encode() + b"\n" + b"".join(lines)
    journal.write_bytes(content)
    with pytest.raises(
        RunError, match="started with another release; go on with the same, or move"
    ):
        watched(pca_run, folder, out, 1)
    assert journal.read_bytes() == content
    journal.parent.rename(tmp_path / "away")
    result, _ = watched(pca_run, folder, out, 1)
    assert (result.scored, result.failed) == (1, 0)


@pytest.mark.parametrize("place", [0, 2])
def test_rows_that_can_no_longer_be_read_are_scored_again(pca_run, files, tmp_path, place):
    """The options and all that follows, or the last two rows, are in lines of another kind. One of
    their files is gone."""
    folder, out, said = tmp_path / "in", tmp_path / "out", Said()
    journal = left_open(pca_run, files, folder, out)
    lines = journal.read_bytes().splitlines(keepends=True)
    gone = json.loads(lines[-1])["row"]["path"]
    lines[place] = b'{"file": "of another format"}\n'
    journal.write_bytes(b"".join(lines))
    (folder / gone).unlink()
    lost = 3 if place == 0 else 2
    result, _ = watched(pca_run, folder, out, lost, reporter=said)
    assert result.scored == lost  # without the one that is gone, and with the fourth
    left = sorted(file.name for file in files[:4] if file.name != gone)
    assert sorted(row.path for row in rows_of(out)) == left
    text = f"{lost} rows can no longer be read; {lost - 1} of their files are scored again"
    assert any(text in line for line in said.lines)


def wait_for(condition):
    """Wait at most a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def when_watching(action):
    """Act when a folder is watched; return the reporter that is told of it."""
    said = Said()

    def act():
        wait_for(lambda: any(line.startswith("watching") for line in said.lines))
        action(said)

    threading.Thread(target=act, daemon=True).start()
    return said


def test_a_folder_that_is_away_for_a_while_is_not_scored_again(pca_run, files, tmp_path):
    folder, out, away = tmp_path / "in", tmp_path / "out", tmp_path / "away"
    folder.mkdir()
    for file in files[:2]:
        shutil.copy(file, folder)

    gone = f"{folder} is no longer there; waiting until it is back"

    def unmount(said):
        wait_for(lambda: (out / "taken.jsonl").read_bytes().count(b"\n") == 2)
        folder.rename(away)
        wait_for(lambda: gone in said.lines)
        away.rename(folder)
        shutil.copy(files[2], folder)

    said = when_watching(unmount)
    result, _ = watched(pca_run, folder, out, 3, reporter=said)
    assert result.scored == 3
    assert gone in said.lines

    folder.rename(away)
    folder.mkdir()  # as a place without its disk

    def mount(said):
        time.sleep(0.5)
        folder.rmdir()
        away.rename(folder)
        time.sleep(0.5)
        shutil.copy(files[3], folder)

    assert watched(pca_run, folder, out, 1, reporter=when_watching(mount))[0].scored == 1
    assert sorted(row.path for row in rows_of(out)) == sorted(file.name for file in files[:4])


def test_a_name_that_comes_again_is_another_row(pca_run, files, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()

    def deliver():
        for file in files[:3]:
            shutil.copy(file, folder / ".part")
            (folder / ".part").rename(folder / "latest.png")
            time.sleep(0.4)

    threading.Timer(0.2, deliver).start()
    watched(pca_run, folder, out, 3)
    rows = rows_of(out)
    assert [row.path for row in rows] == ["latest.png", "latest.png~2", "latest.png~3"]
    assert len({row.sha256 for row in rows}) == 3


def test_records_are_closed_by_count_and_damaged_files_have_rows(pca_run, files, tmp_path):
    folder, out, said = tmp_path / "in", tmp_path / "out", Said()
    folder.mkdir()
    for file in files[:4]:
        shutil.copy(file, folder)
    (folder / "zz.png").write_bytes(files[0].read_bytes()[:200])
    result, _ = watched(pca_run, folder, out, 5, closing=Closing(count=2), reporter=said)
    assert (result.scored, result.failed) == (4, 1)
    assert [len(directories.read(each).rows) for each in records(out)] == [2, 2, 1]
    (failed,) = [row for row in rows_of(out) if row.error]
    assert failed.path == "zz.png"
    assert any(line.startswith("zz.png: ") for line in said.lines)
    taken = (out / "taken.jsonl").read_text().splitlines()
    assert len(taken) == 5
    (folder / "zz.png").unlink()
    shutil.copy(files[5], folder)
    watched(pca_run, folder, out, 1)
    assert "zz.png" not in (out / "taken.jsonl").read_text()


def test_records_are_closed_by_the_hour(pca_run, files, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(files[0], folder)

    def deliver():
        while not list(out.glob("records/*/audit.json")):
            time.sleep(0.02)
        shutil.copy(files[1], folder)

    threading.Thread(target=deliver, daemon=True).start()
    result, _ = watched(pca_run, folder, out, 2, closing=Closing(hours=0.1 / 3600))
    assert len(result.records) == 2
    assert [len(directories.read(each).rows) for each in records(out)] == [1, 1]


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(json.loads(content))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hook():
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.heard, server.answers = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_flag_is_heard_by_a_command_and_an_address(pca_run, files, tmp_path, hook):
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "a file; with spaces"
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder / f"{file.parent.name}-{file.name}")
    hook.answers = [503]
    keep = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read() + b'\\n')"
    result, verdicts = watched(
        pca_run,
        folder,
        out,
        len(files),
        alarm=[sys.executable, "-c", keep, str(log)],
        webhook=f"http://127.0.0.1:{hook.server_port}/line",
    )
    flagged = sorted(v.entry.row.path for v in verdicts if v.flagged)
    assert 0 < len(flagged) < len(files)
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted({each["path"] for each in said}) == flagged
    assert sorted({each["path"] for each in hook.heard}) == flagged
    assert len(hook.heard) == len(flagged) + 1  # one was tried again
    assert {each["record"] for each in said} == {records(out)[0].name}
    assert all(each["p_value"] <= FAR and each["regions"] is not None for each in said)
    assert result.unheard == 0


def test_an_alarm_that_nobody_hears_is_said_and_does_not_stop_the_line(tmp_path):
    said = Said()
    with Alarms(tmp_path / "alarms.jsonl", [sys.executable, "-c", "exit(3)"], "", said) as alarms:
        for name in ("a", "b", "a"):
            alarms.send({"record": "r", "path": name})
        alarms.wait()
        assert alarms.failed == 2
    assert said.lines[0] == "a: the alarm was not heard: the command ended with 3"
    with Alarms(tmp_path / "alarms.jsonl", ["/no/such/command"], "", said) as alarms:
        alarms.send({"record": "r", "path": "a"})  # it was tried before
        alarms.send({"record": "r", "path": "c"})
    assert [line for line in said.lines if "cannot be run" in line] == [
        "c: the alarm was not heard: the command cannot be run (No such file or directory)"
    ]


def test_where_one_means_fails_the_other_does_not_hear_an_alarm_again(tmp_path, hook):
    """Each has its own line in the log, and what was killed between two is sent by the second."""
    said, heard, log = Said(), tmp_path / "heard", tmp_path / "alarms.jsonl"
    program = f"import sys; open({str(heard)!r}, 'ab').write(sys.stdin.buffer.read() + b'\\n')"
    command = [sys.executable, "-c", program]
    with Alarms(log, command, "http://127.0.0.1:9/", said) as alarms:
        alarms.send({"record": "r", "path": "a"})
    assert len(heard.read_text().splitlines()) == 1 and alarms.failed == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(each["means"], each["state"]) for each in lines] == [
        ("command", "heard"),
        ("webhook", "failed"),
    ]
    log.write_text(log.read_text().splitlines(keepends=True)[0])  # killed while it was posted
    address = f"http://127.0.0.1:{hook.server_address[1]}/"
    with Alarms(log, command, address, said) as alarms:
        alarms.send({"record": "r", "path": "a"})
    assert len(heard.read_text().splitlines()) == 1
    assert [each["path"] for each in hook.heard] == ["a"] and alarms.failed == 0
    log.write_text('{"record": "r", "path": "b", "state": "heard"}\n')  # of an older release
    with Alarms(log, command, address, said) as alarms:
        alarms.send({"record": "r", "path": "b"})
    assert len(heard.read_text().splitlines()) == len(hook.heard) == 1


def test_alarms_go_on_where_their_log_cannot_be_written(tmp_path, monkeypatch):
    def full(lines):
        raise DiskFullError("alarms.jsonl: the disk is full")

    said, heard = Said(), tmp_path / "heard"
    program = f"import sys; open({str(heard)!r}, 'ab').write(sys.stdin.buffer.read() + b'\\n')"
    with Alarms(tmp_path / "alarms.jsonl", [sys.executable, "-c", program], "", said) as alarms:
        monkeypatch.setattr(alarms.lines, "append", full)
        for name in ("a", "b"):
            alarms.send({"record": "r", "path": name})
    assert len(heard.read_text().splitlines()) == 2 and alarms.failed == 0
    assert said.lines[0].endswith("its alarm is lost: alarms.jsonl: the disk is full")


def test_alarms_of_a_killed_process_are_sent_by_the_next(pca_run, files, tmp_path, hook):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(files[-1], folder / "defect.png")
    webhook = f"http://127.0.0.1:{hook.server_port}/"

    def heard(verdict):
        (out / "alarms.jsonl").unlink(missing_ok=True)
        raise SystemError

    with pytest.raises(SystemError):
        watch(pca_run, folder, out, far=FAR, on_verdict=heard)
    assert not hook.heard
    watched(pca_run, folder, out, 0, webhook=webhook)
    assert [each["path"] for each in hook.heard] == ["defect.png"]


def test_what_cannot_be_meant_is_refused(pca_run, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="watched folder"):
        watch(pca_run, tmp_path / "in", tmp_path / "in" / "out")
    with pytest.raises(ConfigError, match="no/folder is not a folder"):
        watch(pca_run, tmp_path / "no/folder", tmp_path / "out")
    with pytest.raises(ConfigError, match="--hours"):
        watch(pca_run, tmp_path / "in", tmp_path / "out", closing=Closing(hours=0))
    with pytest.raises(ConfigError, match="--hours"):
        watch(pca_run, tmp_path / "in", tmp_path / "out", closing=Closing(hours=float("nan")))
    with pytest.raises(ConfigError, match="name it alone"):
        watch(pca_run, tmp_path / "in", tmp_path / "out", heatmaps=["none", "tiff"])
    with pytest.raises(ConfigError, match="--webhook"):
        watch(pca_run, tmp_path / "in", tmp_path / "out", webhook="file:///etc/passwd")
    with pytest.raises(ConfigError, match="no user or password") as refused:
        watch(pca_run, tmp_path / "in", tmp_path / "out", webhook="https://me:secret@host/line")
    assert "secret" not in str(refused.value)
    lock = command._locked(tmp_path / "out")
    with pytest.raises(RunError, match="another process works here"):
        watch(pca_run, tmp_path / "in", tmp_path / "out")
    lock.release()


def test_scores_that_change_are_told_where_the_record_later_says_it():
    rng = np.random.default_rng(3)
    scores = [*rng.normal(0, 1, 300), *rng.normal(2, 1, 200)]
    when = [f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}" for n in range(len(scores))]
    follower = Follower(np.random.default_rng(0))
    fired = [n for n, score in enumerate(scores) if follower.add(score)]
    assert len(fired) == 1 and 300 < fired[0] < 400
    whole = martingale(scores, [str(n) for n in range(len(scores))], when)
    assert whole.fires
    assert abs(when.index(whole.alarm) - fired[0]) < 20  # ties are broken by other draws
