"""Progress and messages on the terminal, all on stderr, and what a terminal cannot print."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from anodetect.files import printable

SECONDS_BETWEEN_LINES = 10  # of progress, where stderr is no terminal

screen = Console(stderr=True)


class RichReporter:
    """Draws bars on a terminal; elsewhere it prints a plain line every ten seconds at most."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self.bars = Progress(*columns, console=screen, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.last = 0.0

    def say(self, text: str) -> None:
        _print(_in_one_line(text))

    def warn(self, text: str) -> None:
        _print(f"warning: {_in_one_line(text)}", "yellow")

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        task, note = printable(task), printable(note)
        if not screen.is_terminal:
            self._print_progress(task, done, total, note)
            return
        if task not in self.tasks:
            self.bars.start()
            self.tasks[task] = self.bars.add_task(task, total=total, note=note, rate="")

        number = self.tasks[task]
        speed = self.bars.tasks[self.bars.task_ids.index(number)].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self.bars.update(number, completed=done, total=total, note=note, rate=rate)
        if done >= total:
            self.close(task)

    def close(self, task: str) -> None:
        """Remove the bar of a task."""
        self.bars.remove_task(self.tasks.pop(task))
        if not self.tasks:
            self.bars.stop()

    def stop(self) -> None:
        """Remove all bars."""
        for task in list(self.tasks):
            self.close(task)

    def _print_progress(self, task: str, done: int, total: int, note: str) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self.say(f"{task}: {done}/{total} {note}".rstrip())


@contextmanager
def reporting() -> Iterator[RichReporter]:
    """Yield a reporter whose bars are removed at the end, also after an error."""
    reporter = RichReporter()
    try:
        yield reporter
    finally:
        reporter.stop()


def replace_what_cannot_be_printed() -> None:
    """Let stdout and stderr print "?" for a character that their encoding does not have, where they
    would raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _in_one_line(text: str) -> str:
    """Return a message whose names hold no line ends: what follows one would pass for a message."""
    return text.replace("\n", "\\n")


def print_error(text: str) -> None:
    """Print a message in red."""
    _print(text, "red")


def _print(text: str, style: str = "") -> None:
    # No markup: brackets in a file's name are no style.
    screen.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)
