"""A score directory with more rows than are read whole: its rows page by page, the hashes of its
tables beside the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import dataset

from anodetect.errors import RunError
from anodetect.record import directories
from anodetect.record.audit import Audit
from anodetect.record.directories import ScoreDirectory
from anodetect.record.failures import Failure
from anodetect.record.rows import ScoreRow, SliceRow, rows_of
from anodetect.stats.agreement import Judgements, Summary, precision_of, summary

from . import known, large_groups, large_list
from .catalogue import ByPath, Catalogue, Listed, Numbers, Paths, Places, Ranking, complete
from .scores import MOST_CHOICES, NOTHING_NEW, KnownPaths, Scores
from .worklist import Filter, Groups, Order

ORDERS_KEPT = 3  # each takes 4 bytes a row
SAMPLED = 20_000  # rows of the random sample that a page computes from
COLUMNS = ("path", "group", "status", "score", "p_value", "flagged", "label", "kind", "depth")


class PagedDirectory(ScoreDirectory):
    """A score directory whose table is not read."""

    def __init__(self, path: Path, audit: Audit, catalogue: Catalogue) -> None:
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "audit", audit)
        object.__setattr__(self, "catalogue", catalogue)
        object.__setattr__(self, "numbers", Numbers(catalogue))

    catalogue: Catalogue

    def row_at(self, number: int) -> ScoreRow:
        return self.catalogue.row(number)

    @property
    def table(self) -> Any:
        """Raise RunError: whatever needs all rows is not for a table of this size."""
        raise RunError(
            f"{self.path}: this needs all {self.audit.rows} rows at once, which are too many for a "
            "page; use anodetect evaluate and anodetect report, or score fewer files"
        )

    @cached_property
    def _outputs(self) -> dataset.Dataset:
        return dataset.dataset(self.path / "outputs.parquet")

    def output_hash(self, name: str) -> str:
        """Return the hash that was recorded of an output; "" if there is none of this name."""
        wanted = dataset.field("name") == name
        found = self._outputs.to_table(columns=["sha256"], filter=wanted)["sha256"].to_pylist()
        return str(found[0]) if found else ""


class SlicesByPath(Mapping[str, Sequence[SliceRow]]):
    """The slices of volumes by their paths, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._slices = dataset.dataset(folder / "slices.parquet")

    def __getitem__(self, path: str) -> Sequence[SliceRow]:
        found = self._slices.to_table(filter=dataset.field("path") == path)
        if not len(found):
            raise KeyError(path)
        return tuple(rows_of(found, SliceRow))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Any:
        yield from pc.unique(self._slices.to_table(columns=["path"])["path"]).to_pylist()


class Check:
    """The comparison of the tables with what was written, which goes on beside the pages. Until it
    has ended no verdict is taken."""

    def __init__(self, path: Path, audit: Audit) -> None:
        self._path, self._audit = path, audit
        self._found: Future[str] = ThreadPoolExecutor(1, "check").submit(self._compare)

    def _compare(self) -> str:
        wrong = directories.changed_tables(self._path, self._audit)
        return str(directories.changed_error(self._path, wrong)) if wrong else ""

    @property
    def is_done(self) -> bool:
        return self._found.done()

    def require(self, *, wait: float | None = 0) -> None:
        """Raise RunError if a table was changed, or if that is not known after `wait` seconds."""
        try:
            problem = self._found.result(wait)
        except TimeoutError:
            raise RunError(
                "the tables are still being compared with what was written; judge again in a moment"
            ) from None
        if problem:
            raise RunError(problem)


@dataclass(frozen=True)
class LargeScores(Scores):
    """The scores of a directory of which only pages are read; `groups` is empty, since patients and
    lots are read when they are asked for."""

    catalogue: Catalogue
    check: Check

    @property
    def is_large(self) -> bool:
        return True

    @property
    def count(self) -> int:
        return self.catalogue.count

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
        if blind:
            keep = Filter(keep.status, keep.groups, reviewed=keep.reviewed, paths=keep.paths)
        fits = large_list.fitting(self.catalogue, judgements, keep, reviewer)
        if blind:
            places = self._blind_order
            if fits is not None:
                places = places[fits[places]]
            return Listed(self.catalogue, complete(places))
        if fits is None:
            found = self._ordered(order)
        else:
            found = large_list.ordered(self.catalogue, order, fits)
        if order == "disagreement":
            found = large_list.by_disagreement(found, self.catalogue, judgements)
        return Listed(self.catalogue, found)

    @cached_property
    def sample(self) -> Sequence[ScoreRow]:
        """Return SAMPLED rows drawn at random, the same ones for everybody, with what the page
        about thresholds needs of them."""
        return self.catalogue.rows_at(np.sort(self._blind_order[:SAMPLED]), COLUMNS)

    @cached_property
    def blind_group_names(self) -> tuple[str, ...]:
        of_images = self.catalogue.places(self.group_names)
        return tuple(name for name in self.group_names if name not in of_images)

    @cached_property
    def has_groups(self) -> bool:
        """Return whether rows can be put together by patient or lot: if some have several, and if
        they are not too many."""
        return (
            0 < large_groups.count_in(self.directory.path) <= min(self.count - 1, large_groups.MOST)
        )

    def grouped(self, rows: Sequence[ScoreRow], judgements: Judgements, reviewer: str) -> Groups:
        assert isinstance(rows, Listed)
        mine = [path for path, given in judgements.items() if reviewer in given]
        found = self._grouped_kept.get(rows)
        if found is None:
            columns, folder = self._group_columns, self.directory.path
            found = large_groups.LargeGroups(self.catalogue, folder, columns, rows, mine)
            self._grouped_kept[rows] = found
        else:
            found.count_judged(mine)
        return found

    @cached_property
    def _group_columns(self) -> tuple[large_groups.Coded, large_groups.Coded]:
        catalogue = self.catalogue
        return large_groups.coded(catalogue, "group"), large_groups.coded(catalogue, "study")

    @cached_property
    def _grouped_kept(self) -> WeakKeyDictionary[Listed, large_groups.LargeGroups]:
        return WeakKeyDictionary()

    def summary(self, judgements: Judgements, first: Judgements) -> Summary:
        judged = [path for path, given in judgements.items() if given and path in self.by_path]
        flagged = {path: bool(self.by_path[path].flagged) for path in judged}
        found = summary(flagged, judgements, first)
        marked = [path for path in judged if flagged[path]]
        others = self._flagged_count - len(marked)
        precision = precision_of(marked, judgements, others)
        return replace(found, images=self.count, precision=precision)

    @cached_property
    def _flagged_count(self) -> int:
        parts = self.catalogue.parts(["flagged"])
        return sum(pc.sum(batch["flagged"]).as_py() or 0 for _, batch in parts)

    def _ordered(self, name: Order) -> Ranking:
        """Return all places in an order; the last ones are kept."""
        orders = self._orders_kept
        if name not in orders:
            found = large_list.ordered(self.catalogue, name)
            while len(orders) >= ORDERS_KEPT:
                orders.pop(next(iter(orders)), None)
            orders[name] = found
        return orders[name]

    @cached_property
    def _orders_kept(self) -> dict[Order, Ranking]:
        return {}

    @cached_property
    def _blind_order(self) -> Places:
        return large_list.blind_order(self.catalogue, self.directory.audit.head)

    def number_of(self, path: str) -> int:
        place = self.catalogue.place(path)
        return int(np.flatnonzero(self._blind_order == place)[0]) + 1

    def path_of_number(self, number: int) -> str:
        if not 0 < number <= self.count:
            return ""
        return self.catalogue.row(int(self._blind_order[number - 1])).path


def open_large(path: Path, root: Path | None = None) -> LargeScores:
    """Open a score directory of the current format, without reading its rows; `root` is where the
    images are now, None if they were not moved.

    Raises RunError where audit.json or a table cannot be read, or audit.json was changed.
    """
    audit = directories.read_audit_as_written(path)
    catalogue = Catalogue(path / "scores.parquet")
    recorded = audit if root is None else replace(audit, root=str(root))
    has_slices = (path / "slices.parquet").is_file()
    unlike = differences(catalogue)
    return LargeScores(
        directory=PagedDirectory(path, recorded, catalogue),
        by_path=ByPath(catalogue),
        groups=MappingProxyType({}),
        slices=SlicesByPath(path) if has_slices else MappingProxyType({}),
        statuses=catalogue.different("status", MOST_CHOICES),
        kinds=catalogue.different("kind", MOST_CHOICES),
        group_names=catalogue.different("group", MOST_CHOICES),
        notes=known.of_batch(audit, unlike, catalogue.count),
        catalogue=catalogue,
        check=Check(path, audit),
    )


def differences(catalogue: Catalogue) -> list[Failure]:
    """Return in which ways files differ from what the model has seen, the most frequent first, each
    with an example."""
    if catalogue.different("differs", 1) == ("",):
        return []
    counts, places = Counter[str](), dict[str, int]()
    for start, batch in catalogue.parts(["differs"]):
        column = batch["differs"]
        for each in pc.value_counts(column).to_pylist():
            text = each["values"] or ""
            if not text:
                continue
            counts[text] += each["counts"]
            if text not in places:
                places[text] = start + pc.index(column.cast(pa.string()), text).as_py()
    found = []
    for text, count in counts.most_common():
        found.append(Failure(text, count, catalogue.row(places[text]).path))
    return found


def paths_of(rows: Sequence[ScoreRow]) -> Sequence[str]:
    """Return the paths of listed rows."""
    return Paths(rows) if isinstance(rows, Listed) else KnownPaths(row.path for row in rows)
