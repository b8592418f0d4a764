"""Jobs: commands of `anodetect` that run in the background and outlive a page, a browser and the
app.

    STATE/jobs/<root>/<id>/   job.json (arguments, process), output.log (progress),
                              result.json (the command's answer)

STATE is this user's own folder for such things, <root> a hash of the root's path: whoever else may
write into a root cannot make a job. A command is a list of arguments, which no shell reads, and all
paths in it lie in the roots. Arguments that were read from a job.json are checked like those of a
form. A process is recognised by its number, its start time and its command, so that no other
process is ever taken for it.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import psutil
from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter

from anodetect.commands.channels import wanted_channels
from anodetect.detectors import DETECTORS
from anodetect.errors import AnodetectError, ConfigError, RunError
from anodetect.files import ON_WINDOWS, is_below, refuse_strange, write_atomic
from anodetect.record import made_maps, runs
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.directories import ScoreDirectory
from anodetect.record.objects import content_of, object_of, parsed
from anodetect.record.partial import partial

from .folders import allowed
from .state import folder as own_folder

JOB, LOG, RESULT, CANCELLED = "job.json", "output.log", "result.json", "cancelled"
PROGRAM = (sys.executable, "-P", "-m", "anodetect.cli")
PATIENCE = 10.0  # seconds a cancelled process has to save its work
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NUMBER = re.compile(r"[0-9][0-9.e+-]{0,19}")
WARNING = "warning: "  # at the start of a log's line; see commands/terminal.py
LARGEST = 2**20  # bytes of a job.json, and of the end of a log that is read
LARGEST_ANSWER = 2**26  # bytes of a result.json
State = Literal["running", "done", "cancelled", "failed"]
Argument = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True)
class Written:
    """The contents of a job.json.

    `created` is the time the system started the process at, in seconds since 1970; `started` is
    UTC in ISO 8601.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    arguments: Annotated[list[Argument], Field(max_length=20)]
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    created: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    started: Annotated[str, Field(pattern=r"^[0-9T:+-]{19,25}$")]


ADAPTER = TypeAdapter(Written)


@dataclass(frozen=True)
class Job:
    """One command in the background, which writes into `out`, a folder in the root.

    `arguments` are the name of the subcommand and its arguments. `created` and `started` are those
    of job.json.
    """

    folder: Path
    root: Path
    arguments: tuple[str, ...]
    out: Path
    pid: int
    created: float
    started: str

    @property
    def subcommand(self) -> str:
        """The name of the subcommand: "train", "score", "calibrate" or "maps"."""
        return self.arguments[0]


@dataclass(frozen=True)
class Progress:
    """The progress of a job as its log gives it.

    `done` of `total` is None as long as the command counts nothing; `line` is the log's last line.
    `steps` and `losses` are the curve of a training, of equal length, empty for other commands.
    `warnings` are what the command warned of.
    """

    done: int | None = None
    total: int | None = None
    line: str = ""
    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()


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


def calibrate_command(roots: Sequence[Path], run: str, data: str, out: Path) -> list[str]:
    """Return the arguments of `anodetect calibrate`; raise ConfigError where a path is not
    allowed."""
    run, data = str(allowed(run, roots)), str(allowed(data, roots))
    return [*calibrate_arguments(run, data, _new(out, roots)), "--json"]


def calibrate_arguments(run: str, data: str, out: Path) -> list[str]:
    """Return the arguments of `anodetect calibrate` as somebody would write them."""
    return ["calibrate", run, data, "--out", str(out)]


def maps_command(roots: Sequence[Path], scored: ScoreDirectory, path: str) -> list[str]:
    """Return the arguments of `anodetect maps` for one row of a score directory; raise ConfigError
    where the directory, its run or its images are not in the roots, or the run is not there."""
    directory, run = allowed(scored.path, roots), allowed(scored.audit.run_path, roots)
    if not (run / MODEL_FILE).is_file():
        raise ConfigError(f"{run} is no run")
    places = ["--run", str(run), "--data", str(allowed(scored.audit.root, roots))]
    out = allowed(made_maps.folder_of(directory), roots)
    return ["maps", str(directory), *places, "--out", str(out), "--json", "--", path]


def _new(out: Path, roots: Sequence[Path]) -> Path:
    """Return a folder to write into; raise ConfigError where its name or place is not allowed."""
    if not NAME.fullmatch(out.name):
        raise ConfigError(f"{out.name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another name")
    return allowed(out, roots)


@dataclass(frozen=True)
class Places:
    """The folders that a command reads, and the one it writes into."""

    read: tuple[Path, ...]
    out: Path


def _places(arguments: Sequence[str]) -> Places:
    """Return the places of a command; raise ConfigError where its arguments are not such as
    `train_command`, `score_command`, `calibrate_command` and `maps_command` return, with or without
    --resume at the end. Whether the places lie in the roots is not asked here."""
    given = list(arguments)
    if given[-1:] == ["--resume"]:
        given.pop()

    match given:
        case ["train", data, "--out", out, "--detector", detector, *settings, "--json"]:
            read, known = [data], detector in DETECTORS and _are_settings(settings)
        case ["score", run, data, "--out", out, "--far", far, "--json"]:
            read, known = [run, data], _is_number(far)
        case ["calibrate", run, data, "--out", out, "--json"]:
            read, known = [run, data], True
        case ["maps", scored, "--run", run, "--data", data, "--out", out, "--json", "--", path]:
            read, known = [scored, run, data], "\0" not in path and Path(out) == _maps_of(scored)
        case _:
            read, known, out = [], False, ""

    is_named = given[:1] == ["maps"] or bool(NAME.fullmatch(Path(out).name))
    if not known or not is_named or not all(map(_is_path, [*read, out])):
        raise ConfigError("its arguments are none that the app would give")
    return Places(tuple(map(Path, read)), Path(out))


def _maps_of(scored: str) -> Path | None:
    """Return the folder for maps of a score directory that are made again; None if it is none."""
    return made_maps.folder_of(Path(scored)) if _is_path(scored) else None


def _are_settings(options: Sequence[str]) -> bool:
    """Return whether these are a training's settings as `train_command` orders them; raise
    ConfigError for wrong channels."""
    match list(options):
        case ["--budget", budget, "--seed", seed, *rest]:
            sound = _is_number(budget) and _is_number(seed)
        case _:
            return False

    if not rest:
        return sound
    name, _, channels = rest[0].partition("=")
    wanted_channels(channels, allow_missing=len(rest) > 1)
    named = name == "--channels" and "\0" not in channels
    return sound and named and rest[1:] in ([], ["--allow-missing"])


def _is_number(text: str) -> bool:
    """Return whether a text is a finite number that is not negative."""
    try:
        return bool(NUMBER.fullmatch(text)) and math.isfinite(float(text))
    except ValueError:
        return False


def _is_path(text: str) -> bool:
    """Return whether a text is an absolute path that can be kept in JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return Path(text).is_absolute() and "\0" not in text


# -- Starting and ending ---------------------------------------------------------------------------


def kept_in(root: Path) -> Path:
    """Return the folder with the jobs of a root, in this user's own folder."""
    return own_folder() / "jobs" / sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def start(root: Path, arguments: Sequence[str]) -> Job:
    """Start a command of `anodetect` in the background and return its job.

    Raises ConfigError while another job of the root is running, for arguments that are none of this
    module's, and where they write outside the root; RunError where jobs cannot be kept.
    """
    out = _places(arguments).out
    if not is_below(out, root):
        raise ConfigError(f"{out} is not in {root}")

    kept = kept_in(root)
    try:
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(kept / "lock"):
            for job in all_jobs([root]):
                if state(job) == "running":
                    raise ConfigError(
                        f"{job.out.name} is still being made; wait for it or cancel it"
                    )

            folder = kept / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
            folder.mkdir()
            return _start(folder, root, arguments)
    except OSError as error:
        raise RunError(
            f"{kept}: the job cannot be started ({error.strerror or error}); may you write there?"
        ) from None


# The system keeps a process that has ended until the program that started it waits for it.
_started: list[subprocess.Popen[bytes]] = []


def _start(folder: Path, root: Path, arguments: Sequence[str]) -> Job:
    """Start a process and write its job.json."""
    with (folder / LOG).open("wb") as log, (folder / RESULT).open("wb") as result:
        # In a session of its own the job survives the app and the terminal the app runs in.
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    _started.append(process)

    written = Written(
        arguments=list(arguments),
        pid=process.pid,
        created=psutil.Process(process.pid).create_time(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_atomic(folder / JOB, json.dumps(asdict(written), indent=2))
    return read(folder / JOB, root)


def resume(roots: Sequence[Path], job: Job) -> Job:
    """Continue a job that was cancelled or failed, from what it saved, or a calibration and maps
    from the start; raise ConfigError where it reads or writes outside the roots."""
    places = _places(job.arguments)
    for path in (*places.read, places.out):
        allowed(path, roots)

    arguments = [part for part in job.arguments if part != "--resume"]
    again = [] if job.subcommand in ("calibrate", "maps") else ["--resume"]
    return start(job.root, [*arguments, *again])


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
        jobs += [read(file, root) for file in kept_in(root).glob(f"*/{JOB}")]
    return sorted(jobs, key=lambda job: (job.started, job.folder.name), reverse=True)


def read(file: Path, root: Path) -> Job:
    """Return the job of a job.json; raise RunError where it is none that `start` would write for
    this root."""
    try:
        written = object_of(file, ADAPTER, LARGEST)
        out = _places(written.arguments).out
        if not is_below(out, root):
            raise ConfigError("it writes outside its root")
    except AnodetectError as error:
        cause = str(error).removeprefix(f"{file}: ")
        raise RunError(f"{file}: not a usable job ({cause}); remove its folder") from None

    return Job(
        folder=file.parent,
        root=root,
        arguments=tuple(written.arguments),
        out=out,
        pid=written.pid,
        created=written.created,
        started=written.started,
    )


def state(job: Job) -> State:
    """Return whether a job's process is running, and how it ended if not."""
    if _process(job):
        return "running"
    if answer(job):
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
        # Its first word is the interpreter, which the system may name in another way.
        own = found.cmdline()[1:] == [*PROGRAM[1:], *job.arguments]
        return found if same and own and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def answer(job: Job) -> dict[str, Any] | None:
    """Return the JSON object that the command printed when it was done, or None."""
    try:
        found = parsed(content_of(job.folder / RESULT, LARGEST_ANSWER), nan=True)
    except (AnodetectError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def progress(job: Job) -> Progress:
    """Return how far a job is, from its log and, for a training, from train.jsonl."""
    lines = _last_lines(job.folder / LOG)
    done, total = None, None
    for line in reversed(lines):
        counted = re.match(r"\w{1,40}: ([0-9]{1,15})/([0-9]{1,15})(?![0-9])", line)
        if counted:
            done, total = int(counted[1]), int(counted[2])
            break

    curve: Sequence[Mapping[str, Any]] = ()
    try:
        curve = _curve(job.out) if job.subcommand == "train" else ()
    except RunError as error:  # of a log that somebody else wrote
        lines.append(str(error))
    return Progress(
        done=done,
        total=total,
        line=lines[-1] if lines else "",
        steps=tuple(record["step"] for record in curve),
        losses=tuple(record["loss"] for record in curve),
        warnings=_warnings(lines),
    )


def _warnings(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings among the lines of a log, each once."""
    found = [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
    return tuple(dict.fromkeys(found))


def remaining(job: Job, progress: Progress, now: datetime) -> float | None:
    """Return the seconds that a running job still needs if it goes on as fast as so far; None where
    that cannot be told."""
    if not progress.done or not progress.total or progress.done > progress.total:
        return None
    started = datetime.fromisoformat(job.started)
    if started.tzinfo is None:
        started = started.replace(tzinfo=UTC)
    elapsed = (now - started).total_seconds()
    return max(elapsed, 0.0) * (progress.total - progress.done) / progress.done


def _last_lines(log: Path) -> list[str]:
    """Return the lines at the end of a log, none where it cannot be read."""
    try:
        refuse_strange(log)
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LARGEST))
            return file.read(LARGEST).decode("utf-8", "replace").splitlines()
    except (OSError, RunError):
        return []


def _curve(out: Path) -> list[Mapping[str, Any]]:
    """Return the logged steps of a run with a loss, finished or not; none before the first."""
    for run in (out, partial(out)):
        if (run / "train.jsonl").is_file():
            return [step for step in runs.curves(run) if step["loss"] is not None]
    return []
