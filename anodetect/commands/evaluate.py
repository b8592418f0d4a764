"""Evaluate: a run and labelled data in, metrics with intervals out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anodetect.commands.channels import channels_of_run
from anodetect.commands.known_classes import KnownClasses
from anodetect.commands.labelled import labelled_score, mask_warnings
from anodetect.commands.manifest import KnownFiles, refuse_known_groups
from anodetect.commands.normals import warn_of_scaled
from anodetect.commands.results import EvaluateResult
from anodetect.commands.roi import other_roi
from anodetect.data import cards
from anodetect.data.patients import line_of_notes
from anodetect.data.records import ANOMALOUS, Dataset, Record
from anodetect.errors import ConfigError, DataError, nearest
from anodetect.files import path_or_none
from anodetect.model.devices import check_device
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.model.scoring import ScoredImage, ScoredVolume, score_records
from anodetect.record import runs
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import MeasureByColumn
from anodetect.types import Reporter, Silent
from anodetect.words import amount


def evaluate(
    run_path: Path | str,
    data: str,
    *,
    far: float = DEFAULT_FAR,
    by: Sequence[str] = (),
    follow_symlinks: bool = False,
    device: str = "auto",
    roi: Path | str | None = None,
    reporter: Reporter | None = None,
) -> EvaluateResult:
    """Return metrics on labelled data, also for each value of the columns `by` of its manifest, and
    how reliable a `classifier` is where the kinds of normal images are its classes.

    `far` is the false-alarm rate of the operating point. `roi` is a mask of where all images count,
    by default that of the run. Raises DataError for images the run was
    made from, and if none can be measured; ConfigError for an unknown column or device.
    """
    run_path, roi = Path(run_path), path_or_none(roi)
    reporter = reporter or Silent()
    check_device(device)
    run = runs.read(run_path)
    channels = channels_of_run(run)
    dataset = cards.open_data(data, follow_symlinks=follow_symlinks, channels=channels)
    items = _labelled(dataset, data, reporter)
    known_rows = runs.read_manifest(run_path)
    known = KnownFiles(known_rows)
    refuse_known_groups(known_rows, items)
    model = Model.load(run, device)
    model.preprocess.roi = other_roi(run, roi, reporter) or model.preprocess.roi
    run.calibration.level(far)  # refuses an impossible rate before any work
    by = _columns_named(by, items)

    masks = any(record.masks for record in items)
    measure = MeasureByColumn(run.calibration, far, by, masks=masks)
    classes = KnownClasses(model)
    failures = [f"{each.name}: {each.reason}" for each in dataset.problems]
    said = _Said()
    for scored in score_records(model, items, reporter, in_source=True):
        if isinstance(scored, Failed):
            failures.append(f"{scored.record.id}: {scored.error}")
            continue
        copied = known.copied(scored.loaded.sha256, scored.loaded.pixels)
        if copied:
            raise DataError(f"leak: {scored.record.id} has {copied}, which the run was made from")
        volume = scored.loaded.volume if isinstance(scored, ScoredVolume) else None
        said.add(scored)
        item = labelled_score(scored.record, scored.score, scored.heatmap, volume)
        if item is not None:
            item = replace(item, content=scored.loaded.pixels)
            measure.add(item, _columns_of(scored.record))
            classes.add(scored)

    if not measure.whole.labelled():
        raise DataError(
            f"{data}: none of {amount(len(items), 'labelled image')} can be read; the first: "
            f"{failures[0]}"
        )
    failures += measure.whole.problems
    said.warn(reporter)
    result = measure.result()
    for warning in (*mask_warnings(result.whole), *result.warnings):
        reporter.warn(warning)
    return EvaluateResult(
        result.whole, result.by, result.warnings, tuple(failures), classes.result()
    )


@dataclass
class _Said:
    """Notes on the files that were scored: how images were scaled, and by their ids what is to be
    known of volumes."""

    scaled: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, scored: ScoredImage | ScoredVolume) -> None:
        if isinstance(scored, ScoredVolume):
            self.notes[scored.record.id] = scored.loaded.note
        else:
            self.scaled.append(scored.loaded.scaled)

    def warn(self, reporter: Reporter) -> None:
        """Say how many files have a note."""
        warn_of_scaled(self.scaled, reporter)
        if noted := line_of_notes(self.notes):
            reporter.warn(noted)


def _labelled(dataset: Dataset, data: str, reporter: Reporter) -> list[Record]:
    """Return the labelled records outside the train part; DataError if there are none."""
    items = dataset.labelled()
    if not items:
        raise DataError(
            f"{data}: no labelled images; "
            "label them by folders (test/good, test/<kind>) or in manifest.csv"
        )
    passed_over = sum(r.split == "train" and r.label == ANOMALOUS for r in dataset.records)
    if passed_over:
        images = amount(
            passed_over,
            "anomalous image of the train part is",
            "anomalous images of the train part are",
        )
        reporter.warn(f"{images} not evaluated")
    return items


def _columns_named(columns: Sequence[str], items: Sequence[Record]) -> list[str]:
    """Return columns as the records spell them; ConfigError for one that no record has."""
    known = {"kind", "group"}
    for record in items:
        known |= set(record.extra)

    spelled = {name.casefold(): name for name in known}
    for column in columns:
        if column.casefold() not in spelled:
            raise ConfigError(f"no column {column!r} in the manifest; {nearest(column, known)}")
    return [spelled[column.casefold()] for column in columns]


def _columns_of(record: Record) -> Mapping[str, str]:
    return {**record.extra, "kind": record.kind, "group": record.group}
