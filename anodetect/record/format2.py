"""Read score directories of format 2, where they differ from the present format.

The names and hashes of all files stood in audit.json, under `outputs`; groups were kept as
groups.csv alone, and the heatmap of a row was the first file that was written for it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as pa_csv

from anodetect.errors import RunError, one_line
from anodetect.files import refuse_strange
from anodetect.record.rows import GroupRow, OutputRow, rows_of, schema_of, to_table
from anodetect.record.tables import FORMULA_STARTS

FORMAT, RELEASE = 2, "0.1.0"
GROUPS = "groups.csv"
# In the directory itself; all other files are outputs.
TABLES = (
    "scores.parquet",
    "scores.csv",
    GROUPS,
    "timings.parquet",
    "slices.parquet",
    "chain.parquet",
)
# Columns that scores.parquet did not have.
ADDED = dict.fromkeys(
    ("differs", "channels", "study", "prepared", "pixels_sha256", "truth_sha256"), ""
)
READ = ("scores.parquet", GROUPS, "slices.parquet")  # the tables that pages are drawn from


def converted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return audit.json as format 3 has it; RunError if it has no outputs."""
    outputs = _outputs(content)
    return {**content, "tables": {name: outputs[name] for name in TABLES if name in outputs}}


def output_table(content: Mapping[str, Any]) -> pa.Table:
    """Return the outputs in audit.json as a table of OutputRow, without their paths and kinds."""
    rows = [
        OutputRow(name=name, path="", kind="", sha256=digest)
        for name, digest in _outputs(content).items()
        if name not in TABLES
    ]
    return to_table(rows, OutputRow)


def _outputs(content: Mapping[str, Any]) -> Mapping[str, str]:
    outputs = content.get("outputs")
    if not isinstance(outputs, dict) or not all(isinstance(each, str) for each in outputs.values()):
        raise RunError("audit.json lacks outputs, or a hash of one is no text")
    return outputs


def read_groups(path: Path) -> pa.Table:
    """Return groups.csv as a table of GroupRow, with names as they are in scores.parquet."""
    refuse_strange(path / GROUPS)
    try:
        types = pa_csv.ConvertOptions(column_types=schema_of(GroupRow), strings_can_be_null=False)
        groups = pa_csv.read_csv(path / GROUPS, convert_options=types)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: groups.csv cannot be read ({one_line(error)})") from None
    rows = (replace(row, group=_with_formula(row.group)) for row in rows_of(groups, GroupRow))
    return to_table(rows, GroupRow)


def _with_formula(text: str) -> str:
    """Return the text of which `without_formulas` made this one."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text
