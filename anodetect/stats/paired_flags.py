"""Flags of two scorings of the same images: how often they differ, and whether that is chance."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True)
class PairedFlags:
    """Counts of images that both flag, only the first, only the second, and neither; and the exact
    p-value of McNemar's test that both flag equally often (images count as independent)."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    @property
    def images(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


def paired_flags(flags: Iterable[tuple[bool, bool]]) -> PairedFlags:
    """Return the counts of pairs of flags."""
    given = list(flags)
    only_first, only_second = given.count((True, False)), given.count((False, True))
    both, neither = given.count((True, True)), given.count((False, False))
    return PairedFlags(both, only_first, only_second, neither, mcnemar(only_first, only_second))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947): that of a fair coin, thrown once
    for each image on which the two differ; 1 if there is none."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    ways = sum(comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * ways / int(2**n))
