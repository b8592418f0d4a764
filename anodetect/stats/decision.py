"""From scores to flags: p-values, q-values and thresholds of images and of groups. NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.calibration import Calibration, Doubles, benjamini_hochberg
from anodetect.stats.group_size import group_p_values, volume_group_p_values
from anodetect.types import Bools
from anodetect.words import amount

TOLERANCE = 1e-12  # by which a p-value may exceed the rate: sums of weights are not exact


@dataclass(frozen=True)
class Rule:
    """The rule by which p-values become flags: at the false-alarm rate `rate`, or, `by_fdr`, at the
    false-discovery rate `rate`."""

    rate: float
    by_fdr: bool = False

    @classmethod
    def of(cls, far: float | None, fdr: float | None) -> "Rule":
        """Return the rule of the options `--far` and `--fdr`; the second one counts if both are
        given."""
        if fdr is not None:
            return cls(fdr, by_fdr=True)
        assert far is not None
        return cls(far)

    def flags(self, p_values: Doubles, q_values: Doubles) -> Bools:
        """Return which of the p-values or q-values [n] are small enough."""
        decisive = q_values if self.by_fdr else p_values
        return np.asarray(decisive <= self.rate + TOLERANCE)


@dataclass(frozen=True)
class Decision:
    """The decision over one image or volume: its score, its p-value, whether it is flagged, and the
    score above which it would be.

    `flagged` and `threshold` are None where nothing can be decided of it alone: by a
    false-discovery rate, which looks at all images, and without calibration images. Then there is
    no p-value either.
    """

    rule: Rule
    score: float
    p_value: float | None = None
    flagged: bool | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class GroupDecisions:
    """The decisions for m groups: `images` counts those of each, `scores` are the highest."""

    images: NDArray[np.int32]
    scores: Doubles
    p_values: Doubles
    q_values: Doubles
    flags: Bools


@dataclass(frozen=True)
class Decisions:
    """The decisions for n images and volumes, and for their groups.

    `thresholds` [n] holds the score above which each is flagged, `threshold` that of images.
    """

    p_values: Doubles
    q_values: Doubles
    flags: Bools
    thresholds: Doubles
    threshold: float
    groups: GroupDecisions


def decide(
    scores: Doubles,
    volumes: Bools,
    groups: NDArray[np.integer],
    n_groups: int,
    calibration: Calibration,
    rule: Rule,
    *,
    slices: NDArray[np.integer] | None = None,
    by_size: bool = True,
) -> Decisions:
    """Decide over scores [n], of which some are those of `volumes` [n].

    `groups` [n] holds the number of each one's group, 0 to `n_groups` − 1. A volume's score is the
    highest of its slices', so it is compared with the same of each calibration group, and an
    image's score with the calibration images. A group's score is its highest, compared with that of
    as many calibration images, or of calibration groups with as many slices (`group_size`); not
    `by_size` with the highest of each calibration group, as release 0.2 compared all. `slices` [n]
    counts the scored slices of each volume, by default 1. q-values are Benjamini–Hochberg where
    every image is its own group, else Benjamini–Yekutieli.
    """
    pooled_calibration = calibration.pooled()
    p = p_values(scores, volumes, calibration, rule.rate)
    q = benjamini_hochberg(p, dependent=n_groups < len(p))
    flags = rule.flags(p, q)

    if rule.by_fdr:
        threshold = volume_threshold = float(max(scores[~flags], default=-np.inf))
    else:
        threshold = calibration.threshold(rule.rate)
        volume_threshold = pooled_calibration.threshold(rule.rate)

    highest = np.full(n_groups, -np.inf)
    np.maximum.at(highest, groups, scores)
    images = np.bincount(groups, minlength=n_groups).astype(np.int32)
    group_p = pooled_calibration.p_values(highest, rule.rate)
    if by_size and calibration.groups:
        each = np.ones(len(scores)) if slices is None else np.maximum(slices, 1)
        total = np.bincount(groups, each, n_groups).astype(np.int64)
        of_volumes = np.bincount(groups, volumes, n_groups) > 0
        known, rest = calibration.by_group(), ~of_volumes
        group_p[rest] = group_p_values(highest[rest], images[rest], known, rule.rate)
        group_p[of_volumes] = volume_group_p_values(
            highest[of_volumes], images[of_volumes], total[of_volumes], known, rule.rate
        )
    group_q = benjamini_hochberg(group_p)
    of_groups = GroupDecisions(
        images=images,
        scores=highest,
        p_values=group_p,
        q_values=group_q,
        flags=rule.flags(group_p, group_q),
    )
    thresholds = np.where(volumes, volume_threshold, threshold)
    return Decisions(p, q, flags, thresholds, float(threshold), of_groups)


def decide_one(score: float, calibration: Calibration, rule: Rule, *, is_volume: bool) -> Decision:
    """Decide over one image or volume as `decide` does over many."""
    if not calibration.groups:
        return Decision(rule, score)

    reference = calibration.pooled() if is_volume else calibration
    p = reference.p_values([score], rule.rate)
    if rule.by_fdr:
        return Decision(rule, score, float(p[0]))
    flagged = bool(rule.flags(p, p)[0])
    return Decision(rule, score, float(p[0]), flagged, reference.threshold(rule.rate))


def p_values(scores: Doubles, volumes: Bools, calibration: Calibration, rate: float) -> Doubles:
    """Return p-values [n] of scores [n]: an image's among the calibration images, a volume's among
    the pooled groups."""
    of_volumes = calibration.pooled().p_values(scores, rate)
    of_images = calibration.p_values(scores, rate)
    return np.where(volumes, of_volumes, of_images)


def decide_slices(scores: Doubles, calibration: Calibration, rule: Rule) -> tuple[Doubles, Bools]:
    """Return p-values [n] and flags [n] of slices with these scores [n]; a slice counts as an
    image."""
    p = calibration.p_values(scores, rule.rate)
    q = benjamini_hochberg(p, dependent=True) if rule.by_fdr else p
    return p, rule.flags(p, q)


def statement(calibration: Calibration, rule: Rule, images: int, groups: int) -> str:
    """Return in one or two sentences what the rule promises of so many images in so many groups."""
    if not rule.by_fdr or len(calibration.scores) == 0:
        return calibration.statement(rule.rate)

    alike, factor = "", 1.0
    if groups != images:
        alike = " (Benjamini–Yekutieli, as images of one group may resemble each other)"
        factor = float((1 / np.arange(1, images + 1)).sum())

    finest = calibration.finest_rate(rule.rate)
    needed = int(np.ceil(finest * images * factor / rule.rate - 1e-9))
    own = amount(images, "image")
    reach = f"none of {own} can be flagged"
    if needed <= images:
        reach = f"at least {needed} of {own} must reach it before any can be flagged"

    optimistic = ""
    if calibration.level(rule.rate) == "image":
        few = amount(calibration.n_groups, "calibration group is", "calibration groups are")
        optimistic = f" Optimistic: {few} too few, so images are taken as independent."
    return (
        f"Among flagged images at most {rule.rate:.2%} are expected to be normal{alike}. "
        f"The smallest possible p-value is {finest:.4f}, so {reach}.{optimistic}"
        f"{calibration.of_folds()}"
    )
