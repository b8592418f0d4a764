"""The score directory: what was scored, how it was decided, and a hash chain over the rows.

    scores.parquet   authoritative, one row per image (columns: COLUMNS); scores.csv has the same rows
    groups.csv       one row per patient or lot
    timings.parquet  seconds per image, apart, so that equal inputs give equal tables
    heatmaps/        <path>_heatmap.<ext>, in the image's own grid
    bootstrap.npz    each metric's value in every resample of the groups, where labels are known
    cases/           pictures of the most anomalous and the most borderline images, for the report
    audit.json       model, calibration, command, counts, the chain's head and the hash of every output

The chain: h_0 = sha256(""), h_n = sha256(h_{n−1} ‖ canonical JSON of row n); the last one is the head.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as pa_csv
from pyarrow import parquet

from anodetect.config import canonical, plain
from anodetect.errors import RunError
from anodetect.files import atomic, sha256_of, write_atomic

FORMAT = 1
AUDIT = (
    "detector", "data", "model_sha256", "facts", "far", "fdr", "statement", "scale", "calibration", "command", "ended",
    "counts", "cases", "environment", "head",
)  # fmt: skip
BOOTSTRAP = "bootstrap.npz"  # each metric over resampled groups, where labels are known
Row = dict[str, Any]
COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("group", pa.string()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("flagged", pa.bool_()),
        ("threshold", pa.float64()),
        ("heatmap", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("model_sha256", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("label", pa.int8()),
        ("kind", pa.string()),
    ]
)
GROUP_COLUMNS = pa.schema(
    [
        ("group", pa.string()),
        ("images", pa.int32()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("flagged", pa.bool_()),
    ]
)
TIMING_COLUMNS = pa.schema([("path", pa.string()), ("seconds", pa.float64())])
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ScoreDirectory:
    path: Path
    audit: dict[str, Any]
    rows: list[Row]

    def scored(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "ok"]


def chain_head(rows: Iterable[Row]) -> str:
    """The hash that stands for all rows in their order."""
    head = sha256(b"").hexdigest()
    for row in rows:
        head = sha256(head.encode() + canonical(plain(row))).hexdigest()
    return head


def prepare(path: Path) -> None:
    """Make an empty score directory; RunError if something is there already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} already exists and is not an empty folder; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror})") from None


def write(
    path: Path, rows: Sequence[Row], groups: Sequence[Row], timings: Sequence[Row], audit: Mapping[str, Any]
) -> str:
    """Write the tables and audit.json; the chain's head is returned."""
    rows = [{name: row.get(name) for name in COLUMNS.names} for row in rows]
    _write_table(path / "scores", pa.Table.from_pylist(list(rows), COLUMNS))
    _write_table(path / "groups", pa.Table.from_pylist(list(groups), GROUP_COLUMNS), formats=("csv",))
    _write_table(path / "timings", pa.Table.from_pylist(list(timings), TIMING_COLUMNS), formats=("parquet",))
    outputs = {
        file.relative_to(path).as_posix(): sha256_of(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "timings.parquet"
    }
    head = chain_head(rows)
    full = {"format": FORMAT, **audit, "rows": len(rows), "head": head, "outputs": outputs}
    write_atomic(path / "audit.json", json.dumps(plain(full), indent=2) + "\n")
    return head


def write_draws(path: Path, draws: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the resampled values of each metric, for paired comparisons."""
    with atomic(path / BOOTSTRAP) as file:
        np.savez_compressed(file, allow_pickle=False, **draws)


def read(path: Path) -> ScoreDirectory:
    """Read a score directory; RunError if it is none, unfinished or of a newer release."""
    try:
        audit = json.loads((path / "audit.json").read_text("utf-8"))
        if audit["format"] > FORMAT:
            raise RunError(
                f"{path}: format {audit['format']} is newer than this release reads ({FORMAT}); update anodetect"
            )
        lacking = [key for key in AUDIT if key not in audit]
        if lacking:
            raise RunError(f"{path}: audit.json lacks {', '.join(lacking)}")
        rows = parquet.read_table(path / "scores.parquet").to_pylist()
    except FileNotFoundError as error:
        raise RunError(f"{path}: not a finished score directory (no {Path(error.filename).name})") from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: not a readable score directory ({error})") from None
    return ScoreDirectory(path, audit, rows)


def _write_table(stem: Path, table: pa.Table, formats: Sequence[str] = ("parquet", "csv")) -> None:
    if "parquet" in formats:
        with atomic(stem.with_suffix(".parquet")) as file:
            parquet.write_table(table, file)
    if "csv" in formats:
        with atomic(stem.with_suffix(".csv")) as file:
            pa_csv.write_csv(_without_formulas(table), file)


def _without_formulas(table: pa.Table) -> pa.Table:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    for index, column in enumerate(table.schema):
        if column.type == pa.string():
            safe = [
                f"'{text}" if text and text.startswith(FORMULA_STARTS) else text for text in table[index].to_pylist()
            ]
            table = table.set_column(index, column, pa.array(safe, pa.string()))
    return table
