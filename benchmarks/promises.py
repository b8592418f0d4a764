"""The promises of the statistics, simulated.

    python -m benchmarks.promises [NAME ...] [--repetitions 1000]

Each promise of PROMISES draws calibration images and batches again and again from known
distributions, and counts how often what is said of them is wrong. The table is that of
docs/audit.md. It takes minutes on one core; NAME is a promise, all of them by default.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.stats import drift, metrics
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule, decide
from anodetect.stats.mask_rule import RegionMeasure

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A line of the table: how often, of `repetitions`, something happened in a situation, and how
    often it should."""

    promise: str
    situation: str
    target: str
    share: float
    repetitions: int

    def __str__(self) -> str:
        error = 2 * np.sqrt(self.share * (1 - self.share) / self.repetitions)
        found = f"{self.share:.3f} ± {error:.3f}"
        return f"| {self.promise} | {self.situation} | {self.target} | {found} |"


@dataclass(frozen=True)
class Sample:
    """Scores [n] with the names of their groups [n]."""

    scores: Doubles
    groups: tuple[str, ...]


def sample(
    rng: np.random.Generator, sizes: Sequence[int], alike: float, *, shift: float = 0.0
) -> Sample:
    """Return normal scores with variance 1 of groups with so many images each, correlated by
    `alike` within groups."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    own, each = rng.normal(size=len(sizes))[group], rng.normal(size=len(group))
    scores = np.sqrt(alike) * own + np.sqrt(1 - alike) * each + shift
    return Sample(scores, tuple(map(str, group.tolist())))


# -- Drift -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftCase:
    """Sizes of calibration groups and of groups of a batch, and how alike images of a group are."""

    name: str
    calibration: Sequence[int]
    batch: Sequence[int]
    alike: float = 0.5


DRIFT_CASES = (
    DriftCase("60 single images, batch of 50", [1] * 60, [1] * 50),
    DriftCase("60 single images, batch of 1 000", [1] * 60, [1] * 1000),
    DriftCase("60 single images, 20 lots of 25", [1] * 60, [25] * 20),
    DriftCase("60 lots of 25, batch of 50", [25] * 60, [1] * 50),
    DriftCase("60 groups of 1 to 25, 51 of 1 to 30", [1, 5, 25] * 20, [1, 1, 30] * 17, 0.3),
    DriftCase("40 groups of 5, 20 groups of 5", [5] * 40, [5] * 20),
    DriftCase("20 single images, batch of 20", [1] * 20, [1] * 20),
    DriftCase("10 lots of 25, batch of 100", [25] * 10, [1] * 100),
    DriftCase("5 tight lots of 30, batch of 50", [30] * 5, [1] * 50, 0.9),
    DriftCase("5 tight lots of 30, 3 such lots", [30] * 5, [30] * 3, 0.9),
    DriftCase("4 single images, batch of 200", [1] * 4, [1] * 200),
)


def drift_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often a drift is reported without one and with one."""
    for case in DRIFT_CASES:
        for shift, of in ((0.0, repetitions), (1.0, repetitions // 4), (-1.0, repetitions // 4)):
            count = sum(_drift_fires(case, shift, seed) for seed in range(of))
            enough = min(len(case.calibration) / 60, len(case.batch) / 50) >= 1
            target = "≤ .06" if not shift else "≥ .90" if enough else ""
            promise = "no drift" if not shift else f"drift of {shift:+g} σ"
            yield Line(promise, case.name, target, count / of, of)


def _drift_fires(case: DriftCase, shift: float, seed: int) -> bool:
    rng = np.random.default_rng([seed, len(case.calibration), len(case.batch)])
    old = sample(rng, case.calibration, case.alike)
    new = sample(rng, case.batch, case.alike, shift=shift)
    found = drift.compare(old.scores, old.groups, new.scores, new.groups, seed=seed)
    return found is not None and found.fires


# -- Time ------------------------------------------------------------------------------------------


def time_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often 300 images in order of time are called changed, the second half by a shift
    or not."""
    cases = (
        ("no change", "≤ .05", 0.0, 0.0, repetitions),
        ("30 % anomalies, spread evenly", "≤ .05", 0.0, 0.3, repetitions),
        ("second half +1.5 σ", "≥ .90", 1.5, 0.0, repetitions // 4),
    )
    when = [str(place) for place in range(300)]
    for name, target, change, anomalous, of in cases:
        count = 0
        for seed in range(of):
            rng = np.random.default_rng(seed)
            scores = rng.normal(size=300) + 6 * (rng.random(300) < anomalous)
            scores[150:] += change
            found = drift.martingale(scores.tolist(), when, when, seed=seed)
            count += found is not None and found.fires
        yield Line("change over time", name, target, count / of, of)


# -- Groups ----------------------------------------------------------------------------------------

SIZES = (1, 5, 25, 60)  # of new groups; calibration groups are of the first three


def group_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often normal groups of each size are flagged at 5 %."""
    sizes, times = [1, 5, 25] * 40, repetitions // 5
    new = np.repeat(SIZES, 10)
    for alike in (0.0, 0.5):
        flagged = np.zeros(len(new))
        for seed in range(times):
            rng = np.random.default_rng(seed)
            old, batch = sample(rng, sizes, alike), sample(rng, new.tolist(), alike)
            calibration = Calibration(old.scores, old.scores, old.groups)
            numbers = np.array(batch.groups, np.int64)
            images = np.zeros(len(numbers), bool)
            found = decide(batch.scores, images, numbers, len(new), calibration, Rule(0.05))
            flagged += found.groups.flags
        for size, rate in zip(SIZES, flagged.reshape(len(SIZES), 10).mean(1) / times, strict=True):
            case = f"groups of {size}, images alike by {alike}"
            yield Line("groups flagged at .05", case, "≤ .05", float(rate), 10 * times)


# -- Rates -----------------------------------------------------------------------------------------


def rate_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often the rate that a threshold realises stays below the bound of the statement."""
    for groups, each, alike in ((60, 1, 0.0), (19, 6, 0.0), (19, 6, 0.95), (60, 5, 0.5)):
        held = 0
        for seed in range(repetitions):
            old = sample(np.random.default_rng(seed), [each] * groups, alike)
            calibration = Calibration(old.scores, old.scores, old.groups)
            above = math.erfc(calibration.threshold(0.05) / math.sqrt(2)) / 2
            held += above <= calibration.realised(0.05).bound()
        case = f"{groups} groups of {each}, images alike by {alike}"
        yield Line("rate below its bound", case, "≥ .95", held / repetitions, repetitions)


# -- Masks -----------------------------------------------------------------------------------------


def mask_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often the rate of new groups with a region that counts stays below the bound of the
    statement, where calibration groups are too few for a promise by groups."""
    times = repetitions // 5
    for sizes in ([20] * 12, [20] * 5, [20] * 18, [1, 5, 25] * 4, [3] * 12):
        for alike in (0.0, 0.5, 0.9):
            held = sum(_masks_below_bound(sizes, alike, seed) for seed in range(times))
            shown = " to ".join(map(str, sorted({min(sizes), max(sizes)})))
            case = f"{len(sizes)} groups of {shown}, images alike by {alike}"
            yield Line("masks below their bound", case, "≥ .93", held / times, times)


def _masks_below_bound(sizes: Sequence[int], alike: float, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    old = sample(rng, sizes, alike)
    measure = RegionMeasure(-9.0, "mass")
    calibration = Calibration(old.scores, old.scores, old.groups, measure, old.scores)
    rule, many = calibration.mask_rule(0.05), list(sizes) * (400 // len(sizes))
    new = sample(rng, many, alike)
    highest = np.full(len(many), -np.inf)
    np.maximum.at(highest, np.array(new.groups, np.int64), new.scores)
    return bool((highest > rule.least).mean() <= calibration.marked_groups(0.05).bound())


# -- Intervals -------------------------------------------------------------------------------------


def interval_lines(repetitions: int) -> Iterator[Line]:
    """Yield how often the intervals of an average precision hold the truth, by groups of one image
    with two normal distributions of scores. The truth is that of 2 000 such samples together."""
    times = repetitions * 3 // 10
    for anomalous, normal in ((5, 5), (10, 10), (10, 30), (20, 20), (30, 100), (60, 60)):
        labels = np.repeat([1, 0], [anomalous, normal])
        names = [f"{place:03}" for place in range(len(labels))]
        for distance in (1.0, 2.0, 3.0):
            rng = np.random.default_rng([anomalous, normal])
            many = rng.normal(size=2000 * len(labels)) + distance * np.repeat(labels, 2000)
            truth = metrics.average_precision(np.repeat(labels, 2000), many)
            held = 0
            for _ in range(times):
                scores = rng.normal(size=len(labels)) + distance * labels
                found = metrics.image_metrics(labels, scores, names)["ap"]
                held += found.low <= truth <= found.high
            case = f"{anomalous} anomalous, {normal} normal, {distance:g} σ apart"
            yield Line("interval of the AP", case, "≥ .93", held / times, times)


PROMISES: dict[str, Callable[[int], Iterator[Line]]] = {
    "drift": drift_lines,
    "time": time_lines,
    "groups": group_lines,
    "rates": rate_lines,
    "masks": mask_lines,
    "intervals": interval_lines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROMISES))
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args()

    print("| promise | situation | target | found |\n|---|---|---|---|")
    for name in options.names or PROMISES:
        for line in PROMISES[name](options.repetitions):
            print(line, flush=True)


if __name__ == "__main__":
    main()
