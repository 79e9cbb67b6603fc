"""Rows: every bit pattern is a count, nothing is invented, and nothing but TrfError escapes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linac import trf
from linac.errors import SetupError, StorageError, TrfError
from linac.trf.export import csv_lines
from linac.trf.header import parse_header
from linac.trf.metrics import summarise

Make = Callable[..., bytes]


@pytest.mark.parametrize(
    ("version", "kind", "columns"), [(1, "int16", 350), (2, "int16", 350), (3, "int16", 350), (4, "int32", 351)]
)
def test_rows_of_each_version(make: Make, version: int, kind: str, columns: int) -> None:
    log = trf.read(make(version, rows=7))
    assert log.counts.shape == (7, columns)
    assert log.counts.dtype == np.dtype(kind)
    assert (log.rows, log.trailing_bytes, log.header.version) == (7, 0, version)
    assert log.counts[:, 4].tolist() == [0, 3, 6, 9, 12, 15, 18]
    if version == 1:
        assert log.timestamp_ms is None
        assert log.utc_ms.tolist() == [1_709_211_907_000 + 40 * row for row in range(7)]
    else:
        assert log.timestamp_ms is not None
        assert log.timestamp_ms.tolist() == log.utc_ms.tolist() == [1_709_211_907_123 + 40 * row for row in range(7)]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_cut_row_is_left_out_and_its_bytes_are_counted(make: Make, version: int) -> None:
    data = make(version, rows=2)
    header = parse_header(data)
    whole = trf.read(data)
    for size in range(header.size, len(data) + 1, 97):
        log = trf.read(data[:size])
        assert log.rows == (size - header.size) // header.row_bytes
        assert log.header.size + log.rows * header.row_bytes + log.trailing_bytes == size
        assert np.array_equal(log.counts, whole.counts[: log.rows])
        assert log.table.num_rows == len(log.to_pandas()) == log.rows


@pytest.mark.parametrize("version", [1, 4])
def test_a_log_without_rows_is_a_log(make: Make, version: int) -> None:
    log = trf.read(make(version, rows=0))
    assert (log.rows, log.trailing_bytes) == (0, 0)
    assert log.table.num_rows == len(log.to_pandas()) == 0
    assert summarise(log).delivered_mu is None


def test_any_source_gives_the_same(make: Make, tmp_path: Path) -> None:
    data = make(3)
    path = tmp_path / "Prüf 1-1_AP.trf"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = (data, bytearray(data), memoryview(data), memoryview(b"x" + data)[1:], path, str(path), io.BytesIO(data), file)
        for source in sources:
            log = trf.read(source)
            assert log.header == parse_header(data)
            assert np.array_equal(log.counts, trf.decode(data).counts)
    for source in (data, bytearray(data), path, str(path), io.BytesIO(data)):
        assert trf.read_header(source) == parse_header(data)


def test_a_header_longer_than_usual_is_read_from_a_file_too(make: Make, tmp_path: Path) -> None:
    data = make(1, field="1-1/" + "x" * 60_000)
    path = tmp_path / "a.trf"
    path.write_bytes(data)
    assert trf.read_header(path) == trf.read_header(data) == parse_header(data)


def test_the_counts_are_the_files_bytes_and_nobody_can_change_them(make: Make) -> None:
    data = make(3)
    log = trf.read(data)
    assert np.shares_memory(log.counts, np.frombuffer(data, np.uint8))
    for view in (log.counts, log.timestamp_ms):
        assert view is not None
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
    changing = bytearray(data)
    log = trf.read(changing)
    changing[:] = bytes(len(data))
    assert np.array_equal(log.counts, trf.decode(data).counts)


def test_what_is_not_there_is_storage_and_not_a_damaged_log(tmp_path: Path) -> None:
    for path in (tmp_path / "none.trf", tmp_path):
        for function in (trf.read, trf.read_header):
            with pytest.raises(StorageError) as caught:
                function(path)
            assert str(path) in str(caught.value)


def test_a_file_larger_than_any_log_is_told_and_not_read(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.trf"
    path.write_bytes(make(rows=3))
    with path.open("r+b") as file:
        file.truncate(trf.MAX_FILE_BYTES + 1)  # a hole, which takes no room on the disk
    with pytest.raises(TrfError, match="No delivery's log is as large"):
        trf.read(path)
    with path.open("rb") as file, pytest.raises(TrfError, match="No delivery's log is as large"):
        trf.read(file)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.trf"
    path.write_bytes(b"no log")
    for function in (trf.read, trf.read_header):
        with pytest.raises(TrfError) as caught:
            function(path)
        assert caught.value.path == str(path)
        with path.open("rb") as file, pytest.raises(TrfError) as caught:
            function(file)
        assert caught.value.path == str(path)
    with pytest.raises(TrfError) as caught:
        trf.read(b"no log")
    assert caught.value.path is None


def test_an_unknown_item_part_and_repeated_ones_are_kept(make: Make) -> None:
    parts = [(2224, 129), (3001, 129), (2224, 129), (2224, 999), (-5, 7), (2543, 111), (2541, 111)]
    log = trf.read(make(1, rows=3, item_parts=parts))
    names = log.to_pandas().columns.tolist()
    assert names == [
        "Step Gantry/Scaled Actual (deg)",
        "Unknown 3001/Scaled Actual (Unknown)",
        "Step Gantry/Scaled Actual (deg) #2",
        "Step Gantry/Unknown 999 (Unknown)",
        "Unknown -5/Unknown 7 (Unknown)",
        "Linac State/Actual Value (None)",
        "Wedge Position/Actual Value (None)",
    ]
    assert log.table.column_names[2:7] == [
        "gantry_deg",
        "unknown_3001_129",
        "gantry_deg_2",
        "unknown_2224_999",
        "unknown_minus5_7",
    ]
    assert log.table["unknown_3001_129"].to_pylist() == log.to_pandas()[names[1]].tolist() == log.counts[:, 1].tolist()
    assert summarise(log).unknown_item_parts == 3


def test_unknown_states_and_wedge_codes_are_kept_with_their_number(make: Make) -> None:
    def change(counts: np.ndarray) -> None:
        counts[:, 2], counts[:, 7] = 48, 9

    log = trf.read(make(1, change=change))
    frame = log.to_pandas()
    assert set(frame["Linac State/Actual Value (None)"]) == set(log.table["linac_state"].to_pylist()) == {"Unknown (48)"}
    assert set(frame["Wedge Position/Actual Value (None)"]) == set(log.table["wedge_position"].to_pylist()) == {"Unknown (9)"}
    assert summarise(log).end_state == "Unknown (48)"


class TestRealLogs:
    """Rows and recorded times of the real logs, as file sizes and the exports say."""

    ROWS = (
        ("17_04_19 21_18_39 Z .trf", 441),
        ("17_04_19 21_59_24 Z 2-2_DIR SCALP.trf", 790),
        ("17_04_24 02_23_05 Z 1-1_1ARCVMAT.trf", 3199),
        ("INT3 18_10_18 05_19_40 Z [ICOM_ 7_03_2018 15_18_19] PF_G0..trf", 745),
        ("INT4 18_12_12 08_21_44 Z [ICOM_ 7_03_2018 15_16_23] D Abut..trf", 476),
        ("INT4 18_12_12 08_24_07 Z [ICOM_ 7_03_2018 15_18_19] PF_G0..trf", 773),
    )

    @pytest.mark.parametrize(("name", "rows"), ROWS)
    def test_rows(self, samples: Path, name: str, rows: int) -> None:
        log = trf.read(samples / name)
        assert (log.rows, log.trailing_bytes, log.counts.shape[1]) == (rows, 0, 350)

    def test_rows_clock(self, samples: Path) -> None:
        log = trf.read(samples / self.ROWS[4][0])
        assert log.timestamp_ms is not None
        steps = np.diff(log.timestamp_ms)
        assert (steps.min(), steps.max()) == (38, 42)
        assert log.to_pandas()["timestamp"].iloc[0].isoformat() == "2018-12-12T08:29:12.338000+00:00"


# Damage. Small logs, so that many can be tried; headers are hit as often as rows.


def pieces(path: Path) -> bytes:
    """A real log's header and first rows."""
    data = path.read_bytes()
    return data[: parse_header(data).size + 3 * parse_header(data).row_bytes]


def everything_holds(data: bytes) -> None:
    """Whatever the bytes: TrfError with a place inside the data, or a log that all functions can use."""
    error = None
    try:
        log = trf.read(data)
    except TrfError as caught:
        error = caught
    if error is not None:
        assert 0 <= error.offset <= len(data)
        assert error.expected
        assert error.found
        return
    assert log.rows * log.header.row_bytes + log.header.size + log.trailing_bytes == len(data)
    log.table.validate(full=True)
    assert log.table.num_rows == len(log.to_pandas()) == log.rows
    assert log.table.num_columns == 2 + len(log.header.item_parts)
    assert sum(1 for _ in csv_lines(log)) == 10 + log.rows
    assert summarise(log).rows == log.rows


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes, bytes], bytes]:
    """A way to damage one log, with the help of another."""
    kind = draw(st.sampled_from(["cut", "flip", "splice", "insert", "replace"]))
    near = st.integers(0, 2_000) | st.integers(0, 80)
    at, to = draw(near), draw(near)
    bits = draw(st.lists(st.tuples(near, st.integers(0, 7)), min_size=1, max_size=6))
    new = draw(st.binary(max_size=12))

    def damage(data: bytes, other: bytes) -> bytes:
        if kind == "cut":
            return data[:at]
        if kind == "splice":
            return data[:at] + other[to:]
        if kind == "insert":
            return data[:at] + new + data[at:]
        if kind == "replace":
            return data[:at] + new + data[at + len(new) :]
        flipped = bytearray(data)
        for place, bit in bits:
            flipped[place % len(data)] ^= 1 << bit
        return bytes(flipped)

    return damage


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), damage=damages())
def test_damaged_real_logs_raise_nothing_but_trf_error(
    logs: list[Path], data: st.DataObject, damage: Callable[[bytes, bytes], bytes]
) -> None:
    first, second = data.draw(st.sampled_from(logs)), data.draw(st.sampled_from(logs))
    everything_holds(damage(pieces(first), pieces(second)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.tuples(st.integers(1, 4), st.integers(1, 4)), damage=damages())
def test_damaged_made_logs_raise_nothing_but_trf_error(
    make: Make, versions: tuple[int, int], damage: Callable[[bytes, bytes], bytes]
) -> None:
    one, other = (make(version, rows=3) for version in versions)
    everything_holds(damage(one, other))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_trf_error(data: bytes) -> None:
    everything_holds(data)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(version=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_rows_of_random_bits_are_read_as_they_are(make: Make, version: int, seed: int) -> None:
    data = make(version, rows=0)
    random = np.random.default_rng(seed).bytes(3 * parse_header(data).row_bytes)
    everything_holds(data + random)
    assert b"".join(_row(trf.read(data + random), row) for row in range(3)) == random


def _row(log: trf.Trf, row: int) -> bytes:
    stamp = b"" if log.timestamp_ms is None else log.timestamp_ms[row].tobytes()
    return stamp + log.counts[row].tobytes()


@pytest.mark.parametrize("source", [None, 7, [b"x"], object()])
@pytest.mark.parametrize("read", [trf.read, trf.read_header])
def test_what_is_no_source_is_told_so(read: Any, source: Any) -> None:
    with pytest.raises(SetupError, match=f"not from {type(source).__name__}"):
        read(source)


@pytest.mark.parametrize("read", [trf.read, trf.read_header])
def test_a_text_that_is_no_path_is_not_shown_in_full(read: Any) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.trf"):
        read("nowhere.trf")
    for text in ("INVENTED^PATIENT\n" * 3, "INVENTED^PATIENT " * 1000, "INVENTED\0PATIENT"):
        with pytest.raises(StorageError, match="a text of") as caught:
            read(text)
        assert "INVENTED" not in str(caught.value)


@pytest.mark.parametrize("read", [trf.read, trf.read_header])
def test_a_file_opened_as_text_is_told_so(read: Any) -> None:
    with pytest.raises(SetupError, match="text file"):
        read(io.StringIO("a text"))
