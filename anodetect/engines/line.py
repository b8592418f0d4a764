"""The simplest engine: this process scores one file after another."""

from collections.abc import Callable, Sequence

from anodetect.data.records import Record
from anodetect.engines.worker import Engine, ScoredEntries, Task, Worker
from anodetect.model.model import Model
from anodetect.record.runs import Run
from anodetect.types import Reporter


def line_engine(
    run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
) -> ScoredEntries:
    """Score in this process; the text of `note` is shown beside the progress."""
    return Worker(task, run=run).work(items, reporter, note)


def kept_engine() -> Engine:
    """Return an engine that scores as `line_engine` does and keeps the model for the next call, as
    long as it is asked for the same one."""
    kept: dict[tuple[str, str], Model] = {}

    def entries(
        run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
    ) -> ScoredEntries:
        key = task.model_sha256, task.device
        worker = Worker(task, run=run, model=kept.get(key))
        kept.clear()
        kept[key] = worker.model
        return worker.work(items, reporter, note)

    return entries
