"""Calibrating with all normals: each fold has a model of its own, which scores the groups that it
has not learned from.

These models are then dropped, and one that has learned from all scores new images. Everything that
is learned or chosen for a fold comes from its own fit and tune images. docs/audit.md says why one
model fitted again was taken, and not all of them together.
"""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anodetect.commands.calibrate import Calibrated, calibrate_model
from anodetect.commands.normals import LeftOut
from anodetect.data import split
from anodetect.files import write_atomic
from anodetect.model.colour_scale import some_for_scale
from anodetect.model.decoded import DecodedFiles
from anodetect.model.fitting import Training, fit_model
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.model.tune_maps import TuneMaps
from anodetect.record import runs
from anodetect.record.runs import KEPT_FOLDS as KEPT
from anodetect.stats.calibration import Calibration, joined
from anodetect.stats.mask_choice import ChosenMeasure
from anodetect.stats.mask_rule import RegionMeasure
from anodetect.types import Reporter

MakeModel = Callable[[split.Roles], Model]


def calibrate_folds(
    folds: Sequence[split.Roles],
    make_model: MakeModel,
    training: Training,
    chosen: ChosenMeasure | None,
    scratch: DecodedFiles,
    reporter: Reporter,
    *,
    keep: bool,
) -> Calibrated:
    """Fit a model for each fold and let it score the fold's images to calibrate with.

    `make_model` returns a model that has learned from a fold's images what preprocessing needs.
    `training` is that of one model, of which each fold gets as much. Regions are measured as
    `chosen`, above a low value of the fold's own. With `keep` what is finished is kept for a
    training that is interrupted, and with `training.resume` not fitted again.
    """
    parts: list[Calibration] = []
    left_out: list[LeftOut] = []
    for number, roles in enumerate(folds, start=1):
        kept = training.workdir / KEPT.replace("*", str(number))
        if training.resume and kept.is_file():
            made = _read(kept)
        else:
            reporter.say(f"fold {number} of {len(folds)}")
            made = _calibrate_fold(number, roles, make_model, training, chosen, scratch, reporter)
            if keep:
                _write(kept, made)
        parts.append(made.calibration)
        left_out += made.left_out

    calibration = joined(parts, None if chosen is None else chosen.measure)
    return Calibrated(calibration, left_out)


def _calibrate_fold(
    number: int,
    roles: split.Roles,
    make_model: MakeModel,
    training: Training,
    chosen: ChosenMeasure | None,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> Calibrated:
    """Fit the model of a fold, log how long that took, and return its part of the calibration."""
    model = make_model(roles)
    with tempfile.TemporaryDirectory(dir=training.workdir) as folder:
        apart = replace(training, workdir=Path(folder), resume=False)
        fit_model(model, roles, apart, scratch, reporter)
        log = runs.read_log(Path(folder))
    seconds = sum(entry.get("fit_seconds", 0.0) for entry in log)
    with (training.workdir / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"fold": number, "fit_seconds": seconds}) + "\n")

    measure = None if chosen is None else _measure_of(model, roles, chosen, scratch, reporter)
    return calibrate_model(model, roles.calibrate, reporter, scratch, measure)


def _measure_of(
    model: Model,
    roles: split.Roles,
    chosen: ChosenMeasure,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> RegionMeasure:
    """Return how the regions of a fold's maps are measured, by maps of its own tune images."""
    reference = some_for_scale(roles.tune or roles.fit)
    kept = TuneMaps(len(reference))
    for _ in kept.watch(score_records(model, reference, reporter, "scale", scratch=scratch)):
        pass
    return chosen.on(kept.maps)


def _write(file: Path, made: Calibrated) -> None:
    """Keep the part of a fold, for a training that is interrupted later."""
    calibration, content = made.calibration, io.BytesIO()
    arrays = {"scores": calibration.scores, "peaks": calibration.peaks}
    if calibration.strengths is not None:
        arrays["strengths"] = calibration.strengths
    names = {
        "groups": np.array(calibration.groups, np.str_),
        "paths": np.array([each.path for each in made.left_out], np.str_),
        "reasons": np.array([each.reason for each in made.left_out], np.str_),
    }
    np.savez(content, allow_pickle=False, **arrays, **names)
    write_atomic(file, content.getvalue())


def _read(file: Path) -> Calibrated:
    """Return what `_write` has kept, without the measure of the fold's regions."""
    with np.load(file, allow_pickle=False) as content:
        calibration = Calibration(
            content["scores"],
            content["peaks"],
            tuple(content["groups"].tolist()),
            strengths=content.get("strengths"),
        )
        pairs = zip(content["paths"].tolist(), content["reasons"].tolist(), strict=True)
        return Calibrated(calibration, [LeftOut(path, reason) for path, reason in pairs])
