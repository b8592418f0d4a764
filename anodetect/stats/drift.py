"""Does a batch come from where the calibration images came from? NumPy only.

There are two answers. `compare` draws one image of each group on both sides, so that a group counts
once, however many images it has. Both sides are cut off at the score that a twentieth of the drawn
calibration images exceed: anomalies lie above the cut and are not mistaken for a drift. Then the
rank-sum test asks whether the rest of the batch ranks higher or lower (Mann & Whitney, Annals of
Mathematical Statistics 1947). If calibration and batch normals are exchangeable, they still are
below the cut. Where groups have several images, the standardised rank sum is the mean over many
such draws (within-cluster resampling: Hoffman, Sen & Weinberg, Biometrika 2001; Datta & Satten,
JASA 2005), and its variance is that of a single draw, which is 1, less the variance between draws.
A batch of which more than half lies above the cut is reported if chance does not
explain it.

`martingale` follows a batch in the order of acquisition (Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2nd ed., 2022, ch. 8; simple jumper: Vovk et al., COPA 2021). The score
of each group gets a conformal p-value among the scores of the batch before it. A bet against those
p-values being uniform grows beyond 1/α with probability at most α (Ville's inequality) as long as
the order means nothing, whatever share of the batch is anomalous. The calibration images have no
part in it: a batch that differs from its first image on is the matter of `compare`.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.realised import beta_binomial
from anodetect.stats.times import order_of
from anodetect.words import amount

Doubles = NDArray[np.float64]
# At most one in twenty batches that are like the calibration images is reported.
ALPHA = 0.045  # of the rank-sum test
ALPHA_BEYOND = 0.005  # of too many above the cut
PATIENCE = 20.0  # evidence at which the martingale fires: 1 / .05
CUT = 0.95  # quantile of the calibration scores above which nothing is compared
MOST_BEYOND = 0.5
DRAWS = 100  # of one image per group, where groups have several
LEAST_VARIANCE = 0.5  # of the mean over draws: its estimate is not trusted to be less
JUMP = 0.01  # of the simple jumper
FEWEST = 2  # groups on either side; fewer are not compared
BLOCK = 4096  # scores that are kept in one list; a list of twice as many is halved
# A shift δ of normal scores is found in 90 % of batches if δ / √(1/n + 1/m) is at least this:
# the 3.3 of a z-test and what the cut takes away, found by simulation (benchmarks/promises.py).
VISIBLE = 5.0


@dataclass(frozen=True)
class Drift:
    """The result of comparing a batch with the calibration images.

    `rank`, 0 to 1, is where the typical batch image below the cut lies among the calibration images
    below the cut: .5 if nothing moved. `beyond`, 0 to 1, is the share of the batch above the cut.
    """

    fires: bool
    p_value: float
    rank: float
    beyond: float
    text: str


@dataclass(frozen=True)
class _Grouped:
    """Scores [n] in the order of their groups, of which each starts at `starts` [G] and has so many
    images as `sizes` [G]."""

    scores: Doubles
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]

    def draw(self, rng: np.random.Generator) -> Doubles:
        """Return the scores [G] of one image of each group, drawn at random."""
        places = (rng.random(len(self.sizes)) * self.sizes).astype(np.intp)
        drawn: Doubles = self.scores[self.starts + places]
        return drawn


@dataclass(frozen=True)
class _Comparison:
    """The comparison of one image of each group: the standardised rank sum `z` of the batch below
    the cut, and the rank and share of `Drift`. The first two are NaN where too few are below."""

    z: float
    rank: float
    beyond: float


def compare(
    calibration: Sequence[float] | Doubles,
    calibration_groups: Sequence[str],
    batch: Sequence[float] | Doubles,
    batch_groups: Sequence[str] | NDArray[np.integer],
    *,
    seed: int = 0,
) -> Drift | None:
    """Compare the scores of a batch with those of the calibration images, each [n] with n groups,
    or numbers of groups in the order of their names; None if there is too little to compare."""
    reference = _grouped(calibration, calibration_groups)
    values = _grouped(batch, batch_groups)
    groups, batch_size = len(reference.sizes), len(values.sizes)
    if min(groups, batch_size) < FEWEST:
        return None

    rng = np.random.default_rng(seed)
    alone = groups == len(reference.scores) and batch_size == len(values.scores)
    found = []
    for _ in range(1 if alone else DRAWS):
        found.append(_compare_drawn(reference.draw(rng), values.draw(rng)))

    beyond = float(np.mean([each.beyond for each in found]))
    compared = [each for each in found if not math.isnan(each.z)]
    if beyond > MOST_BEYOND or not compared:
        chance = _chance_of_beyond(beyond, batch_size, groups)
        if beyond > MOST_BEYOND and chance <= ALPHA_BEYOND:
            return Drift(True, chance, float("nan"), beyond, _beyond_text(beyond))
    if not compared:
        return Drift(False, chance, float("nan"), beyond, _too_few_text(beyond, chance))
    p_value = math.erfc(abs(_mean_deviate([each.z for each in compared])) / math.sqrt(2))
    rank = float(np.mean([each.rank for each in compared]))
    text = _comparison_text(p_value, rank, smallest_shift(groups, batch_size))
    return Drift(p_value <= ALPHA, p_value, rank, beyond, text)


def _grouped(
    scores: Sequence[float] | Doubles, groups: Sequence[str] | NDArray[np.integer]
) -> _Grouped:
    values = np.asarray(scores, np.float64)
    _, number, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    return _Grouped(values[np.argsort(number, kind="stable")], np.cumsum(sizes) - sizes, sizes)


def _compare_drawn(reference: Doubles, values: Doubles) -> _Comparison:
    """Compare the scores of one image of each group of a batch with those of calibration groups."""
    cut = np.sort(reference)[_place_of_cut(len(reference))]
    beyond = float((values > cut).mean())
    reference, values = reference[reference < cut], values[values < cut]
    if min(len(reference), len(values)) < FEWEST:
        return _Comparison(float("nan"), float("nan"), beyond)
    rank = float(_rank_among(values, reference).mean())
    return _Comparison(_standardised(rank, reference, values), rank, beyond)


def _mean_deviate(z: Sequence[float]) -> float:
    """Return the mean of standardised rank sums, one for each draw, as a standard normal deviate.

    By the law of total variance the mean over all draws has the variance of one draw, 1, less that
    between draws (Hoffman, Sen & Weinberg 2001); the mean over some has a little more.
    """
    if len(z) == 1:
        return z[0]
    between = float(np.var(z, ddof=1))
    variance = 1 - between + between / len(z)
    return float(np.mean(z)) / math.sqrt(max(variance, LEAST_VARIANCE))


def _place_of_cut(groups: int) -> int:
    """Return the place of the cut among so many sorted scores."""
    return int(np.ceil(CUT * groups)) - 1


def _standardised(rank: float, reference: Doubles, values: Doubles) -> float:
    """Return the Mann–Whitney statistic of the mean rank of the values as a standard normal
    deviate, with the corrections for ties and for continuity; 0 if all are equal."""
    n, m = len(reference), len(values)
    total = n + m
    _, ties = np.unique(np.concatenate([reference, values]), return_counts=True)
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1))
    deviation = math.sqrt(n * m / 12 * (total + 1 - tied))
    if deviation == 0:
        return 0.0
    distance = (rank - 0.5) * n * m
    return math.copysign(max(abs(distance) - 0.5, 0.0), distance) / deviation


def _chance_of_beyond(beyond: float, batch: int, groups: int) -> float:
    """Return the probability that at least the share `beyond` of a batch of so many groups lies
    above the cut, if it is like the calibration images, of which there is one in each group: the
    number above an order statistic is beta-binomial."""
    above = groups - _place_of_cut(groups)  # calibration images at the cut and above it
    counts = range(math.floor(beyond * batch + 1e-9), batch + 1)
    return math.fsum(beta_binomial(count, batch, above, groups + 1 - above) for count in counts)


def _beyond_text(beyond: float) -> str:
    return (
        f"{beyond:.0%} of this batch look odder than {CUT:.0%} of the calibration images: "
        "it is full of anomalies, or from elsewhere, and then its p-values mean nothing. "
        "Look at some; if they are normal, calibrate anew."
    )


def _too_few_text(beyond: float, chance: float) -> str:
    return (
        f"No drift found, but too few groups to see one: {beyond:.0%} of this batch look odder "
        f"than {CUT:.0%} of the calibration images (chance explains it with p = {chance:.3f}), and "
        "the rest cannot be compared."
    )


def smallest_shift(groups: int, batch: int) -> float:
    """Return the shift of normal scores, in their standard deviations, that is found in nine of ten
    batches of so many groups, compared with so many calibration groups."""
    return VISIBLE * math.sqrt(1 / groups + 1 / batch)


def _comparison_text(p_value: float, rank: float, visible: float) -> str:
    where = (
        "The typical image of this batch that is not conspicuous looks odder than "
        f"{rank:.0%} of the inconspicuous calibration images "
        f"(50 % would be no change; p = {p_value:.3f})."
    )
    if p_value > ALPHA:
        return (
            f"No drift found. {where} A shift of all scores by {visible:.1f} standard deviations "
            "would be found nine times out of ten."
        )
    moved = "quieter: anomalies may be missed"
    if rank > 0.5:
        moved = "odder: more normal images will be flagged than promised"

    return f"Drift: this batch looks {moved}. {where} If its images are normal, calibrate anew."


def _rank_among(values: Doubles, reference: Doubles) -> Doubles:
    """Return the share of the reference below each value, ties count half."""
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, values, "left")
    not_above = np.searchsorted(ordered, values, "right")
    return np.asarray((below + not_above) / (2 * len(ordered)))


@dataclass(frozen=True)
class Martingale:
    """The result of following a batch in time. `peak` is the highest value of the bet; `alarm` is
    when it passed PATIENCE, "" if it never did."""

    fires: bool
    peak: float
    alarm: str
    text: str


def martingale(
    batch: Sequence[float],
    groups: Sequence[str],
    acquired: Sequence[str],
    *,
    differs: bool = False,
    seed: int = 0,
) -> Martingale | None:
    """Follow the scores of a batch in the order in which its images were acquired.

    One image of each group is drawn at random; images of the same time are in random order.
    `differs` says that the batch as a whole is not like the calibration images. Returns None if
    there are fewer than two groups. Raises DataError if `acquired` cannot be put in the order of
    time.
    """
    times = order_of(acquired, groups)
    rng = np.random.default_rng(seed)
    drawn = _one_per_group(groups, rng)
    drawn.sort(key=lambda n: times[n])
    if len(drawn) < FEWEST:
        return None

    follower, alarm = Follower(rng), ""
    for n in drawn:
        if follower.add(batch[n]):
            alarm = acquired[n]
    text = _martingale_text(alarm, follower.peak, len(drawn), differs=differs)
    return Martingale(bool(alarm), follower.peak, alarm, text)


class Follower:
    """Follows scores one after another, in the order in which they come. `peak` is the highest
    value of the bet so far, `count` the number of scores."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.reference = _Ordered()
        self.bets = np.full(3, 1 / 3)
        self.peak = 1.0

    @property
    def count(self) -> int:
        return len(self.reference)

    def add(self, score: float) -> bool:
        """Take the next score; return whether with it the evidence passes PATIENCE, which it does
        at most once."""
        p = _next_p_value(self.reference, score, self.rng)
        self.bets = (1 - JUMP) * self.bets + JUMP * self.bets.sum() / 3
        self.bets *= 1 + np.array([-1, 0, 1]) * (p - 0.5)
        before, self.peak = self.peak, max(self.peak, float(self.bets.sum()))
        return before < PATIENCE <= self.peak


class _Ordered:
    """Scores in their order, in blocks of bounded length: with n of them a new one takes of the
    order of BLOCK + n / BLOCK steps, not n."""

    def __init__(self) -> None:
        self.blocks: list[list[float]] = []
        self.highest: list[float] = []  # of each block
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, score: float) -> tuple[int, int]:
        """Insert a score; return how many scores were below it, and how many were equal to it."""
        first = bisect.bisect_left(self.highest, score)
        last = bisect.bisect_right(self.highest, score)
        below = self._before(first, bisect.bisect_left, score)
        not_above = self._before(last, bisect.bisect_right, score)

        self.count += 1
        if last == len(self.blocks):
            self._append(score)
        else:
            bisect.insort_right(self.blocks[last], score)
            self._halve(last)
        return below, not_above - below

    def _before(self, number: int, place: Callable[[list[float], float], int], score: float) -> int:
        """Return how many scores are before a score that belongs into the block with this number,
        in which `place` finds its place."""
        count = sum(map(len, self.blocks[:number]))
        return count + place(self.blocks[number], score) if number < len(self.blocks) else count

    def _append(self, score: float) -> None:
        """Add a score that none is above."""
        if not self.blocks:
            self.blocks, self.highest = [[]], [score]
        self.blocks[-1].append(score)
        self.highest[-1] = score
        self._halve(len(self.blocks) - 1)

    def _halve(self, number: int) -> None:
        """Make two blocks of one that is too long."""
        block = self.blocks[number]
        if len(block) >= 2 * BLOCK:
            self.blocks[number : number + 1] = block[:BLOCK], block[BLOCK:]
            self.highest.insert(number, block[BLOCK - 1])


def _next_p_value(reference: _Ordered, score: float, rng: np.random.Generator) -> float:
    """Return the conformal p-value of a score among those before it, ties broken at random, and
    insert the score into them."""
    count = len(reference)
    below, equal = reference.add(score)
    return (count - below - equal + rng.uniform() * (equal + 1)) / (count + 1)


def _martingale_text(alarm: str, peak: float, groups: int, *, differs: bool) -> str:
    if alarm:
        return (
            "Over time: scores changed within this batch; "
            f"evidence passed {PATIENCE:.0f} : 1 at {alarm}."
        )
    said = (
        f"Over time: no change found in {amount(groups, 'group')} in order of acquisition "
        f"(evidence {peak:.1f} : 1 at most)."
    )
    if not differs:
        return said
    return f"{said} As far as can be seen, this batch is different from its first image on."


def _one_per_group(groups: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Return the place of one image of each group, drawn at random, in random order."""
    places = {}
    for place in rng.permutation(len(groups)).tolist():
        places[groups[place]] = place
    return list(places.values())
