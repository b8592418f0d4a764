"""The rows in error and their reasons."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from anodetect.types import Bools
from anodetect.words import amount

MOST_REASONS = 30  # reasons that are listed one by one


@dataclass(frozen=True)
class Failure:
    """A reason, the number of files that failed for it, and the path of one of them."""

    reason: str
    count: int
    example: str


def in_error(rows: pa.Table) -> Bools:
    """Return which rows say that scoring, or writing what was scored, went wrong [n]."""
    return np.asarray(pc.fill_null(pc.not_equal(rows["error"], ""), False), bool)


class Reasons:
    """Counts the texts in a column of rows, such as `error`, and keeps an example of each."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.found: dict[str, Failure] = {}

    def add(self, rows: pa.Table) -> None:
        """Count the texts of some rows."""
        rows = rows.select([self.column, "path"]).filter(pc.not_equal(rows[self.column], ""))
        grouped = rows.group_by(self.column, use_threads=False)
        for each in grouped.aggregate([("path", "count"), ("path", "first")]).to_pylist():
            reason = each[self.column]
            before = self.found.get(reason, Failure(reason, 0, each["path_first"]))
            self.found[reason] = replace(before, count=before.count + each["path_count"])

    def listed(self) -> list[Failure]:
        """Return the texts, the most frequent ones first.

        Decoders have a message of their own for every file, so the texts after the first
        MOST_REASONS are counted together.
        """
        found = sorted(self.found.values(), key=lambda each: -each.count)
        rest = found[MOST_REASONS:]
        if rest:
            count = sum(each.count for each in rest)
            others = Failure(amount(len(rest), "other reason"), count, rest[0].example)
            found[MOST_REASONS:] = [others]
        return found


def failures(rows: pa.Table) -> list[Failure]:
    """Return the reasons of the rows in error, as `Reasons` lists them."""
    reasons = Reasons("error")
    reasons.add(rows)
    return reasons.listed()


def differences(rows: pa.Table) -> list[Failure]:
    """Return in which ways files differ from what the model has seen, as `Reasons` lists them."""
    reasons = Reasons("differs")
    reasons.add(rows)
    return reasons.listed()
