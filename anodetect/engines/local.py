"""Score in several processes of this machine: each has a model, and asks for files from one list.

A model on all cores waits in every operation for its slowest thread, and reading and writing take
cores from it all the time. Models on one thread each do not wait. Where models are on GPUs,
processes share them in turn: while one decodes or writes, the GPU computes for another. The calling
process keeps the journal and writes the tables.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Literal

from anodetect.data.records import Record, is_volume
from anodetect.engines.line import line_engine
from anodetect.engines.registered import MAIN, Registered, is_of_script, main_is_script
from anodetect.engines.worker import Engine, ScoredEntries, Task, Worker
from anodetect.errors import AnodetectError, ConfigError, RunError
from anodetect.model.devices import devices_of, gpu_memory
from anodetect.model.read_ahead import BATCH
from anodetect.record.rows import JournalEntry
from anodetect.record.runs import Run
from anodetect.types import Reporter, Silent

FEW = 64  # images that are scored before other processes would have started
AT_ONCE, PROMPT = 8, 0.5  # finished files that are sent together, and seconds they wait at most
VOLUME = 16  # images that a volume counts as, at least
MEMORY = 6e9  # bytes that a worker may take: an image of 10⁸ pixels with all outputs
GPU_MEMORY = 2e9  # bytes of a GPU's memory that a worker takes at least: its context, and a model
CONTAINER = Path("/sys/fs/cgroup/memory.max")
OF_SCRIPT = (
    "one process: the detector is defined in the script that was started; "
    "from a module that the script imports, several processes can score with it"
)


def engine(workers: int | None) -> Engine:
    """Return the engine that scores in `workers` processes; None for as many as help.

    With one process that is the calling one. If `workers` is None, it is also alone for few files
    and for files with masks (the calling process then has the maps at hand), and always for a model
    whose detector the caller's script defines. ConfigError if `workers` is below one.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")

    def entries(
        run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
    ) -> ScoredEntries:
        if workers is None:
            count, threads = _suitable_number(task, items)
        else:
            count, threads = workers, max(1, cpu_count() // workers)
        if count > 1 and is_of_script(run.header):
            reporter.say(OF_SCRIPT)
            count = 1
        if count == 1:
            return line_engine(run, task, items, reporter, note)
        tasks = shared_out(task, _devices(task.device), min(count, len(items)))
        return _collect(_start(tasks, threads), items, reporter, note)

    return entries


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    import joblib  # not at the top: workers are started by this module, and do not ask

    return int(joblib.cpu_count())


def _suitable_number(task: Task, items: Sequence[Record]) -> tuple[int, int]:
    """Return how many processes help, and how many threads each should have."""
    images = len(items) + (VOLUME - 1) * sum(map(is_volume, items))
    if images <= FEW or any(record.masks for record in items):
        return 1, cpu_count()
    return share(cpu_count(), memory(), gpu_memory(_devices(task.device)))


def share(cores: int, memory: float, on_gpus: Sequence[float] = ()) -> tuple[int, int]:
    """Return numbers of processes and of threads for each: one process for each core, or fewer
    with several threads if there is too little memory (in bytes), or too little on the GPUs if
    there are any."""
    most = min(cores, memory // MEMORY)
    if on_gpus:
        most = min(most, len(on_gpus) * (min(on_gpus) // GPU_MEMORY))
    threads = math.ceil(cores / max(1, most))
    return math.ceil(cores / threads), threads


def memory() -> float:
    """Return the bytes of memory that this machine, or container, has; where the system does not
    say it (Windows), what one worker may take."""
    if not hasattr(os, "sysconf"):
        return MEMORY
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER.read_text("ascii").strip() if CONTAINER.is_file() else "max"
    return total if limit == "max" else min(total, int(limit))


def _devices(device: str) -> list[str]:
    """Return the devices that `--device` stands for."""
    if device == "auto" and version("torch").endswith("+cpu"):  # known without loading it
        return ["cpu"]
    return devices_of(device)


def shared_out(task: Task, names: Sequence[str], count: int) -> list[Task]:
    """Return a task for each of `count` processes, which have devices in turn, and of each device's
    memory as much as the others on it."""
    part = 1 / math.ceil(count / len(names))
    return [
        replace(task, device=names[number % len(names)], device_share=part)
        for number in range(count)
    ]


# -- Messages of a worker --------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """Files have been scored and written."""

    entries: tuple[JournalEntry, ...]


@dataclass(frozen=True)
class Count:
    """So many files have been looked at, those of other shards included."""

    done: int


@dataclass(frozen=True)
class Failure:
    """The worker cannot go on."""

    error: AnodetectError


# The worker is ready, asks for files, or has ended.
Message = Finished | Count | Failure | Literal["ready", "asks", "ended"]


# -- The calling process ---------------------------------------------------------------------------


@dataclass
class WorkerHandle:
    """A worker's process, its end of the connection, and the files it has looked at so far."""

    process: BaseProcess
    connection: Connection
    done: int = 0

    def receive(self) -> Message:
        """Return the next message; raise the error of a worker that cannot go on, and RunError if
        its process has ended."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(
                f"a worker process {_ending(self.process.exitcode or 0)}; "
                "the same command with --resume goes on"
            ) from None
        if isinstance(message, Failure):
            raise message.error
        return message

    def send(self, records: list[Record]) -> None:
        """Send files to a worker that asks; none mean that there are no more. That its process has
        ended is noticed when the next message is received."""
        with suppress(OSError):
            self.connection.send(records)


def _ending(code: int) -> str:
    """Return in words how a process ended that has this exit code."""
    if code >= 0:
        return f"ended with code {code}"
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(-code, f"signal {-code}")
    reason = ""
    if name == "SIGKILL":
        reason = ", as when memory runs out; --workers 1 takes the least"
    return f"was ended by {name}{reason}"


def _start(tasks: Sequence[Task], threads: int) -> list[WorkerHandle]:
    """Start a worker for each task and return them when all are ready, so that the first one does
    not take all files."""
    context = multiprocessing.get_context("spawn")
    workers: list[WorkerHandle] = []
    try:
        with _interrupts_blocked(), _without_main():
            for task in tasks:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, task, threads, Registered()), daemon=True
                )
                process.start()
                theirs.close()  # otherwise the end of the process would not be noticed
                workers.append(WorkerHandle(process, ours))

        for worker in workers:
            worker.receive()
    except BaseException:
        _stop(workers)
        raise
    return workers


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in this process, and in those that it starts meanwhile for as long as they live.

    On a terminal it reaches all processes, but the calling process ends the workers. Windows has no
    such block; there the workers ignore Ctrl-C themselves.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that are started meanwhile from running the caller's script again, as they do
    to find what it defines. A script without `if __name__ == "__main__"` would begin to score in
    each of them. A module that was started by name, with `python -m`, is imported there: it may
    define a detector."""
    main = sys.modules[MAIN]
    if main_is_script():
        sys.modules[MAIN] = ModuleType(MAIN)
    try:
        yield
    finally:
        sys.modules[MAIN] = main


def _stop(workers: Sequence[WorkerHandle]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def _collect(
    workers: list[WorkerHandle],
    items: Sequence[Record],
    reporter: Reporter,
    note: Callable[[], str],
) -> ScoredEntries:
    """Hand out files and yield entries as they are finished, in any order."""
    active = {worker.connection: worker for worker in workers}
    rest, left = iter(items), len(items)
    try:
        while active:
            for connection in wait(list(active)):
                assert isinstance(connection, Connection)
                worker = active[connection]
                message = worker.receive()

                if isinstance(message, Finished):
                    for entry in message.entries:
                        yield None, entry
                elif isinstance(message, Count):
                    worker.done = message.done
                    done = sum(each.done for each in workers)
                    reporter.progress("score", done, len(items), note())
                elif message == "asks":
                    # Fewer files at a time towards the end, so that all workers end together.
                    some = list(islice(rest, max(1, min(BATCH, left // (2 * len(workers))))))
                    left -= len(some)
                    worker.send(some)
                elif message == "ended":
                    del active[connection]
    finally:
        _stop(workers)


# -- A worker's process ----------------------------------------------------------------------------


def _work(connection: Connection, task: Task, threads: int, registered: Registered) -> None:
    registered.register()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    finished: list[JournalEntry] = []
    try:
        worker = Worker(task, threads)
        connection.send("ready")
        sent = time.monotonic()
        for _, entry in worker.work(_requested(connection), _CountReporter(connection)):
            finished.append(entry)
            if len(finished) == AT_ONCE or time.monotonic() - sent > PROMPT:
                connection.send(Finished(tuple(finished)))
                finished, sent = [], time.monotonic()
        connection.send(Finished(tuple(finished)))
        connection.send("ended")
    except AnodetectError as error:
        connection.send(Finished(tuple(finished)))
        connection.send(Failure(error))


def _end_with_parent() -> None:
    """End this process when the calling one has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _requested(connection: Connection) -> Iterator[Record]:
    """Ask for files, and yield their records, until there are no more."""
    while True:
        connection.send("asks")
        records: list[Record] = connection.recv()
        if not records:
            return
        yield from records


class _CountReporter(Silent):
    """Sends the calling process the number of files that were looked at."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.connection.send(Count(done))
