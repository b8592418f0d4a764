"""Training and scoring in the background: processes of the command line that outlive a page, a
browser and the app.

    ROOT/.anodetect-jobs/<id>/   job.json (command, process), output.log (progress), result.json (what it answered)

A command is a list of arguments, which no shell reads, and all paths in it lie in the folders
(roots) that were named when the app was started. A process is known again by its number and the
time it was started at, so that another one that got the same number later is never taken for it.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psutil
from filelock import FileLock

from anodetect.data.scan import SUFFIXES, is_below
from anodetect.errors import ConfigError, RunError
from anodetect.files import write_atomic
from anodetect.record import directories, runs

FOLDER = ".anodetect-jobs"
JOB, LOG, RESULT, CANCELLED = "job.json", "output.log", "result.json", "cancelled"
PATIENCE = 10.0  # seconds a cancelled process has to save what it did
DEPTH, MOST = 4, 200  # how deep roots are looked through, and for how many folders
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class Job:
    """A process of the command line. `created` is when the system started it, in seconds since
    1970."""

    folder: Path
    command: tuple[str, ...]
    out: Path
    pid: int
    created: float
    started: str


@dataclass(frozen=True)
class Progress:
    """What a job's log says last: `done` of `total`, None where it counts nothing yet; its last
    line."""

    done: int | None = None
    total: int | None = None
    line: str = ""
    losses: list[tuple[int, float]] = field(
        default_factory=list
    )  # (step, loss) of a training, as far as it is


# -- What there is ---------------------------------------------------------------------------------


def allowed(path: str | Path, roots: Sequence[Path]) -> Path:
    """The path, if it lies in one of the roots, symbolic links followed; ConfigError otherwise."""
    found = Path(path).absolute()
    if "\0" in str(path) or not any(is_below(found, root) for root in roots):
        raise ConfigError(
            f"{path} is in none of the folders the app may use; start it with --root FOLDER"
        )
    return found


@dataclass(frozen=True)
class Found:
    """What lies in the roots: finished runs, finished score directories, folders to train on or to
    score."""

    runs: tuple[Path, ...]
    scores: tuple[Path, ...]
    images: tuple[Path, ...]


def look(roots: Sequence[Path]) -> Found:
    """Look through the roots, not through links or hidden folders, DEPTH deep and a bounded number
    of folders."""
    runs_, scores, images = list[Path](), list[Path](), list[Path]()
    level = [root.absolute() for root in roots]
    for _ in range(DEPTH):
        below = list[Path]()
        for folder in level[:MOST]:
            folders, names = _inside(folder)
            if "model.safetensors" in names:
                runs_.append(folder)
            elif directories.AUDIT_FILE in names:
                scores.append(folder)
            else:
                if names & {"manifest.csv", "train", "test"} or any(
                    Path(n).suffix.lower() in SUFFIXES for n in names
                ):
                    images.append(folder)
                below += folders
        level = below
    return Found(tuple(runs_), tuple(scores), tuple(images))


def _inside(folder: Path) -> tuple[list[Path], set[str]]:
    """The folders in a folder, and all names in it."""
    try:
        with os.scandir(folder) as entries:
            there = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:  # a folder one may not look into has nothing to offer
        return [], set()
    names = {name for name, _ in there if not name.startswith(".")}
    return sorted(folder / name for name, is_folder in there if is_folder and name in names), names


def measured(scores: Sequence[Path]) -> dict[str, str]:
    """For each model, by its hash, its image AUROC on the labelled images of one of these score
    directories."""
    found = {}
    for path in scores:
        try:
            audit = json.loads((path / directories.AUDIT_FILE).read_text("utf-8"))
            auroc = audit["evaluation"]["image"]["auroc"]
            interval = "" if auroc["low"] is None else f" ({auroc['low']:.3f}–{auroc['high']:.3f})"
            found[audit["model_sha256"]] = f"{auroc['value']:.3f}{interval} on {path.name}"
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # no labels; or damaged, which opening it will say
            continue
    return found


def facts(run: Path, measures: Mapping[str, str]) -> dict[str, Any]:
    """What a table says of a run: how it was made, and what was `measured`."""
    known = runs.facts(run)
    return {
        "run": run.name,
        "detector": known["detector"],
        "image AUROC": measures.get(known["model_sha256"], ""),
        "sees": known["representation"],
        "data": known["data"],
        "trained": known["trained_at"][:16].replace("T", " "),
        "seconds": known["train_seconds"],
        "ended by": known["stopped_by"] or "",
        "calibration": f"{known['calibration_images']} images, {known['calibration_groups']} groups",
    }


# -- Commands --------------------------------------------------------------------------------------


def train_command(
    roots: Sequence[Path], data: str, detector: str, out: Path, *, budget: float, seed: int = 0
) -> list[str]:
    """Arguments of `anodetect train`; ConfigError where a path is not allowed."""
    options = ["--detector", detector, "--budget", f"{budget:g}", "--seed", str(seed)]
    return ["train", str(allowed(data, roots)), "--out", str(_new(out, roots)), *options, "--json"]


def score_command(
    roots: Sequence[Path], run: str, data: str, out: Path, *, far: float
) -> list[str]:
    """Arguments of `anodetect score`; ConfigError where a path is not allowed."""
    inputs = [str(allowed(run, roots)), str(allowed(data, roots))]
    return ["score", *inputs, "--out", str(_new(out, roots)), "--far", f"{far:g}", "--json"]


def _new(out: Path, roots: Sequence[Path]) -> Path:
    if not NAME.fullmatch(out.name):
        raise ConfigError(f"{out.name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another name")
    return allowed(out, roots)


# -- Processes -------------------------------------------------------------------------------------


def start(root: Path, arguments: Sequence[str], out: Path) -> Job:
    """Start a command of `anodetect` in the background; ConfigError while another one of the root
    is running."""
    command = [sys.executable, "-P", "-m", "anodetect.cli", *arguments]
    try:
        (root / FOLDER).mkdir(exist_ok=True)
        with FileLock(root / FOLDER / "lock"):
            if busy := next((job for job in listed([root]) if state(job) == "running"), None):
                raise ConfigError(f"{busy.out.name} is still being made; wait for it or cancel it")
            folder = root / FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
            folder.mkdir()
            return _start(folder, command, out)
    except OSError as error:
        raise RunError(
            f"{root}: the job cannot be started ({error.strerror or error}); may you write there?"
        ) from None


def _start(folder: Path, command: Sequence[str], out: Path) -> Job:
    with (folder / LOG).open("wb") as log, (folder / RESULT).open("wb") as result:
        # A session of its own: what ends the app, or the terminal it runs in, does not end the job.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    _started.append(process)
    created = psutil.Process(process.pid).create_time()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    job = Job(folder, tuple(command), out, process.pid, created, now)
    said = asdict(job) | {"folder": str(folder), "out": str(out)}
    write_atomic(folder / JOB, json.dumps(said, indent=2))
    return job


_started: list[
    subprocess.Popen[bytes]
] = []  # to be waited for, or the system keeps them when they have ended


def resume(root: Path, job: Job) -> Job:
    """Go on with a job that was cancelled or failed, where it left something to go on from."""
    arguments = [part for part in job.command[4:] if part != "--resume"]
    return start(root, [*arguments, "--resume"], job.out)


def listed(roots: Sequence[Path]) -> list[Job]:
    """All jobs of the roots, the latest first."""
    files = (file for root in roots for file in (root / FOLDER).glob(f"*/{JOB}"))
    return sorted(map(_read, files), key=lambda job: (job.started, job.folder.name), reverse=True)


def _read(file: Path) -> Job:
    try:
        said = json.loads(file.read_text("utf-8"))
        known = {name: said[name] for name in ("pid", "created", "started")}
        return Job(
            folder=file.parent, command=tuple(said["command"]), out=Path(said["out"]), **known
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{file}: not a readable job; remove its folder") from None


def state(job: Job) -> State:
    """Whether a job's process is there, and what it left when it is not."""
    if _process(job):
        return "running"
    if _answer(job):
        return "done"
    return "cancelled" if (job.folder / CANCELLED).exists() else "failed"


def _process(job: Job) -> psutil.Process | None:
    """The job's own process, if it is running."""
    for ended in [process for process in _started if process.poll() is not None]:
        _started.remove(ended)
    try:
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.created) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _answer(job: Job) -> dict[str, Any] | None:
    """What the command printed, which it does when it is done."""
    try:
        answer = json.loads((job.folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def progress(job: Job) -> Progress:
    """How far a job is, from its log and, of a training, from train.jsonl."""
    try:
        lines = (job.folder / LOG).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    counted = [match for line in lines if (match := re.match(r"\w+: (\d+)/(\d+)", line))]
    last = lines[-1] if lines else ""
    losses = _losses(job.out) if job.command[4] == "train" else []
    if not counted:
        return Progress(line=last, losses=losses)
    done, total = counted[-1].groups()
    return Progress(int(done), int(total), last, losses)


def _losses(out: Path) -> list[tuple[int, float]]:
    for run in (out, runs.partial(out)):
        if (run / "train.jsonl").is_file():
            return [(record["step"], record["loss"]) for record in runs.curves(run)]
    return []


def cancel(job: Job) -> None:
    """End a job and everything it started; it has a moment to save what it did."""
    process = _process(job)
    if process is None:
        return
    (job.folder / CANCELLED).touch()
    try:
        tree = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE)
    for each in alive:
        each.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)
