"""The rows of a score directory as its report shows them, read a part at a time."""

import heapq
from collections.abc import Callable, Set
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.record import directories
from anodetect.record.audit import Audit
from anodetect.record.decisions import is_ok, is_volume, numbers
from anodetect.record.failures import Reasons
from anodetect.record.rows import ScoreRow, rows_of
from anodetect.stats.calibration import Doubles
from anodetect.types import Bools


class Highest:
    """The rows with the highest scores of those that `which` chooses of a table [n]."""

    def __init__(self, count: int, which: Callable[[pa.Table], Bools]) -> None:
        self.count, self.which = count, which
        self.rows: list[ScoreRow] = []

    def add(self, part: pa.Table) -> None:
        """Take in a part of the table. Of rows with equal scores the first ones stay."""
        scores = numbers(part["score"])
        fits = self.which(part) & ~np.isnan(scores)
        if len(self.rows) == self.count:
            fits &= scores > (self.rows[-1].score or 0.0)
        others = rows_of(part.filter(pa.array(fits)), ScoreRow)
        self.rows = heapq.nlargest(
            self.count, [*self.rows, *others], key=lambda row: row.score or 0.0
        )


class Overview:
    """The rows of a score directory as its report shows them: the flagged ones and the volumes with
    the highest scores, those of `paths`, and the columns that figures are drawn of. With `flags`
    the paths of all rows are kept, with whether they are flagged."""

    def __init__(
        self, path: Path, audit: Audit, paths: Set[str], *, flagged: int, volumes: int, flags: bool
    ) -> None:
        self.path, self.audit = path, audit
        self.count = self.n_flagged = 0
        self.threshold = float("inf")
        self.by_path: dict[str, ScoreRow] = {}
        self.flags: dict[str, bool] = {}
        self.failures, self.differences = Reasons("error"), Reasons("differs")
        self.flagged = Highest(flagged, lambda part: np.asarray(part["flagged"].fill_null(False)))
        self.volumes = Highest(volumes, is_volume)
        self.groups: list[str] = []
        self._scored: list[tuple[Doubles, NDArray[np.int8], Bools]] = []

        wanted = pa.array(sorted(paths), pa.string())
        for part in directories.score_parts(path, audit.format).parts():
            self._add(part, wanted)
            if flags:
                flagged_ones = part["flagged"].fill_null(False).to_pylist()
                self.flags |= dict(zip(part["path"].to_pylist(), flagged_ones, strict=True))

    def _add(self, part: pa.Table, wanted: pa.Array) -> None:
        self.count += len(part)
        self.n_flagged += pc.sum(part["flagged"]).as_py() or 0
        for row in rows_of(part.filter(pc.is_in(part["path"], value_set=wanted)), ScoreRow):
            self.by_path[row.path] = row
        for each in (self.failures, self.differences, self.flagged, self.volumes):
            each.add(part)

        scored = part.filter(pa.array(is_ok(part)))
        known = scored["threshold"].drop_null()
        if np.isinf(self.threshold) and len(known):
            self.threshold = known[0].as_py()
        labels = np.asarray(scored["label"].fill_null(-1))
        self.groups += scored["group"].filter(pc.is_valid(scored["label"])).to_pylist()
        self._scored.append((numbers(scored["score"]), labels, is_volume(scored)))

    @cached_property
    def scores(self) -> Doubles:
        """The scores [n] of all rows that have one."""
        return np.concatenate([scores for scores, _, _ in self._scored])

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """Their labels [n], −1 where they are not known. The groups of those with a label are
        `groups`."""
        return np.concatenate([labels for _, labels, _ in self._scored])

    @property
    def only_volumes(self) -> bool:
        return all(volumes.all() for _, _, volumes in self._scored)

    @cached_property
    def picture_hashes(self) -> dict[str, str]:
        """The hashes that were recorded of the pictures of cases, by their names."""
        return directories.hashes_below(self.path, "cases/")
