"""Agreement of reviewers, the verdict of most of them, and the precision of the flags.

Judgements are those in force (`record.reviews.in_force`): path → reviewer → review. Those that were
given first, and blind, (`record.reviews.first_blind`) tell how far readers agree on their own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

from anodetect.stats.calibration import clopper_pearson
from anodetect.stats.spellings import spelled_alike


class Judgement(Protocol):
    """The verdict of one reviewer on one image."""

    @property
    def reviewer(self) -> str: ...

    @property
    def verdict(self) -> str: ...

    @property
    def blind(self) -> bool: ...


Judgements = Mapping[str, Mapping[str, Judgement]]
UNDEFINED = "not defined: both always gave one and the same verdict"  # why there is no κ
LABELS = {"normal": 0, "anomalous": 1}  # the label a verdict gives; other verdicts give none


@dataclass(frozen=True)
class Rate:
    """`hits` of `total`, with a value that is NaN if `total` is 0, and the 95 % Clopper–Pearson
    interval, for which images count as independent.

    `chosen` images were neither all there are nor drawn at random, such as those that a list shows
    first. They say nothing of the rest, and the interval is NaN.
    """

    hits: int
    total: int
    chosen: bool = False

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if self.chosen:
            return float("nan"), float("nan")
        return clopper_pearson(self.hits, self.total)


@dataclass(frozen=True)
class Agreement:
    """Two readers on the images both judged: how many these are, on how many they agree, and
    Cohen's κ, NaN if undefined. `first` is that of their first, blind verdicts, None if there are
    none on the same image."""

    readers: tuple[str, str]
    images: int
    agreed: int
    kappa: float
    first: "Agreement | None" = None


@dataclass(frozen=True)
class Summary:
    """Counts of a review. `precision` is the share of anomalous images among the flagged ones that
    were judged normal or anomalous, see `precision_of`."""

    images: int
    reviewed: int
    by_reviewer: Mapping[str, int]
    verdicts: Mapping[str, int]
    disagreements: tuple[str, ...]
    precision: Rate
    agreements: tuple[Agreement, ...]

    @property
    def warnings(self) -> list[str]:
        """Return which names may be spellings of one."""
        found = []
        for names in spelled_alike(self.by_reviewer):
            found.append(
                f"{', '.join(names)}: these names look like spellings of one; they count as "
                f"{len(names)} readers, and if they are one person, the agreement means nothing"
            )
        return found


def disagreement(judged: Mapping[str, Judgement]) -> float:
    """Return the share, 0 to 1, of pairs of reviewers whose verdicts on an image differ; 0 with
    fewer than two reviewers."""
    n = len(judged)
    if n < 2:
        return 0.0
    counts = Counter(review.verdict for review in judged.values())
    alike = sum(count * (count - 1) for count in counts.values())
    return 1 - alike / (n * (n - 1))


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Return κ = (p_o − p_e) / (1 − p_e) (Cohen 1960) of two readers' verdicts on the same images;
    NaN if p_e = 1 or there are no pairs."""
    if not pairs:
        return float("nan")
    n = len(pairs)
    first, second = map(Counter, zip(*pairs, strict=True))
    expected = sum(count * second[verdict] for verdict, count in first.items()) / n**2
    return float("nan") if expected == 1 else (_agreed(pairs) / n - expected) / (1 - expected)


def _agreed(pairs: Sequence[tuple[str, str]]) -> int:
    return sum(one == other for one, other in pairs)


def agreements(judgements: Judgements, first: Judgements) -> list[Agreement]:
    """Return the agreement of every two readers who judged images in common, and that of their
    `first`, blind verdicts beside it."""
    names: set[str] = set()
    for judged in judgements.values():
        names |= set(judged)

    found = []
    for one, other in combinations(sorted(names), 2):
        agreement = _agreement((one, other), judgements)
        if agreement:
            found.append(replace(agreement, first=_agreement((one, other), first)))
    return found


def _agreement(readers: tuple[str, str], judgements: Judgements) -> Agreement | None:
    """Return the agreement of two readers; None if they judged no image in common."""
    one, other = readers
    pairs = []
    for judged in judgements.values():
        if one in judged and other in judged:
            pairs.append((judged[one].verdict, judged[other].verdict))
    if not pairs:
        return None
    return Agreement(readers, len(pairs), _agreed(pairs), cohens_kappa(pairs))


def consensus(judged: Mapping[str, Judgement]) -> int | None:
    """Return the label most reviewers give, 0 normal or 1 anomalous; None if none gives a label or
    as many give one as the other."""
    labels = [LABELS[review.verdict] for review in judged.values() if review.verdict in LABELS]
    return None if 2 * sum(labels) == len(labels) else int(2 * sum(labels) > len(labels))


def precision_of(flagged: Sequence[str], judgements: Judgements, others: int = 0) -> Rate:
    """Return the share of anomalous images among flagged paths, beside which there are `others`
    that nobody has judged.

    If not all of them have a label by their verdicts, those count that were judged blind: a blind
    list is in an order that has nothing to do with scores, so they are as good as drawn at random.
    If there are none, the rate is that of the images that were chosen to be judged.
    """
    labels, blind = [], []
    for path in flagged:
        judged = judgements.get(path, {})
        label = consensus(judged)
        if label is None:
            continue
        labels.append(label)
        if all(review.blind for review in judged.values()):
            blind.append(label)

    is_part = len(labels) < len(flagged) + others
    if is_part and blind:
        return Rate(sum(blind), len(blind))
    return Rate(sum(labels), len(labels), chosen=is_part)


def summary(flagged: Mapping[str, bool], judgements: Judgements, first: Judgements) -> Summary:
    """Return the counts of a review over the images in `flagged` (path → whether it is flagged),
    which may be a part of those that were judged; see `agreements` for `first`."""
    listed = {path: judgements[path] for path in flagged if judgements.get(path)}
    first = {path: first[path] for path in listed if path in first}
    reviewers: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    disagreements = []
    for path, judged in listed.items():
        for review in judged.values():
            reviewers[review.reviewer] += 1
            verdicts[review.verdict] += 1
        if disagreement(judged) > 0:
            disagreements.append(path)

    return Summary(
        images=len(flagged),
        reviewed=len(listed),
        by_reviewer=dict(reviewers.most_common()),
        verdicts=dict(verdicts.most_common()),
        disagreements=tuple(disagreements),
        precision=precision_of([path for path in flagged if flagged[path]], listed),
        agreements=tuple(agreements(listed, first)),
    )
