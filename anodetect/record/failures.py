"""The rows in error and their reasons."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from anodetect.types import Bools

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


def failures(rows: pa.Table) -> list[Failure]:
    """Return the reasons of the rows in error, the most frequent ones first.

    Decoders have a message of their own for every file, so the reasons after the first MOST_REASONS
    are counted together.
    """
    return _by_reason(rows.filter(pa.array(in_error(rows))), "error")


def differences(rows: pa.Table) -> list[Failure]:
    """Return in which ways files differ from what the model has seen, as `failures` returns
    reasons."""
    return _by_reason(rows.filter(pc.not_equal(rows["differs"], "")), "differs")


def _by_reason(rows: pa.Table, column: str) -> list[Failure]:
    """Return the texts in a column, how many rows have each, and an example."""
    grouped = rows.select([column, "path"]).group_by(column, use_threads=False)
    counted = grouped.aggregate([("path", "count"), ("path", "first")]).to_pylist()
    counted.sort(key=lambda each: -each["path_count"])

    found = [Failure(each[column], each["path_count"], each["path_first"]) for each in counted]
    rest = found[MOST_REASONS:]
    if rest:
        count = sum(each.count for each in rest)
        others = Failure(f"{len(rest)} other reasons", count, rest[0].example)
        found[MOST_REASONS:] = [others]
    return found
