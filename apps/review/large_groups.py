"""Patients and lots of a large table, whose rows are put together by columns."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from pyarrow import dataset, parquet

from anodetect.record.rows import GroupRow, rows_of

from .catalogue import Catalogue, Listed, Places, complete
from .worklist import Group, Groups

MOST = 1_000_000  # patients or lots that are put together
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """A column of texts as numbers [rows], and the texts by their numbers."""

    codes: Codes
    names: Sequence[str]


def coded(catalogue: Catalogue, name: str) -> Coded:
    """Return a column of texts as numbers; a missing text is ""."""
    if name not in catalogue.names:  # which an older release lacks
        return Coded(np.zeros(catalogue.count, np.int64), [""])
    known: dict[str, int] = {}
    codes = np.empty(catalogue.count, np.int64)
    for start, batch in catalogue.parts([name]):
        column = batch[name].dictionary_encode()
        texts = [text or "" for text in column.dictionary.to_pylist()]
        own = [known.setdefault(text, len(known)) for text in texts]
        own.append(known.setdefault("", len(known)) if column.null_count else -1)
        places = column.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
        codes[start : start + len(batch)] = np.array(own, np.int64)[places]
    return Coded(codes, list(known))


def count_in(folder: Path) -> int:
    """Return how many patients or lots a score directory has on record; 0 where it has none."""
    file = folder / "groups.parquet"
    return parquet.read_metadata(file).num_rows if file.is_file() else 0


def owners(groups: Coded) -> Codes:
    """Return the number of each row's group; a row without one is a group of its own."""
    if "" not in groups.names:
        return groups.codes
    own = len(groups.names) + np.arange(len(groups.codes))
    return np.where(groups.codes == groups.names.index(""), own, groups.codes)


def together(owner: Codes, study: Codes, places: Places) -> tuple[Places, NDArray[np.intp]]:
    """Return places with those of one group together, each group where its first place stands, and
    in a group those of one study; and where each group begins."""
    own = owner[places]
    pairs = own * (int(study.max(initial=0)) + 1) + study[places]
    order = np.lexsort((_first(pairs), _first(own)))
    starts = np.flatnonzero(np.diff(own[order], prepend=-1))
    return places[order], starts


def _first(codes: Codes) -> NDArray[np.intp]:
    """Return for each code where the first one that equals it stands."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse]


class LargeGroups(Groups):
    """The patients or lots of listed rows, each read when it is asked for."""

    def __init__(
        self,
        catalogue: Catalogue,
        folder: Path,
        columns: tuple[Coded, Coded],
        listed: Listed,
        judged: Iterable[str],
    ) -> None:
        groups, self._studies = columns
        self._catalogue, self._folder = catalogue, folder
        self._owner = owners(groups)
        places, self._starts = together(self._owner, self._studies.codes, listed.order.all())
        self._ends = np.append(self._starts[1:], len(places))
        self.rows = self._listed = Listed(catalogue, complete(places))
        self.count_judged(judged)

    def count_judged(self, paths: Iterable[str]) -> None:
        """Count which of these paths, that the reviewer has judged, each group has."""
        found = list(self._catalogue.places(list(paths)).values())
        listed = np.isin(found, self._listed.order.all())
        self._judged = Counter(self._owner[np.array(found, np.int64)[listed]].tolist())

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Group: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Group]: ...
    def __getitem__(self, place: int | slice) -> Group | Sequence[Group]:
        if isinstance(place, slice):
            return [self[n] for n in range(len(self))[place]]
        number = range(len(self))[place]  # raises IndexError
        start, end = int(self._starts[number]), int(self._ends[number])
        rows = self._listed[start:end]
        name = rows[0].group or rows[0].path
        decision = self._recorded(name)
        own = rows.order.all()
        return Group(
            name=name,
            rows=rows,
            p_value=decision.p_value if decision else None,
            flagged=decision is not None and bool(decision.flagged),
            judged=self._judged[int(self._owner[own[0]])],
            studies=self._studies_of(own),
        )

    def _recorded(self, name: str) -> GroupRow | None:
        """Return what is recorded of a group, None where there is nothing."""
        wanted = dataset.field("group") == name
        found = dataset.dataset(self._folder / "groups.parquet").to_table(filter=wanted)
        return next(rows_of(found, GroupRow), None)

    def _studies_of(self, places: Places) -> tuple[str, ...]:
        codes = dict.fromkeys(self._studies.codes[places].tolist())
        found = tuple(self._studies.names[code] for code in codes)
        return () if "" in found else found

    def place_of(self, path: str) -> int:
        """Return the index of the group that holds an image, 0 where none does."""
        place = self._listed.place_of(path)
        if place < 0:
            return 0
        return int(np.searchsorted(self._starts, place, side="right")) - 1
