"""The simplest engines: this process scores one file after another, or each as it comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anodetect.config import without_nan
from anodetect.data import formats
from anodetect.data.records import Record
from anodetect.data.series import record_of
from anodetect.engines.worker import Engine, ScoredEntries, Task, Worker
from anodetect.errors import ImageError
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.nn.batching import small_batches
from anodetect.output.cases import Cases
from anodetect.output.regions import find_regions
from anodetect.record.rows import JournalEntry, Region
from anodetect.record.runs import Run
from anodetect.stats.decision import Decision, Rule, decide_one
from anodetect.types import Floats, Reporter, Silent


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


# -- One at a time ---------------------------------------------------------------------------------


# That compute for a single image. More of them wait for each other in every operation, and where
# something else runs beside them each image costs ten times as much.
THREADS = 1


@dataclass(frozen=True)
class Verdict:
    """All that is said of a file at once: its journal entry, the decision over it (None if it could
    not be scored), the regions of its map that count, and the map in its own grid [H, W] or
    [D, H, W]."""

    entry: JournalEntry
    decision: Decision | None = None
    regions: tuple[Region, ...] = ()
    heatmap: Floats | None = None

    @property
    def flagged(self) -> bool:
        return self.decision is not None and bool(self.decision.flagged)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the map."""
        row, found = self.entry.row, self.decision
        regions = []
        for each in self.regions:
            regions.append({"bbox": list(each.bbox), "area": each.area, "score": each.score})
        content = {
            "path": row.path,
            "sha256": row.sha256,
            "status": row.status,
            "error": row.error,
            "score": row.score,
            "p_value": None if found is None else found.p_value,
            "flagged": None if found is None else found.flagged,
            "threshold": None if found is None else found.threshold,
            "regions": regions,
            "differs": row.differs,
            "heatmap": row.heatmap,
            "model_sha256": row.model_sha256,
        }
        clean: dict[str, Any] = without_nan(content)
        return clean


class NoCases(Cases):
    """Cases of which no picture is drawn."""

    def admits(self, identity: str, score: float) -> bool:
        """Return False."""
        return False


class Line:
    """A model that scores one file at a time, as soon as it is there. `task` says where its files
    go; `move_to` names another one.

    No batch is filled up for a single image, so that its score may differ in its last bits from
    that of `score`. Entries name no machine: a record of them holds within the tolerance that it
    has between machines. Without `pictures` none of a case is drawn.
    """

    def __init__(self, run: Run, task: Task, *, pictures: bool = True) -> None:
        self.run, self.rule, self.pictures = run, Rule.of(task.far, task.fdr), pictures
        self.worker = self._worker(task, None)

    @property
    def task(self) -> Task:
        """The task of the files that are scored now."""
        return self.worker.task

    def move_to(self, task: Task) -> None:
        """Score by another task from now on, with the same model."""
        self.worker = self._worker(task, self.worker.model)

    def _worker(self, task: Task, model: Model | None) -> Worker:
        worker = Worker(task, THREADS, run=self.run, model=model)
        worker.host = ""
        if not self.pictures:
            worker.cases = NoCases(task.out, 0.0, self.run.header.scale)
        return worker

    def score(self, record: Record) -> Verdict:
        """Score a file and write what the task asks for."""
        with small_batches():
            ((scored, entry),) = self.worker.work([record], Silent())
        row = entry.row
        if row.score is None:
            return Verdict(entry)
        calibration = self.run.calibration
        decision = decide_one(row.score, calibration, self.rule, is_volume=row.is_volume)
        if scored is None or isinstance(scored, Failed):
            return Verdict(entry, decision)
        regions = entry.regions
        if scored.heatmap.ndim == 2 and not regions:
            regions = tuple(find_regions(scored.heatmap, self.worker.rule))
        return Verdict(entry, decision, regions, scored.heatmap)


def record_of_file(file: Path, root: Path) -> Record:
    """Return the record of one file alone, its id relative to `root`; ImageError if it is none that
    can be read."""
    if formats.format_of(file) is None:
        raise ImageError(f"not an image file ({formats.described()})")
    return record_of(root, file, (file,) if formats.is_series(file) else ())
