"""Calibrate: frozen weights and new calibration normals in, a new run out."""

import shutil
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anodetect.commands.channels import channels_of_run
from anodetect.commands.inspect import summary
from anodetect.commands.manifest import (
    LEARNED_FROM,
    ODD,
    KnownFiles,
    refuse_known_groups,
    used_rows,
)
from anodetect.commands.normals import LeftOut, Normals, usable_normals, warn_of, warn_of_scaled
from anodetect.commands.results import CalibrateResult
from anodetect.data import cards, split
from anodetect.data.records import Dataset, Record
from anodetect.errors import DataError
from anodetect.files import path_or_none
from anodetect.imaging.backbones.table import EMBEDDED
from anodetect.imaging.regions import RegionOfInterest, read_roi
from anodetect.model.decoded import DecodedFiles
from anodetect.model.devices import check_device
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.model.scoring import ScoredImage, score_records
from anodetect.record import runs
from anodetect.record.components import read_components
from anodetect.record.model_card import model_card
from anodetect.record.odd import read_odd
from anodetect.record.runs import ManifestRow, RunHeader
from anodetect.remote.paths import local
from anodetect.stats.calibration import Calibration
from anodetect.stats.contamination import caveat, suspects
from anodetect.stats.mask_rule import RegionMeasure
from anodetect.types import Reporter, Silent
from anodetect.words import amount


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and the images that could not be scored for it."""

    calibration: Calibration
    left_out: list[LeftOut]


def calibrate(
    run_path: Path | str,
    data: str,
    out: Path | str,
    *,
    follow_symlinks: bool = False,
    kind_normal: Collection[str] = (),
    device: str = "auto",
    roi: Path | str | None = None,
    reporter: Reporter | None = None,
) -> CalibrateResult:
    """Write the run `out` with the weights of `run_path` and the normals of `data` as its
    calibration images. `kind_normal` names the folders or kinds of `data` that hold normals.

    `roi` is a mask of where all images count, by default that of the run. Return the run's facts
    and the files that failed. Raises DataError if there are too few images,
    or if one of them, or its group, was used for the weights.
    """
    run_path, out, roi = Path(run_path), local(out, "runs stay"), path_or_none(roi)
    reporter = reporter or Silent()
    check_device(device)
    run = runs.read(run_path)
    with runs.begin(out, resume=False) as workdir:
        dataset = cards.open_data(
            data,
            follow_symlinks=follow_symlinks,
            kind_normal=kind_normal,
            channels=channels_of_run(run),
        )
        for line in summary(dataset, learns=False):
            reporter.say(line)
        own = None if roi is None else read_roi(roi)
        left_out = _calibrate(run, dataset, workdir, device, own, reporter)
    failures = tuple(f"{each.path}: {each.reason}" for each in left_out)
    return CalibrateResult(runs.facts(out), failures)


def _calibrate(
    run: runs.Run,
    dataset: Dataset,
    workdir: Path,
    device: str,
    roi: RegionOfInterest | None,
    reporter: Reporter,
) -> list[LeftOut]:
    """Write the files of the new run, and return the images that were left out."""
    model = Model.load(run, device)
    model.preprocess.roi = roi or model.preprocess.roi
    preprocess = copy(model.preprocess)  # what it learns here is no part of the frozen model
    normals = usable_normals(dataset, preprocess, model.tiling.dims, reporter)
    _check_count(normals.records, model.tiling.dims)

    known = [row for row in runs.read_manifest(run.path) if row.role in (*LEARNED_FROM, ODD)]
    learned_from = [row for row in known if row.role != ODD]
    _refuse_copies(learned_from, normals)
    refuse_known_groups(learned_from, normals.records)

    measure = run.calibration.regions
    calibrated = calibrate_model(model, normals.records, reporter, measure=measure)
    usable = len(normals.records) - len(calibrated.left_out)
    if usable < split.MINIMUM:
        reason = calibrated.left_out[0].reason
        raise DataError(f"only {usable} of {len(normals.records)} could be scored; {reason}")
    if roi is None:  # in another region scores are others
        _warn_of_suspects(run.calibration, calibrated.calibration, reporter)
    left_out = normals.left_out + calibrated.left_out

    (workdir / "train.jsonl").write_bytes((run.path / "train.jsonl").read_bytes())
    if runs.copies_in(run.path):
        shutil.copytree(run.path / EMBEDDED, workdir / EMBEDDED)
    header = _header(run, dataset.name, len(left_out), model.preprocess.roi)
    runs.write(
        workdir,
        header=header,
        state=run.state,
        calibration=calibrated.calibration,
        manifest=known + used_rows(normals.records, "calibrate", normals),
        card=model_card(header, calibrated.calibration),
        odd=read_odd(run.path),
        components=read_components(run.path),
    )
    return left_out


def calibrate_model(
    model: Model,
    records: Sequence[Record],
    reporter: Reporter,
    scratch: DecodedFiles | None = None,
    measure: RegionMeasure | None = None,
) -> Calibrated:
    """Score held-out normals and return their calibration.

    Only numbers are kept of an image, and of a volume those of each of its slices. What `scratch`
    holds is not decoded again. `measure` says what the regions of maps are; without it only their
    highest values are known.
    """
    scores: list[float] = []
    peaks: list[float] = []
    strengths: list[float] = []
    groups: list[str] = []
    left_out: list[LeftOut] = []
    scaled: list[str] = []

    for scored in score_records(model, records, reporter, "calibrate", scratch=scratch):
        if isinstance(scored, Failed):
            left_out.append(LeftOut(scored.record.id, scored.error))
            warn_of(left_out[-1:], reporter)
            continue
        if isinstance(scored, ScoredImage):
            scores.append(scored.score)
            peaks.append(float(np.nanmax(scored.heatmap)))
            maps = [scored.heatmap]
            scaled.append(scored.loaded.scaled)
        else:
            scores += scored.slices.scores.tolist()
            peaks += scored.slices.peaks.tolist()
            maps = [scored.heatmap[number] for number in scored.slices.numbers]
        groups += [scored.record.group] * len(maps)
        if measure is not None:
            strengths += [measure.highest(heatmap) for heatmap in maps]

    if scratch is None:  # a training has said it already
        warn_of_scaled(scaled, reporter)
    calibration = Calibration(
        np.array(scores, np.float64),
        np.array(peaks, np.float64),
        tuple(groups),
        measure,
        None if measure is None else np.array(strengths, np.float64),
    )
    return Calibrated(calibration, left_out)


def _warn_of_suspects(earlier: Calibration, new: Calibration, reporter: Reporter) -> None:
    """Warn of new calibration images that look like anomalies to the one calibrated before."""
    found = suspects(new.scores, new.groups, earlier.scores, earlier.groups)
    if found:
        reporter.warn(caveat(found, len(set(new.groups))))


def _check_count(records: Sequence[Record], dims: int) -> None:
    """Raise DataError if there are too few images, or volumes in three dimensions."""
    if len(records) < split.MINIMUM:
        what = "volume" if dims == 3 else "image"
        those = amount(len(records), f"normal {what} is", f"normal {what}s are")
        raise DataError(f"{those} too few to calibrate with; at least {split.MINIMUM} are needed")


def _refuse_copies(rows: Sequence[ManifestRow], normals: Normals) -> None:
    """Raise DataError if one of the normals has the bytes or the pixels of an image that the model
    learned from."""
    known = KnownFiles(rows)
    for record in normals.records:
        copied = known.copied(normals.hashes[record.id], normals.pixels[record.id])
        if copied:
            raise DataError(f"leak: {record.id} has {copied}, which the model was trained on")


def _header(run: runs.Run, data: str, failed: int, roi: RegionOfInterest | None) -> RunHeader:
    """Return the new run's header: the old one with the facts of this calibration."""
    preprocess = dict(run.header.preprocess)
    if roi is not None:
        preprocess["roi"] = roi.state()
    facts = replace(
        run.header.facts,
        calibrated_on=data,
        calibrated_from=run.model_sha256,
        failed=failed,
        dropped="",
    )
    return replace(run.header, preprocess=preprocess, facts=facts)
