"""From raw scores to false-alarm probabilities: split-conformal p-values over groups.

Nothing is learned here. With calibration groups g = 1 … G (patients, lots; an image without a group
is a group of its own),

    p(s) = (1 + Σ_g mean_{i∈g} 1[s_i ≥ s]) / (G + 1),

which is the mean, over all ways of drawing one image per group, of the classical conformal p-value
(Vovk et al. 2005, eq. 2.20). With one image per group it is exact: a new normal image has
P(p ≤ α) ≤ α.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.errors import ConfigError
from anodetect.stats.fold_check import folds_differ
from anodetect.stats.mask_rule import MaskRule, RegionMeasure, measure_of, pixel_rule
from anodetect.stats.realised import RealisedRate, left_out_rate
from anodetect.words import amount

Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
DEFAULT_FAR = 0.05
Level = Literal["group", "image", "none"]


@dataclass(frozen=True)
class Calibration:
    """Held-out normal images: their scores [n], highest map values [n] and group names [n].

    `strengths` [n] are those of the strongest region of each by the measure `regions`; None in runs
    of older releases, which know only highest values. `folds` [n] are the numbers, from 1, of the
    models that scored each image and had not learned from its group; None where one model scored
    all.
    """

    scores: Doubles
    peaks: Doubles
    groups: tuple[str, ...]
    regions: RegionMeasure | None = None
    strengths: Doubles | None = None
    folds: Numbers | None = None

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any]) -> "Calibration":
        """Return the calibration that a `snapshot` was taken of."""
        scores = np.array(snapshot["scores"], np.float64)
        peaks = np.array(snapshot["peaks"], np.float64)
        regions = measure_of(snapshot.get("regions"))
        strengths = None
        if regions is not None:
            strengths = np.array(snapshot["strengths"], np.float64)
        folds = None
        if snapshot.get("folds") is not None:
            folds = np.array(snapshot["folds"], np.int64)
        return cls(scores, peaks, tuple(snapshot["groups"]), regions, strengths, folds)

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as JSON values, for the record."""
        content = {
            "scores": self.scores.tolist(),
            "peaks": self.peaks.tolist(),
            "groups": list(self.groups),
            "n_groups": self.n_groups,
        }
        if self.regions is not None and self.strengths is not None:
            content["regions"] = self.regions.as_json()
            content["strengths"] = self.strengths.tolist()
        if self.folds is not None:
            content["folds"] = self.folds.tolist()
        return content

    @cached_property
    def n_groups(self) -> int:
        return len(set(self.groups))

    @property
    def n_folds(self) -> int:
        """The number of models that scored the images, 0 where one scored all."""
        return 0 if self.folds is None else len(np.unique(self.folds))

    def level(self, far: float) -> Level:
        """Return the units over which a false-alarm rate can be promised: groups if there are
        enough, else images, else none.

        Images are optimistic if those of one group resemble each other. Raises ConfigError unless
        0 < `far` < 1.
        """
        check_rate(far)
        if (self.n_groups + 1) * far >= 1 - 1e-12:
            return "group"
        return "image" if (len(self.scores) + 1) * far >= 1 - 1e-12 else "none"

    def finest_rate(self, far: float) -> float:
        """Return the smallest p-value that can occur at the level of `far`."""
        units = self.n_groups if self.level(far) == "group" else len(self.scores)
        return 1 / (units + 1)

    def p_values(self, scores: Sequence[float] | Doubles, far: float) -> Doubles:
        """Return p-values in (0, 1] at the level of `far`; NaN for a score that is NaN, and all NaN
        without calibration images."""
        return self._p_values(np.asarray(scores, np.float64), self.scores, self.level(far))

    def threshold(self, far: float) -> float:
        """Return the score above which p ≤ far; infinite if no score can be so rare."""
        return self._threshold(self.scores, far)

    def pixel_threshold(self, far: float) -> float:
        """Return the map value that at most a share `far` of the calibration images exceed, counted
        by groups as above."""
        return self._threshold(self.peaks, far)

    def realised(self, far: float) -> RealisedRate:
        """Return at which rate new normal images are flagged, on average over calibrations and how
        far from it; ConfigError where the level is none, at which nothing is."""
        level, units = self.level(far), self.n_groups + 1
        if level == "none":
            raise ConfigError(f"nothing can be flagged at {far:.2%}")
        mean = left_out_rate(self.scores, self.groups, far, by_group=level == "group")
        alike = max(1.0, np.floor(far * units + 1e-9)) / units
        return RealisedRate(mean, max(mean, alike), units)

    def mask_rule(self, far: float) -> MaskRule:
        """Return which regions of maps count at a false-alarm rate.

        At most a share `far` of the calibration groups have any such region. Where groups are too
        few for that, at most a share `far` of the images, as if independent. Without `regions` all
        pixels count that exceed what at most a share `far` of the calibration images exceed
        anywhere, which is the rule of older releases.
        """
        if self.regions is None or self.strengths is None:
            return pixel_rule(self.pixel_threshold(far))
        units = self.pooled() if self.level(far) == "group" else self
        assert units.strengths is not None
        return MaskRule(self.regions, units._threshold(units.strengths, far))

    def mask_statement(self, far: float) -> str:
        """Return in one or two sentences which regions of maps count, and what that promises."""
        if len(self.scores) == 0:
            return "There are no masks: without calibration images no region can be rare."
        rule, level = self.mask_rule(far), self.level(far)
        if self.regions is None:
            return (
                f"Masks show the pixels above {rule.least:.4g} (the rule of older releases, which "
                "hangs on the brightest spots of a few images; `anodetect train` makes a run whose "
                "regions are calibrated)."
            )
        if level == "none":
            return f"Masks are empty: no region can be as rare as {far:.2%}."

        what = (
            f"Masks show regions above {rule.measure.low:.4g} with a {rule.measure.statistic} "
            f"above {rule.least:.4g}"
        )
        if level == "group":
            return (
                f"{what}: at most {far:.2%} of new normal groups, or of volumes where a group has "
                "several, are expected to have any."
            )
        marked, groups = self.marked_groups(far), amount(self.n_groups, "calibration group")
        return (
            f"{what}. Optimistic: {groups} can only promise that at most "
            f"{1 / (self.n_groups + 1):.2%} of new groups have any, so {far:.2%} is that of images "
            f"as if independent: {marked.mean:.0%} of new groups, or of volumes where a group has "
            "several, are expected to have any, judging each calibration group by the others, and "
            f"at most {marked.bound():.0%} after 19 of 20 calibrations."
        )

    def marked_groups(self, far: float) -> RealisedRate:
        """Return at which rate new groups have a region that counts, where images are ranked as if
        independent.

        Its mean is that of calibration groups of which each is judged by the others. For its bound
        the groups that have one now count, and the new one.
        """
        assert self.strengths is not None
        groups, units = np.array(self.groups), self.n_groups + 1
        marked = []
        for name in np.unique(groups):
            own = groups == name
            rest = Calibration(self.scores[~own], self.peaks[~own], tuple(groups[~own].tolist()))
            least = rest._threshold(self.strengths[~own], far)
            marked.append(self.strengths[own].max() > least)
        mean, pooled = float(np.mean(marked)), self.pooled().strengths
        assert pooled is not None
        above = int((pooled > self._threshold(self.strengths, far)).sum())
        return RealisedRate(mean, max(mean, (above + 1) / units), units)

    def statement(self, far: float) -> str:
        """Return in one or two sentences what the promised rate is worth."""
        n, groups = len(self.scores), self.n_groups
        if n == 0:
            return (
                "There are no calibration images: too few normals for a promise. "
                "p-values, q-values, flags and thresholds are empty; "
                "`anodetect calibrate` gives them from new normals."
            )
        level, finest = self.level(far), 1 / (groups + 1)

        if level == "group":
            realised = self.realised(far)
            return (
                f"{'At most' if n == groups and self.folds is None else 'About'} {far:.2%} of new "
                "normal images are "
                f"expected to be flagged: {realised.mean:.2%} on average over calibrations, and "
                f"at most {realised.bound():.2%} after 19 of 20 of them; "
                f"from {amount(n, 'calibration image')} in {amount(groups, 'group')}; "
                f"the smallest possible p-value is {finest:.4f}.{self.of_folds()}"
            )
        if level == "image":
            realised = self.realised(far)
            few = amount(groups, "calibration group is", "calibration groups are")
            return (
                f"Optimistic: {few} too few for {far:.2%} "
                f"(the finest rate {amount(groups, 'group')} can promise is {finest:.4f}), "
                f"so p-values rank the {amount(n, 'image')} as if independent; "
                "if those of one group resemble each other, more will be flagged: "
                f"{realised.mean:.2%} on average, judging each group by the others, and at most "
                f"{realised.bound():.2%} after 19 of 20 calibrations."
                f"{self.of_folds()}"
            )
        return (
            f"Nothing can be flagged at {far:.2%}: "
            f"the finest rate {amount(groups, 'group')} can promise is {finest:.4f}, "
            f"and {amount(n, 'image reaches', 'images reach')} {1 / (n + 1):.4f}."
        )

    def of_folds(self) -> str:
        """Return in a sentence, after a space, what it means that models of folds have scored the
        calibration images; "" if one model scored all."""
        if self.folds is None:
            return ""
        text = (
            f" Each calibration image was scored by one of {self.n_folds} models that had not seen "
            "its group, and new ones are by a model that has learned from all: "
        )
        if folds_differ(self.scores, self.groups, self.folds):
            return (
                f"{text}the scores of these models differ by more than chance explains, so that "
                "the rate may be far from what is promised; `anodetect train --folds 0`, or "
                "`anodetect calibrate` with new normals, keeps the promise."
            )
        return f"{text}in simulations it flags no more than is promised, but no theorem says so."

    def by_group(self) -> list[Doubles]:
        """Return the scores of each group's images."""
        _, number = np.unique(np.array(self.groups), return_inverse=True)
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number))[:-1]
        return np.split(self.scores[order], ends)

    def pooled(self) -> "Calibration":
        """Return a calibration with one entry per group: its highest score, map value and
        strength."""
        names, first, index = np.unique(
            np.array(self.groups), return_index=True, return_inverse=True
        )

        def highest(values: Doubles) -> Doubles:
            found = np.full(len(names), -np.inf)
            np.maximum.at(found, index, values)
            return found

        return Calibration(
            highest(self.scores),
            highest(self.peaks),
            tuple(str(name) for name in names),
            self.regions,
            None if self.strengths is None else highest(self.strengths),
            None if self.folds is None else self.folds[first],
        )

    def weights(self, level: Level) -> tuple[Doubles, int]:
        """Return the weight of each calibration image [n], and the number of units (groups or
        images) they make up."""
        if level != "group":
            return np.ones(len(self.scores)), len(self.scores)
        _, index, sizes = np.unique(np.array(self.groups), return_inverse=True, return_counts=True)
        return 1 / sizes[index], len(sizes)

    def _p_values(self, values: Doubles, reference: Doubles, level: Level) -> Doubles:
        if len(reference) == 0:
            return np.full(len(values), np.nan)
        weights, units = self.weights(level)
        order = np.argsort(reference)
        # The weight of the values from each rank up.
        above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
        p = (1 + above[np.searchsorted(reference[order], values, side="left")]) / (units + 1)
        return np.where(np.isnan(values), np.nan, np.minimum(p, 1.0))

    def _threshold(self, reference: Doubles, far: float) -> float:
        level = self.level(far)
        if level == "none" or len(reference) == 0:
            return float("inf")
        p = self._p_values(reference, reference, level)
        return float(reference[p > far + 1e-12].max(initial=-np.inf))


def joined(parts: Sequence[Calibration], regions: RegionMeasure | None) -> Calibration:
    """Return the calibration of all folds, from that of each; `regions` is the measure of the model
    that scores new images."""
    strengths = [part.strengths for part in parts if part.strengths is not None]
    numbers = [np.full(len(part.scores), place) for place, part in enumerate(parts, start=1)]
    return Calibration(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        tuple(chain.from_iterable(part.groups for part in parts)),
        regions,
        None if regions is None else np.concatenate(strengths),
        np.concatenate(numbers),
    )


def benjamini_hochberg(p_values: Doubles, *, dependent: bool = False) -> Doubles:
    """Return q-values: the smallest false-discovery rate at which each p-value is rejected.

    With `dependent` any dependence of the p-values is allowed (Benjamini & Yekutieli 2001), else
    they are taken as independent (Benjamini & Hochberg 1995). NaN stays NaN and is not counted.
    """
    q = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    if len(known) == 0:
        return q

    order = known[np.argsort(p_values[known])]
    ranks = np.arange(1, len(order) + 1)
    factor = (1 / ranks).sum() if dependent else 1.0
    raw = p_values[order] * len(order) * factor / ranks
    q[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1.0)
    return q


def clopper_pearson(hits: float, total: float, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact 1 − `alpha` interval of `hits` of `total` (Clopper & Pearson 1934): [0, 1]
    if `total` is 0."""
    from scipy.special import betaincinv  # takes time to import, and scoring does not need it

    low = betaincinv(hits, total - hits + 1, alpha / 2) if hits > 0 else 0.0
    high = betaincinv(hits + 1, total - hits, 1 - alpha / 2) if hits < total else 1.0
    return float(low), float(high)


def check_rate(far: float) -> None:
    """Raise ConfigError unless 0 < `far` < 1."""
    if not 0 < far < 1:
        raise ConfigError(f"a false-alarm rate lies between 0 and 1, not {far}")
