"""One writer at a time, kills, full disks, and the head of a record that is complete."""

import errno
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import anodetect
from anodetect import cli, files
from anodetect.commands import forget as forgetting
from anodetect.commands import maps as remaking
from anodetect.commands.forget import forget
from anodetect.commands.report import report
from anodetect.commands.reviews import export
from anodetect.commands.stopping import sigterm_as_interrupt
from anodetect.errors import DiskFullError, RunError
from anodetect.imaging.batch_files import BatchWriter
from anodetect.output import report as score_report
from anodetect.record import directories, partial, reviews, runs
from anodetect.record.scratch import scratch_folder
from anodetect.types import Silent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signal kills a process there")


TRAIN = "train {in}/more -d pca --folds 0 --set components=3 --out {out}"
CALIBRATE = "calibrate {run} {in}/more/train --out {out}"
NAMES = ("train", "calibrate", "merge", "report", "forget", "review", "maps", "study", "watch")
NAMES += ("reviews-export", "serve")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A run, new normals, and the score directories of two shards."""
    from benchmarks import kills

    folder = tmp_path_factory.mktemp("inputs")
    kills.prepare(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_killed_twice_the_same_command_works_and_loses_nothing(inputs, tmp_path, name):
    """benchmarks/kills.py does so at 25 moments each, and for trainings with checkpoints."""
    from benchmarks import kills

    if name == "serve":
        pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    found = list(kills.killed(name, inputs, tmp_path, count=2, seed=3))
    assert [(each.at, each.problem) for each in found if each.problem] == []
    assert len(found) == 2


# -- One writer ------------------------------------------------------------------------------------


def held(folder):
    """The lock of a folder in which another process writes."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / partial.LOCK, timeout=0)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("merge", "out.partial"),
        ("calibrate", "out.partial"),
        ("report", "part1"),
        ("forget", "part1"),
    ],
)
def test_a_second_writer_is_refused_before_any_work(inputs, tmp_path, name, place):
    out, part = tmp_path / "out", shutil.copytree(inputs / "part1", tmp_path / "part1")
    commands = {
        "merge": lambda: anodetect.merge([part, inputs / "part2"], out),
        "calibrate": lambda: anodetect.calibrate(inputs / "run", str(inputs / "more/train"), out),
        "report": lambda: report(part),
        "forget": lambda: forget(part, directories.read(inputs / "part1").rows[0].group),
    }
    before = sorted(part.rglob("*"))
    with held(tmp_path / place), pytest.raises(RunError, match="another process is writing"):
        commands[name]()
    assert sorted(part.rglob("*")) in (before, sorted([*before, part / partial.LOCK]))
    assert not out.exists()
    (part / partial.LOCK).unlink(missing_ok=True)
    commands[name]()
    assert not list(tmp_path.rglob(partial.LOCK))


def test_an_export_that_another_process_writes_is_refused(inputs, tmp_path):
    from benchmarks import kills

    part = shutil.copytree(inputs / "part1", tmp_path / "part1")
    kills._judge(part, 1, None)
    with held(tmp_path / "out.partial"), pytest.raises(RunError, match="is writing this export"):
        export(part, "coco", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(part, "coco", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["reviews.json"]


def test_a_lock_that_is_a_link_is_not_followed(inputs, tmp_path):
    part, precious = shutil.copytree(inputs / "part1", tmp_path / "part"), tmp_path / "precious"
    precious.write_text("kept")
    (part / partial.LOCK).symlink_to(precious)
    with pytest.raises(RunError, match="not a file that a lock can be"):
        report(part)
    assert precious.read_text() == "kept"


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    young, old = tmp_path / ".writing.0", tmp_path / ".writing.1"
    for file in (young, old):
        file.touch()
    os.utime(old, (0, 0))
    with partial.only_writer(tmp_path):
        assert young.exists() and not old.exists()


def test_folders_that_were_left_are_removed_but_none_that_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, link = (tmp_path / f"anodetect-x-{name}" for name in ("left", "young", "link"))
    precious = tmp_path / "precious"
    for folder in (left, young, precious):
        folder.mkdir()
        (folder / "image").touch()
    (left / partial.LOCK).touch()
    (precious / partial.LOCK).touch()
    link.symlink_to(precious)
    with scratch_folder("x") as first, scratch_folder("x") as second:
        assert first != second and first.is_dir() and second.is_dir()
        assert not left.exists() and young.exists() and link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, young, precious]
    os.utime(young, (0, 0))
    with scratch_folder("x"):
        assert not young.exists()
    assert (precious / "image").exists()


def test_what_is_made_in_one_go_needs_a_name(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="give --out a name"):
        anodetect.merge([inputs / "part1", inputs / "part2"], ".")
    with pytest.raises(RunError, match="give --out a name"):
        partial.partial(Path(".."))


def test_a_merge_is_complete_or_absent(inputs, tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(score_report, "write", fail)
    (tmp_path / "out").mkdir()  # an empty folder is taken
    with pytest.raises(OSError, match="Input/output"):
        anodetect.merge([inputs / "part1", inputs / "part2"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"] and not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    result = anodetect.merge([inputs / "part1", inputs / "part2"], tmp_path / "out")
    assert result.out == tmp_path / "out" and anodetect.verify(result.out).intact


def test_a_directory_that_was_being_replaced_is_found_again(inputs, tmp_path):
    part = shutil.copytree(inputs / "part1", tmp_path / "part")
    group = directories.read(part).rows[0].group
    part.rename(tmp_path / "part.forgotten")  # all that is left after a kill at that moment
    assert forget(part, group).rows == 1
    assert list(tmp_path.iterdir()) == [part]


def test_no_verdict_is_given_while_a_directory_is_replaced(inputs, tmp_path, monkeypatch):
    """It would be in the directory that is removed."""
    from benchmarks import kills

    part, tried = shutil.copytree(inputs / "part1", tmp_path / "part"), []
    kills._judge(part, 1, None)
    replace = forgetting._replace

    def give_one(path, new):
        other = closing(sqlite3.connect(path / reviews.FILE, timeout=0))
        with other as connection, pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        tried.append(path)
        replace(path, new)

    monkeypatch.setattr(forgetting, "_replace", give_one)
    assert forget(part, directories.read(part).rows[0].group).verdicts == 1
    assert tried == [part] and len(reviews.read(part / reviews.FILE)) == 1


# -- Complete --------------------------------------------------------------------------------------


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.mark.parametrize("command", ["score", "merge"])
def test_the_head_is_said_as_soon_as_the_record_is_complete(inputs, tmp_path, monkeypatch, command):
    heads, reporter = [], Listening()

    def fail(folder, *key):
        heads.append(directories.read(folder).audit.head)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(score_report, "write", fail)
    with pytest.raises(OSError, match="Input/output"):
        if command == "merge":
            anodetect.merge([inputs / "part1", inputs / "part2"], tmp_path / "s", reporter=reporter)
        else:
            images = [str(inputs / "more/test")]
            anodetect.score(inputs / "run", images, tmp_path / "s", heatmaps=(), reporter=reporter)
    assert heads and reporter.said[-1].endswith(f"record complete: chain head {heads[0]}")


def test_all_is_on_the_disk_before_a_record_is_called_complete(inputs, tmp_path, monkeypatch):
    """A file of the record is no longer changed after it was flushed, nor is its folder."""
    synced, fsync = set(), os.fsync

    def note(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)
        if (tmp_path / "s" / directories.AUDIT_FILE).exists():
            audited.append(len(synced))

    audited = []
    monkeypatch.setattr(os, "fsync", note)
    images = [str(inputs / "more/test")]
    anodetect.score(inputs / "run", images, tmp_path / "s", heatmaps=("tiff", "mask"))
    names = [name for name in directories.files(tmp_path / "s") if name != directories.AUDIT_FILE]
    assert len(names) > 8
    inodes = {(tmp_path / "s" / name).stat().st_ino for name in names}
    folders = {path.stat().st_ino for path in (tmp_path / "s").rglob("*") if path.is_dir()}
    assert inodes | folders <= synced
    assert audited  # what came after is the signature, the report and the journal's end


def test_a_run_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(runs, "sync_tree", lambda path: order.append(path.name))
    with runs.begin(tmp_path / "run", resume=False) as workdir:
        (workdir / "config.json").touch()
    assert order == ["run.partial"]


# -- Full disks ------------------------------------------------------------------------------------


def test_a_memory_map_takes_its_room_at_once(tmp_path, monkeypatch):
    """Where a disk became full while a map is written, the system would end the process."""
    image, inside = np.ones((3, 8, 8), np.float32), np.ones((8, 8), bool)
    writer = BatchWriter(tmp_path / "kept", 50)
    writer.append(image, inside)
    for file in tmp_path.iterdir():
        assert file.stat().st_blocks * 512 >= file.stat().st_size

    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"more-images.npy: cannot be written \(No space left"):
        BatchWriter(tmp_path / "more", 50).append(image, inside)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux flushes a single file system")
def test_very_many_files_are_flushed_at_once(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr(files, "AT_ONCE", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("one by one"))
    files.sync_tree(tmp_path)


def test_only_errors_of_file_systems_that_cannot_flush_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    for code, passes in ((errno.EINVAL, True), (errno.EIO, False)):

        def fail(descriptor, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fail)
        if passes:
            files.sync_tree(tmp_path)
            continue
        with pytest.raises(RunError, match="a: cannot be written"):
            files.sync_tree(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_maps_are(inputs, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(remaking, "_worker", lambda *given: pytest.fail("a model was loaded"))
    path = directories.read(inputs / "part1").rows[0].path
    with pytest.raises(RunError, match=r"cannot be made, as .*file is no folder; choose another"):
        remaking.maps(inputs / "part1", [path], out=tmp_path / "file/maps")


# -- Stopped ---------------------------------------------------------------------------------------


@pytest.fixture
def plain_sigterm():
    """SIGTERM has no handler, as in a new process; Ray, for one, leaves its own in this one."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("plain_sigterm")
def test_sigterm_ends_a_block_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        stop()
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL
    with sigterm_as_interrupt(), sigterm_as_interrupt():
        assert callable(signal.getsignal(signal.SIGTERM))


def stop(*arguments, **options):
    """Stop this process as systems do that shut down."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


@pytest.mark.usefixtures("plain_sigterm")
@pytest.mark.parametrize(
    ("where", "arguments", "said"),
    [
        ("anodetect.engines.worker.score_records", "score {run} {in}/more --out {out}", "--resume"),
        ("anodetect.commands.score.finish", "score {run} {in}/more --out {out}", "--resume"),
        ("anodetect.commands.score.collect", "score {run} {in}/more --out {out}", "the same"),
        ("anodetect.output.report.write", "merge {in}/part1 {in}/part2 --out {out}", "the same"),
        ("anodetect.commands.train.calibrate_model", TRAIN, "the same"),
        ("anodetect.commands.calibrate.calibrate_model", CALIBRATE, "the same"),
    ],
)
def test_a_command_that_is_stopped_goes_on_or_leaves_nothing(
    inputs, tmp_path, monkeypatch, capfd, where, arguments, said
):
    places = {"run": inputs / "run", "in": inputs, "out": tmp_path / "out"}
    given = [each.format(**places) for each in arguments.split()]
    monkeypatch.setattr(sys, "argv", ["anodetect", *given])
    with monkeypatch.context() as patch:
        patch.setattr(where, stop)
        with pytest.raises(SystemExit) as leave:
            cli.main()
    assert leave.value.code == 130
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("anodetect: stopped") and said in last
    assert not list(tmp_path.rglob(".writing*"))
    if given[0] != "train":  # which leaves its log
        assert not list(tmp_path.glob("*.partial"))

    again = ["--resume"] if given[0] == "score" else []
    monkeypatch.setattr(sys, "argv", ["anodetect", *given, *again])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code in (0, None), capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
