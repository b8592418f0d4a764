"""Jobs: commands of `anodetect` that run in the background and outlive a page, a browser and the
app.

    ROOT/.anodetect-jobs/<id>/   job.json (command, process), output.log (progress),
                                 result.json (the command's answer)

A command is a list of arguments, which no shell reads, and all paths in it lie in the roots. A
process is recognised by its number and its start time, so that another process that has got the
same number later is never taken for it.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psutil
from filelock import FileLock

from anodetect.commands.channels import wanted_channels
from anodetect.errors import ConfigError, RunError
from anodetect.files import ON_WINDOWS, write_atomic
from anodetect.record import runs

from .folders import allowed

FOLDER = ".anodetect-jobs"
JOB, LOG, RESULT, CANCELLED = "job.json", "output.log", "result.json", "cancelled"
PROGRAM = (sys.executable, "-P", "-m", "anodetect.cli")
PATIENCE = 10.0  # seconds a cancelled process has to save its work
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True)
class Job:
    """One command in the background, which writes into `out`.

    `created` is the time the system started the process at, in seconds since 1970; `started` is
    UTC in ISO 8601.
    """

    folder: Path
    command: tuple[str, ...]
    out: Path
    pid: int
    created: float
    started: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command without the program: the name of the subcommand and its arguments."""
        return self.command[len(PROGRAM) :]

    @property
    def subcommand(self) -> str:
        """The name of the subcommand: "train" or "score"."""
        return self.arguments[0]


@dataclass(frozen=True)
class Progress:
    """The progress of a job as its log gives it.

    `done` of `total` is None as long as the command counts nothing; `line` is the log's last line.
    `steps` and `losses` are the curve of a training, of equal length, empty for other commands.
    """

    done: int | None = None
    total: int | None = None
    line: str = ""
    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()


# -- Commands --------------------------------------------------------------------------------------


def train_command(
    roots: Sequence[Path],
    data: str,
    detector: str,
    out: Path,
    *,
    budget: float,
    seed: int = 0,
    channels: str = "",
    allow_missing: bool = False,
) -> list[str]:
    """Return the arguments of `anodetect train`; raise ConfigError where a path is not allowed or
    `channels` are wrong.

    `budget` is in minutes. `channels` are several files of each image with the patterns of their
    names, "" for none; with `allow_missing` an image may lack some of them.
    """
    options = ["--detector", detector, "--budget", f"{budget:g}", "--seed", str(seed)]
    if wanted_channels(channels.strip() or None, allow_missing=allow_missing):
        options.append(f"--channels={channels.strip()}")
        options += ["--allow-missing"] * allow_missing
    return ["train", str(allowed(data, roots)), "--out", str(_new(out, roots)), *options, "--json"]


def score_command(
    roots: Sequence[Path], run: str, data: str, out: Path, *, far: float
) -> list[str]:
    """Return the arguments of `anodetect score`; raise ConfigError where a path is not allowed.

    `far` is the false-alarm rate, between 0 and 1.
    """
    inputs = [str(allowed(run, roots)), str(allowed(data, roots))]
    return ["score", *inputs, "--out", str(_new(out, roots)), "--far", f"{far:g}", "--json"]


def _new(out: Path, roots: Sequence[Path]) -> Path:
    """Return a folder to write into; raise ConfigError where its name or place is not allowed."""
    if not NAME.fullmatch(out.name):
        raise ConfigError(f"{out.name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another name")
    return allowed(out, roots)


# -- Starting and ending ---------------------------------------------------------------------------


def start(root: Path, arguments: Sequence[str], out: Path) -> Job:
    """Start a command of `anodetect` in the background and return its job.

    Raises ConfigError while another job of the root is running, and RunError where the root is not
    writable.
    """
    try:
        (root / FOLDER).mkdir(exist_ok=True)
        with FileLock(root / FOLDER / "lock"):
            for job in all_jobs([root]):
                if state(job) == "running":
                    raise ConfigError(
                        f"{job.out.name} is still being made; wait for it or cancel it"
                    )

            folder = root / FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
            folder.mkdir()
            return _start(folder, [*PROGRAM, *arguments], out)
    except OSError as error:
        raise RunError(
            f"{root}: the job cannot be started ({error.strerror or error}); may you write there?"
        ) from None


# The system keeps a process that has ended until the program that started it waits for it.
_started: list[subprocess.Popen[bytes]] = []


def _start(folder: Path, command: Sequence[str], out: Path) -> Job:
    """Start a process and write its job.json."""
    with (folder / LOG).open("wb") as log, (folder / RESULT).open("wb") as result:
        # In a session of its own the job survives the app and the terminal the app runs in.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    _started.append(process)

    job = Job(
        folder=folder,
        command=tuple(command),
        out=out,
        pid=process.pid,
        created=psutil.Process(process.pid).create_time(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    content = asdict(job) | {"folder": str(folder), "out": str(out)}
    write_atomic(folder / JOB, json.dumps(content, indent=2))
    return job


def resume(root: Path, job: Job) -> Job:
    """Continue a job that was cancelled or failed, from what it saved."""
    arguments = [part for part in job.arguments if part != "--resume"]
    return start(root, [*arguments, "--resume"], job.out)


def cancel(job: Job) -> None:
    """End a job and all processes it started; it has PATIENCE seconds to save its work."""
    process = _process(job)
    if process is None:
        return

    (job.folder / CANCELLED).touch()
    try:
        processes = [process, *process.children(recursive=True)]
        _interrupt(process)
    except psutil.NoSuchProcess:
        return

    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    for each in alive:
        each.kill()
    psutil.wait_procs(alive, timeout=PATIENCE)


def _interrupt(process: psutil.Process) -> None:
    """Ask a process to save its work and end. On Windows no program can send Ctrl-C to another
    one's session: there the process ends at once, and what it saved last is kept."""
    if ON_WINDOWS:
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


# -- Looking ---------------------------------------------------------------------------------------


def all_jobs(roots: Sequence[Path]) -> list[Job]:
    """Return all jobs of the roots, the latest first; raise RunError where one is damaged."""
    jobs = list[Job]()
    for root in roots:
        jobs += map(_read, (root / FOLDER).glob(f"*/{JOB}"))
    return sorted(jobs, key=lambda job: (job.started, job.folder.name), reverse=True)


def _read(file: Path) -> Job:
    """Read a job.json."""
    try:
        content = json.loads(file.read_text("utf-8"))
        return Job(
            folder=file.parent,
            command=tuple(content["command"]),
            out=Path(content["out"]),
            pid=content["pid"],
            created=content["created"],
            started=content["started"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{file}: not a readable job; remove its folder") from None


def state(job: Job) -> State:
    """Return whether a job's process is running, and how it ended if not."""
    if _process(job):
        return "running"
    if _answer(job):
        return "done"
    return "cancelled" if (job.folder / CANCELLED).exists() else "failed"


def _process(job: Job) -> psutil.Process | None:
    """Return the job's own process, or None where it is not running."""
    for process in list(_started):
        if process.poll() is not None:
            _started.remove(process)

    try:
        found = psutil.Process(job.pid)
        same = abs(found.create_time() - job.created) < 1
        return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _answer(job: Job) -> dict[str, Any] | None:
    """Return the JSON object that the command printed when it was done, or None."""
    try:
        answer = json.loads((job.folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def progress(job: Job) -> Progress:
    """Return how far a job is, from its log and, for a training, from train.jsonl."""
    try:
        lines = (job.folder / LOG).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []

    done, total = None, None
    for line in reversed(lines):
        counted = re.match(r"\w+: (\d+)/(\d+)", line)
        if counted:
            done, total = int(counted[1]), int(counted[2])
            break

    curve = _curve(job.out) if job.subcommand == "train" else []
    return Progress(
        done=done,
        total=total,
        line=lines[-1] if lines else "",
        steps=tuple(record["step"] for record in curve),
        losses=tuple(record["loss"] for record in curve),
    )


def _curve(out: Path) -> list[dict[str, Any]]:
    """Return the logged steps of a run, finished or not; none before the first."""
    for run in (out, runs.partial(out)):
        if (run / "train.jsonl").is_file():
            return runs.curves(run)
    return []
