"""Evaluate: a run and labelled data in, metrics with intervals out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anodetect.commands.calibrate import refuse_known_groups
from anodetect.data import cards
from anodetect.errors import DataError
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.record import runs
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import Breakdown
from anodetect.types import Reporter, Silent


def evaluate(
    run_path: Path,
    data: str,
    *,
    far: float = DEFAULT_FAR,
    by: Sequence[str] = (),
    device: str = "auto",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Metrics on labelled data, also for each value of the columns `by` of its manifest; images the
    run was made from are refused by name."""
    reporter = reporter or Silent()
    run = runs.read(run_path)
    dataset = cards.open_data(data)
    items = dataset.labelled()
    if not items:
        raise DataError(
            f"{data}: no labelled images; label them by folders (test/good, test/<kind>) or in manifest.csv"
        )
    rows = runs.read_manifest(run_path)
    used = {row["sha256"]: row["path"] for row in rows if row["sha256"]}
    refuse_known_groups(rows, items)
    model = Model.load(run, device)
    run.calibration.level(far)  # refuses an impossible rate before any work
    measure = Breakdown(run.calibration, far, items, by)
    failures = [f"{name}: {reason}" for name, reason in dataset.problems]
    for scored in score_records(model, items, reporter):
        loaded = scored.loaded
        if loaded.error:
            failures.append(f"{loaded.record.id}: {loaded.error}")
        elif loaded.sha256 in used:
            raise DataError(
                f"leak: {loaded.record.id} has the same bytes as {used[loaded.sha256]}, which the run was made from"
            )
        if scored.heatmap is not None:
            measure.add(loaded.record, scored.score, scored.heatmap, loaded.volume)
    if not measure.whole.labelled():
        raise DataError(
            f"{data}: none of {len(items)} labelled images can be read; the first: {failures[0]}"
        )
    failures += measure.whole.problems
    result = measure.result()
    for warning in result.get("warnings", ()):
        reporter.warn(warning)
    return result | {"failed": len(failures), "failures": failures}
