"""The share of a case that is read, for the bar that the browser shows meanwhile.

Reading goes through steps, and each says that it is reached. Shares are what steps take of the time
for large files, about; a step of a file of one piece has no shares of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The share of the work that is done, 0 to 1, and what is being done."""

    share: float
    text: str


READING = Progress(0.02, "reading the file")
DECODING = Progress(0.15, "decoding it")
MAP = Progress(0.31, "reading its map")
PYRAMID = Progress(0.6, "preparing it for the screen")

_report: ContextVar[Callable[[Progress], None] | None] = ContextVar("report", default=None)


@contextmanager
def reporting(report: Callable[[Progress], None]) -> Iterator[None]:
    """Have `report` called with each step that is reached within."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def reached(step: Progress, done: float = 0.0) -> None:
    """Say that a step is reached, of which a share may be `done`, 0 to 1: the last step alone."""
    report = _report.get()
    if report is not None:
        report(Progress(step.share + (1 - step.share) * done, step.text))
