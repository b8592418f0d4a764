"""Records that are longer than what is to be in memory: verify and merge hold a few rows of them at
a time, and answer as if they held all."""

import csv
import io
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv as pa_csv
from pyarrow import parquet
from test_files_and_runs import AUDIT, row

import anodetect
from anodetect.commands import recompute
from anodetect.errors import RunError
from anodetect.record import directories, rows, spool, tables, verification
from anodetect.record.audit import Erasure
from anodetect.record.chain import GAP, START, chain_values, row_hash
from anodetect.record.directories import Tables
from anodetect.record.rows import (
    ChainRow,
    GroupRow,
    OutputRow,
    ScoreRow,
    SliceRow,
    TimingRow,
    rows_of,
    to_table,
)
from anodetect.words import amount

PART, AT_ONCE = 8, 4  # rows of a row group, and as Python objects
COUNTED = (ScoreRow, ChainRow, OutputRow, TimingRow)
WHOLE = (GroupRow, SliceRow)  # of tables that are read as a whole


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tables, "PART", PART)
    monkeypatch.setattr(rows, "AT_ONCE", AT_ONCE)
    monkeypatch.setattr(spool, "RUN", 2 * PART)
    monkeypatch.setattr(spool, "BLOCK", AT_ONCE)


@contextmanager
def held(monkeypatch):
    """Count the most objects of each kind of row that there are at a time."""
    alive, most = {kind: set() for kind in COUNTED}, Counter()

    def counted(kind):
        made = kind.__init__

        def init(self, **values):
            made(self, **values)
            alive[kind].add(id(self))
            most[kind] = max(most[kind], len(alive[kind]))

        def gone(self):
            alive[kind].discard(id(self))

        patch.setattr(kind, "__init__", init)
        patch.setattr(kind, "__del__", gone, raising=False)

    with monkeypatch.context() as patch:
        for kind in COUNTED:
            counted(kind)
        yield most


def whole_tables(monkeypatch):
    """Let tables of rows, links, outputs and timings be read in parts alone; return the lengths of
    all tables that pyarrow decodes at a time."""
    lengths, honest = [], directories.read_table

    def read(file, row_type, *rest):
        assert row_type in WHOLE, file
        return honest(file, row_type, *rest)

    def completed(table, row_type, *rest):
        lengths.extend([len(table)] * (row_type not in WHOLE))
        return honest_completed(table, row_type, *rest)

    honest_completed = tables._completed
    monkeypatch.setattr(directories, "read_table", read)
    monkeypatch.setattr(tables, "_completed", completed)
    return lengths


@pytest.fixture(scope="module")
def parts(pca_run, synthetic_folder, tmp_path_factory):
    """A scoring, and the same in two parts, with masks and outlines."""
    folder = tmp_path_factory.mktemp("long")
    options = {"heatmaps": ("tiff", "mask", "regions"), "workers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PART", PART)
        anodetect.score(pca_run, [str(synthetic_folder)], folder / "whole", **options)
        for number in (1, 2):
            out = folder / f"part{number}"
            shard = f"{number}/2"
            anodetect.score(pca_run, [str(synthetic_folder)], out, shard=shard, **options)
    return folder


# -- Memory ----------------------------------------------------------------------------------------


def test_verify_holds_a_few_rows_of_a_long_record(small, parts, synthetic_folder, monkeypatch):
    count = directories.read(parts / "whole").count
    assert count > 4 * PART
    lengths = whole_tables(monkeypatch)
    with held(monkeypatch) as most:
        verdict = anodetect.verify(parts / "whole", data=synthetic_folder)
    assert (verdict.problems, verdict.rows) == ((), count)
    assert max(lengths) <= PART
    assert {kind for kind in most if most[kind]} >= {ScoreRow, ChainRow, OutputRow}
    assert max(most.values()) <= 2 * AT_ONCE


def test_merge_holds_a_few_rows_of_long_records(small, parts, monkeypatch, tmp_path):
    lengths = whole_tables(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("anodetect.output.report.write", lambda out: None)
        with held(monkeypatch) as most:
            anodetect.merge([parts / "part1", parts / "part2"], tmp_path / "merged")
    assert max(lengths) <= PART
    del most[OutputRow]  # also of the pictures for the report, which are few
    assert max(most.values()) <= 2 * AT_ONCE
    whole = directories.audit_content(parts / "whole")
    merged = directories.audit_content(tmp_path / "merged")
    for name in ("chain", "statement", "counts", "drift", "caveats", "copies"):
        assert merged[name] == whole[name]
    for name in ("scores.parquet", "groups.parquet", "chain.parquet"):
        assert merged["tables"][name] == whole["tables"][name]


def test_a_csv_file_is_read_line_by_line(small, parts, tmp_path, monkeypatch):
    directory = directories.opened(parts / "whole")
    monkeypatch.setattr(csv, "reader", counting(csv.reader, taken := []))
    assert tables.csv_difference(parts / "whole" / "scores.csv", directory.stored) is None
    assert len(taken) > 8 * PART
    assert max(taken) <= 2

    (tmp_path / "x.csv").write_text('"path"\n' + "x" * 100)
    monkeypatch.setattr(tables, "LONGEST_LINE", 50)
    with pytest.raises(RunError, match="a line is too long"):
        tables.csv_difference(tmp_path / "x.csv", directory.stored)


def counting(reader, taken):
    """A reader that notes how many more lines of the file than of the table were read."""
    ahead = Counter()

    def counted(lines, **options):
        side = 1 if options else -1  # the file is read strictly
        for line in reader(lines, **options):
            ahead["lines"] += side
            taken.append(abs(ahead["lines"]))
            yield line

    return counted


# -- Answers ---------------------------------------------------------------------------------------


def reference(found, links, audit):
    """The check of rows as it was with all of them in memory."""
    hashes = {}
    for each in found:
        if each.path in hashes:
            return [f"{each.path} is in scores.parquet twice"]
        hashes[each.path] = row_hash(each)
    for number, link in enumerate(links, start=1):
        if link.path == GAP:
            continue
        if link.path not in hashes:
            return [f"record {number} ({link.path}) is missing from scores.parquet"]
        if hashes[link.path] != link.row:
            return [f"record {number} ({link.path}) was changed"]
    for each in found:
        if each.path not in {link.path for link in links}:
            return [f"{each.path} was added to scores.parquet"]

    return chain_reference(found, links, audit)


def chain_reference(found, links, audit):
    problems, kept = [], [link.path for link in links if link.path != GAP]
    if len(links) - len(kept) != audit.erased_rows().total():
        erased = amount(len(links) - len(kept), "row is", "rows are")
        problems.append(f"{erased} erased, which audit.json does not say")
    if [each.path for each in found] != kept:
        problems.append("the records are not in the order they were written in")
    value = START
    values = chain_values(link.row for link in links)
    for number, (link, value) in enumerate(zip(links, values, strict=True), start=1):
        if value != link.chain:
            return [*problems, f"the chain breaks at record {number} ({link.path})"]
    if value != audit.chain or len(links) != audit.rows:
        problems.append("the chain does not end where audit.json says it does")
    return problems


def tampered(items, rng, change):
    """Items of which some are left out, doubled, swapped or changed."""
    items = list(items)
    for _ in range(rng.integers(0, 3)):
        if not items:
            break
        first, second = rng.integers(len(items), size=2)
        match rng.integers(4):
            case 0:
                del items[first]
            case 1:
                items.insert(second, items[first])
            case 2:
                items[first], items[second] = items[second], items[first]
            case 3:
                items[first] = change(items[first], rng)
    return items


def other_row(each, rng):
    changes = ({"score": 2.0}, {"path": "other"}, {"path": ""}, {"group": "x"})
    return replace(each, **changes[rng.integers(len(changes))])


def other_link(link, rng):
    changes = ({"row": "0" * 64}, {"path": "other"}, {"path": GAP}, {"chain": "1" * 64})
    return replace(link, **changes[rng.integers(len(changes))])


@pytest.mark.parametrize("seed", range(200))
def test_rows_are_judged_as_if_all_were_in_memory(small, tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = [f"{number:03}" for number in range(rng.integers(0, 30))]
    if seed % 5 == 0:  # as no release has written them
        names = rng.permutation(names).tolist()
    written = to_table([row(name, score=0.5) for name in names], ScoreRow)
    directories.write(tmp_path, AUDIT, Tables(written))
    links = directories.read_chain(tmp_path)
    if seed % 2:
        links = tampered(links, rng, other_link)
    found = (
        tampered(rows_of(written, ScoreRow), rng, other_row)
        if seed % 3
        else list(rows_of(written, ScoreRow))
    )
    parquet.write_table(to_table(found, ScoreRow), tmp_path / "scores.parquet", row_group_size=5)
    parquet.write_table(to_table(links, ChainRow), tmp_path / "chain.parquet", row_group_size=3)

    scored = directories.opened(tmp_path)
    if seed % 7 == 0:
        erased = Erasure(time="", head="", rows={"ok": 1})
        scored = replace(scored, audit=replace(scored.audit, erased=(erased,)))
    expected = reference(found, links, scored.audit)
    assert list(verification._rows(scored)) == expected
    table = directories.read(tmp_path)
    assert list(verification._rows(replace(table, audit=scored.audit))) == expected


def csv_reference(file, table):
    """The comparison with a CSV file as it was with all lines in memory."""
    with file.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream, strict=True))
    names = lines[0] if lines else []
    if names != table.column_names[: len(names)] or not names:
        return 1
    expected = io.BytesIO()
    pa_csv.write_csv(tables.without_formulas(table.select(names)), expected)
    again = csv.reader(io.StringIO(expected.getvalue().decode(), newline=""))
    for number, (first, second) in enumerate(zip_longest(lines, again), start=1):
        if first is None or second is None or len(first) != len(second):
            return number
        if not all(map(tables._same_cell, first, second)):
            return number
    return None


@pytest.mark.parametrize("seed", range(60))
def test_csv_files_are_judged_as_if_all_lines_were_in_memory(small, tmp_path, seed):
    rng = np.random.default_rng(seed)
    texts = ["a", "=1+1", 'say "x"', "two\nlines", ""]
    found = [
        TimingRow(path=str(rng.choice(texts)), seconds=float(rng.random()))
        for _ in range(rng.integers(0, 40))
    ]
    table = to_table(found, TimingRow)
    tables.write_table(tmp_path / "timings", table, ("parquet", "csv"))
    lines = (tmp_path / "timings.csv").read_bytes().splitlines(keepends=True)
    lines = tampered(lines, rng, lambda line, rng: line.replace(b"0.", b"1.", 1))
    (tmp_path / "timings.csv").write_bytes(b"".join(lines))
    stored = tables.ParquetParts(tmp_path / "timings.parquet", TimingRow, {})
    try:
        expected = csv_reference(tmp_path / "timings.csv", table)
    except csv.Error:
        with pytest.raises(RunError, match="cannot be read"):
            tables.csv_difference(tmp_path / "timings.csv", stored)
    else:
        assert tables.csv_difference(tmp_path / "timings.csv", stored) == expected
        assert tables.csv_difference(tmp_path / "timings.csv", table) == expected


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_parts_have_as_many_rows_whatever_row_groups_a_file_has(small, tmp_path, size):
    table = to_table([TimingRow(path=str(n), seconds=n) for n in range(50)], TimingRow)
    file = tmp_path / "timings.parquet"
    parquet.write_table(table, file, row_group_size=size)
    found = list(tables.ParquetParts(file, TimingRow, {}).parts())
    assert [len(part) for part in found] == [8] * 6 + [2]
    assert pa.concat_tables(found).equals(table)


def test_masks_are_found_in_rows_of_any_order(small, parts, tmp_path):
    """As no release has written them; the hashes fit."""
    copy = shutil.copytree(parts / "whole", tmp_path / "copy")
    order = np.random.default_rng(3).permutation(directories.read(copy).count)
    stored = directories.read_tables(copy)
    shuffled = replace(stored, scores=stored.scores.take(order), timings=stored.timings)
    directories.write(copy, directories.read(copy).audit, shuffled)
    assert not directories.opened(copy).in_order
    found = recompute.Findings()
    recompute._compare_maps(directories.opened(copy), found)
    assert (found.problems, found.not_looked_at) == ([], [])
    mask = next((copy / "heatmaps").rglob("*_mask.png"))
    with Image.open(mask) as picture:
        size = picture.size
    Image.new("1", size, 1).save(mask)
    recompute._compare_maps(directories.opened(copy), found)
    (problem,) = found.problems
    assert problem.startswith(mask.relative_to(copy).as_posix())
