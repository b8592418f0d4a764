"""The worklist as plain data: order, filters, progress, patients and lots, and what another
threshold would do.

Rows are those of scores.parquet, judgements those in force: path → reviewer → Review.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anodetect.errors import DataError
from anodetect.record.reviews import COLUMNS, WITHDRAWN, Review
from anodetect.record.rows import OK, GroupRow, ScoreRow
from anodetect.stats.agreement import Judgements, Rate, consensus, disagreement
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import TOLERANCE, p_values

Order = Literal["p-value", "score", "disagreement", "nearness to threshold", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)
Progress = Literal["all", "not by me", "by me", "by others only", "by nobody"]
PROGRESS: tuple[Progress, ...] = get_args(Progress)
_TYPES = {"number": pa.int64(), "withdraws": pa.int64(), "blind": pa.bool_()}
_TYPES |= dict.fromkeys(("score", "p_value", "threshold"), pa.float64())


@dataclass(frozen=True)
class Filter:
    """What is listed; empty sets and texts leave everything in. `flagged`: only those, only the
    others, or None."""

    status: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    flagged: bool | None = None
    reviewed: Progress = "all"
    search: str = ""


@dataclass(frozen=True)
class Bench:
    """What a false-alarm rate would flag. `truth` per image, None where unknown; the four rates
    where it is known."""

    far: float
    threshold: float
    flagged: int
    scored: int
    statement: str
    sensitivity: Rate  # of anomalous images those flagged
    false_alarms: Rate  # of normal images those flagged
    precision: Rate  # of flagged images with a known truth the anomalous ones
    confusion: Mapping[tuple[int, bool], int]  # (truth, flagged) → images


# -- The list --------------------------------------------------------------------------------------


def worklist(
    rows: Sequence[ScoreRow],
    judgements: Judgements,
    *,
    order: Order,
    keep: Filter,
    reviewer: str,
    blind: bool = False,
) -> list[ScoreRow]:
    """The rows to go through, in order; ties, and images without a score, by their paths.

    A blind list gives nothing away: its order is that of a hash of the paths, the same for
    everyone, and names and what was flagged, scored, known or decided by others neither order nor
    filter.
    """
    if blind:
        keep = Filter(keep.status, keep.groups, reviewed=keep.reviewed)
        return sorted(
            filtered(rows, judgements, keep, reviewer),
            key=lambda row: sha256(row.path.encode()).digest(),
        )
    return sorted(filtered(rows, judgements, keep, reviewer), key=_keys(judgements)[order])


def filtered(
    rows: Iterable[ScoreRow], judgements: Judgements, keep: Filter, reviewer: str
) -> list[ScoreRow]:
    """The rows that pass every part of the filter. `search` is looked for, in any case, in path,
    group and kind."""
    sought = keep.search.strip().casefold()

    def passes(row: ScoreRow) -> bool:
        judged = judgements.get(row.path, {})
        mine = reviewer in judged
        return (
            (not keep.status or row.status in keep.status)
            and (not keep.groups or row.group in keep.groups)
            and (not keep.kinds or (row.kind or "") in keep.kinds)
            and (not keep.verdicts or (mine and judged[reviewer].verdict in keep.verdicts))
            and (keep.flagged is None or bool(row.flagged) == keep.flagged)
            and {
                "all": True,
                "not by me": not mine,
                "by me": mine,
                "by others only": bool(judged) and not mine,
                "by nobody": not judged,
            }[keep.reviewed]
            and any(sought in (text or "").casefold() for text in (row.path, row.group, row.kind))
        )

    return [row for row in rows if passes(row)]


def _keys(judgements: Judgements) -> dict[Order, Callable[[ScoreRow], tuple[Any, ...]]]:
    """For each order what rows are sorted by; missing values come last."""

    def last(value: float | None) -> float:
        return math.inf if value is None or math.isnan(value) else value

    def score(row: ScoreRow) -> float:
        return last(None if row.score is None else -row.score)

    def nearness(row: ScoreRow) -> float:
        if row.score is None or row.threshold is None:
            return last(None)
        return last(abs(row.score - row.threshold))

    return {
        "p-value": lambda row: (
            last(row.p_value),
            score(row),
            row.path,
        ),  # equal p-values are common: few ranks
        "score": lambda row: (score(row), row.path),
        "disagreement": lambda row: (
            -disagreement(judgements.get(row.path, {})),
            score(row),
            row.path,
        ),
        "nearness to threshold": lambda row: (nearness(row), row.path),
        "name": lambda row: (row.path,),
    }


def beside(paths: Sequence[str], path: str, step: int) -> str:
    """The path `step` places on in the list, as far as it goes; the first where `path` is no longer
    listed."""
    if path not in paths:
        return paths[0] if paths else ""
    return paths[min(max(paths.index(path) + step, 0), len(paths) - 1)]


def last_of(reviews: Sequence[Review], reviewer: str) -> Review | None:
    """This reviewer's last verdict that was not taken back."""
    withdrawn = {review.withdraws for review in reviews}
    mine = (r for r in reversed(reviews) if r.reviewer == reviewer and r.verdict != WITHDRAWN)
    return next((review for review in mine if review.number not in withdrawn), None)


def next_to_judge(paths: Sequence[str], path: str, judgements: Judgements, reviewer: str) -> str:
    """The next image in the list this reviewer has not judged, after the end from the start again;
    else `path`."""
    start = paths.index(path) + 1 if path in paths else 0
    ahead = [*paths[start:], *paths[:start]]
    return next(
        (other for other in ahead if other != path and reviewer not in judgements.get(other, {})),
        path,
    )


def table(reviews: Sequence[Review]) -> pa.Table:
    """Every record, also those taken back, as a table to export."""
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
    return pa.Table.from_pylist([asdict(review) for review in reviews], schema)


# -- Regions ---------------------------------------------------------------------------------------


def region(text: str, width: int | None, height: int | None) -> str:
    """A region in pixels of the image as it is kept: a box "x,y,width,height", or an outline "x,y
    x,y x,y …"; "" for none. DataError if it is neither, or not inside the image."""
    points = [part.split(",") for part in text.replace(", ", ",").split()]
    try:
        numbers = [[int(part) for part in point] for point in points]
    except ValueError:
        numbers = [[]]
    if not numbers:
        return ""
    if len(numbers) == 1 and len(numbers[0]) == 4:
        x, y, w, h = numbers[0]
        whole = (
            x >= 0
            and y >= 0
            and w >= 1
            and h >= 1
            and x + w <= (width or x + w)
            and y + h <= (height or y + h)
        )
    elif len(numbers) >= 3 and all(len(point) == 2 for point in numbers):
        whole = all(0 <= x <= (width or x) and 0 <= y <= (height or y) for x, y in numbers)
    else:
        raise DataError(
            "a region is x,y,width,height or an outline x,y x,y x,y … in whole pixels; draw it or mend it"
        )
    if not whole:
        raise DataError(
            f"the region does not lie within the image ({width} × {height} pixels); draw it again"
        )
    return " ".join(",".join(map(str, point)) for point in numbers)


def drawn(selection: Mapping[str, Any], width: int, height: int) -> str:
    """The last box or outline of a chart's selection as a region, cut to the image; "" if there is
    none.

    The chart has pixel centres at whole numbers, a region has their upper left corners there.
    """

    def corner(values: Sequence[float], size: int, to: Callable[[float], int]) -> list[int]:
        return [min(max(to(value + 0.5), 0), size) for value in values]

    if boxes := selection.get("box"):
        left, right = sorted(boxes[-1]["x"])
        top, bottom = sorted(boxes[-1]["y"])
        (x,), (y,) = corner([left], width - 1, math.floor), corner([top], height - 1, math.floor)
        (right,), (bottom,) = corner([right], width, math.ceil), corner([bottom], height, math.ceil)
        return f"{x},{y},{max(right - x, 1)},{max(bottom - y, 1)}"
    if outlines := selection.get("lasso"):
        xs, ys = corner(outlines[-1]["x"], width, round), corner(outlines[-1]["y"], height, round)
        points = list(
            dict.fromkeys(zip(xs, ys, strict=True))
        )  # neighbours that fall on the same pixel, once
        return " ".join(f"{x},{y}" for x, y in points) if len(points) >= 3 else ""
    return ""


# -- Patients and lots -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A patient or lot: its listed rows, its own p-value and decision where recorded, how many
    `reviewer` judged."""

    name: str
    rows: tuple[ScoreRow, ...]
    p_value: float | None
    flagged: bool
    judged: int


def grouped(
    rows: Sequence[ScoreRow],
    recorded: Mapping[str, GroupRow],
    judgements: Judgements,
    reviewer: str,
) -> list[Group]:
    """The rows by patient or lot, each group where its first row stands; `recorded`: the rows of
    groups.csv by name."""
    members: dict[str, list[ScoreRow]] = {}
    for row in rows:
        members.setdefault(row.group or row.path, []).append(row)
    return [
        Group(
            name=name,
            rows=tuple(group),
            p_value=recorded[name].p_value if name in recorded else None,
            flagged=name in recorded and bool(recorded[name].flagged),
            judged=sum(reviewer in judgements.get(row.path, {}) for row in group),
        )
        for name, group in members.items()
    ]


# -- Another threshold -----------------------------------------------------------------------------


def truths(
    rows: Sequence[ScoreRow], judgements: Judgements, source: Literal["labels", "verdicts"]
) -> list[int | None]:
    """For each row 0 normal, 1 anomalous or None, from the labels known beforehand or from the
    verdicts so far."""
    if source == "labels":
        return [row.label for row in rows]
    return [consensus(judgements.get(row.path, {})) for row in rows]


def bench(
    rows: Sequence[ScoreRow], truth: Sequence[int | None], calibration: Calibration, far: float
) -> Bench:
    """What would be flagged at the false-alarm rate `far`, 0 < far < 1, and how that fits the
    truth, where known."""
    scored = [(row, known) for row, known in zip(rows, truth, strict=True) if row.status == OK]
    scores = np.array([row.score for row, _ in scored], np.float64)
    volumes = np.array([row.is_volume for row, _ in scored], bool)
    flags = p_values(scores, volumes, calibration, far) <= far + TOLERANCE
    only_volumes = bool(scored) and all(row.is_volume for row, _ in scored)
    counts = Counter(
        (known, bool(flag))
        for (_, known), flag in zip(scored, flags, strict=True)
        if known is not None
    )
    confusion = {(known, flag): counts[known, flag] for known in (0, 1) for flag in (False, True)}
    return Bench(
        far=far,
        threshold=(calibration.pooled() if only_volumes else calibration).threshold(far),
        flagged=int(flags.sum()),
        scored=len(scored),
        statement=calibration.statement(far),
        sensitivity=Rate(confusion[1, True], confusion[1, True] + confusion[1, False]),
        false_alarms=Rate(confusion[0, True], confusion[0, True] + confusion[0, False]),
        precision=Rate(confusion[1, True], confusion[1, True] + confusion[0, True]),
        confusion=confusion,
    )


def roc(
    rows: Sequence[ScoreRow], truth: Sequence[int | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """False alarms and images found, rising, over all thresholds; None unless there are both kinds
    of image."""
    known = [
        (row.score, t)
        for row, t in zip(rows, truth, strict=True)
        if row.status == OK and t is not None
    ]
    positives = sum(t for _, t in known)
    if not 0 < positives < len(known):
        return None
    scores, labels = np.array([s for s, _ in known]), np.array([t for _, t in known])
    order = np.argsort(-scores)
    ends = np.append(np.diff(scores[order]) != 0, True)  # equal scores are flagged together
    found, alarms = np.cumsum(labels[order])[ends], np.cumsum(1 - labels[order])[ends]
    return np.append(0, alarms) / alarms[-1], np.append(0, found) / found[-1]
