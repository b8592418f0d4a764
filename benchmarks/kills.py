"""Commands killed at random moments, or on a full disk: the same command then works and loses
nothing that was finished.

    python -m benchmarks.kills [NAME ...] [--count 25] [--seed 0] [--full]

A moment is a place between two changes of files: one is opened to be written, renamed or removed. A
whole run counts them; others end themselves (SIGKILL) before a change drawn at random, so that all
that a kill can leave is as likely on a slow machine as on a fast one. SQLite's changes cannot be
seen from Python, so `review` is killed some moments after its first verdict, and `serve`, which
keeps nothing, while it answers; of what was sent to it nothing may stay. Then the same command is
given again, with --resume if it asks for it; what is there must be what a whole run leaves. `watch`
is stopped when it has noted all files.

With --full (as root, on Linux) each run is on a tmpfs of a random size that does not suffice. It
must end in one line; then there is room, and the same command is given again.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

import anodetect
from anodetect.commands import limit, study, watch
from anodetect.commands.alike import alike_of
from anodetect.commands.forget import forget
from anodetect.commands.maps import maps
from anodetect.commands.report import report
from anodetect.commands.reviews import export
from anodetect.commands.serve import serve
from anodetect.commands.verify import verify
from anodetect.data import synthetic
from anodetect.errors import AnodetectError
from anodetect.files import sha256_of
from anodetect.nn import training
from anodetect.record import alike as alike_file
from anodetect.record import checkpoint, directories, partial, reviews, runs
from anodetect.record import study as study_file
from anodetect.record.marks import Shown
from anodetect.record.partial import LOCK
from anodetect.record.rows import ScoreRow
from benchmarks import common

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
FINISHED = re.compile(
    "already exists|is finished|has no group|is there already"
)  # said of what is complete
QUICK = {"size": 32, "widths": [16, 32], "training": {"steps": 4, "batch": 4}}
LONGEST = 0.3  # seconds from the first verdict to the kill


@dataclass(frozen=True)
class Command:
    """A command to be killed.

    `act` gives it, with the folder of inputs, that of outputs, and whether to resume. `facts` are
    what must be as after a whole run. `before` puts into the folder of outputs what is there
    before.
    """

    act: Callable[[Path, Path, bool], object]
    facts: Callable[[Path], object]
    before: Callable[[Path, Path], object] = lambda inputs, work: None


@dataclass(frozen=True)
class Outcome:
    """The end of a trial with a kill before change number `at` of `changes`: `problem` is "" if the
    same command worked and nothing was lost."""

    name: str
    at: int
    changes: int
    problem: str


# -- Inputs, and what is left ----------------------------------------------------------------------


def prepare(inputs: Path) -> None:
    """Make a run, new normals and the score directories of two shards."""
    synthetic.write(inputs / "tiles", train=24, test=4, size=32)
    synthetic.write(inputs / "more", train=20, test=2, size=32, seed=1)
    anodetect.train(str(inputs / "tiles"), "pca", inputs / "run", values={"components": 5})
    for number in (1, 2):
        images = [str(inputs / "tiles" / "test")]
        shard = f"{number}/2"
        anodetect.score(inputs / "run", images, inputs / f"part{number}", shard=shard)


def _with_scores_of_features(inputs: Path, work: Path) -> None:
    """Put a score directory by a run that sees features there; both are made once."""
    run, scores = inputs / "features", inputs / "of_features"
    if not run.exists():
        data = str(inputs / "tiles")
        anodetect.train(data, "pca", run, representation="features", folds=0)
        anodetect.score(run, [str(inputs / "tiles" / "test")], scores, heatmaps=())
    shutil.copytree(scores, work / "scores")


def _with_scores(inputs: Path, work: Path) -> None:
    shutil.copytree(inputs / "part1", work / "scores")


def _with_verdicts(inputs: Path, work: Path) -> None:
    """Put a score directory there, with a verdict that marks a region and one that marks none."""
    _with_scores(inputs, work)
    scored = directories.read(work / "scores")
    from apps.review.store import Store

    store = Store(scored.path, scored.audit.head)
    store.add(scored.rows[0], "Ada", "anomalous", _seen(scored.rows[0]), region="4,4 12,4 12,12")
    store.add(scored.rows[1], "Ada", "normal", _seen(scored.rows[1]))
    store.close()


def _seen(row: ScoreRow) -> list[Shown]:
    return [Shown(row.path, row.sha256 or "", painted=True)]


def _export_facts(work: Path) -> dict[str, str]:
    """Return the hashes of what was exported, and what else is there."""
    found = {"others": str(sorted(path.name for path in work.iterdir()))}
    for file in sorted((work / "export").rglob("*")):
        if file.is_file():
            found[file.relative_to(work).as_posix()] = sha256_of(file)
    return found


def _group_of(inputs: Path) -> str:
    return directories.read(inputs / "part1").rows[0].group


def _run_facts(work: Path) -> dict[str, str]:
    """Return the hash of each array of the finished run; RunError if it is not one."""
    runs.read(work / "run")
    arrays, _ = checkpoint.read(work / "run" / checkpoint.MODEL_FILE)
    return {name: sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def _score_facts(work: Path) -> dict[str, str]:
    """Return the hashes of the tables, with what does not hold; the seconds are never the same."""
    folder = work / "scores"
    verdict = verify(folder)
    names = ["scores.parquet", "groups.parquet", "chain.parquet", "outputs.parquet"]
    found = {name: sha256_of(folder / name) for name in names}
    others = sorted(path.name for path in work.iterdir() if path != folder)
    left = [name for name in directories.files(folder) if name.startswith(".writing")]
    return found | {
        "problems": str(verdict.problems),
        "report": verdict.report.state,
        "left": str([*others, *left]),
    }


def _with_beside(work: Path) -> dict[str, str]:
    """Return the facts of a score directory, and the hashes of what lies beside its record."""
    found = _score_facts(work)
    for file in sorted(work.rglob("*")):
        name = file.relative_to(work).as_posix()
        if file.is_file() and (file.name in BESIDE or name.startswith("scores-maps")):
            found[name] = sha256_of(file)
    return found


def _watch_facts(work: Path) -> object:
    """Return the rows of all records that were closed, what does not hold, and whose alarms were
    heard; a kill may let one be heard twice."""
    rows, problems = [], list[str]()
    for folder in sorted((work / "out" / "records").iterdir()):
        problems += verify(folder).problems
        rows += [(row.path, row.sha256, row.score) for row in directories.read(folder).each()]
    heard = (work / "heard").read_text().splitlines() if (work / "heard").exists() else []
    return sorted(rows), problems, sorted({json.loads(line)["path"] for line in heard})


# -- Commands --------------------------------------------------------------------------------------


def _train(
    detector: str, values: Mapping[str, Any], folds: int = 0
) -> Callable[[Path, Path, bool], object]:
    def act(inputs: Path, work: Path, resume: bool) -> object:
        training.CHECKPOINT_SECONDS = 0.0  # in this process alone: a checkpoint at each step
        limit.SERIES = {}  # planted defects, which take most of the time
        data = str(inputs / "tiles")
        return anodetect.train(
            data,
            detector,
            work / "run",
            values=values,
            representation="pixels",
            resume=resume,
            folds=folds,
        )

    return act


def _calibrate(inputs: Path, work: Path, resume: bool) -> object:
    return anodetect.calibrate(inputs / "run", str(inputs / "more" / "train"), work / "run")


def _score(inputs: Path, work: Path, resume: bool) -> object:
    images = [str(inputs / "more" / "test")]
    return anodetect.score(inputs / "run", images, work / "scores", resume=resume)


def _merge(inputs: Path, work: Path, resume: bool) -> object:
    return anodetect.merge([inputs / "part1", inputs / "part2"], work / "scores")


def _maps(inputs: Path, work: Path, resume: bool) -> object:
    scored = directories.read(work / "scores")
    return maps(scored.path, [row.path for row in scored.rows])


def _plan(inputs: Path, work: Path, resume: bool) -> object:
    return study.plan(work / "scores", readers=["Ada", "Bob", "Cy"], adjudicators=["Di"])


def _watched(inputs: Path, work: Path, resume: bool) -> object:
    """Watch the images of the test part until all were noted."""
    watch.LOOK, watch.PAUSE = 0.05, 0.02  # in this process alone
    folder, out = inputs / "tiles" / "test", work / "out"
    count = len(list(folder.rglob("*.png")))

    def stop() -> None:
        noted = out / watch.TAKEN
        while not noted.is_file() or noted.read_bytes().count(b"\n") < count:
            time.sleep(0.02)
        while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    hears = ["sh", "-c", f"cat >> '{work}/heard' && echo >> '{work}/heard'"]
    return watch.watch(inputs / "run", folder, out, far=0.2, heatmaps=["tiff"], alarm=hears)


def _export(inputs: Path, work: Path, resume: bool) -> object:
    return export(work / "scores", "manifest", work / "export")


BESIDE = (study_file.FILE, alike_file.FILE)
COMMANDS = {
    "train": Command(_train("pca", {"components": 5}), _run_facts),
    "train-steps": Command(_train("dae", QUICK), _run_facts),
    "train-folds": Command(_train("dae", QUICK, folds=3), _run_facts),
    "calibrate": Command(_calibrate, _run_facts),
    "score": Command(_score, _score_facts),
    "merge": Command(_merge, _score_facts),
    "report": Command(
        lambda inputs, work, resume: report(work / "scores"), _score_facts, _with_scores
    ),
    "forget": Command(
        lambda inputs, work, resume: forget(work / "scores", _group_of(inputs)),
        _score_facts,
        _with_scores,
    ),
    "maps": Command(_maps, _with_beside, _with_scores),
    "study": Command(_plan, _with_beside, _with_scores),
    "alike": Command(
        lambda inputs, work, resume: alike_of(work / "scores"),
        _with_beside,
        _with_scores_of_features,
    ),
    "reviews-export": Command(_export, _export_facts, _with_verdicts),
    "watch": Command(_watched, _watch_facts),
}
REVIEW, SERVE = "review", "serve"  # they have trials of their own


# -- Trials ----------------------------------------------------------------------------------------


def killed(name: str, inputs: Path, folder: Path, count: int, seed: int) -> Iterator[Outcome]:
    """Yield what comes after each of `count` kills of a command, in folders of their own."""
    rng = np.random.default_rng(seed)
    if name == REVIEW:
        for number in range(count):
            yield _killed_review(inputs, folder / f"{name}{number}", rng.uniform(0, LONGEST))
        return
    if name == SERVE:
        for number in range(count):
            yield _killed_serve(inputs, folder / f"{name}{number}", rng.uniform(0, LONGEST))
        return

    command, whole = COMMANDS[name], folder / f"{name}-whole"
    _begin(command, inputs, whole)
    answer = _run(name, inputs, whole)
    if answer is None or answer[0]:
        raise RuntimeError(f"{name} does not work undisturbed: {answer}")
    expected, changes = command.facts(whole), answer[1]

    for number in range(count):
        work, at = folder / f"{name}{number}", int(rng.integers(1, changes + 1))
        _begin(command, inputs, work)
        _run(name, inputs, work, at=at)
        yield Outcome(name, at, changes, _again(name, inputs, work, expected))
        shutil.rmtree(work)


def _begin(command: Command, inputs: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    command.before(inputs, work)


def _again(name: str, inputs: Path, work: Path, expected: object) -> str:
    """Give a command again, and return what is not as after a whole run; "" if all is."""
    said = ""
    for resume in (False, True):
        answer = _run(name, inputs, work, resume=resume)
        said = "it was killed" if answer is None else answer[0]
        if "--resume" not in said:
            break
    if said and not FINISHED.search(said):
        return said

    (work / "run" / LOCK).unlink(missing_ok=True)
    try:
        found = COMMANDS[name].facts(work)
    except AnodetectError as error:
        return f"lost: {error}"
    return "" if found == expected else f"it left {found}, where a whole run leaves {expected}"


def _run(
    name: str, inputs: Path, work: Path, *, at: int | None = None, resume: bool = False
) -> tuple[str, int] | None:
    """Give a command in a process of its own; return its error, "" for none, and how many changes
    it made. None if it was killed, as it is before change number `at`."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _forked().Process(target=_child, args=(name, inputs, work, at, resume, theirs))
    process.start()
    theirs.close()
    answer: tuple[str, int] | None = None
    with suppress(EOFError):
        answer = ours.recv()
    process.join()
    return answer


@cache
def _forked() -> ForkServerContext:
    """Return how processes are started: by a server that has imported all this and computed
    nothing, since PyTorch's threads do not survive a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.kills"])
    return context


def _child(
    name: str, inputs: Path, work: Path, at: int | None, resume: bool, channel: Connection
) -> None:
    partial.STALE = 0.0  # in this process alone: nobody else writes there
    counted = _watch(str(work), at)
    try:
        COMMANDS[name].act(inputs, work, resume)
        channel.send(("", counted[0]))
    except AnodetectError as error:
        channel.send((str(error), counted[0]))
    except OSError as error:  # which the command line says in one line
        channel.send((error.strerror or str(error), counted[0]))


def _watch(root: str, at: int | None) -> list[int]:
    """Count the changes of files below `root` from now on, in the one number that is returned, and
    end this process before change number `at`."""
    counted = [0]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if not _is_change(event, arguments, root):
            return
        counted[0] += 1
        if counted[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    return counted


def _is_change(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return str(path).startswith(root) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    if event not in CHANGES:
        return False
    path = str(arguments[0])
    if path.startswith((root, ".")) or "/" not in path:  # the latter below an open folder
        return True
    return event == "os.link" and str(arguments[1]).startswith(root)


# -- Verdicts --------------------------------------------------------------------------------------


def _killed_review(inputs: Path, work: Path, seconds: float) -> Outcome:
    """Kill what gives verdicts so long after its first one; none that was confirmed may be lost."""
    _begin(COMMANDS["report"], inputs, work)
    folder = work / "scores"
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _forked().Process(target=_judge, args=(folder, 10**6, theirs))
    process.start()
    theirs.close()
    confirmed = ours.recv()
    time.sleep(seconds)
    process.kill()
    process.join()
    with suppress(EOFError):
        while True:
            confirmed = ours.recv()

    head = directories.read(folder).audit.head
    kept = reviews.read(folder / reviews.FILE)
    problem = "" if len(kept) >= confirmed else f"{confirmed - len(kept)} verdicts are lost"
    _judge(folder, 1, None)
    kept_now = reviews.read(folder / reviews.FILE)
    if len(kept_now) != len(kept) + 1:
        problem = "no verdict can be given any more"
    shutil.rmtree(work)
    return Outcome(
        REVIEW, confirmed, len(kept), problem or next(reviews.broken(kept_now, head), "")
    )


def _judge(folder: Path, count: int, channel: Connection | None) -> None:
    """Give verdicts as the review app does, and send the number of each that is confirmed."""
    from apps.review.store import Store

    scored = directories.read(folder)
    row = scored.rows[0]
    store = Store(folder, scored.audit.head)
    for _ in range(count):
        given = store.add(row, "Ada", "normal", _seen(row))
        if channel is not None:
            channel.send(given.number)
    store.close()


# -- Answers ---------------------------------------------------------------------------------------


def _killed_serve(inputs: Path, work: Path, seconds: float) -> Outcome:
    """Kill what answers so long after its first answer, while it is asked again and again; a new
    one answers at the same address as the first one did, and removes what that has left."""
    work.mkdir()
    port, image = _free_port(), next((inputs / "tiles" / "test").rglob("*.png")).read_bytes()
    process = _serving(inputs, work, port)
    first, asked = _answer(port, image), 1
    until = time.monotonic() + seconds
    killer = threading.Timer(seconds, process.kill)
    killer.start()
    while time.monotonic() < until + 5 and process.is_alive():
        with suppress(OSError, HTTPException):
            _answer(port, image, tries=1)
            asked += 1
    process.join()

    left = sorted(path.name for path in work.iterdir())
    again = _serving(inputs, work, port)
    answer = _answer(port, image)
    still = [name for name in left if (work / name).exists()]
    again.kill()
    again.join()
    problem = "" if answer == first else f"it answers {answer}, where it answered {first}"
    if still or not left:  # without any it was not killed while it answered
        problem = f"it left {still} of {left}"
    return Outcome(SERVE, asked, asked, problem)


def _serving(inputs: Path, work: Path, port: int) -> BaseProcess:
    process = _forked().Process(target=_serve, args=(inputs / "run", work, port))
    process.start()
    return process


def _serve(run: Path, work: Path, port: int) -> None:
    """Answer images; files that are not to stay lie in `work`."""
    tempfile.tempdir = str(work)
    serve(run, port=port, far=0.2)


def _answer(port: int, image: bytes, tries: int = 300) -> object:
    """Return the answer to an image; OSError where nobody answers, after so many tries."""
    for number in range(tries):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/score", image)
            return json.loads(connection.getresponse().read())
        except (ConnectionError, HTTPException):
            if number == tries - 1:
                raise
            time.sleep(0.1)
        finally:
            connection.close()
    raise OSError("nobody answers")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# -- Full disks ------------------------------------------------------------------------------------


def full(name: str, inputs: Path, folder: Path, count: int, seed: int) -> Iterator[Outcome]:
    """Yield what comes after a command had not enough room, on `count` disks of random sizes."""
    rng, command = np.random.default_rng(seed), COMMANDS[name]
    whole = folder / f"{name}-whole"
    _begin(command, inputs, whole)
    least = _size_of(whole)
    _run(name, inputs, whole)
    expected, most = command.facts(whole), _size_of(whole)

    for number in range(count):
        size = least + int(rng.uniform(0, 1) * (most - least))
        with _disk(folder / f"{name}{number}", size) as work:
            _begin(command, inputs, work)
            answer = _run(name, inputs, work)
            _resize(work, 2**30)
            if answer is None or "\n" in answer[0]:
                problem = "it did not end in one line"
            else:
                problem = _again(name, inputs, work, expected)
        yield Outcome(name, size, most, problem)


def _size_of(folder: Path) -> int:
    """Return the bytes that a tmpfs needs for a folder's files."""
    pages = [-(-file.stat().st_size // 4096) + 2 for file in folder.rglob("*")]
    return 4096 * (sum(pages) + 4)


@contextmanager
def _disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def main() -> None:
    """Print for each command how often it was killed, and what was lost."""
    parser = common.parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="fill the disk in place of a kill")
    options: argparse.Namespace = parser.parse_args()

    names = options.names or [*COMMANDS, *([] if options.full else [REVIEW, SERVE])]
    trial, problems = (full if options.full else killed), 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs")
        prepare(inputs)
        for name in names:
            found = list(trial(name, inputs, Path(folder), options.count, options.seed))
            wrong = [each for each in found if each.problem]
            problems += len(wrong)
            print(f"{name}: {len(found)} times, {len(wrong)} with a problem", flush=True)
            for each in wrong:
                print(f"  at {each.at} of {each.changes}: {each.problem}", flush=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
