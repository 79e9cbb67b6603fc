"""Writing: what is read and written again is the same bytes, and no count is changed in silence."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac import trf
from linac.trf.writer import encode, encode_trf

START = datetime(2024, 2, 29, 13, 5, 7, tzinfo=UTC)
NAIVE = datetime(2000, 1, 1), datetime(2099, 12, 31)  # noqa: DTZ001 (hypothesis wants naive ends; `encode` refuses them)


def test_real_logs_come_back_byte_for_byte(logs: list[Path]) -> None:
    for path in logs:
        assert encode_trf(trf.read(path)) == path.read_bytes(), path.name


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_made_logs_come_back_byte_for_byte(make: Callable[..., bytes], version: int) -> None:
    data = make(version, field="1-1/Prüfkörper", utc_offset=timedelta(hours=-3, minutes=-30), prescribed_mu=0.3)
    log = trf.read(data)
    assert encode_trf(log) == data
    assert log.header.utc_offset == timedelta(hours=-3, minutes=-30)
    assert log.header.prescribed_mu == 0.3


@settings(max_examples=200, deadline=None)
@given(
    start=st.datetimes(*NAIVE),
    offset=st.integers(-14 * 60, 14 * 60),
    field=st.text(st.characters(codec="utf-8"), max_size=80),
    machine=st.text(st.characters(codec="utf-8"), max_size=40),
    mu=st.integers(0, 100_000),
    version=st.integers(1, 4),
    rows=st.lists(st.tuples(*[st.integers(-32768, 32767)] * 3), max_size=5),
)
def test_every_header_and_row_survives(
    start: datetime, offset: int, field: str, machine: str, mu: int, version: int, rows: list[tuple[int, int, int]]
) -> None:
    """What goes in comes out: names of any script, any dose in tenths, any count."""
    parts = [(2224, 129), (2543, 111), (3001, 1)]
    stamps = None if version == 1 else list(range(len(rows)))
    data = encode(
        rows,
        stamps,
        start=start.replace(tzinfo=UTC, microsecond=0),
        utc_offset=timedelta(minutes=offset),
        field=field,
        machine=machine,
        prescribed_mu=mu / 10,
        version=version,
        item_parts=parts,
    )
    log = trf.read(data)
    assert log.header.start == start.replace(tzinfo=UTC, microsecond=0)
    assert log.header.utc_offset == timedelta(minutes=offset)
    assert (log.header.field, log.header.machine, log.header.prescribed_mu) == (field, machine, mu / 10)
    assert [tuple(row) for row in log.counts.tolist()] == rows
    assert encode_trf(log) == data


def test_the_start_is_written_in_utc() -> None:
    start = datetime(2024, 1, 1, 5, tzinfo=timezone(timedelta(hours=10)))
    assert trf.read(encode([], start=start, machine="m")).header.start_text == "23/12/31 19:00:00 Z"


@pytest.mark.parametrize(
    ("counts", "stamps", "more", "why"),
    [
        ([[1, 2]], None, {"version": 5}, "version 5"),
        ([[1]], None, {}, "shape"),
        ([1, 2], None, {}, "shape"),
        ([[1, 40_000]], None, {}, "16 bits"),
        ([[1, 0.5]], None, {}, "not whole"),
        ([[1, float("nan")]], None, {}, "not whole"),
        ([[1, 1 << 31]], [0], {"version": 4}, "32 bits"),
        ([[1, 2]], [0], {}, "no timestamps"),
        ([[1, 2]], None, {"version": 3}, "needs a timestamp"),
        ([[1, 2]], [0, 1], {"version": 3}, "timestamps for 1 rows"),
        ([[1, 2]], None, {"start": NAIVE[0]}, "time zone"),
        ([[1, 2]], None, {"field": "x" * 70_000}, "65536"),
        ([], None, {"item_parts": []}, "0 item parts"),
        ([], None, {"prescribed_mu": float("nan")}, "prescribed dose"),
    ],
)
def test_what_no_trf_can_hold_is_refused(
    counts: list[object], stamps: list[int] | None, more: dict[str, object], why: str
) -> None:
    arguments = {"start": START, "machine": "m", "item_parts": [(1, 1), (1, 2)], **more}
    with pytest.raises(ValueError, match=why):
        encode(counts, stamps, **arguments)  # type: ignore[arg-type]


def test_counts_of_any_integer_type_are_taken() -> None:
    expected = encode([[1, -2]], start=START, machine="m", item_parts=[(1, 1), (1, 2)])
    for kind in (np.int8, np.int16, np.int64, np.float64):
        assert encode(np.array([[1, -2]], kind), start=START, machine="m", item_parts=[(1, 1), (1, 2)]) == expected
