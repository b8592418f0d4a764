"""Calibrate: frozen weights and new calibration normals in, a new run out."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.commands.normals import usable_normals, used_rows
from anodetect.data import cards, split
from anodetect.data.scan import Record
from anodetect.errors import DataError
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.record import runs
from anodetect.stats.calibration import Calibration
from anodetect.types import Reporter, Silent


def calibrate_model(
    model: Model, items: Sequence[Record], reporter: Reporter
) -> tuple[Calibration, list[tuple[str, str]]]:
    """Score held-out normals; the calibration, and what could not be scored. Only numbers are kept
    of an image, and of a volume those of each of its slices."""
    scores: list[float] = []
    peaks: list[float] = []
    groups: list[str] = []
    failed = []
    for scored in score_records(model, items, reporter, "calibrate"):
        if scored.heatmap is None:
            failed.append((scored.loaded.record.id, scored.loaded.error))
            reporter.warn(f"left out: {scored.loaded.record.id}: {scored.loaded.error}")
        elif scored.slices is not None:
            scores += scored.slices.scores.tolist()
            peaks += scored.slices.peaks.tolist()
            groups += [scored.loaded.record.group] * len(scored.slices.numbers)
        else:
            scores.append(scored.score)
            peaks.append(float(np.nanmax(scored.heatmap)))
            groups.append(scored.loaded.record.group)
    return Calibration(
        np.array(scores, np.float64), np.array(peaks, np.float64), tuple(groups)
    ), failed


def calibrate(
    run_path: Path, data: str, out: Path, *, device: str = "auto", reporter: Reporter | None = None
) -> dict[str, Any]:
    """The same frozen weights with new calibration normals, as a new run."""
    reporter = reporter or Silent()
    run = runs.read(run_path)
    dataset = cards.open_data(data)
    model = Model.load(run, device)
    dims = model.tiling.dims
    preprocess = copy(
        model.preprocess
    )  # what it learns here is no part of the model, which is frozen
    normals, hashes, failed = usable_normals(dataset, preprocess, dims, reporter)
    if len(normals) < split.MINIMUM:
        raise DataError(
            f"{len(normals)} normal {'volumes' if dims == 3 else 'images'} are too few to calibrate with; at least "
            f"{split.MINIMUM} are needed"
        )
    kept = [row for row in runs.read_manifest(run_path) if row["role"] in ("fit", "tune")]
    used = {row["sha256"]: row["path"] for row in kept}
    for record in normals:
        if hashes[record.id] in used:
            raise DataError(
                f"leak: {record.id} has the same bytes as {used[hashes[record.id]]}, which the model was trained on"
            )
    refuse_known_groups(kept, normals)
    calibration, unscored = calibrate_model(model, normals, reporter)
    if len(normals) - len(unscored) < split.MINIMUM:
        raise DataError(
            f"only {len(normals) - len(unscored)} of {len(normals)} could be scored; {unscored[0][1]}"
        )
    failed += unscored
    workdir = runs.begin(out, resume=False)
    facts = dict(run.header["facts"]) | {
        "calibrated_on": dataset.name,
        "calibrated_from": run.model_sha256,
    }
    facts |= {"failed": len(failed), "dropped": ""}
    header = {
        key: value
        for key, value in run.header.items()
        if key not in ("hashes", "calibration_groups")
    } | {"facts": facts}
    manifest = kept + used_rows(normals, "calibrate", hashes)
    (workdir / "train.jsonl").write_bytes((run_path / "train.jsonl").read_bytes())
    runs.write(
        workdir,
        out,
        header=header,
        state=run.state,
        calibration=calibration,
        manifest=manifest,
        card=runs.model_card(header, calibration),
    )
    return runs.facts(out) | {"failures": [f"{name}: {reason}" for name, reason in failed]}


def refuse_known_groups(rows: Sequence[Mapping[str, str]], items: Sequence[Record]) -> None:
    """DataError if a named group (a patient, a lot) is among the `rows` of a run's manifest."""
    known = {row["group"]: row["path"] for row in rows if row["group"] != row["path"]}
    for record in items:
        if record.group != record.id and record.group in known:
            raise DataError(
                f"leak: group {record.group!r} of {record.id} took part in the run ({known[record.group]})"
            )
