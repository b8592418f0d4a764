"""A record that is open: a score directory that is filled one file at a time, and closed later."""

from dataclasses import replace
from pathlib import Path
from types import TracebackType

from anodetect.commands.inputs import Inputs, own_name
from anodetect.commands.manifest import KnownFiles
from anodetect.commands.results import MergeResult
from anodetect.commands.score import Progress, finish, options_of, scoring_of
from anodetect.data.records import Record
from anodetect.engines.worker import Task
from anodetect.output import report
from anodetect.record import runs
from anodetect.record.audit import Scoring
from anodetect.record.journal import Journal
from anodetect.record.rows import JournalEntry
from anodetect.record.runs import Run
from anodetect.types import Reporter


class OpenRecord:
    """The score directory `task.out` while it is filled; a context manager that holds its lock. One
    that a killed process left open goes on; RunError if that was of other options, or of another
    release. `names` are the paths that files have in it."""

    def __init__(self, run: Run, task: Task, root: Path, command: tuple[str, ...]) -> None:
        self.task, self.root = task, root
        inputs = Inputs(root, (), (), {}, [own_name(root)])
        self.scoring: Scoring = scoring_of(run, task, inputs, command)
        self.progress = Progress(
            run, task, KnownFiles(runs.read_manifest(run.path)), has_masks=False
        )
        # What another release has scored would be called this one's.
        release = self.scoring.environment["packages"]["anodetect"]
        options = options_of(self.scoring) | {"release": release}
        self.journal = Journal(task.out, options, resume=True)
        self.names: set[str] = set()

    def __enter__(self) -> "OpenRecord":
        self.journal.__enter__()
        try:
            for entry in self.journal.entries():
                self._count(entry)
        except BaseException:
            self.journal.__exit__()
            raise
        self.progress.resumed = self.progress.count
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.journal.__exit__()

    def entries(self) -> list[JournalEntry]:
        """Return all that the record has so far."""
        return list(self.journal.entries())

    def name_for(self, name: str) -> str:
        """Return the path that a file of this name has in the record: one that came before under
        the same name keeps its own."""
        if name not in self.names:
            return name
        number = 2
        while f"{name}~{number}" in self.names:
            number += 1
        return f"{name}~{number}"

    def add(self, entry: JournalEntry) -> None:
        """Add a file; when this returns it is on the disk."""
        self.journal.append([entry])
        self._count(entry)

    def _count(self, entry: JournalEntry) -> None:
        path = entry.row.path
        self.names.add(path)
        self.progress.add(entry, Record(id=path, path=self.root / path))

    def close(self, reporter: Reporter) -> MergeResult:
        """Decide over all files, and write tables, record and report; return what it amounts to."""
        scoring = replace(self.scoring, listed=self.progress.count)
        result, _ = finish(scoring, self.progress, self.journal, (), reporter)
        report.write(self.task.out, None)
        self.journal.remove()
        return result
