"""Rows that are sorted on the disk, and tables that are made a part at a time."""

import numpy as np
import pytest

from anodetect.commands.conclude import copies_of
from anodetect.record import spool as spools
from anodetect.record.failures import Reasons, failures
from anodetect.record.rows import OutputRow, ScoreRow, TimingRow, rows_of, schema_of, to_table
from anodetect.record.spool import Spool, repeated_numbers
from anodetect.record.tables import PART, WithColumns, parts_of


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(spools, "RUN", 70)
    monkeypatch.setattr(spools, "BLOCK", 8)


def output(name, path):
    return OutputRow(name=name, path=path, kind="tiff", sha256="")


@pytest.mark.parametrize("different", [1, 5, 40, 5000])
def test_rows_come_out_as_a_stable_sort_has_them(small, tmp_path, different):
    rng = np.random.default_rng(different)
    names = [f"é{number}" for number in rng.integers(0, different, 1000)]
    rows = [output(name, str(place)) for place, name in enumerate(names)]
    spool = Spool(tmp_path, OutputRow, "name")
    spool.extend(rows[:500])
    spool.add_table(to_table(rows[500:], OutputRow))
    found = [row for part in spool.parts() for row in rows_of(part, OutputRow)]
    assert found == sorted(rows, key=lambda row: row.name)
    assert len(spool) == 1000
    spool.close()
    assert not list(tmp_path.iterdir())


def test_rows_may_be_added_after_they_were_read(small, tmp_path):
    spool = Spool(tmp_path, TimingRow, "path")
    assert [part.num_rows for part in spool.parts()] == [0]
    spool.extend(TimingRow(path=str(n), seconds=n) for n in range(100, 300))
    assert sum(map(len, spool.parts())) == 200
    spool.add(TimingRow(path="0", seconds=7))
    assert next(spool.parts())["seconds"][0].as_py() == 7
    spool.close()


def test_a_table_is_written_in_equal_parts(tmp_path):
    spool = Spool(tmp_path, TimingRow, "path")
    spool.extend(TimingRow(path=f"{n:06}", seconds=0) for n in range(2 * PART + 3, 0, -1))
    assert [len(part) for part in spool.parts()] == [PART, PART, 3]
    spool.close()


def test_columns_take_the_place_of_others_part_by_part(small, tmp_path):
    rows = [TimingRow(path=f"{n:06}", seconds=0) for n in range(PART + 10)]
    other = to_table([TimingRow(path="", seconds=n) for n in range(len(rows))], TimingRow)
    whole = WithColumns(to_table(rows, TimingRow), other.select(["seconds"]), schema_of(TimingRow))
    found = [row for part in parts_of(whole) for row in rows_of(part, TimingRow)]
    assert [(int(row.path), row.seconds) for row in found] == [(n, n) for n in range(len(rows))]


def score_row(path, pixels="", error=""):
    return ScoreRow(
        path=path, group=path, model_sha256="", status="ok", pixels_sha256=pixels, error=error
    )


def test_copies_are_all_but_the_first_by_path_in_any_order():
    rows = [score_row("c", "1"), score_row("b", "2"), score_row("a", "1"), score_row("d", "1")]
    assert copies_of(to_table([*rows, score_row("e"), score_row("f")], ScoreRow)) == ("c", "d")
    assert copies_of(to_table(rows[:2], ScoreRow)) == ()


def test_reasons_of_parts_are_those_of_the_whole():
    errors = ["b", "", "a", "b", "a", "a", "c", ""]
    rows = [score_row(f"{n}", error=error) for n, error in enumerate(errors)]
    reasons = Reasons("error")
    for start in range(0, len(rows), 3):
        reasons.add(to_table(rows[start : start + 3], ScoreRow))
    assert reasons.listed() == failures(to_table(rows, ScoreRow))
    assert [(each.reason, each.count, each.example) for each in reasons.listed()] == [
        ("a", 3, "2"),
        ("b", 2, "0"),
        ("c", 1, "6"),
    ]


def test_repeated_numbers_are_those_that_come_twice():
    assert repeated_numbers([3, 1, 3, 2, 1, 1]) == {1, 3}
    assert repeated_numbers([]) == set()
