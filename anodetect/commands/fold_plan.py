"""A training before it begins: how many folds would calibrate, what they cost, and which promise
follows. No torch."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from anodetect.data import split
from anodetect.data.records import Dataset, Record
from anodetect.detectors import DETECTORS, RECOMMENDED, current_name, entry_named
from anodetect.errors import ConfigError, DataError
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.realised import RealisedRate
from anodetect.words import amount

NEEDED = round(1 / DEFAULT_FAR) - 1  # groups, below which nothing is promised at DEFAULT_FAR


@dataclass(frozen=True)
class CalibrationPlan:
    """The arguments of `train` that decide what calibrates, and whether images can be learned from.

    `folds` is None where the detector decides, `budget` is in minutes, None for no limit, `tile` is
    the side of a tile in pixels, 0 for whole images.
    """

    detector: str
    folds: int | None = None
    drops_odd: bool = False
    allow_few: bool = False
    budget: float | None = None
    tile: int = 0


def check_folds(folds: int | None, *, drops_odd: bool) -> None:
    """Raise ConfigError if folds cannot be had as they are asked for; None and 0 ask for none."""
    if not folds:
        return
    if drops_odd:
        raise ConfigError(
            "--drop-odd chooses among the images to fit, and every fold would choose others; take "
            "--folds 0"
        )
    if _processes() > 1:
        raise ConfigError("--folds trains in one process; start it without torchrun")


def folds_of(
    folds: int | None,
    detector: str,
    records: Sequence[Record],
    to_fit: Collection[str],
    *,
    drops_odd: bool,
) -> int:
    """Return into how many folds normals are cut: as many as are asked for, with None
    `split.usual_folds` for a detector that learns in seconds; 0 for none."""
    if folds is not None:
        return folds
    if not entry_named(detector).train_free or drops_odd or _processes() > 1:
        return 0
    return split.usual_folds(records, to_fit)


def _processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_of(plan: CalibrationPlan, dataset: Dataset) -> int:
    """Return into how many folds the normals would be cut, 0 for none; ConfigError where `train`
    would refuse that."""
    check_folds(plan.folds, drops_odd=plan.drops_odd)
    to_fit = {record.group for record in dataset.anomalies()}
    name = current_name(plan.detector)
    return folds_of(plan.folds, name, dataset.training(), to_fit, drops_odd=plan.drops_odd)


def plan_lines(plan: CalibrationPlan, dataset: Dataset) -> list[str]:
    """Return in words what calibrates, what that costs, and what can be promised then. Copies and
    files that cannot be read are not known yet."""
    count, normals = count_of(plan, dataset), dataset.training()
    to_fit = {record.group for record in dataset.anomalies()}
    try:
        if count:
            roles = split.assign_folds(normals, count, to_fit=to_fit)
        else:
            roles = split.assign(normals, few=plan.allow_few, to_fit=to_fit)
    except DataError as error:
        return [f"train would refuse it: {error}"]

    groups = len({record.group for record in roles.calibrate})
    lines = [_cost(plan, count), _promise(len(roles.calibrate), groups, count)]
    every = len({record.group for record in normals} - to_fit)
    if not count and groups < NEEDED <= every and len(normals) >= split.MINIMUM:
        lines.append(f"with --folds {split.FOLDS} all {every} groups calibrate, enough for that")
    return lines


def other_use(dataset: Dataset) -> list[str]:
    """Return one line if detectors that learn in seconds would use the normals otherwise than the
    one that `train` takes by default, else []."""
    quick = [name for name, entry in DETECTORS.items() if entry.train_free]
    count = count_of(CalibrationPlan(quick[0]), dataset)
    if not count or count == count_of(CalibrationPlan(RECOMMENDED), dataset):
        return []
    use = use_in_folds(count)
    return [f"so with {RECOMMENDED}, the default; with {', '.join(quick)}: {use}"]


def use_in_folds(count: int) -> str:
    """Return in words what normals are used for that are cut into so many folds."""
    return f"all to learn from and, in {count} folds, to calibrate with"


def _cost(plan: CalibrationPlan, folds: int) -> str:
    """Return in words how many models learn, and for how long."""
    if not folds:
        return "--folds 0: one model learns, and normals that it has not learned from calibrate"
    text = f"--folds {folds}: {folds + 1} models learn, of which one is kept"
    if entry_named(current_name(plan.detector)).train_free:
        return f"{text}; {plan.detector} learns in seconds, and now takes {folds + 1} times as long"
    if plan.budget is None:
        return f"{text}, which takes {folds + 1} times as long"
    each = plan.budget / (folds + 1)
    return f"{text}; each has {each:.3g} of the {plan.budget:g} minutes of --budget"


def _promise(images: int, groups: int, folds: int) -> str:
    """Return in words what so many images in so many groups can promise at DEFAULT_FAR."""
    if not groups:
        return "nothing calibrates: no p-values, flags and thresholds"
    those = f"{amount(images, 'image')} in {amount(groups, 'group')}"
    verb = "calibrates" if images == 1 else "calibrate"
    text = f"{those} {verb}: p-values from {1 / (groups + 1):.4f}"
    if groups < NEEDED:
        return (
            f"{text}; too few for a promise by groups at {DEFAULT_FAR:.0%}, for which {NEEDED} are "
            "needed: images are then ranked as if independent, which is optimistic"
        )

    units = groups + 1
    mean = int(DEFAULT_FAR * units + 1e-9) / units
    bound = RealisedRate(mean, mean, units).bound()
    text = (
        f"{text}; at {DEFAULT_FAR:.0%} at most {mean:.2%} of new normal images are flagged on "
        f"average over calibrations, and at most {bound:.2%} after 19 of 20 of them"
    )
    if folds:
        return f"{text}; with folds so it is in simulations, but no theorem says so"
    return text
