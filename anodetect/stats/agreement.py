"""What verdicts add up to: agreement of reviewers, what most of them say, and how right the flags
were.

Judgements are those in force (`record.reviews.in_force`): path → reviewer → review.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from anodetect.stats.calibration import clopper_pearson


class Judgement(Protocol):
    """What one reviewer says of one image."""

    @property
    def reviewer(self) -> str: ...

    @property
    def verdict(self) -> str: ...


Judgements = Mapping[str, Mapping[str, Judgement]]
LABELS = {"normal": 0, "anomalous": 1}  # what verdicts say of an image; the others say nothing


@dataclass(frozen=True)
class Rate:
    """`hits` of `total` and the 95 % Clopper–Pearson interval (images taken as independent); NaN of
    nothing."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return clopper_pearson(self.hits, self.total)


@dataclass(frozen=True)
class Agreement:
    """Two readers on the images both judged: how many, on how many they agree, and Cohen's κ (NaN
    where undefined)."""

    readers: tuple[str, str]
    images: int
    agreed: int
    kappa: float


@dataclass(frozen=True)
class Summary:
    """Where a review stands. `precision`: of the flagged images judged normal or anomalous, the
    anomalous ones."""

    images: int
    reviewed: int
    by_reviewer: Mapping[str, int]
    verdicts: Mapping[str, int]
    disagreements: tuple[str, ...]
    precision: Rate
    agreements: tuple[Agreement, ...]


def disagreement(judged: Mapping[str, Judgement]) -> float:
    """The share of pairs of reviewers whose verdicts on an image differ, 0 to 1; 0 with fewer than
    two."""
    n = len(judged)
    if n < 2:
        return 0.0
    alike = sum(
        count * (count - 1)
        for count in Counter(review.verdict for review in judged.values()).values()
    )
    return 1 - alike / (n * (n - 1))


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """κ = (p_o − p_e) / (1 − p_e) (Cohen 1960) of two readers' verdicts on the same images; NaN
    where p_e = 1."""
    if not pairs:
        return float("nan")
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    expected = sum(first[verdict] * second[verdict] for verdict in first) / n**2
    return float("nan") if expected == 1 else (observed - expected) / (1 - expected)


def agreements(judgements: Judgements) -> list[Agreement]:
    """Every two readers with images in common."""
    names = sorted({name for judged in judgements.values() for name in judged})
    found = []
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = [
                (j[one].verdict, j[other].verdict)
                for j in judgements.values()
                if one in j and other in j
            ]
            if both:
                found.append(
                    Agreement(
                        (one, other), len(both), sum(a == b for a, b in both), cohens_kappa(both)
                    )
                )
    return found


def consensus(judged: Mapping[str, Judgement]) -> int | None:
    """0 normal, 1 anomalous: what most of those say who say either; None without them or where they
    are even."""
    said = [LABELS[review.verdict] for review in judged.values() if review.verdict in LABELS]
    return None if 2 * sum(said) == len(said) else int(2 * sum(said) > len(said))


def summary(rows: Sequence[Mapping[str, Any]], judgements: Judgements) -> Summary:
    """Counts over the listed images only, so that a review of part of a directory can be summed up."""
    listed = {row["path"]: judgements[row["path"]] for row in rows if judgements.get(row["path"])}
    flags = [
        truth
        for row in rows
        if row["flagged"] and (truth := consensus(listed.get(row["path"], {}))) is not None
    ]
    every = [review for judged in listed.values() for review in judged.values()]
    return Summary(
        images=len(rows),
        reviewed=len(listed),
        by_reviewer=dict(Counter(review.reviewer for review in every).most_common()),
        verdicts=dict(Counter(review.verdict for review in every).most_common()),
        disagreements=tuple(path for path, judged in listed.items() if disagreement(judged) > 0),
        precision=Rate(sum(flags), len(flags)),
        agreements=tuple(agreements(listed)),
    )
