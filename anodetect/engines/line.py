"""The simplest engine: this process scores one file after another."""

from collections.abc import Callable, Sequence

from anodetect.data.scan import Record
from anodetect.engines.worker import Made, Task, Worker
from anodetect.types import Reporter


def here(task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]) -> Made:
    """Score on this machine; `note` is shown beside the progress."""
    return Worker(task).work(items, reporter, note)
