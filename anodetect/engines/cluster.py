"""Score on a Ray cluster: one worker for each node or GPU takes files from one table.

The calling machine keeps the journal and writes the tables. Workers read images and write heatmaps,
so the run must be at the same place for all machines, and so must the images and `--out`, unless
they are URLs.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from anodetect.data.records import Record
from anodetect.engines.registered import Registered, is_of_script
from anodetect.engines.worker import Engine, ScoredEntries, Task, Worker
from anodetect.errors import ConfigError, RunError, one_line
from anodetect.files import write_atomic
from anodetect.model.read_ahead import BATCH
from anodetect.record.directories import picture_of
from anodetect.record.rows import JournalEntry, entry_from_json, entry_to_json
from anodetect.record.runs import Run
from anodetect.types import Reporter, Silent
from anodetect.words import amount

BLOCK = 4 * BATCH  # files handed out at a time
SCHEMA = pa.schema([("entry", pa.binary()), ("picture", pa.binary())])
OF_SCRIPT = (
    "the detector is defined in the script that was started, which workers do not have; "
    "put it into a module that all machines can import, and import that in the script"
)
RESERVED = 0.5  # of a CPU on each node, for Ray's own work


def engine(workers: int | None) -> Engine:
    """Return the engine that scores with `workers` workers; None for one on each GPU, or on each
    node if there are no GPUs.

    The cluster is that of the environment variable RAY_ADDRESS. Without it, one of this machine
    alone is started for the time of the scoring. ConfigError if `workers` is below one, or without
    the extra `ray`.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'anodetect[ray]'") from None

    def entries(
        run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
    ) -> ScoredEntries:
        if is_of_script(run.header):
            raise ConfigError(OF_SCRIPT)
        _start()
        return _entries(task, items, reporter, note, workers)

    return entries


def _start() -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's log files still have everything
    # log_to_driver would put the workers' output between ours.
    ray.init(
        ignore_reinit_error=True,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )


def _entries(
    task: Task,
    items: Sequence[Record],
    reporter: Reporter,
    note: Callable[[], str],
    workers: int | None,
) -> ScoredEntries:
    """Yield entries as they are finished, in any order; end the connection to the cluster."""
    import ray

    try:
        share = _share(ray.nodes(), workers)
        processes = amount(share["concurrency"], "worker")
        cpus, gpus = amount(share["num_cpus"], "CPU"), amount(share["num_gpus"], "GPU")
        reporter.say(f"{processes} with {cpus} and {gpus} each")
        for done, entry in enumerate(_results(task, items, share)):
            reporter.progress("score", done, len(items), note())
            yield None, entry
        reporter.progress("score", len(items), len(items), note())
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error  # of a task, what it raised itself
        raise RunError(
            f"a worker failed ({one_line(cause)}); the same command with --resume goes on"
        ) from None
    finally:
        ray.shutdown()


def _share(nodes: Sequence[dict[str, Any]], workers: int | None) -> dict[str, Any]:
    """Return the number of workers and what each gets, as the arguments of Ray's `map_batches`."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in alive))
    count = workers or gpus or len(alive)
    cpus = min(node.get("CPU", 1) for node in alive) - RESERVED
    each = max(cpus / math.ceil(count / len(alive)), RESERVED)
    return {
        "concurrency": count,
        "num_cpus": math.floor(each) or each,
        "num_gpus": 1 if gpus >= count else 0,
    }


def _results(task: Task, items: Sequence[Record], share: dict[str, Any]) -> Iterator[JournalEntry]:
    """Yield entries as they are finished, in any order."""
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    blocks = max(math.ceil(len(items) / BLOCK), min(share["concurrency"], len(items)))
    table = data.from_items(
        [{"record": _absolute(record)} for record in items], override_num_blocks=blocks
    )
    worked = table.map_batches(
        RemoteWorker,
        fn_constructor_args=(task, Registered()),
        batch_size=BATCH,
        batch_format="numpy",
        **share,
    )
    for group in worked.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from _taken(group, task)


def _taken(group: pa.Table, task: Task) -> Iterator[JournalEntry]:
    """Yield the entries of a group of rows, with the pictures of cases written here."""
    lines, pictures = group["entry"].to_pylist(), group["picture"].to_pylist()
    for line, picture in zip(lines, pictures, strict=True):
        entry = entry_from_json(line)
        if picture is not None:
            write_atomic(picture_of(task.out, entry.row.path), picture, durable=False)
        yield entry


def _absolute(record: Record) -> Record:
    """Return the record for a process that runs in another folder."""
    files = tuple(file.absolute() for file in record.files)
    foreground = record.foreground.absolute() if record.foreground else None
    channels = []
    for channel in record.channels:
        path = None if channel.path is None else channel.path.absolute()
        own = tuple(file.absolute() for file in channel.files)
        channels.append(replace(channel, path=path, files=own))
    return replace(
        record,
        path=record.path.absolute(),
        files=files,
        foreground=foreground,
        channels=tuple(channels),
    )


class RemoteWorker:
    """A `Worker` in a process of its own. Where files go to a bucket it works in a folder of its
    own, and pictures of cases go to the calling machine."""

    def __init__(self, task: Task, registered: Registered) -> None:
        registered.register()
        if task.upload:
            self._own = tempfile.TemporaryDirectory(prefix="anodetect-")
            task = replace(task, out=Path(self._own.name))
        self.worker = Worker(task)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Score records and return a group of rows, without those of other shards: the entries of
        the journal, as JSON, and the picture of each, if the calling machine needs it."""
        lines: list[bytes] = []
        pictures: list[bytes | None] = []
        for _, entry in self.worker.work(list(batch["record"]), Silent()):
            lines.append(entry_to_json(entry))
            pictures.append(self._picture(entry.row.path))
        return pa.table({"entry": lines, "picture": pictures}, SCHEMA)

    def _picture(self, path: str) -> bytes | None:
        """Take the picture of a case from this machine; None if it has none, or if the calling
        machine sees it."""
        file = picture_of(self.worker.task.out, path)
        if not self.worker.task.upload or not file.is_file():
            return None
        content = file.read_bytes()
        file.unlink()
        return content
