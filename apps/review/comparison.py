"""Two scorings of the same images, side by side: the images both have, and where they differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan, log10
from typing import Literal, get_args

from anodetect.record.rows import OK, ScoreRow
from anodetect.stats.paired_flags import PairedFlags, paired_flags

Which = Literal[
    "all", "flags differ", "only the first flags", "only the second flags", "both flag", "no flag"
]
WHICH: tuple[Which, ...] = get_args(Which)
Kind = Literal["all", "anomalous", "normal"]
LABELS: dict[Kind, int | None] = {"all": None, "anomalous": 1, "normal": 0}


@dataclass(frozen=True)
class Pair:
    """An image as two scorings have it."""

    first: ScoreRow
    second: ScoreRow

    @property
    def flags(self) -> tuple[bool, bool]:
        return bool(self.first.flagged), bool(self.second.flagged)

    @property
    def label(self) -> int | None:
        return self.first.label if self.first.label is not None else self.second.label

    @property
    def difference(self) -> float:
        """The distance of the p-values in powers of ten, 0 where one of them is missing."""
        values = self.first.p_value, self.second.p_value
        if any(value is None or isnan(value) or value <= 0 for value in values):
            return 0.0
        one, other = (log10(value or 1.0) for value in values)
        return abs(one - other)


def matched(first: Iterable[ScoreRow], second: Iterable[ScoreRow]) -> list[Pair]:
    """Return the images that both have scored: those with the same contents, and of several with
    the same ones those with the same path, or else the first."""
    by_content: dict[str, list[ScoreRow]] = {}
    for row in second:
        if row.status == OK and row.sha256:
            by_content.setdefault(row.sha256, []).append(row)

    pairs = []
    for row in first:
        others = by_content.get(row.sha256 or "", []) if row.status == OK else []
        if others:
            same = [other for other in others if other.path == row.path]
            pairs.append(Pair(row, (same or others)[0]))
    return pairs


def listed(pairs: Iterable[Pair], which: Which) -> list[Pair]:
    """Return the pairs of a kind: those whose flags differ first, and those whose p-values are
    farthest apart."""
    flags: dict[Which, set[tuple[bool, bool]]] = {
        "all": {(False, False), (True, False), (False, True), (True, True)},
        "flags differ": {(True, False), (False, True)},
        "only the first flags": {(True, False)},
        "only the second flags": {(False, True)},
        "both flag": {(True, True)},
        "no flag": {(False, False)},
    }
    kept = [pair for pair in pairs if pair.flags in flags[which]]

    def place(pair: Pair) -> tuple[bool, float, str]:
        one, other = pair.flags
        return one == other, -pair.difference, pair.first.path

    return sorted(kept, key=place)


def counts(pairs: Sequence[Pair]) -> dict[Kind, PairedFlags]:
    """Return how often the two flag alike: of all images, and of those that are known to be
    anomalous or normal, if there are any."""
    found: dict[Kind, PairedFlags] = {}
    for kind, label in LABELS.items():
        kept = [pair.flags for pair in pairs if label is None or pair.label == label]
        if kept:
            found[kind] = paired_flags(kept)
    return found
