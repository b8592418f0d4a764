"""Scoring on several processes of this machine: a model in each, handed files from one list as it
asks for them.

A model on all cores waits in every operation for its slowest thread, and reading and writing take
cores from it all the time; models on one thread each wait for nobody. The process that calls keeps
the journal and writes the tables.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from joblib import cpu_count

from anodetect.data.scan import Record, is_volume
from anodetect.engines.line import line_engine
from anodetect.engines.worker import Engine, ScoredEntries, Task, Worker
from anodetect.errors import AnodetectError, ConfigError, RunError
from anodetect.model.read_ahead import BATCH
from anodetect.record.runs import Run
from anodetect.types import Reporter, Silent

FEW = 64  # images: scored before other processes would have begun
VOLUME = 16  # images, that a volume counts for at least
MEMORY = 6e9  # bytes that a worker may take: an image of 10⁸ pixels with all outputs
CONTAINER = Path("/sys/fs/cgroup/memory.max")


def engine(workers: int | None) -> Engine:
    """`scoring.score`'s engine of `workers` processes; without a number as many as help.

    One is the process that calls. Without a number it is also alone with few files, with masks to
    compare with (it then has the maps at hand), and where the model runs on a GPU.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")

    def entries(
        run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
    ) -> ScoredEntries:
        count, threads = (
            (workers, max(1, cpu_count() // workers)) if workers else _suited(task, items)
        )
        if count == 1:
            return line_engine(run, task, items, reporter, note)
        return _made(_start(task, min(count, len(items)), threads), items, reporter, note)

    return entries


def _suited(task: Task, items: Sequence[Record]) -> tuple[int, int]:
    """How many processes help, and how many threads each is to have."""
    images = sum(VOLUME if is_volume(record) else 1 for record in items)
    if images <= FEW or any(record.mask for record in items) or not _on_cpu(task.device):
        return 1, cpu_count()
    return share(cpu_count(), memory())


def share(cores: int, memory: float) -> tuple[int, int]:
    """A process for each core; fewer, on several threads each, where memory may not do for so many."""
    threads = math.ceil(cores / max(1, min(cores, memory // MEMORY)))
    return math.ceil(cores / threads), threads


def memory() -> float:
    """Bytes of memory that this machine, or container, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTAINER.read_text("ascii").strip() if CONTAINER.is_file() else "max"
    return total if limit == "max" else min(total, int(limit))


def _on_cpu(device: str) -> bool:
    if device == "auto" and version("torch").endswith("+cpu"):  # known without loading it
        return True
    from anodetect.nn.inference import pick_device

    return pick_device(device).type == "cpu"


# -- The process that calls ------------------------------------------------------------------------


@dataclass
class WorkerHandle:
    """A worker's process as the process that calls sees it."""

    process: BaseProcess
    connection: Connection
    done: int = 0  # files, also those of other shards

    def receive(self) -> tuple[str, Any]:
        """The next message; what made the worker fail is raised."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise RunError(
                f"a worker process {_ending(self.process.exitcode or 0)}; the same command with --resume goes on"
            ) from None
        if kind == "failed":
            raise value
        return kind, value

    def hand(self, records: list[Record]) -> None:
        """Answer a worker that asks; no records are the end. That it is gone is noticed when it
        should answer."""
        with suppress(OSError):
            self.connection.send(records)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    reason = (
        ", as when memory runs out; --workers 1 takes the least" if code == -signal.SIGKILL else ""
    )
    return f"was ended by {signal.Signals(-code).name}{reason}"


def _start(task: Task, count: int, threads: int) -> list[WorkerHandle]:
    """Workers, when all are ready, so that the first one does not take everything."""
    context = multiprocessing.get_context("spawn")
    hands: list[WorkerHandle] = []
    # Ctrl-C on a terminal is for all processes, but workers are ended by the one that calls: they
    # inherit this mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, task, threads), daemon=True)
            process.start()
            theirs.close()  # or the end of the process would go unnoticed
            hands.append(WorkerHandle(process, ours))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for hand in hands:
            hand.receive()
    except BaseException:
        _stop(hands)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return hands


def _stop(hands: Sequence[WorkerHandle]) -> None:
    for hand in hands:
        hand.process.terminate()
    for hand in hands:
        hand.process.join()
        hand.connection.close()


def _made(
    hands: list[WorkerHandle], items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
) -> ScoredEntries:
    """Entries as they are finished, in any order."""
    at_work, rest, left = {hand.connection: hand for hand in hands}, iter(items), len(items)
    try:
        while at_work:
            for connection in wait(list(at_work)):
                assert isinstance(connection, Connection)
                hand = at_work[connection]
                kind, value = hand.receive()
                if kind == "made":
                    yield None, value
                elif kind == "done":
                    hand.done = value
                    reporter.progress("score", sum(each.done for each in hands), len(items), note())
                elif (
                    kind == "asks"
                ):  # the fewer are left, the fewer at a time, so that all end together
                    handed = list(islice(rest, max(1, min(BATCH, left // (2 * len(hands))))))
                    left -= len(handed)
                    hand.hand(handed)
                else:
                    del at_work[connection]
    finally:
        _stop(hands)


# -- A worker's process ----------------------------------------------------------------------------


def _work(connection: Connection, task: Task, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = Worker(task, threads)
        connection.send(("ready", None))
        for _, entry in worker.work(_asked(connection), _Relay(connection)):
            connection.send(("made", entry))
        connection.send(("ends", None))
    except AnodetectError as error:
        connection.send(("failed", error))


def _end_with_parent() -> None:
    """However it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _asked(connection: Connection) -> Iterator[Record]:
    """Records as they are handed out."""
    while True:
        connection.send(("asks", None))
        records: list[Record] = connection.recv()
        if not records:
            return
        yield from records


class _Relay(Silent):
    """Tells the process that calls how many files are done."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        self.connection.send(("done", done))
