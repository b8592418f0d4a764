"""Vectors by which the images of a score directory are alike.

alike.parquet   beside the record and no part of it: columns path, vector; written by
                `anodetect alike`, and taken away when a patient is forgotten
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from anodetect.errors import RunError, one_line
from anodetect.files import atomic
from anodetect.record.tables import parquet_table
from anodetect.types import Floats

FILE = "alike.parquet"
HEAD = b"head"
AT_ONCE = 256  # judged images that the others are compared with at a time


@dataclass(frozen=True)
class Alike:
    """The vectors [N, c] of length 1 of images at these paths."""

    paths: tuple[str, ...]
    vectors: Floats

    def nearest(self, path: str, count: int) -> list[tuple[str, float]]:
        """Return the images that are most like one, with their cosines, the likest first; none if
        it has no vector."""
        if path not in self.paths:
            return []
        own = self.paths.index(path)
        cosines = self.vectors @ self.vectors[own]
        cosines[own] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(count, len(self.paths) - 1)]
        return [(self.paths[place], float(cosines[place])) for place in order]

    def novelty(self, judged: Collection[str]) -> Floats | None:
        """Return how unlike each image [N] is the likest of those that were judged: 1 less the
        highest cosine, 0 to 2; None where none of those has a vector."""
        known = set(judged)
        places = [place for place, path in enumerate(self.paths) if path in known]
        if not places:
            return None
        highest = np.full(len(self.paths), -1.0, np.float32)
        for start in range(0, len(places), AT_ONCE):  # of bounded memory
            cosines = self.vectors @ self.vectors[places[start : start + AT_ONCE]].T
            highest = np.maximum(highest, cosines.max(1))
        return 1 - highest


def write(folder: Path, head: str, alike: Alike) -> Path:
    """Write vectors beside the record with this head, and return the file."""
    size = alike.vectors.shape[1]
    flat = pa.array(alike.vectors.ravel(), pa.float32())
    columns = {"path": list(alike.paths), "vector": pa.FixedSizeListArray.from_arrays(flat, size)}
    table = pa.table(columns).replace_schema_metadata({HEAD: head.encode()})
    with atomic(folder / FILE) as file:
        parquet.write_table(table, file)
    return folder / FILE


def read(folder: Path, head: str) -> Alike | None:
    """Return the vectors beside the record with this head; None where there are none of it.
    RunError if they cannot be read."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        table = parquet_table(file)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        if metadata.get(HEAD) != head.encode():
            return None
        column = table["vector"].combine_chunks()
        vectors = np.asarray(column.flatten(), np.float32).reshape(len(table), -1)
        paths: Sequence[str] = table["path"].to_pylist()
        if not np.isfinite(vectors).all():
            raise ValueError("values that are not finite")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise RunError(f"{file}: not readable ({one_line(error)}); remove it") from None
    return Alike(tuple(paths), vectors)
