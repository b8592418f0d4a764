"""Check some rows of a score directory, and the files that were written for them, without reading
the other row groups: by the trees of record.merkle. No torch."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import compute as pc

from anodetect.errors import ConfigError, RunError
from anodetect.record import directories, signatures, tables, verification
from anodetect.record.audit import Audit
from anodetect.record.chain import GAP, row_hash
from anodetect.record.merkle import CHAIN, LEAVES, OUTPUTS, group_root
from anodetect.record.rows import ChainRow, OutputRow, Row, ScoreRow, rows_of
from anodetect.record.tables import groups_between, readable, row_group
from anodetect.record.verification import Verdict
from anodetect.words import first_of

R = TypeVar("R", bound=Row)
SCORES = "scores.parquet"
NUMBERS = re.compile(r"(\d{1,12}):(\d{1,12})")


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
        raise _without_trees(path, "row")
    if name == GAP or not (one.scores or one.links):
        raise ConfigError(f"{path}: no row {name!r}; scores.csv lists them")

    not_looked_at = [*_not_covered("row"), _image_not_read(name, audit)]
    problems = [*one.strange, *verification.found_by((*CHECKS, _head), one)]
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


def verify_rows(
    path: Path,
    numbers: str,
    *,
    head: str | None = None,
    key: Path | None = None,
    run: Path | None = None,
) -> Verdict:
    """Check the rows with the `numbers` "A:B", both from 1 and both among them, and the files that
    were written for them; as `verify_row` does. ConfigError if there are no such numbers."""
    trusted = signatures.public_key(key) if key else None
    try:
        audit = directories.read_audit(path)
        found = _found_in(path, audit, numbers) if audit.trees else None
    except RunError as error:
        if not (path / directories.AUDIT_FILE).is_file():
            raise
        return verification.unreadable(error)
    if found is None:
        raise _without_trees(path, "rows")

    not_looked_at = [*_not_covered("rows"), verification.images_not_read(audit.root)]
    problems = [*found.problems, *verification.head_problems(path, audit)]
    problems += verification.model_problems(audit, run, not_looked_at)
    verdict = verification.against(path, audit, problems, head, trusted)
    return replace(
        verdict,
        numbers=numbers,
        not_looked_at=tuple(not_looked_at),
        notes=(found.text(), *verdict.notes),
    )


def _without_trees(path: Path, option: str) -> RunError:
    return RunError(f"{path}: an older release wrote it: its rows are checked without --{option}")


# -- One row ---------------------------------------------------------------------------------------


def _read(path: Path, audit: Audit, name: str) -> _One:
    """Return what a score directory has of the path `name`; RunError if it cannot be read."""
    strange: list[str] = []

    def found(table: str, row_type: type[R]) -> list[R]:
        return _rows_of([name], path / table, row_type, audit, strange)

    return _One(
        path,
        audit,
        name,
        scores=found(SCORES, ScoreRow),
        links=found(CHAIN, ChainRow),
        outputs=found(OUTPUTS, OutputRow),
        strange=strange,
    )


def _rows_of(
    names: Sequence[str], file: Path, row_type: type[R], audit: Audit, strange: list[str]
) -> list[R]:
    """Return the rows of a table that have one of these paths, and add to `strange` which of their
    row groups are not those of the tree; RunError if they cannot be read."""
    rows, wanted = list[R](), set(names)
    with readable(file):
        for number, group in groups_between(min(names), max(names), file, row_type):
            is_own = [path in wanted for path in group["path"].to_pylist()]
            own = group.filter(pa.array(is_own, pa.bool_()))
            rows += rows_of(own, row_type)
            if len(own):
                strange += _not_in_tree(audit, file.name, number, group)
    return rows


def _not_in_tree(audit: Audit, table: str, number: int, group: pa.Table) -> Iterator[str]:
    """Yield that a row group is not the one with its number in the tree of its table, if it has
    one."""
    if table not in LEAVES:
        return
    tree = audit.trees.get(table)
    if tree is None or not tree.has(number, group_root(table, group)):
        yield f"row group {number + 1} of {table} is not that of the tree"


def _row(one: _One) -> Iterator[str]:
    """Yield what is wrong with the row itself."""
    if not one.scores:
        yield f"{one.name} is missing from {SCORES}"
    elif not one.links:
        yield f"{one.name} was added to {SCORES}"
    elif len(one.scores) > 1:
        yield f"{one.name} is in {SCORES} twice"
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


def _not_covered(option: str) -> Iterator[str]:
    """Yield what the answer does not cover."""
    yield (
        "other rows and their files, groups, slices, outlines, and whether decisions follow from "
        f"scores: verify without --{option} checks them"
    )


def _image_not_read(name: str, audit: Audit) -> str:
    return f"the image {name} below {audit.root or 'an unknown folder'} was not read"


CHECKS = (_row, _channels, _outputs)

# -- Several rows ----------------------------------------------------------------------------------


@dataclass
class _Found:
    """What was found of several rows: problems, the paths of the first and the last one, and the
    numbers of rows, of files that were written for them, and of rows that were erased."""

    problems: list[str] = field(default_factory=list)
    first: str = ""
    last: str = ""
    rows: int = 0
    outputs: int = 0
    gaps: int = 0

    def text(self) -> str:
        """Return in words what was checked."""
        erased = f"{self.gaps} rows with these numbers were erased"
        if not self.rows:
            return f"checked: {erased}"
        text = (
            f"checked: {self.rows} rows, from {self.first} to {self.last}, that no other row is "
            f"between them, and {self.outputs} files that were written for them"
        )
        return f"{text}; {erased}" if self.gaps else text


def _numbers_in(text: str, audit: Audit) -> tuple[int, int]:
    """Return the two numbers in "A:B"; ConfigError if they are not those of rows."""
    match = NUMBERS.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= audit.rows:
        raise ConfigError(
            f"--rows {text}: A:B with numbers from 1 to {audit.rows} is expected, for example "
            f"1:{min(audit.rows, tables.PART)}"
        )
    return first, last


def _found_in(path: Path, audit: Audit, numbers: str) -> _Found:
    """Check the rows with these numbers, one row group of the chain after the other."""
    first, last = _numbers_in(numbers, audit)
    found = _Found()
    for group in range((first - 1) // tables.PART, (last - 1) // tables.PART + 1):
        _check_group(path, audit, group, (first, last), found)
    return found


def _check_group(
    path: Path, audit: Audit, number: int, numbers: tuple[int, int], found: _Found
) -> None:
    """Check the rows with numbers between two that stand in one row group of the chain; RunError if
    they cannot be read."""
    with readable(path / CHAIN):
        group = row_group(number, path / CHAIN, ChainRow)
    found.problems += _not_in_tree(audit, CHAIN, number, group)
    start = max(numbers[0] - 1 - number * tables.PART, 0)
    stop = min(numbers[1] - number * tables.PART, tables.PART)
    if stop > len(group):
        found.problems.append(f"row group {number + 1} of {CHAIN} has {len(group)} rows")

    links = list(rows_of(group.slice(start, stop - start), ChainRow))
    names = [link.path for link in links if link.path != GAP]
    found.gaps += len(links) - len(names)
    if not names:
        return
    before, found.last = found.last, names[-1]
    found.first = found.first or names[0]
    found.rows += len(names)

    scores = dict[str, list[ScoreRow]]()
    in_order = names == sorted([before, *names])[1:]
    for row in _rows_between(
        path / SCORES, before if in_order and before else min(names), max(names)
    ):
        scores.setdefault(row.path, []).append(row)
    outputs = dict[str, list[OutputRow]]()
    for output in _rows_of(names, path / OUTPUTS, OutputRow, audit, found.problems):
        outputs.setdefault(output.path, []).append(output)
        found.outputs += 1
    for link in links:
        if link.path != GAP:
            rows, files = scores.pop(link.path, []), outputs.get(link.path, [])
            one = _One(path, audit, link.path, rows, [link], files, [])
            found.problems += verification.found_by(CHECKS, one)
    if in_order:  # as every release writes them
        found.problems += [f"{name} was added to {SCORES}" for name in scores if name != before]


def _rows_between(file: Path, first: str, last: str) -> Iterator[ScoreRow]:
    """Yield the rows whose paths lie between two, which are among them; RunError if they cannot be
    read."""
    with readable(file):
        for _, group in groups_between(first, last, file, ScoreRow):
            after = pc.greater_equal(group["path"], first)
            own = group.filter(pc.and_(after, pc.less_equal(group["path"], last)))
            yield from rows_of(own, ScoreRow)
