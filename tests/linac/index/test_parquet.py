"""Whatever goes through the encoder comes out of pyarrow and DuckDB as it went in, and nothing moves when files grow."""

import io
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac.index import parquet
from linac.index.parquet import NULL, Group, Layout, Values, distinct, join, read_struct, write_chunk, write_struct

SCHEMA = pa.schema(
    [
        pa.field("text", pa.dictionary(pa.int32(), pa.string())),
        pa.field("when", pa.timestamp("ms", "UTC")),
        pa.field("number", pa.int32()),
        pa.field("value", pa.float32()),
        pa.field("list", pa.list_(pa.field("element", pa.float32()))),
        pa.field("pairs", pa.list_(pa.field("element", pa.struct([pa.field("a", pa.int32())])))),
    ],
    metadata={b"kind": b"test"},
)
LAYOUT = Layout(SCHEMA)


def column(counts: list[int | None], entries: Any, width: int = 1) -> Values:
    """Counts as the index hands them over: distinct ones by `entries`, None as null."""
    present = np.array([count is not None for count in counts])
    if not present.any():
        return NULL if width == 1 else Values(width=width, present=present)
    found, indices = distinct(np.array([count for count in counts if count is not None], np.int16))
    return Values(
        width=width,
        present=None if present.all() else present,
        indices=indices,
        dictionary=entries(found),
        entries=len(found),
    )


def _floats(counts: list[int | None]) -> Values:
    """The same without a dictionary."""
    known = np.array([count for count in counts if count is not None], np.float32) / np.float32(10)
    present = np.array([count is not None for count in counts])
    return Values(present=None if present.all() else present, floats=known) if len(known) else NULL


def words(found: Any) -> bytes:
    return b"".join(len(word).to_bytes(4, "little") + word for word in (f"w{number}".encode() for number in found))


def group(body: bytearray, rows: list[tuple[Any, ...]], base: int = 0) -> Group:
    """Rows as a row group behind what is in `body`."""
    text, when, number, value, leaves, pairs = ([row[index] for row in rows] for index in range(6))
    known = np.array([time for time in when if time is not None], np.int64)
    columns = [
        column(text, words),
        Values(present=None if len(known) == len(when) else np.array([time is not None for time in when]), whole=known)
        if len(known)
        else NULL,
        column(number, lambda found: found.astype("<i4").tobytes()),
        _floats(value) if len(rows) % 2 else column(value, lambda found: (found / np.float32(10)).astype("<f4").tobytes()),
        NULL
        if leaves[0] is None
        else column([leaf for row in leaves for leaf in row], lambda found: (found / np.float32(10)).astype("<f4").tobytes(), 3),
        NULL
        if pairs[0] is None
        else column([item for row in pairs for item in row], lambda found: found.astype("<i4").tobytes(), 2),
    ]
    return Group(
        len(rows), [write_chunk(body, leaf, len(rows), values) for leaf, values in zip(LAYOUT.leaves, columns, strict=True)]
    )


def expected(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The same rows as pyarrow shows them."""

    def tenth(count: int | None) -> float | None:
        return None if count is None else float(np.float32(count) / np.float32(10))

    return [
        {
            "text": None if text is None else f"w{text}",
            "when": when,
            "number": number,
            "value": tenth(value),
            "list": None if leaves is None else [tenth(leaf) for leaf in leaves],
            "pairs": None if pairs is None else [{"a": item} for item in pairs],
        }
        for text, when, number, value, leaves, pairs in rows
    ]


def seen(data: bytes, row_group: int | None = None) -> list[dict[str, Any]]:
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    table = file.read() if row_group is None else file.read_row_group(row_group)
    table.validate(full=True)
    assert table.schema.equals(SCHEMA)
    table = table.set_column(1, "when", table.column("when").cast(pa.int64()))
    found: list[dict[str, Any]] = table.to_pylist()
    return found


count = st.integers(-(2**15), 2**15 - 1)
maybe = st.none() | st.integers(-3, 3) | count
when = st.none() | st.integers(-62_135_596_800_000, 253_402_214_400_000) | st.integers(0, 1000)


@st.composite
def row_groups(draw: Any) -> list[tuple[Any, ...]]:
    leaves = st.tuples(maybe, maybe, maybe) if draw(st.booleans()) else st.none()
    pairs = st.tuples(count, count) if draw(st.booleans()) else st.none()
    row = st.tuples(maybe, when, maybe, maybe, leaves, pairs)
    rows: list[tuple[Any, ...]] = draw(st.lists(row, min_size=1, max_size=40))
    return rows * draw(st.sampled_from([1, 1, 7]))


@settings(max_examples=60, deadline=None)
@given(st.lists(row_groups(), min_size=1, max_size=3))
def test_what_goes_in_comes_out(groups: list[list[tuple[Any, ...]]]) -> None:
    data = LAYOUT.file(*encoded(groups))
    assert seen(data) == [row for rows in groups for row in expected(rows)]
    for number, rows in enumerate(groups):
        assert seen(data, number) == expected(rows)


def encoded(groups: list[list[tuple[Any, ...]]]) -> tuple[bytearray, list[Group]]:
    body = bytearray()
    return body, [group(body, rows) for rows in groups]


def rows_of(number: int) -> list[tuple[Any, ...]]:
    random = np.random.default_rng(number)
    return [
        (int(a) % 5, int(b), int(c), int(d), (int(a), int(b), int(c)), (int(d), 7))
        for a, b, c, d in random.integers(-3000, 3000, (500, 4))
    ]


def test_duckdb_sees_the_same(tmp_path: Path) -> None:
    body, groups = encoded([rows_of(1), [(None, None, None, None, None, None)] * 3, rows_of(2)])
    (tmp_path / "a.parquet").write_bytes(LAYOUT.file(body, groups))
    found = duckdb.sql(f"SELECT text, epoch_ms(\"when\"), number, value, list, pairs FROM '{tmp_path}/a.parquet'").fetchall()
    wanted = expected([*rows_of(1), *[(None,) * 6] * 3, *rows_of(2)])
    assert [(*row[:4], None if row[4] is None else list(row[4]), row[5]) for row in found] == [
        tuple(row.values()) for row in wanted
    ]


@pytest.mark.parametrize(
    "rows", [1, 7, 8, 9, parquet.PAGE_ROWS - 1, parquet.PAGE_ROWS, parquet.PAGE_ROWS + 1, 2 * parquet.PAGE_ROWS + 5]
)
def test_pages_end_where_rows_end(rows: int) -> None:
    random = np.random.default_rng(rows)
    counts = random.integers(-300, 300, rows).astype(np.int16)
    leaves = random.integers(-300, 300, (rows, 3)).astype(np.int16)
    present = random.random(rows * 3) < 0.9
    found, indices = distinct(counts)
    leaf_found, leaf_indices = distinct(leaves.reshape(-1)[present])
    times = np.cumsum(random.integers(-5, 50, rows)).astype(np.int64)
    whole = [
        NULL,
        Values(whole=times),
        Values(indices=indices, dictionary=found.astype("<i4").tobytes(), entries=len(found)),
        Values(floats=counts.astype(np.float32)),
        Values(3, present, leaf_indices, (leaf_found / np.float32(10)).astype("<f4").tobytes(), len(leaf_found)),
        NULL,
    ]
    body = bytearray()
    chunks = [write_chunk(body, leaf, rows, values) for leaf, values in zip(LAYOUT.leaves, whole, strict=True)]
    table = pq.read_table(io.BytesIO(LAYOUT.file(body, [Group(rows, chunks)])))
    assert np.array_equal(table.column("when").cast(pa.int64()).to_numpy(), times)
    assert np.array_equal(table.column("number").to_numpy(), counts)
    assert np.array_equal(table.column("value").to_numpy(), counts.astype(np.float32))
    flat = table.column("list").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert np.array_equal(flat, np.where(present, leaves.reshape(-1) / np.float32(10), np.nan).astype(np.float32), equal_nan=True)


def test_a_file_that_grows_keeps_what_it_had_byte_by_byte() -> None:
    first, second, third = rows_of(1), rows_of(2), rows_of(3)
    body, groups = encoded([first])
    old = LAYOUT.file(body, groups)
    grown = join(old, LAYOUT, *encoded([second]))
    assert grown is not None
    more = join(grown, LAYOUT, *encoded([third]))
    assert more is not None
    end = 4 + len(body)
    assert more[:end] == old[:end]
    assert seen(more) == expected(first + second + third)
    assert pq.read_metadata(io.BytesIO(more)).metadata[b"kind"] == b"test"
    assert seen(more, 1) == expected(second)


def test_a_file_of_another_schema_does_not_grow() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    assert join(sink.getvalue(), LAYOUT, *encoded([rows_of(1)])) is None


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=300), st.sampled_from([np.int16, np.int32]))
def test_distinct_counts_tell_each_count(numbers: list[int], kind: Any) -> None:
    counts = np.array(numbers).astype(kind)
    found, places = distinct(counts)
    assert list(found) == sorted(set(found))
    assert np.array_equal(found[places] if places is not None else np.repeat(found, len(counts)), counts)


@pytest.mark.parametrize(("span", "step", "entries"), [(100, 50, 201), (1500, 1, 3001), (1500, 300, 11)])
def test_all_numbers_in_between_are_given_where_they_are_few_or_mostly_occur(span: int, step: int, entries: int) -> None:
    counts = np.arange(-span, span + 1, step, dtype=np.int16).repeat(1000)
    found, places = distinct(counts)
    assert len(found) == entries
    assert np.array_equal(found[places], counts)


def test_differences_of_more_than_15_bits_do_not_overflow() -> None:
    for kind in (np.int16, np.int32):
        counts = np.array([-(2**15), 2**15 - 1, -(2**15), 0] * 3000, kind)
        found, places = distinct(counts)
        assert list(found) == [-(2**15), 0, 2**15 - 1]
        assert np.array_equal(found[places], counts)


def test_a_struct_is_read_as_it_was_written() -> None:
    fields = {1: (5, -7), 2: (8, b"text"), 3: (9, (8, [b"a"] * 20)), 4: (12, {5: (6, 1 << 40)}), 15: (1, None)}
    data = write_struct(fields)
    assert read_struct(data) == (fields, len(data))
