"""The content of audit.json as types."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
from pydantic import AfterValidator, PlainValidator, TypeAdapter, ValidationError

from anodetect.config import without_nan
from anodetect.errors import one_line
from anodetect.record.calibrations import check_calibration
from anodetect.record.merkle import Tree
from anodetect.record.rows import first_problem
from anodetect.record.steps import check_steps
from anodetect.stats import mask_use
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule
from anodetect.stats.drift import Drift, Martingale
from anodetect.stats.evaluation import Evaluation, OperatingPoint
from anodetect.stats.lesions import metrics_of_json
from anodetect.stats.mask_rule import MaskRule, pixel_rule, rule_of
from anodetect.stats.metrics import Interval

T = TypeVar("T")
LARGEST_NUMBER = 2**63  # of whole numbers
NO_MASKS = pixel_rule(float("inf"))


def _restored(cls: type[T], content: Mapping[str, Any]) -> T:
    """Return a dataclass from its JSON, in which NaN is null; ValueError if something is
    missing."""
    if not isinstance(content, Mapping):
        raise ValueError("it is no object")
    values = {}
    for name, hint in get_type_hints(cls).items():
        if name in content:
            value = content[name]
            values[name] = float("nan") if value is None and hint is float else value
            _check_plain(name, values[name], hint)
    try:
        return cls(**values)
    except TypeError:
        lacking = sorted(get_type_hints(cls).keys() - values.keys())
        raise ValueError(f"it lacks {' or '.join(map(repr, lacking))}") from None


def _check_plain(name: str, value: object, hint: object) -> None:
    """Raise ValueError if a value that is to be a number or a text is none."""
    if hint is str and not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    if hint not in (int, float):
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, int) and abs(value) > LARGEST_NUMBER):
        raise ValueError(f"{name} is no number, or too large")


def _calibration(content: Mapping[str, Any]) -> Calibration:
    """Return the calibration of which `content` is the JSON."""
    try:
        return check_calibration(Calibration.restore(content))
    except (KeyError, TypeError) as error:
        raise ValueError(one_line(error)) from None


def _evaluation(content: Mapping[str, Any] | None) -> Evaluation | None:
    """Return the evaluation of which `content` is the JSON; the draws of its intervals are not in
    it."""
    if content is None:
        return None
    try:
        image = {name: _restored(Interval, each) for name, each in content["image"].items()}
        pixel, dice = _pixel(content["pixel"], content["pixel_intervals"])
        if "auroc" not in image:
            raise KeyError("auroc")
        point = content["operating_point"]
        return Evaluation(
            image=image,
            pixel=pixel,
            dice_at_threshold=dice,
            n_normal=content["n_normal"],
            n_anomalous=content["n_anomalous"],
            n_groups=content["n_groups"],
            operating_point=None if point is None else _restored(OperatingPoint, point),
            statement=content["statement"],
            masks=mask_use.from_json(content.get("masks")),
            lesions=metrics_of_json(content.get("lesions")),
            mask_statement=content.get("mask_statement", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(one_line(error)) from None


def _pixel(
    values: Mapping[str, Any] | None, bounds: Mapping[str, Any] | None
) -> tuple[dict[str, Interval] | None, float]:
    """Return the intervals of pixel metrics, None without any, and Dice at the pixel threshold."""
    if values is None:
        return None, float("nan")
    intervals, dice = {}, values["dice_at_threshold"]
    for name, interval in (bounds or {}).items():
        intervals[name] = _restored(Interval, interval | {"value": values[name]})
    return intervals, float("nan") if dice is None else dice


def _mask_rule(content: Mapping[str, Any]) -> MaskRule:
    """Return the rule of which `content` is the JSON."""
    try:
        rule = rule_of(content)
    except (KeyError, TypeError) as error:
        raise ValueError(one_line(error)) from None
    if rule is None:
        raise ValueError("it is null")
    return rule


def _environment(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the versions and hardware; ValueError if the packages are none."""
    if not isinstance(content.get("packages", {}), Mapping):
        raise ValueError("packages is no object")
    return content


def _roi(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is said of a region of interest, {} without one; ValueError if it is none."""
    if content:
        for name, hint in (("sha256", str), ("width", int), ("height", int)):
            _check_plain(name, content.get(name), hint)
    return content


def _drift(content: Mapping[str, Any] | None) -> Drift | None:
    return None if content is None else _restored(Drift, content)


def _martingale(content: Mapping[str, Any] | None) -> Martingale | None:
    return None if content is None else _restored(Martingale, content)


@dataclass(frozen=True)
class DriftChecks:
    """The comparison of the batch with the calibration images, and over time; None where a check
    was not possible."""

    batch: Annotated[Drift | None, PlainValidator(_drift)] = None
    time: Annotated[Martingale | None, PlainValidator(_martingale)] = None


@dataclass(frozen=True)
class ShownCases:
    """The paths of the images whose pictures are kept, the first ones first."""

    highest: tuple[str, ...] = ()
    borderline: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """A patient or lot that was erased: when, the head of the record before, the numbers of rows by
    their status, and of verdicts."""

    time: str
    head: str
    rows: Mapping[str, int]
    reviews: int = 0


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The way images were scored: all that is known before anything is decided.

    `facts` and `config` are those of the run's model file, `training` its curves, `backbones` the
    facts of the networks whose features it models; `baseline` says that its detector is one that
    others are compared with. `far` is None where images are flagged by a false-discovery rate,
    `fdr` where by a false-alarm rate. `mask_rule` says which regions of maps count; in records of
    older releases these are all above a threshold of pixels. `names` are those of the data sets,
    folders and files that were scored. `listed` counts the files that were
    found, of all shards, and `passed_over` by the reason those that have no row. `host` and
    `threads` say where it was scored, "" and () if on machines that are not alike. `copies` counts
    files with the pixels of another one, `repeated` names them; `resumed` counts those that a
    scoring took over from one that was interrupted. `roi` has the SHA-256 and the size of the
    region of interest, and the region itself if it is not the run's; {} without one. `keep` says
    which images keep their files, as `--keep` does.
    """

    run: str = ""
    run_path: str = ""
    model_sha256: str
    detector: str
    data: str
    facts: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Annotated[tuple[Mapping[str, Any], ...], AfterValidator(check_steps)] = ()
    backbones: tuple[Mapping[str, Any], ...] = ()
    baseline: bool = False
    far: float | None
    fdr: float | None
    mask_rule: Annotated[MaskRule, PlainValidator(_mask_rule)] = NO_MASKS
    scale: tuple[float, float]
    calibration: Annotated[Calibration, PlainValidator(_calibration)]
    shard: str = "1/1"
    heatmaps: tuple[str, ...] = ()
    root: str = ""
    names: tuple[str, ...] = ()
    identifiers: bool = False
    roi: Annotated[Mapping[str, Any], AfterValidator(_roi)] = field(default_factory=dict)
    accept_different: bool = False
    exact_grid: bool = False
    keep: str = "all"
    listed: int | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)
    command: tuple[str, ...]
    started: str = ""
    environment: Annotated[Mapping[str, Any], AfterValidator(_environment)]
    host: str = ""
    threads: tuple[int, ...] = ()
    cases: ShownCases
    merged_from: tuple[str, ...] = ()
    copies: int = 0
    repeated: tuple[str, ...] = ()
    resumed: int = 0

    @property
    def rule(self) -> Rule:
        """The rule by which p-values become flags."""
        return Rule.of(self.far, self.fdr)


@dataclass(frozen=True, kw_only=True)
class Audit(Scoring):
    """All that audit.json says.

    `counts` has the number of rows by their status, `reasons` by what went wrong, also of rows that
    were `erased` since. `tables` maps the names of the tables' files to their hashes, `trees` some
    of them to the trees of record.merkle. `chain` and `head` are those of record.chain.
    """

    statement: str
    ended: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)
    drift: DriftChecks = DriftChecks()
    caveats: tuple[str, ...] = ()
    evaluation: Annotated[Evaluation | None, PlainValidator(_evaluation)] = None
    format: int = 0
    rows: int
    chain: str
    tables: Mapping[str, str]
    head: str
    trees: Mapping[str, Tree] = field(default_factory=dict)
    erased: tuple[Erasure, ...] = ()

    @property
    def verdicts_start(self) -> str:
        """The head that the chain of verdicts starts from: that of the record as it was scored."""
        return self.erased[0].head if self.erased else self.head

    def erased_rows(self) -> Counter[str]:
        """Return how many rows were erased, by their status."""
        return sum((Counter(each.rows) for each in self.erased), Counter[str]())


def to_json(audit: Audit) -> dict[str, Any]:
    """Return what audit.json says, as JSON values; NaN and infinity become null."""
    content = {each.name: getattr(audit, each.name) for each in fields(audit)}
    content["calibration"] = audit.calibration.snapshot()
    content["mask_rule"] = audit.mask_rule.as_json()
    counts = np.isfinite(audit.mask_rule.least)
    content["pixel_threshold"] = audit.mask_rule.measure.low if counts else None
    content["drift"] = asdict(audit.drift)
    content["cases"] = asdict(audit.cases)
    content["trees"] = {name: asdict(tree) for name, tree in audit.trees.items()}
    content["erased"] = [asdict(each) for each in audit.erased]
    if audit.evaluation is not None:
        content["evaluation"] = audit.evaluation.as_json()
    values: dict[str, Any] = without_nan(content)
    return values


def from_json(content: Mapping[str, Any]) -> Audit:
    """Return the audit of which `content` is the JSON; ValueError says what is missing or wrong."""
    lacking = []
    for each in fields(Audit):
        has_default = each.default is not MISSING or each.default_factory is not MISSING
        if not has_default and each.name not in content:
            lacking.append(each.name)
    if lacking:
        raise ValueError(f"audit.json lacks {', '.join(lacking)}")
    if "mask_rule" not in content:  # a record of an older release
        threshold = content.get("pixel_threshold")
        _check_plain("pixel_threshold", 0 if threshold is None else threshold, float)
        rule = pixel_rule(float("inf") if threshold is None else float(threshold))
        content = {**content, "mask_rule": without_nan(rule.as_json())}

    try:
        return TypeAdapter(Audit).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise ValueError(f"audit.json: {first_problem(error)}") from None
