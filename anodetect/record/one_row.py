"""Check one row of a score directory, and the files that were written for it, without reading the
other row groups: by the trees of record.merkle. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import compute as pc

from anodetect.errors import ConfigError, RunError
from anodetect.record import directories, signatures, verification
from anodetect.record.audit import Audit
from anodetect.record.chain import GAP, row_hash
from anodetect.record.merkle import CHAIN, LEAVES, OUTPUTS, group_root
from anodetect.record.rows import ChainRow, OutputRow, Row, ScoreRow, rows_of
from anodetect.record.tables import groups_with, readable
from anodetect.record.verification import Verdict
from anodetect.words import first_of

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class _One:
    """The rows of one path in the tables of a score directory, and in `strange` what is wrong with
    the row groups that they stand in."""

    path: Path
    audit: Audit
    name: str
    scores: list[ScoreRow]
    links: list[ChainRow]
    outputs: list[OutputRow]
    strange: list[str]


def verify_row(
    path: Path,
    name: str,
    *,
    head: str | None = None,
    key: Path | None = None,
    run: Path | None = None,
) -> Verdict:
    """Check the row of the path `name`, and the files that were written for it, against the head;
    the other parameters are those of `verification.verify`. RunError if it is no finished score
    directory, or one of a release that wrote no trees; ConfigError if it has no such row."""
    trusted = signatures.public_key(key) if key else None
    try:
        audit = directories.read_audit(path)
        one = _read(path, audit, name) if audit.trees else None
    except RunError as error:
        if not (path / directories.AUDIT_FILE).is_file():
            raise
        return verification.unreadable(error)
    if one is None:
        raise RunError(f"{path}: an older release wrote it: its rows are checked without --row")
    if name == GAP or not (one.scores or one.links):
        raise ConfigError(f"{path}: no row {name!r}; scores.csv lists them")

    not_looked_at = [*_not_covered(one)]
    problems = [*one.strange, *verification.found_by(CHECKS, one)]
    problems += verification.model_problems(audit, run, not_looked_at)
    verdict = verification.against(path, audit, problems, head, trusted)
    names = first_of([output.name for output in one.outputs])
    checked = f"checked: the row of {name}, and what was written for it: {names or 'nothing'}"
    return replace(
        verdict,
        row=name,
        not_looked_at=tuple(not_looked_at),
        notes=(checked, *verdict.notes),
    )


def _read(path: Path, audit: Audit, name: str) -> _One:
    """Return what a score directory has of the path `name`; RunError if it cannot be read."""
    strange: list[str] = []

    def found(table: str, row_type: type[R]) -> list[R]:
        rows = list[R]()
        with readable(path / table):
            for number, group in groups_with(name, path / table, row_type):
                rows += rows_of(group.filter(pc.equal(group["path"], name)), row_type)
                if table in LEAVES and not _is_in_tree(audit, table, number, group):
                    strange.append(f"row group {number + 1} of {table} is not that of the tree")
        return rows

    return _One(
        path,
        audit,
        name,
        scores=found("scores.parquet", ScoreRow),
        links=found(CHAIN, ChainRow),
        outputs=found(OUTPUTS, OutputRow),
        strange=strange,
    )


def _is_in_tree(audit: Audit, table: str, number: int, group: pa.Table) -> bool:
    tree = audit.trees.get(table)
    return tree is not None and tree.has(number, group_root(table, group))


def _row(one: _One) -> Iterator[str]:
    """Yield what is wrong with the row itself."""
    if not one.scores:
        yield f"{one.name} is missing from scores.parquet"
    elif not one.links:
        yield f"{one.name} was added to scores.parquet"
    elif len(one.scores) > 1:
        yield f"{one.name} is in scores.parquet twice"
    elif [row_hash(row) for row in one.scores] != [link.row for link in one.links]:
        yield f"{one.name} was changed"


def _outputs(one: _One) -> Iterator[str]:
    """Yield what is wrong with the files that were written for the row."""
    names = [row.name for row in one.outputs]
    for row in one.scores:
        if row.heatmap and row.heatmap not in names:
            yield f"{row.heatmap} is missing from {OUTPUTS}"
    for output in one.outputs:
        yield from verification.file_problems(one.path, output.name, output.sha256)


def _head(one: _One) -> Iterator[str]:
    return verification.head_problems(one.path, one.audit)


def _channels(one: _One) -> Iterator[str]:
    return verification.channel_problems(one.scores)


def _not_covered(one: _One) -> Iterator[str]:
    """Yield what the answer does not cover."""
    yield (
        "other rows and their files, groups, slices, outlines, and whether decisions follow from "
        "scores: verify without --row checks them"
    )
    yield f"the image {one.name} below {one.audit.root or 'an unknown folder'} was not read"


CHECKS = (_row, _channels, _outputs, _head)
