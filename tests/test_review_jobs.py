"""Background commands: only in their folders, known again, and gone when they are cancelled."""

import json
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from anodetect.errors import ConfigError, RunError
from apps.review import folders, jobs


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "work"
    root.mkdir()
    return root


def until(condition, seconds=60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.05)


@pytest.fixture
def stand_in(root, monkeypatch, interruptible):
    """Starts Python code in place of the command line, and ends it if a test has not."""
    started = []

    def start(code, out="run"):
        real = jobs._start
        monkeypatch.setattr(
            jobs,
            "_start",
            lambda folder, _, out: real(folder, [sys.executable, "-P", "-c", code, "train"], out),
        )
        started.append(jobs.start(root, ["train"], root / out))
        monkeypatch.setattr(jobs, "_start", real)
        return started[-1]

    yield start
    for job in started:
        jobs.cancel(job)


SLEEP = """
import sys, time
print("train: 3/10 loss 1", file=sys.stderr, flush=True)
time.sleep(60)
"""
# Ignores an interruption, and so does its child.
IGNORE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_train_and_score_from_the_folder_to_the_table(root, synthetic_folder):
    (root / "data").symlink_to(synthetic_folder / "train/good")
    # A link that leads out of the root is outside.
    with pytest.raises(ConfigError, match="in none of the folders"):
        jobs.train_command([root], root / "data", "pca", root / "run", budget=1)
    (root / "data").unlink()
    shutil.copytree(synthetic_folder / "train/good", root / "data")
    job = jobs.start(
        root, jobs.train_command([root], root / "data", "pca", root / "run", budget=1), root / "run"
    )
    assert jobs.state(job) == "running"
    until(lambda: jobs.state(job) != "running")
    assert jobs.state(job) == "done", (job.folder / jobs.LOG).read_text()
    found = folders.search([root])
    assert (found.runs, found.scores, found.images) == ((root / "run",), (), (root / "data",))
    command = jobs.score_command([root], root / "run", root / "data", root / "scores", far=0.2)
    scored = jobs.start(root, command, root / "scores")
    until(lambda: jobs.state(scored) != "running")
    assert [jobs.state(each) for each in jobs.all_jobs([root])] == ["done", "done"]
    assert folders.search([root]).scores == (root / "scores",)
    row = folders.run_row(root / "run", {})
    assert (row.detector, row.data, row.image_auroc) == ("pca", "data", "")


def test_channels_are_checked_before_they_become_an_option(root):
    (root / "data").mkdir()

    def command(channels, missing=False):
        options = {"channels": channels, "allow_missing": missing}
        return jobs.train_command([root], root / "data", "pca", root / "run", budget=1, **options)

    assert not [part for part in command(" ") if part.startswith("--channels")]
    found = command(" t1=*T1w*,flair=--out ", missing=True)
    assert found[-3:] == ["--channels=t1=*T1w*,flair=--out", "--allow-missing", "--json"]
    for channels, missing in (("t1=*T1w*", False), ("", True)):
        with pytest.raises(ConfigError):
            command(channels, missing)


def test_a_job_is_known_again_from_the_disk(root, stand_in):
    job = stand_in(SLEEP)
    until(lambda: jobs.progress(job).total)
    (again,) = jobs.all_jobs([root])
    assert again == job and jobs.state(again) == "running"
    progress = jobs.progress(again)
    assert (progress.done, progress.total, progress.line) == (3, 10, "train: 3/10 loss 1")
    with pytest.raises(ConfigError, match="still being made"):
        jobs.start(root, ["train"], root / "other")


def test_another_process_with_the_same_number_is_not_the_job(root, stand_in):
    job = stand_in(SLEEP)
    content = json.loads((job.folder / jobs.JOB).read_text())
    (job.folder / jobs.JOB).write_text(json.dumps(content | {"created": content["created"] - 60}))
    (other,) = jobs.all_jobs([root])
    assert jobs.state(other) == "failed"
    jobs.cancel(other)
    assert jobs.state(job) == "running"


def test_nothing_is_left_running_when_a_job_is_cancelled(root, stand_in, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.5)
    job = stand_in(IGNORE)
    child = job.folder / jobs.RESULT
    until(lambda: child.read_text().strip())
    numbers = [job.pid, int(child.read_text())]
    jobs.cancel(job)
    assert jobs.state(job) == "cancelled"
    assert not any(
        psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE for n in numbers
    )
    jobs.cancel(job)  # once more does nothing


def test_a_cancelled_training_goes_on(root, stand_in, monkeypatch):
    job = stand_in(SLEEP)
    jobs.cancel(job)
    started = []
    monkeypatch.setattr(jobs, "_start", lambda folder, command, out: started.append((command, out)))
    jobs.resume(
        root, jobs.Job(job.folder, (*"abcd", "train", "x", "--resume"), job.out, 1, 0.0, "")
    )
    ((command, out),) = started
    assert command[3:] == ["anodetect.cli", "train", "x", "--resume"] and out == job.out


@pytest.mark.parametrize(
    "name", ["../run", "-run", ".run", "a b", "", "a/../../b", "$(touch x)", "x" * 101, "ü"]
)
def test_names_that_could_lead_out_are_refused(root, name):
    (root / "data").mkdir()
    with pytest.raises(ConfigError):
        jobs.train_command([root], root / "data", "pca", Path(f"{root}/{name}"), budget=1)


@pytest.mark.parametrize("path", ["/etc", "../..", "\0", "/", ""])
def test_folders_outside_the_roots_are_refused(root, path):
    with pytest.raises(ConfigError, match="in none of the folders"):
        folders.allowed(path, [root])
    assert folders.allowed(root, [root]) == root


def test_what_is_there_already_is_not_written_over(root):
    (root / "run").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        jobs.train_command([root], root, "pca", root / "run", budget=1)


def test_a_damaged_job_is_reported(root):
    folder = root / jobs.FOLDER / "1"
    folder.mkdir(parents=True)
    (folder / jobs.JOB).write_text("{")
    with pytest.raises(RunError, match="remove its folder"):
        jobs.all_jobs([root])
