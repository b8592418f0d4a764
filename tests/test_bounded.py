"""Tables from elsewhere are refused before they take the memory that a small file can ask for."""

import contextlib
import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from anodetect.errors import RunError
from anodetect.record import alike, bounded, pages
from anodetect.record.rows import GroupRow, TimingRow, schema_of
from anodetect.record.tables import ParquetParts, groups_between, read_table, write_table


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


# -- Headers of pages ------------------------------------------------------------------------------


def pages_of(stream):
    """The pages of each column of an open file, by the headers alone."""
    source, found = parquet.ParquetFile(stream), []
    for number in range(source.num_row_groups):
        for place in range(source.metadata.num_columns):
            column = source.metadata.row_group(number).column(place)
            start = column.dictionary_page_offset or column.data_page_offset
            stop = start + column.total_compressed_size
            found.append((column, list(pages._pages(stream, start, stop))))
    return found


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("size", [100, 2**20])
def test_headers_of_pages_are_read_as_they_were_written(version, size):
    rng = np.random.default_rng(1)
    some = [None, "é" * 300, *"abcdefg"]
    table = pa.table({"text": rng.choice(some, 5000), "number": rng.normal(size=5000)})
    how = {"data_page_version": version, "data_page_size": size, "write_batch_size": 16}
    stream = written(table, row_group_size=2000, **how)
    for column, found in pages_of(stream):
        data = [page for page in found if page.kind != pages.DICTIONARY]
        assert sum(page.count for page in data) == column.num_values
        assert (len(data) > 2) == (size == 100)
        assert 0 < sum(page.size for page in found) <= column.total_uncompressed_size
    bounded.check_all(parquet.ParquetFile(stream), stream)


def test_a_page_that_says_that_it_is_very_large_is_refused_before_it_is_read(tmp_path):
    """The end of the file says 32 kilobytes, the header of the page a megabyte."""
    seconds = np.random.default_rng(0).random(4096)
    table = pa.table({"path": [""] * 4096, "seconds": seconds})
    content = bytearray(written(table, use_dictionary=["path"]).read())
    column = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(1)
    place = column.data_page_offset + 3  # behind kind 0, and the type of the next field
    assert content[place - 3 : place] == b"\x15\x00\x15"
    assert content[place + 1] >= 128 > content[place + 2]  # three times seven bits
    content[place : place + 3] = b"\xfe\xff\x7f"
    (tmp_path / "timings.parquet").write_bytes(content)
    text = r"timings.parquet: a page says that it is 1048575 bytes without compression"
    with pytest.raises(RunError, match=text):
        read_table(tmp_path / "timings.parquet", TimingRow)
    with pytest.raises(RunError, match=text):
        list(ParquetParts(tmp_path / "timings.parquet", TimingRow, {}).parts())
    with pytest.raises(ValueError, match=text.partition(": ")[2]):
        list(groups_between("", "", tmp_path / "timings.parquet", TimingRow))


def test_texts_that_share_their_beginnings_in_the_file_are_refused():
    """A page of some hundred kilobytes, which are 400 megabytes of text."""
    table = pa.table({"path": [f"{'x' * 10**5}{number}" for number in range(200)] * 20})
    stream = written(table, use_dictionary=False, column_encoding={"path": "DELTA_BYTE_ARRAY"})
    assert len(stream.getbuffer()) < 2**18
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="a page has the encoding 7"):
        bounded.bounded_table(stream)
    assert pa.total_allocated_bytes() <= before + 2**20


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_header_is_refused_and_nothing_else_happens(seed):
    rng = np.random.default_rng(seed)
    table = pa.table({"path": [f"{number % 50}" for number in range(500)]})
    content = bytearray(written(table, data_page_size=100, write_batch_size=16).read())
    column = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset
    for place in rng.integers(start, start + column.total_compressed_size, size=3):
        content[place] = rng.integers(256)
    stream = io.BytesIO(content)
    with contextlib.suppress(ValueError):
        bounded.check_all(parquet.ParquetFile(stream), stream)
    content[start : start + 40] = bytes(40)
    stream = io.BytesIO(content)
    with pytest.raises(ValueError, match=r"a page is of the kind|damaged"):
        bounded.check_all(parquet.ParquetFile(stream), stream)
