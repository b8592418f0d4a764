"""A score directory as the pages use it: its rows and the values to filter by, read whole for up to
LARGE rows, and page by page beyond (`large.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import GroupRow, ScoreRow, SliceRow
from anodetect.stats.agreement import Judgements, Summary, summary

from . import worklist
from .known import Note
from .worklist import Filter, Groups, Order

NOTHING_NEW: Mapping[str, float] = MappingProxyType({})
LARGE = 100_000  # rows; of more the table is never read whole
MOST_CHOICES = 2000  # values that one chooses from; a search finds those of more


@dataclass(frozen=True)
class Scores:
    """A score directory as it was read: its rows by path, the rows of groups.csv by name, those of
    slices.parquet by path, the values to filter by, and what is to be known of all of it.

    `group_names` is empty where every image is a group of its own, and where there are more than
    MOST_CHOICES.
    """

    directory: ScoreDirectory
    by_path: Mapping[str, ScoreRow]
    groups: Mapping[str, GroupRow]
    slices: Mapping[str, Sequence[SliceRow]]
    statuses: tuple[str, ...]
    kinds: tuple[str, ...]
    group_names: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def is_large(self) -> bool:
        """Return whether only pages of the table are read."""
        return False

    @property
    def count(self) -> int:
        return len(self.by_path)

    def listed(
        self,
        judgements: Judgements,
        order: Order,
        keep: Filter,
        reviewer: str,
        *,
        blind: bool,
        novelty: Mapping[str, float] = NOTHING_NEW,
    ) -> Sequence[ScoreRow]:
        """Return the rows to go through, in order; see worklist.py. In the order of `novelty`, by
        path, those without one come last, and equal ones by their p-values."""
        if blind or order == "disagreement":
            rows: Sequence[ScoreRow] = self.directory.rows
            return worklist.worklist(
                rows, judgements, order=order, keep=keep, reviewer=reviewer, blind=blind
            )
        rows = self._sorted(order)
        if keep != Filter():
            rows = worklist.filtered(rows, judgements, keep, reviewer)
        if order == "novelty":
            rows = sorted(rows, key=lambda row: -novelty.get(row.path, -1.0))
        return rows

    @property
    def sample(self) -> Sequence[ScoreRow]:
        """Return the rows that a page computes from: all, or a random sample of too many."""
        return self.directory.rows

    @cached_property
    def blind_group_names(self) -> tuple[str, ...]:
        """Return the groups to choose from without those that are named by their only image."""
        return tuple(name for name in self.group_names if name not in self.by_path)

    @property
    def has_groups(self) -> bool:
        """Return whether rows can be put together by patient or lot."""
        return bool(self.group_names)

    def grouped(self, rows: Sequence[ScoreRow], judgements: Judgements, reviewer: str) -> Groups:
        """Return listed rows by patient or lot; see worklist.py."""
        return Groups(worklist.grouped(rows, self.groups, judgements, reviewer))

    def summary(self, judgements: Judgements, first: Judgements) -> Summary:
        """Return the counts of the review; `first` are the first, blind judgements."""
        flagged = {row.path: bool(row.flagged) for row in self.directory.rows}
        return summary(flagged, judgements, first)

    def _sorted(self, order: Order) -> Sequence[ScoreRow]:
        """Return all rows in an order that does not depend on verdicts; sorting takes long."""
        known = self._orders
        if order not in known:
            rows = self.directory.rows
            known[order] = worklist.worklist(rows, {}, order=order, keep=Filter(), reviewer="")
        return known[order]

    @cached_property
    def _orders(self) -> dict[Order, Sequence[ScoreRow]]:
        return {}

    @cached_property
    def _blind_paths(self) -> Sequence[str]:
        return sorted(self.by_path, key=worklist.blind_rank)

    @cached_property
    def _blind_numbers(self) -> Mapping[str, int]:
        return {path: number for number, path in enumerate(self._blind_paths, start=1)}

    def number_of(self, path: str) -> int:
        """Return the number of a row in the blind order of all rows, from 1."""
        return self._blind_numbers[path]

    def path_of_number(self, number: int) -> str:
        """Return the path of the row with a number in the blind order, "" where there is none."""
        return self._blind_paths[number - 1] if 0 < number <= len(self._blind_paths) else ""


class KnownPaths(list[str]):
    """Paths that are found quickly in a long list."""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {path: place for place, path in enumerate(self)}

    def __contains__(self, path: object) -> bool:
        return path in self._places

    def index(self, path: str, *_: object) -> int:
        """Return where a path is; raise ValueError where it is not."""
        if path not in self._places:
            raise ValueError(f"{path} is not listed")
        return self._places[path]
