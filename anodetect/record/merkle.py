"""Merkle trees over the rows of a table, by which the rows of one row group of its file are checked
without the others.

They are those of RFC 6962 (Certificate Transparency), section 2.1, with SHA-256: the hash of a leaf
d is sha256(0x00 ‖ d), that of a node sha256(0x01 ‖ left ‖ right), and the left side of a node has
the largest power of two of leaves that leaves some for the right. A row group has PART rows, a
power of two, the last one up to PART. So each is a whole branch, and the root follows from theirs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa

from anodetect.config import canonical
from anodetect.record.rows import ChainRow, OutputRow, rows_of, values_of
from anodetect.record.tables import Rows, parts_of

LEAF, NODE = b"\0", b"\1"  # before what is hashed, so that no leaf passes for a node
CHAIN, OUTPUTS = "chain.parquet", "outputs.parquet"  # the tables that have trees


@dataclass(frozen=True)
class Tree:
    """The root of a tree over the rows of a table, and those of its row groups in order, in
    hexadecimal digits."""

    root: str
    groups: tuple[str, ...]

    def has(self, number: int, group: str) -> bool:
        """Return whether this is the root of the row group with this number, from 0, and belongs to
        the root of all; ValueError if what stands in the place of a root is none."""
        in_place = self.groups[number : number + 1] == (group,)
        return in_place and _root(map(bytes.fromhex, self.groups)).hex() == self.root


def _root(nodes: Iterable[bytes]) -> bytes:
    """Return the root over nodes of one height; the last one may be lower."""
    level = list(nodes)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        rest = level[-1:] if len(level) % 2 else []
        level = [sha256(NODE + left + right).digest() for left, right in pairs] + rest
    return level[0] if level else sha256().digest()


def group_root(name: str, rows: pa.Table) -> str:
    """Return the root over the rows of one row group of the table with this name."""
    return _root(sha256(LEAF + leaf).digest() for leaf in LEAVES[name](rows)).hex()


def _chain_leaves(rows: pa.Table) -> Iterator[bytes]:
    """Yield the hash of each row of scores.parquet, which is left of rows that were erased."""
    return (row.row.encode() for row in rows_of(rows, ChainRow))


def _output_leaves(rows: pa.Table) -> Iterator[bytes]:
    return (canonical(values_of(row)) for row in rows_of(rows, OutputRow))


LEAVES: dict[str, Callable[[pa.Table], Iterator[bytes]]] = {
    CHAIN: _chain_leaves,
    OUTPUTS: _output_leaves,
}


class Growing:
    """The rows of a table that are passed on, a part at a time, while a tree grows over them: its
    row groups, as `write_table` writes them. `tree` is that over what was passed on."""

    def __init__(self, name: str, rows: Rows) -> None:
        self.name, self.rows, self.schema = name, rows, rows.schema
        self.groups: list[str] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tree(self) -> Tree:
        return tree_of_groups(self.groups)

    def parts(self) -> Iterator[pa.Table]:
        """Yield the rows in order, PART at a time; an empty table if there are none."""
        self.groups = []
        for part in parts_of(self.rows):
            self.groups.append(group_root(self.name, part))
            yield part


def tree_of_groups(groups: Sequence[str]) -> Tree:
    """Return the tree whose row groups have these roots."""
    return Tree(_root(map(bytes.fromhex, groups)).hex(), tuple(groups))


def tree_of(name: str, rows: pa.Table) -> Tree:
    """Return the tree over the rows of the table with this name."""
    return tree_of_groups([group_root(name, part) for part in parts_of(rows)])
