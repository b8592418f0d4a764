"""The simplest engine: this process scores one file after another."""

from collections.abc import Callable, Sequence

from anodetect.data.records import Record
from anodetect.engines.worker import ScoredEntries, Task, Worker
from anodetect.record.runs import Run
from anodetect.types import Reporter


def line_engine(
    run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
) -> ScoredEntries:
    """Score in this process; the text of `note` is shown beside the progress."""
    return Worker(task, run=run).work(items, reporter, note)
