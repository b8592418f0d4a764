"""Results of a reader study: agreement of every two readers, each reader's sensitivity and
specificity where the truth is known, and the time per case. NumPy only.

Patients and lots are resampled, not images, which resemble one another within them: 95 % intervals
are those of the bootstrap, widened where an exact one reaches further: that of Clopper & Pearson
(1934) for as many independent cases as these are worth (Korn & Graubard 1998), for κ that of the
agreement, at the chance agreement that was found. Alone the bootstrap would say that two readers
who never differed in 20 cases never will.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.agreement import LABELS, UNDEFINED, cohens_kappa
from anodetect.stats.calibration import clopper_pearson
from anodetect.stats.metrics import Interval, too_few

Doubles = NDArray[np.float64]
RESAMPLES = 2000
BLOCK = 100  # resamples that are in memory at a time


@dataclass(frozen=True)
class Reading:
    """The verdict of one reader on one case, whose truth is 0 (normal), 1 (anomalous) or None
    (unknown); `seconds` it took, None where that is not known."""

    case: str
    group: str
    reader: str
    verdict: str
    truth: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Share:
    """`hits` of `total` cases, with the 95 % interval of their share."""

    hits: int
    total: int
    interval: Interval


@dataclass(frozen=True)
class Times:
    """The seconds per case: median, quartiles, and all together; NaN and 0 without any."""

    median: float
    low: float
    high: float
    total: float


@dataclass(frozen=True)
class ReaderResult:
    """The result of one reader: cases read, the share of anomalous ones that were called anomalous,
    and of normal ones that were called normal. Both count only decided verdicts on cases whose
    truth is known; `undecided` counts the other verdicts on such cases."""

    reader: str
    read: int
    sensitivity: Share
    specificity: Share
    undecided: int
    times: Times


@dataclass(frozen=True)
class PairResult:
    """The agreement of two readers on the cases that both have read, and Cohen's κ of all their
    verdicts."""

    readers: tuple[str, str]
    cases: int
    agreed: int
    kappa: Interval


# -- Readers ---------------------------------------------------------------------------------------


def reader_result(reader: str, readings: Iterable[Reading]) -> ReaderResult:
    """Return the result of one reader from the readings of all."""
    own = [each for each in readings if each.reader == reader]
    known = [each for each in own if each.truth is not None]
    decided = [each for each in known if each.verdict in LABELS]
    return ReaderResult(
        reader=reader,
        read=len(own),
        sensitivity=_correct([each for each in decided if each.truth == 1]),
        specificity=_correct([each for each in decided if each.truth == 0]),
        undecided=len(known) - len(decided),
        times=_times([each.seconds for each in own if each.seconds is not None]),
    )


def _correct(readings: Sequence[Reading]) -> Share:
    """Return the share of readings that fit the truth."""
    right = np.array([LABELS[each.verdict] == each.truth for each in readings], np.float64)
    hits = int(right.sum())
    if not len(right):
        return Share(0, 0, Interval(float("nan"), note="no such case whose truth is known"))

    low, high = clopper_pearson(hits, len(right))
    groups = [each.group for each in readings]
    if len(set(groups)) < len(groups):  # else the exact interval is all there is to know
        if why := too_few(len(set(groups))):
            return Share(hits, len(right), Interval(hits / len(right), note=why))
        sums = _resampled(groups, np.stack([right, np.ones_like(right)], 1), RESAMPLES)
        draws = sums[:, 0] / sums[:, 1]
        low, high = _widened(_exact(right, draws, len(set(groups))), draws)
    return Share(hits, len(right), Interval(hits / len(right), low, high))


def _times(seconds: Sequence[float]) -> Times:
    if not seconds:
        return Times(float("nan"), float("nan"), float("nan"), 0.0)
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return Times(float(median), float(low), float(high), float(sum(seconds)))


# -- Pairs -----------------------------------------------------------------------------------------


def pair_results(readings: Sequence[Reading]) -> list[PairResult]:
    """Return the agreement of every two readers with cases in common."""
    given: dict[str, dict[str, Reading]] = {}
    for each in readings:
        given.setdefault(each.reader, {})[each.case] = each

    found = []
    for one, other in combinations(sorted(given), 2):
        common = sorted(given[one].keys() & given[other].keys())
        if common:
            pairs = [(given[one][case].verdict, given[other][case].verdict) for case in common]
            groups = [given[one][case].group for case in common]
            agreed = sum(a == b for a, b in pairs)
            kappa = kappa_interval(pairs, groups)
            found.append(PairResult((one, other), len(common), agreed, kappa))
    return found


def kappa_interval(
    pairs: Sequence[tuple[str, str]], groups: Sequence[str], resamples: int = RESAMPLES
) -> Interval:
    """Return Cohen's κ of two readers' verdicts on the same cases, of these patients or lots, with
    its 95 % interval; NaN with a reason where it is not defined, or where there are too few
    groups."""
    value = cohens_kappa(pairs)
    if np.isnan(value):
        return Interval(value, note=UNDEFINED)
    if why := too_few(len(set(groups))):
        return Interval(value, note=why)

    tables = _tables(pairs, groups, resamples)
    chance = _chance([one for one, _ in pairs], [other for _, other in pairs])
    agreed = np.array([one == other for one, other in pairs], np.float64)
    shares = np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))
    low, high = _exact(agreed, shares, len(set(groups)))
    exact = (low - chance) / (1 - chance), (high - chance) / (1 - chance)
    low, high = _widened(exact, _kappas(tables))
    return Interval(value, max(low, -1.0), min(high, 1.0))


def kappa_draws(
    pairs: Sequence[tuple[str, str]], groups: Sequence[str], resamples: int = RESAMPLES
) -> Doubles:
    """Return κ [B] over resamples of groups; NaN where it is not defined."""
    return _kappas(_tables(pairs, groups, resamples))


def _chance(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of cases on which two readers would agree by chance."""
    one, other = Counter(first), Counter(second)
    return sum(count * other[verdict] for verdict, count in one.items()) / len(first) ** 2


def _tables(pairs: Sequence[tuple[str, str]], groups: Sequence[str], resamples: int) -> Doubles:
    """Return the tables [B, V, V] of two readers' verdicts over resamples of groups."""
    names = sorted({verdict for pair in pairs for verdict in pair})
    size = len(names)
    cells = np.zeros((len(pairs), size * size))
    for number, (one, other) in enumerate(pairs):
        cells[number, names.index(one) * size + names.index(other)] = 1
    return _resampled(groups, cells, resamples).reshape(-1, size, size)


def _kappas(tables: Doubles) -> Doubles:
    """Return κ [B] of tables [B, V, V] of two readers' verdicts; NaN where it is not defined."""
    total = tables.sum((1, 2))
    agreed = np.trace(tables, axis1=1, axis2=2) / total
    chance = (tables.sum(1) * tables.sum(2)).sum(1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


# -- Groups ----------------------------------------------------------------------------------------


def _resampled(groups: Sequence[str], columns: Doubles, resamples: int) -> Doubles:
    """Return the sums [B, k] of columns [N, k] over the cases of so many resamples of groups."""
    names, member = np.unique(np.array(groups), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, member, columns)
    rng, share = np.random.default_rng(0), np.full(len(names), 1 / len(names))

    found = []
    for start in range(0, resamples, BLOCK):
        weights = rng.multinomial(len(names), share, min(BLOCK, resamples - start))
        found.append(weights @ sums)
    return np.concatenate(found)


def _exact(values: Doubles, draws: Doubles, groups: int) -> tuple[float, float]:
    """Return the exact interval of the share of ones among values [N] of so many groups, for as
    many independent values as have the variance of its resamples: all N at most, and where nothing
    varies one a group."""
    share, variance = float(values.mean()), float(draws.var())
    worth = share * (1 - share) / variance if variance > 0 else groups
    worth = min(worth, len(values))
    return clopper_pearson(share * worth, worth)


def _widened(exact: tuple[float, float], draws: Doubles) -> tuple[float, float]:
    """Return the percentile interval of the draws that are defined, and what the exact one holds
    beside it."""
    kept = draws[~np.isnan(draws)]
    if not len(kept):
        return exact
    low, high = np.percentile(kept, (2.5, 97.5))
    return min(float(low), exact[0]), max(float(high), exact[1])


def by_reader(readings: Sequence[Reading]) -> Mapping[str, ReaderResult]:
    """Return the results of all who have read something, by their names."""
    names = sorted({each.reader for each in readings})
    return {name: reader_result(name, readings) for name in names}
