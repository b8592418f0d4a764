"""Background commands: only in their folders, known again, and gone when they are cancelled."""

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from anodetect.errors import ConfigError, RunError
from apps.review import folders, jobs
from benchmarks import fuzz


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(jobs.Path, "home", lambda: tmp_path / "home")
    root = tmp_path / "work"
    root.mkdir()
    return root


def until(condition, seconds=60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.05)


def training(root, name="run"):
    return jobs.train_command([root], root, "pca", root / name, budget=1)


@pytest.fixture
def stand_in(root, monkeypatch, interruptible):
    """Starts Python code in place of the command line, and ends it if a test has not."""
    started = []

    def start(code):
        monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, "-P", "-c", code))
        started.append(jobs.start(root, training(root)))
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
    job = jobs.start(root, jobs.train_command([root], root / "data", "pca", root / "run", budget=1))
    assert jobs.state(job) == "running"
    until(lambda: jobs.state(job) != "running")
    assert jobs.state(job) == "done", (job.folder / jobs.LOG).read_text()
    found = folders.search([root])
    assert (found.runs, found.scores, found.images) == ((root / "run",), (), (root / "data",))
    command = jobs.score_command([root], root / "run", root / "data", root / "scores", far=0.2)
    scored = jobs.start(root, command)
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
        jobs.start(root, training(root, "other"))


@pytest.mark.parametrize("change", [{"created": -60}, {"arguments": "--seed=1"}, {"pid": True}])
def test_another_process_with_the_same_number_is_not_the_job(root, stand_in, change):
    job = stand_in(SLEEP)
    content = json.loads((job.folder / jobs.JOB).read_text())
    if "created" in change:
        content["created"] -= 60
    elif "arguments" in change:  # started at the same time, by another command
        content["arguments"][content["arguments"].index("--seed") + 1] = "1"
    else:  # this very test, whose start is right
        own = psutil.Process()
        content |= {"pid": own.pid, "created": own.create_time()}
    (job.folder / jobs.JOB).write_text(json.dumps(content))
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
    monkeypatch.setattr(jobs, "_start", lambda *given: started.append(given))
    for again in (job, replace(job, arguments=(*job.arguments, "--resume"))):
        jobs.resume([root], again)
        assert started.pop()[1:] == (root, [*training(root), "--resume"])
    (root / "inside").mkdir()
    with pytest.raises(ConfigError, match="in none of the folders"):
        jobs.resume([root / "inside"], job)


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


@pytest.fixture
def kept(root):
    """Returns the contents of a job's file, and what reads others in its place."""
    folder = jobs.kept_in(root) / "1"
    folder.mkdir(parents=True)
    content = {
        "arguments": training(root),
        "pid": 1,
        "created": 1.0,
        "started": "2026-01-02T03:04:05+00:00",
    }

    def read(text):
        (folder / jobs.JOB).write_text(text if isinstance(text, str) else json.dumps(text))
        return jobs.all_jobs([root])

    assert read(content)[0].out == root / "run"
    return content, read


WRONG = [
    "{",
    "[" * 100_000,
    " " * 2**20 + "{}",
    "[]",
    {"pid": "1"},
    {"pid": -1},
    {"pid": True},
    {"pid": 2**40},
    {"created": "now"},
    {"started": "x" * 30},
    {"started": "2026\n" * 4},
    {"command": ["sh", "-c", "touch /tmp/x"]},
    {"arguments": []},
    {"arguments": "train"},
    {"arguments": [["train"]]},
    {"arguments": ["x" * 5000]},
]


@pytest.mark.parametrize("change", WRONG, ids=range(len(WRONG)))
def test_a_damaged_job_is_one_line(kept, change):
    content, read = kept
    with pytest.raises(RunError, match="remove its folder") as caught:
        read(change if isinstance(change, str) else content | change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def altered(place, value):
    def change(arguments, root):
        arguments[arguments.index(place) + 1 if isinstance(place, str) else place] = value
        return arguments

    return change


OTHERS = {
    "another subcommand": altered(0, "review"),
    "an option in place of a folder": altered(1, "--config=/tmp/x.yaml"),
    "a relative folder": altered(1, "data"),
    "a null byte": altered(1, "/data\0"),
    "out of the root": altered("--out", "/tmp/elsewhere"),
    "up and out": altered("--out", "/tmp/../tmp/run"),
    "a long name": lambda given, root: altered("--out", str(root / ("x" * 101)))(given, root),
    "no such detector": altered("--detector", "os"),
    "no number": altered("--budget", "nan"),
    "endless": altered("--budget", "9e999"),
    "no seed": altered("--seed", "--resume"),
    "one channel": lambda given, root: [*given[:-1], "--channels=a=*", given[-1]],
    "another option": lambda given, root: [*given[:-1], "--log=/tmp/x", given[-1]],
    "twice resumed": lambda given, root: [*given, "--resume", "--resume"],
    "less": lambda given, root: given[:3],
}


def test_a_job_from_elsewhere_gives_an_answer_or_one_line(kept, root, tmp_path):
    """There are 50 mutations here; benchmarks/fuzz.py makes as many as wanted."""
    folder = next(jobs.kept_in(root).iterdir())
    (folder / jobs.LOG).write_text("train: 3/10 loss 0.1\n")
    (folder / jobs.RESULT).write_text('{"n": 1}')
    found = fuzz.fuzz(folder, tmp_path, 50, seed=1)
    assert [f"{each.mutation}: {each.reader}: {each.trace}" for each in found] == []


@pytest.mark.parametrize("subcommand", ["train", "score", "calibrate", "maps"])
def test_each_kind_of_job_from_elsewhere_gives_an_answer_or_one_line(root, tmp_path, subcommand):
    """There are 20 mutations of each; half of them change one of its arguments."""
    out = root / "out"
    given = {
        "train": jobs.train_command([root], root, "pca", out, budget=1, channels="t1=*a*,t2=*b*"),
        "score": jobs.score_command([root], str(root), str(root), out, far=0.05),
        "calibrate": jobs.calibrate_command([root], str(root), str(root), out),
        "maps": [
            *("maps", str(root / "s"), "--run", str(root), "--data", str(root)),
            *("--out", str(root / "s-maps"), "--json", "--", "a.png"),
        ],
    }
    folder = tmp_path / "job"
    folder.mkdir()
    started = "2026-01-01T00:00:00+00:00"
    written = jobs.Written(given[subcommand], pid=os.getpid(), created=1.0, started=started)
    (folder / jobs.JOB).write_text(json.dumps(asdict(written)))
    assert jobs.read(folder / jobs.JOB, root).subcommand == subcommand
    (tmp_path / "fuzz").mkdir()
    found = fuzz.fuzz(folder, tmp_path / "fuzz", 20, seed=2)
    assert [f"{each.mutation}: {each.reader}: {each.trace}" for each in found] == []


def test_a_log_of_somebody_else_is_said_in_the_last_line(kept, root):
    content, read = kept
    (job,) = read(content)
    (root / "run").mkdir()
    (root / "run" / "train.jsonl").write_text('{"step": "x", "loss": 1}\n')
    (job.folder / jobs.LOG).write_text(f"train: {'9' * 5000}/3\n")
    progress = jobs.progress(job)
    assert (progress.done, progress.losses) == (None, ())
    assert "train.jsonl: a step of the training has no number" in progress.line
    (root / "run" / "train.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": 1}\n')
    (job.folder / jobs.LOG).unlink()
    os.mkfifo(job.folder / jobs.LOG)  # not waited for
    assert jobs.progress(job).losses == (1,)


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_arguments_are_checked_when_they_are_read(kept, root, change, monkeypatch):
    content, read = kept
    arguments = change(list(content["arguments"]), root)
    with pytest.raises(RunError, match=r"not a usable job .*; remove its folder"):
        read(content | {"arguments": arguments})
    monkeypatch.setattr(jobs, "_start", None)
    with pytest.raises(ConfigError):
        jobs.start(root, arguments)


def test_what_the_app_gives_is_read_again(kept, root):
    content, read = kept
    channels = {"channels": "t1=*a*,t2=*b*", "allow_missing": True}
    for given in (
        jobs.train_command([root], root, "pca", root / "r", budget=0.1, seed=3, **channels),
        jobs.score_command([root], str(root), str(root), root / "r", far=1e-5),
    ):
        for arguments in (given, [*given, "--resume"]):
            (job,) = read(content | {"arguments": arguments})
            assert list(job.arguments) == arguments


def test_a_job_in_a_root_is_none(root):
    folder = root / ".anodetect-jobs/1"
    folder.mkdir(parents=True)
    (folder / jobs.JOB).write_text("{")
    assert jobs.all_jobs([root]) == []
    assert not jobs.kept_in(root).is_relative_to(root)
