"""Tables from elsewhere are refused before they take the memory that a small file can ask for."""

import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from anodetect.errors import RunError
from anodetect.record import alike, bounded
from anodetect.record.rows import GroupRow, TimingRow, schema_of
from anodetect.record.tables import read_table, write_table


def written(table, **options):
    stream = io.BytesIO()
    parquet.write_table(table, stream, store_schema=False, **options)
    stream.seek(0)
    return stream


TEXT = "x" * 2**20
NUMBERS = pa.array(np.zeros(2**21))
BOMBS = {
    "a text of a megabyte, 100 000 times": pa.table(
        {"path": pa.DictionaryArray.from_arrays(np.zeros(10**5, np.int32), [TEXT])}
    ),
    "two million rows of nothing": pa.table({"seconds": NUMBERS}),
    "lists": pa.table({"path": [[["a"] * 5] * 5] * 5}),
    "a struct": pa.table({"path": [{"a": 1}] * 5}),
    "very many columns": pa.table({str(place): [1.0] for place in range(300)}),
}
VECTOR = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2**20)), 2**20)})


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_little_memory_or_is_refused(name):
    stream = written(BOMBS[name], compression="zstd")
    size, before = len(stream.getbuffer()), pa.total_allocated_bytes()
    assert size < 2**18
    with pytest.raises(ValueError, match=r"another type|too many|rows in|too long|without compr"):
        bounded.bounded_table(stream)
    assert pa.total_allocated_bytes() <= before + 2**20


def test_zeros_that_are_packed_tightly_are_refused():
    """Plain pages of equal texts, which zstd packs a thousand times."""
    table = pa.table({"path": [TEXT] * 80})
    stream = written(table, compression="zstd", use_dictionary=False)
    assert len(stream.getbuffer()) < 2**18
    with pytest.raises(ValueError, match="without compression"):
        bounded.bounded_table(stream)


@pytest.mark.parametrize("count", [0, 1, 5000, 70_000])
def test_what_was_written_is_read(tmp_path, count):
    """Also of many row groups, with texts that are missing, empty or repeated."""
    rng = np.random.default_rng(count)
    table = pa.table(
        {
            "group": [f"patient {place:05} é" for place in range(count)],
            "images": pa.array(rng.integers(1, 9, count), pa.int32()),
            "score": rng.normal(size=count),
            "p_value": pa.array([None] * count, pa.float64()),
            "q_value": rng.random(count),
            "flagged": rng.random(count) < 0.5,
        },
        schema=schema_of(GroupRow),
    )
    write_table(tmp_path / "groups", table)
    assert read_table(tmp_path / "groups.parquet", GroupRow).equals(table)


def test_a_table_with_an_endless_text_is_refused_in_one_line(tmp_path):
    tables = BOMBS["a text of a megabyte, 100 000 times"]
    seconds = pa.array(np.zeros(len(tables)))
    stream = written(tables.append_column("seconds", seconds))
    (tmp_path / "timings.parquet").write_bytes(stream.read())
    with pytest.raises(RunError, match=r"timings.parquet: .*(too long|rows in)"):
        read_table(tmp_path / "timings.parquet", TimingRow)


def test_vectors_are_read_and_refused_alike(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)
    alike.write(tmp_path, "ab", alike.Alike(tuple("abcdefg"), vectors))
    assert (alike.read(tmp_path, "ab").vectors == vectors).all()
    assert alike.read(tmp_path, "cd") is None
    parquet.write_table(VECTOR, tmp_path / alike.FILE)  # with the type that only Arrow knows
    with pytest.raises(RunError, match=r"alike.parquet: not readable \(.*remove it"):
        alike.read(tmp_path, "ab")
