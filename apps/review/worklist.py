"""The worklist as plain data: order, filters, progress, agreement of readers, and what another threshold would do.

Rows are those of scores.parquet, judgements those in force (`anodetect.reviews.in_force`): path → reviewer → Review.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anodetect.calibration import Calibration, clopper_pearson
from anodetect.errors import DataError
from anodetect.records import Row
from anodetect.reviews import COLUMNS, WITHDRAWN, Review

Judgements = Mapping[str, Mapping[str, Review]]
Order = Literal["p-value", "score", "disagreement", "nearness to threshold", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)
Progress = Literal["all", "not by me", "by me", "by nobody"]
PROGRESS: tuple[Progress, ...] = get_args(Progress)
_TYPES = {"number": pa.int64(), "withdraws": pa.int64(), "blind": pa.bool_()}
_TYPES |= dict.fromkeys(("score", "p_value", "threshold"), pa.float64())
LABELS = {"normal": 0, "anomalous": 1}  # what verdicts say of an image; the others say nothing


@dataclass(frozen=True)
class Filter:
    """What is listed; empty sets and texts leave everything in. `flagged`: only those, only the others, or None."""

    status: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    flagged: bool | None = None
    reviewed: Progress = "all"
    search: str = ""


@dataclass(frozen=True)
class Rate:
    """`hits` of `total` and the 95 % Clopper–Pearson interval (images taken as independent); NaN of nothing."""

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
    """Two readers on the images both judged: how many, on how many they agree, and Cohen's κ (NaN where undefined)."""

    readers: tuple[str, str]
    images: int
    agreed: int
    kappa: float


@dataclass(frozen=True)
class Bench:
    """What a false-alarm rate would flag. `truth` per image, None where unknown; the four rates where it is known."""

    far: float
    threshold: float
    flagged: int
    scored: int
    statement: str
    sensitivity: Rate  # of anomalous images those flagged
    false_alarms: Rate  # of normal images those flagged
    precision: Rate  # of flagged images with a known truth the anomalous ones
    confusion: Mapping[tuple[int, bool], int]  # (truth, flagged) → images


@dataclass(frozen=True)
class Summary:
    """Where a review stands. `precision`: of the flagged images judged normal or anomalous, the anomalous ones."""

    images: int
    reviewed: int
    by_reviewer: Mapping[str, int]
    verdicts: Mapping[str, int]
    disagreements: tuple[str, ...]
    precision: Rate
    agreements: tuple[Agreement, ...]


# -- The list -------------------------------------------------------------------------------------------


def worklist(
    rows: Sequence[Row], judgements: Judgements, *, order: Order, keep: Filter, reviewer: str, blind: bool = False
) -> list[Row]:
    """The rows to go through, in order; ties, and images without a score, by their paths.

    A blind list gives nothing away: its order is that of a hash of the paths, the same for everyone, and what was
    flagged, scored, known or decided by others neither orders nor filters.
    """
    if blind:
        keep = Filter(keep.status, keep.groups, reviewed=keep.reviewed, search=keep.search)
        return sorted(filtered(rows, judgements, keep, reviewer), key=lambda row: sha256(row["path"].encode()).digest())
    return sorted(filtered(rows, judgements, keep, reviewer), key=_keys(judgements)[order])


def filtered(rows: Iterable[Row], judgements: Judgements, keep: Filter, reviewer: str) -> list[Row]:
    """The rows that pass every part of the filter. `search` is looked for, in any case, in path, group and kind."""
    sought = keep.search.strip().casefold()

    def passes(row: Row) -> bool:
        judged = judgements.get(row["path"], {})
        mine = reviewer in judged
        return (
            (not keep.status or row["status"] in keep.status)
            and (not keep.groups or row["group"] in keep.groups)
            and (not keep.kinds or (row["kind"] or "") in keep.kinds)
            and (not keep.verdicts or (mine and judged[reviewer].verdict in keep.verdicts))
            and (keep.flagged is None or bool(row["flagged"]) == keep.flagged)
            and {"all": True, "not by me": not mine, "by me": mine, "by nobody": not judged}[keep.reviewed]
            and any(sought in (row[name] or "").casefold() for name in ("path", "group", "kind"))
        )

    return [row for row in rows if passes(row)]


def _keys(judgements: Judgements) -> dict[Order, Callable[[Row], tuple[Any, ...]]]:
    """For each order what rows are sorted by; missing values come last."""

    def last(value: float | None) -> float:
        return np.inf if value is None or np.isnan(value) else value

    def score(row: Row) -> float:
        return last(None if row["score"] is None else -row["score"])

    def nearness(row: Row) -> float:
        known = row["score"] is not None and row["threshold"] is not None
        return last(abs(row["score"] - row["threshold"]) if known else None)

    return {
        "p-value": lambda row: (last(row["p_value"]), score(row), row["path"]),  # equal p-values are common: few ranks
        "score": lambda row: (score(row), row["path"]),
        "disagreement": lambda row: (-disagreement(judgements.get(row["path"], {})), score(row), row["path"]),
        "nearness to threshold": lambda row: (nearness(row), row["path"]),
        "name": lambda row: (row["path"],),
    }


def disagreement(judged: Mapping[str, Review]) -> float:
    """The share of pairs of reviewers whose verdicts on an image differ, 0 to 1; 0 with fewer than two."""
    n = len(judged)
    if n < 2:
        return 0.0
    alike = sum(count * (count - 1) for count in Counter(review.verdict for review in judged.values()).values())
    return 1 - alike / (n * (n - 1))


def beside(paths: Sequence[str], path: str, step: int) -> str:
    """The path `step` places on in the list, as far as it goes; the first where `path` is no longer listed."""
    if path not in paths:
        return paths[0] if paths else ""
    return paths[min(max(paths.index(path) + step, 0), len(paths) - 1)]


def last_of(reviews: Sequence[Review], reviewer: str) -> Review | None:
    """This reviewer's last verdict that was not taken back."""
    withdrawn = {review.withdraws for review in reviews}
    mine = (r for r in reversed(reviews) if r.reviewer == reviewer and r.verdict != WITHDRAWN)
    return next((review for review in mine if review.number not in withdrawn), None)


def next_to_judge(paths: Sequence[str], path: str, judgements: Judgements, reviewer: str) -> str:
    """The next image in the list this reviewer has not judged, after the end from the start again; else `path`."""
    start = paths.index(path) + 1 if path in paths else 0
    ahead = [*paths[start:], *paths[:start]]
    return next((other for other in ahead if other != path and reviewer not in judgements.get(other, {})), path)


# -- Agreement and summary ------------------------------------------------------------------------------


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """κ = (p_o − p_e) / (1 − p_e) (Cohen 1960) of two readers' verdicts on the same images; NaN where p_e = 1."""
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
            both = [(j[one].verdict, j[other].verdict) for j in judgements.values() if one in j and other in j]
            if both:
                found.append(Agreement((one, other), len(both), sum(a == b for a, b in both), cohens_kappa(both)))
    return found


def consensus(judged: Mapping[str, Review]) -> int | None:
    """0 normal, 1 anomalous: what most of those say who say either; None without them or where they are even."""
    said = [LABELS[review.verdict] for review in judged.values() if review.verdict in LABELS]
    return None if 2 * sum(said) == len(said) else int(2 * sum(said) > len(said))


def summary(rows: Sequence[Row], judgements: Judgements) -> Summary:
    """Counts over the listed images only, so that a review of part of a directory can be summed up."""
    listed = {row["path"]: judgements[row["path"]] for row in rows if judgements.get(row["path"])}
    flags = [truth for row in rows if row["flagged"] and (truth := consensus(listed.get(row["path"], {}))) is not None]
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


def table(reviews: Sequence[Review]) -> pa.Table:
    """Every record, also those taken back, as a table to export."""
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
    return pa.Table.from_pylist([asdict(review) for review in reviews], schema)


def region(text: str, width: int | None, height: int | None) -> str:
    """A box "x,y,width,height" in pixels as it is kept; "" for none. DataError if it is not one inside the image."""
    if not text.strip():
        return ""
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise DataError("a region is four whole numbers: x, y, width, height") from None
    if x < 0 or y < 0 or w < 1 or h < 1 or (width and x + w > width) or (height and y + h > height):
        raise DataError(f"the region does not lie within the image ({width} × {height} pixels)")
    return f"{x},{y},{w},{h}"


# -- Another threshold ----------------------------------------------------------------------------------


def truths(rows: Sequence[Row], judgements: Judgements, source: Literal["labels", "verdicts"]) -> list[int | None]:
    """For each row 0 normal, 1 anomalous or None, from the labels known beforehand or from the verdicts so far."""
    if source == "labels":
        return [row["label"] for row in rows]
    return [consensus(judgements.get(row["path"], {})) for row in rows]


def bench(rows: Sequence[Row], truth: Sequence[int | None], calibration: Calibration, far: float) -> Bench:
    """What would be flagged at the false-alarm rate `far`, 0 < far < 1, and how that fits the truth, where known."""
    scored = [(row["score"], known) for row, known in zip(rows, truth, strict=True) if row["status"] == "ok"]
    flags: NDArray[np.bool_] = calibration.p_values([score for score, _ in scored], far) <= far + 1e-12
    counts = Counter((known, bool(flag)) for (_, known), flag in zip(scored, flags, strict=True) if known is not None)
    confusion = {(known, flag): counts[known, flag] for known in (0, 1) for flag in (False, True)}
    return Bench(
        far=far,
        threshold=calibration.threshold(far),
        flagged=int(flags.sum()),
        scored=len(scored),
        statement=calibration.statement(far),
        sensitivity=Rate(confusion[1, True], confusion[1, True] + confusion[1, False]),
        false_alarms=Rate(confusion[0, True], confusion[0, True] + confusion[0, False]),
        precision=Rate(confusion[1, True], confusion[1, True] + confusion[0, True]),
        confusion=confusion,
    )


def roc(rows: Sequence[Row], truth: Sequence[int | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """False alarms and images found, rising, over all thresholds; None unless there are both kinds of image."""
    known = [(row["score"], t) for row, t in zip(rows, truth, strict=True) if row["status"] == "ok" and t is not None]
    positives = sum(t for _, t in known)
    if not 0 < positives < len(known):
        return None
    scores, labels = np.array([s for s, _ in known]), np.array([t for _, t in known])
    order = np.argsort(-scores)
    ends = np.append(np.diff(scores[order]) != 0, True)  # equal scores are flagged together
    found, alarms = np.cumsum(labels[order])[ends], np.cumsum(1 - labels[order])[ends]
    return np.append(0, alarms) / alarms[-1], np.append(0, found) / found[-1]
