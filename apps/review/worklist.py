"""The worklist as plain data: order, filters, neighbours, patients and lots.

Rows are those of scores.parquet. Judgements are those in force: path → reviewer → Review.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from typing import Any, Literal, get_args, overload

from anodetect.record.reviews import WITHDRAWN, Review
from anodetect.record.rows import GroupRow, ScoreRow
from anodetect.stats.agreement import Judgements, disagreement

Order = Literal[
    "p-value", "score", "q-value", "disagreement", "nearness to threshold", "novelty", "name"
]
ORDERS: tuple[Order, ...] = get_args(Order)
Progress = Literal["all", "not by me", "by me", "by others only", "by nobody"]
PROGRESS: tuple[Progress, ...] = get_args(Progress)


@dataclass(frozen=True)
class Filter:
    """The conditions a listed row meets. An empty set or text is no condition.

    `flagged` is True or False to list only rows that are or are not flagged, and None for both.
    `paths` are those that may be listed, such as an audit sample.
    """

    status: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    flagged: bool | None = None
    reviewed: Progress = "all"
    search: str = ""
    paths: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Group:
    """A patient or lot: its listed rows, study by study, its own p-value and decision where they
    are recorded, and how many of the rows the reviewer has judged. `studies` are those of the rows,
    in their order, () where one row has none."""

    name: str
    rows: Sequence[ScoreRow]
    p_value: float | None
    flagged: bool
    judged: int
    studies: tuple[str, ...] = ()


class Groups(Sequence[Group]):
    """Patients or lots in the order of their first rows, and all rows group by group."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self.rows: Sequence[ScoreRow] = list(chain.from_iterable(each.rows for each in groups))

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, place: int) -> Group: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Group]: ...
    def __getitem__(self, place: int | slice) -> Group | Sequence[Group]:
        return self._groups[place]

    def place_of(self, path: str) -> int:
        """Return the index of the group that holds an image, 0 where none does."""
        for n, group in enumerate(self._groups):
            if any(row.path == path for row in group.rows):
                return n
        return 0


# -- Order and filters -----------------------------------------------------------------------------


def worklist(
    rows: Sequence[ScoreRow],
    judgements: Judgements,
    *,
    order: Order,
    keep: Filter,
    reviewer: str,
    blind: bool = False,
) -> list[ScoreRow]:
    """Return the rows to go through, in order; ties, and images without a score, by their paths.

    A blind list reveals nothing: its order is that of a hash of the paths, the same for everyone,
    and names, flags, scores, kinds and verdicts neither order nor filter.
    """
    if blind:
        keep = Filter(keep.status, keep.groups, reviewed=keep.reviewed, paths=keep.paths)
        listed = filtered(rows, judgements, keep, reviewer)
        return sorted(listed, key=lambda row: blind_rank(row.path))

    listed = filtered(rows, judgements, keep, reviewer)
    return sorted(listed, key=lambda row: _sort_key(row, order, judgements))


def blind_rank(path: str) -> bytes:
    """Return what a blind list is sorted by."""
    return sha256(path.encode()).digest()


def filtered(
    rows: Sequence[ScoreRow], judgements: Judgements, keep: Filter, reviewer: str
) -> list[ScoreRow]:
    """Return the rows that meet every condition of the filter.

    `search` is found in path, group, study or kind, in upper or lower case.
    """
    sought = keep.search.strip().casefold()
    return [
        row
        for row in rows
        if _fits(row, keep, sought) and _fits_verdicts(judgements.get(row.path, {}), keep, reviewer)
    ]


def _fits(row: ScoreRow, keep: Filter, sought: str) -> bool:
    """Return whether a row meets the conditions on what was scored."""
    if keep.paths and row.path not in keep.paths:
        return False
    if keep.status and row.status not in keep.status:
        return False
    if keep.groups and row.group not in keep.groups:
        return False
    if keep.kinds and (row.kind or "") not in keep.kinds:
        return False
    if keep.flagged is not None and bool(row.flagged) != keep.flagged:
        return False
    named = (row.path, row.group, row.study, row.kind)
    return any(sought in (text or "").casefold() for text in named)


def _fits_verdicts(judged: Mapping[str, Any], keep: Filter, reviewer: str) -> bool:
    """Return whether the verdicts on a row meet the conditions on them."""
    mine = judged.get(reviewer)
    if keep.verdicts and (mine is None or mine.verdict not in keep.verdicts):
        return False

    by_progress: dict[Progress, bool] = {
        "all": True,
        "not by me": mine is None,
        "by me": mine is not None,
        "by others only": bool(judged) and mine is None,
        "by nobody": not judged,
    }
    return by_progress[keep.reviewed]


def _sort_key(row: ScoreRow, order: Order, judgements: Judgements) -> tuple[float | str, ...]:
    """Return the value that a row is sorted by; missing values come last."""
    score = _missing_last(None if row.score is None else -row.score)
    if order == "name":
        return (row.path,)
    if order == "score":
        return (score, row.path)
    if order == "nearness to threshold":
        return (_missing_last(_distance(row)), row.path)
    if order == "disagreement":
        return (-disagreement(judgements.get(row.path, {})), score, row.path)
    # Equal p- and q-values are common, because few ranks are possible.
    share = row.q_value if order == "q-value" else row.p_value
    return (_missing_last(share), score, row.path)


def _missing_last(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _distance(row: ScoreRow) -> float | None:
    """Return how far the score is from the threshold; None where one of them is missing."""
    if row.score is None or row.threshold is None:
        return None
    return abs(row.score - row.threshold)


# -- From case to case -----------------------------------------------------------------------------


def neighbour(paths: Sequence[str], path: str, step: int) -> str:
    """Return the path `step` places further in the list, or the list's end before that.

    It is the first path where `path` is not listed, and "" where the list is empty.
    """
    if path not in paths:
        return paths[0] if paths else ""
    return paths[min(max(paths.index(path) + step, 0), len(paths) - 1)]


def last_of(reviews: Sequence[Review], reviewer: str) -> Review | None:
    """Return this reviewer's last verdict that was not withdrawn."""
    withdrawn = {review.withdraws for review in reviews}
    for review in reversed(reviews):
        is_verdict = review.reviewer == reviewer and review.verdict != WITHDRAWN
        if is_verdict and review.number not in withdrawn:
            return review
    return None


def next_to_judge(paths: Sequence[str], path: str, judgements: Judgements, reviewer: str) -> str:
    """Return the next listed image that this reviewer has not judged, else `path`."""
    return next(iter(to_judge(paths, path, judgements, reviewer, 1)), path)


def to_judge(
    paths: Sequence[str], path: str, judgements: Judgements, reviewer: str, count: int
) -> list[str]:
    """Return at most `count` listed images after `path` that this reviewer has not judged.

    After the end the search goes on at the start of the list.
    """
    start = paths.index(path) + 1 if path in paths else 0
    found: list[str] = []
    for other in chain(islice(paths, start, None), islice(paths, start)):
        if len(found) == count:
            break
        if other != path and reviewer not in judgements.get(other, {}):
            found.append(other)
    return found


# -- Patients and lots -----------------------------------------------------------------------------


def grouped(
    rows: Sequence[ScoreRow],
    recorded: Mapping[str, GroupRow],
    judgements: Judgements,
    reviewer: str,
) -> list[Group]:
    """Return the rows by patient or lot, each group where its first row stands, and in a group by
    study, each where its first row stands.

    `recorded` holds the rows of groups.csv by their names.
    """
    members: dict[str, list[ScoreRow]] = {}
    for row in rows:
        members.setdefault(row.group or row.path, []).append(row)

    groups = []
    for name, group_rows in members.items():
        decision = recorded.get(name)
        judged = sum(reviewer in judgements.get(row.path, {}) for row in group_rows)
        listed = tuple(_by_study(group_rows))
        studies = tuple(dict.fromkeys(row.study for row in listed))
        groups.append(
            Group(
                name=name,
                rows=listed,
                p_value=decision.p_value if decision else None,
                flagged=decision is not None and bool(decision.flagged),
                judged=judged,
                studies=() if "" in studies else studies,
            )
        )
    return groups


def _by_study(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Return rows with those of one study together."""
    studies: dict[str, list[ScoreRow]] = {}
    for row in rows:
        studies.setdefault(row.study, []).append(row)
    return list(chain.from_iterable(studies.values()))
