"""Scoring on several processes of this machine: the same rows, nothing lost, nobody left behind."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

import anodetect
from anodetect.commands.inputs import collect
from anodetect.commands.recorded_maps import CLOSE
from anodetect.commands.rescore import rescore
from anodetect.data import synthetic
from anodetect.engines import local
from anodetect.errors import ConfigError, RunError
from anodetect.record import directories, threads, verification
from anodetect.record.rows import ScoreRow, to_table
from anodetect.types import Silent

FAR = 0.2
# seconds within which a worker is to notice that it is alone; at once, if nothing else runs
GONE = 20.0
SAME = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """150 images, one of them damaged, in files of more than one depth."""
    folder = tmp_path_factory.mktemp("processes") / "images"
    folder.mkdir()
    pictures, _ = synthetic.images(148, size=64, seed=7)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[0]).save(folder / f"{number}.png")
    Image.fromarray((25600 + pictures[0][0].astype(np.uint16)).astype(np.uint16)).save(
        folder / "deep.png"
    )
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def here(pca_run, folder, tmp_path_factory):
    """The folder scored by this process alone."""
    out = tmp_path_factory.mktemp("processes") / "here"
    anodetect.score(pca_run, [str(folder)], out, far=FAR, workers=1)
    return directories.read(out)


def same_rows(one, other):
    assert [row.path for row in one.rows] == [row.path for row in other.rows]
    for a, b in zip(one.rows, other.rows, strict=True):
        assert (a.score is None) == (b.score is None) == (b.status != "ok")
        assert b.score is None or a.score == pytest.approx(b.score, rel=SAME)
        assert replace(a, score=None, threshold=None) == replace(b, score=None, threshold=None)


def command(run, data, out, *more):
    anodetect = [
        sys.executable,
        "-m",
        "anodetect.cli",
        "score",
        str(run),
        str(data),
        "--out",
        str(out),
    ]
    return [*anodetect, "--far", str(FAR), "--workers", "2", *more]


def workers_of(process):
    """Beside them runs a helper of multiprocessing."""
    return [
        each
        for each in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(each.cmdline())
    ]


def begun(out, lines=20):
    """Wait until some files are finished."""
    journal = out / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        time.sleep(0.02)


# -- The same as one -------------------------------------------------------------------------------


def test_two_processes_give_the_rows_of_one(pca_run, folder, here, tmp_path):
    told = []

    class Heard(Silent):
        def progress(self, task, done, total, note=""):
            told.append((done, total, note))

    out = tmp_path / "s"
    anodetect.score(pca_run, [str(folder)], out, far=FAR, workers=2, reporter=Heard())
    there = directories.read(out)
    same_rows(there, here)
    assert there.outputs["name"].to_pylist() == here.outputs["name"].to_pylist()
    assert there.audit.cases == here.audit.cases
    assert there.audit.counts == {"ok": 149, "failed": 1}
    assert told[-1][:2] == (150, 150)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert verification.verify(out).intact
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("two_threads")
def test_scores_of_a_network_are_scored_again_bit_for_bit_on_as_many_threads(
    anoddpm_run, folder, tmp_path
):
    out, some = tmp_path / "s", [str(folder / f"{number}.png") for number in range(24)]
    anodetect.score(anoddpm_run, some, out, far=FAR, heatmaps=(), workers=2)
    scored = directories.read(out)
    assert scored.audit.threads == (max(1, local.cpu_count() // 2),)
    anodetect.score(anoddpm_run, some, tmp_path / "alone", far=FAR, heatmaps=(), workers=1)
    same_rows(scored, directories.read(tmp_path / "alone"))
    before = threads.in_use()
    threads.limit(before + 1)
    try:
        assert rescore(out, 20) == []
        assert threads.in_use() == before + 1
    finally:
        threads.limit(before)


def test_rescoring_uses_the_recorded_number_of_threads(pca_run, folder, tmp_path, monkeypatch):
    out = tmp_path / "s"
    anodetect.score(pca_run, [str(folder / "1.png")], out, far=FAR, heatmaps=())
    scored = directories.read(out)
    tables = directories.read_tables(out)
    directories.write(out, replace(scored.audit, threads=(3, 5)), tables)
    limited = []
    monkeypatch.setattr(threads, "limit", limited.append)
    assert rescore(out, 1) == []
    assert limited == [
        3,
        5,
        threads.in_use(),
    ]  # the file came out right with 3, and is not scored with 5
    rows = to_table(
        (replace(row, score=row.score * (1 + CLOSE / 2)) for row in scored.rows), ScoreRow
    )
    tables = replace(tables, scores=rows)
    directories.write(out, replace(scored.audit, host="another"), tables)
    assert rescore(out, 1) == []
    directories.write(out, scored.audit, tables)
    assert len(rescore(out, 1)) == 1


def test_shards_on_processes_are_the_whole(pca_run, folder, here, tmp_path):
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, start=1):
        anodetect.score(
            pca_run,
            [str(folder)],
            part,
            far=FAR,
            workers=2,
            shard=f"{number}/2",
            heatmaps=here.audit.heatmaps,
        )
    anodetect.merge(parts, tmp_path / "merged")
    same_rows(directories.read(tmp_path / "merged"), here)


# -- Whatever happens ------------------------------------------------------------------------------


def test_a_worker_that_dies_is_an_error_and_the_rest_can_be_resumed(
    pca_run, folder, here, tmp_path
):
    out, killed = tmp_path / "s", []

    class Kills(Silent):
        def progress(self, task, done, total, note=""):
            if not killed:
                killed.extend(multiprocessing.active_children())
                killed[0].kill()

    with pytest.raises(RunError, match=r"ended by SIGKILL.*--resume"):
        anodetect.score(pca_run, [str(folder)], out, far=FAR, workers=2, reporter=Kills())
    assert len(killed) == 2
    assert not multiprocessing.active_children()
    assert not (out / "audit.json").exists()
    anodetect.score(pca_run, [str(folder)], out, far=FAR, workers=2, resume=True)
    same_rows(directories.read(out), here)
    assert not list(out.rglob(".writing.*"))


def test_what_makes_a_worker_fail_is_said(pca_run, folder, tmp_path):
    class Removes(Silent):
        """Takes the model away, before the workers read it."""

        def say(self, text):
            run.rename(tmp_path / "elsewhere")

    run = shutil.copytree(pca_run, tmp_path / "run")
    with pytest.raises(RunError, match="no such run directory"):
        anodetect.score(run, [str(folder)], tmp_path / "s", workers=2, reporter=Removes())
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_all_processes_without_noise_and_can_be_resumed(
    pca_run, folder, here, tmp_path
):
    out = tmp_path / "s"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(pca_run, folder, out), stderr=pipe, stdout=pipe, text=True, start_new_session=True
    )
    begun(out)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume goes on" in told
    assert "Traceback" not in told
    assert len(workers) == 2
    assert not any(each.is_running() for each in workers)
    finished = (out / "journal.jsonl").read_bytes().count(b"\n") - 1
    again = subprocess.run(
        command(pca_run, folder, out, "--resume", "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{finished} of 150 files finished before" in again.stderr
    assert json.loads(again.stdout)["scored"] == 149
    same_rows(directories.read(out), here)


def test_workers_do_not_outlive_a_process_that_is_killed(pca_run, folder, here, tmp_path):
    out = tmp_path / "s"
    process = subprocess.Popen(command(pca_run, folder, out), stderr=subprocess.DEVNULL)
    begun(out)
    workers = workers_of(process)
    process.kill()
    process.wait()
    assert len(workers) == 2
    _, left = psutil.wait_procs(workers, timeout=GONE)
    assert not left
    anodetect.score(pca_run, [str(folder)], out, far=FAR, workers=2, resume=True)
    same_rows(directories.read(out), here)


# -- How many --------------------------------------------------------------------------------------


def test_a_process_for_each_core_unless_memory_does_not_do():
    assert local.share(2, 24e9) == (2, 1)
    assert local.share(1, 24e9) == (1, 1)
    assert local.share(8, 16e9) == (2, 4)
    assert local.share(64, 256e9) == (32, 2)
    assert local.share(4, 2e9) == (1, 4)


def test_no_processes_are_started_where_they_do_not_help(pca_run, folder, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("processes were started")

    monkeypatch.setattr(local, "_start", refuse)
    monkeypatch.setattr(local, "cpu_count", lambda: 2)
    monkeypatch.setattr(local, "memory", lambda: 24e9)
    some = [str(folder / f"{number}.png") for number in range(40)]
    anodetect.score(pca_run, some, tmp_path / "few", heatmaps=(), workers=None)
    anodetect.score(pca_run, [str(folder)], tmp_path / "one", heatmaps=(), workers=1)
    with pytest.raises(AssertionError, match="were started"):
        anodetect.score(pca_run, [str(folder)], tmp_path / "two", heatmaps=(), workers=None)
    task, items = None, collect([str(folder)], tmp_path, False).records
    with_masks = [replace(record, masks=(record.path,)) for record in items]
    assert local._suitable_number(task, with_masks)[0] == 1


def test_no_workers_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        local.engine(0)


def test_a_script_is_not_run_again_by_the_processes_that_it_starts(pca_run, folder, tmp_path):
    """The example of the documentation has no `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import anodetect

print("begins", flush=True)
result = anodetect.score({str(pca_run)!r}, [{str(folder)!r}], "scores", workers=2, heatmaps=())
print(result.scored, flush=True)
""")
    command = [sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["begins", "149"], done.stderr


MINE = """
from anodetect.detectors import DETECTORS
from anodetect.detectors.pca import PCA


class Mine(PCA):
    pass


DETECTORS["mine"] = replace(DETECTORS["pca"], target=__name__ + ":Mine")
"""


@pytest.mark.parametrize("place", ["script", "module", "run by name"])
def test_a_detector_of_the_callers_own_scores_many_files(
    place, synthetic_folder, folder, here, tmp_path
):
    """The processes that are started have it too, unless the script itself defines it."""
    mine = f"from dataclasses import replace\n{MINE}"
    (tmp_path / "module.py").write_text(mine)
    (tmp_path / "script.py").write_text(f"""
import anodetect
from anodetect.types import Silent
{"import module" if place == "module" else mine}

class Shown(Silent):
    def say(self, text):
        print(text, flush=True)

if __name__ == "__main__":
    anodetect.train({str(synthetic_folder)!r}, "mine", "run")
    result = anodetect.score(
        "run", [{str(folder)!r}], "scores", far={FAR}, workers=2, heatmaps=(), reporter=Shown()
    )
""")
    start = ["-m", "script"] if place == "run by name" else ["script.py"]
    command = [sys.executable, *start]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("one process: the detector is defined in the script" in done.stdout) == (
        place == "script"
    )
    record = directories.read(tmp_path / "scores")
    assert [(row.path, row.status) for row in record.rows] == [
        (row.path, row.status) for row in here.rows
    ]
