"""The rows of a log in Parquet are the log's own, cell by cell, for real logs and for odd ones."""

import hashlib
import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac import trf
from linac.errors import DamagedError, SetupError
from linac.index import catalogue
from linac.index.samples import Encoded, SamplesFile, encode
from linac.index.schema import AXES, BANKS, SAMPLES_SCHEMA
from linac.index.verify import different
from linac.trf.item_parts import NO_VALUE, STANDARD_PARTS, UNITY_PARTS, Part
from linac.trf.writer import encode as encode_trf

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def real_logs(samples: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(samples.glob("*.trf"))}


def read(*logs: bytes) -> SamplesFile:
    return SamplesFile(encode((hashlib.sha256(data).hexdigest(), trf.read(data)) for data in logs), "a.parquet", check_pages=True)


def test_every_cell_of_the_real_logs_is_what_elektas_export_would_say(samples: Path) -> None:
    """Against `to_pandas`, which is proved against Elekta's own CSV: other code, other types, other names."""
    file = read(*real_logs(samples).values())
    for number, data in enumerate(real_logs(samples).values()):
        log = trf.read(data)
        said, found = log.to_pandas().reset_index(), file.read(number).to_pandas()
        assert len(found) == log.rows
        wide: dict[str, Any] = {}
        for bank in BANKS:
            leaves, what = np.stack(found[bank.column]), "Positional Error" if "error" in bank.column else "Scaled Actual"
            wide.update({f"{bank.column[:2].upper()} Leaf {leaf + 1}/{what} (mm)": leaves[:, leaf] for leaf in range(80)})
        for item in AXES:
            if item.name in said.columns:
                wide[item.name] = found[item.column]
            else:
                assert item.column == "mlc_status"
                assert found[item.column].isna().all()
        assert set(said.columns) - {"Time (s)", "timestamp"} == set(wide)
        for name, values in wide.items():
            export = said[name]
            if export.dtype == object or pd.api.types.is_string_dtype(export.dtype):
                assert list(values) == list(export), name
                continue
            export = export.astype(float)
            if name == "Table Isocentric/Scaled Actual (deg)":
                export = export / 10  # the export forgets to
            if name.startswith("Dose/"):
                export = export / 64  # the export counts in 1/64 MU
            export = export.mask(export.isin([NO_VALUE, NO_VALUE / 10]))
            assert np.allclose(np.asarray(values, float), export, atol=1e-4, rtol=0, equal_nan=True), name
        if "timestamp" in said:
            assert list(found["timestamp"]) == list(said["timestamp"])
        else:
            seconds = (found["timestamp"] - pd.Timestamp(log.header.start)).dt.total_seconds()
            assert np.allclose(seconds, said["Time (s)"])


def test_the_real_logs_equal_the_arrow_table_of_linac_trf(samples: Path) -> None:
    logs = real_logs(samples)
    file = read(*logs.values())
    for number, data in enumerate(logs.values()):
        table, said = file.read(number), trf.read(data).table
        assert different(table, data) == []
        assert table.column("gantry_error_deg").equals(said.column("gantry_error_deg"))
        for bank in BANKS:
            assert np.array_equal(np.stack(table.column(bank.column).to_pandas())[:, 40], said.column(bank.leaves[40]).to_numpy())
        assert file.hash(number) == hashlib.sha256(data).hexdigest()
        assert file.rows(number) == trf.read(data).rows


def test_the_real_logs_take_less_than_a_third_of_their_size_at_first(samples: Path) -> None:
    logs = real_logs(samples)
    data = encode((name, trf.read(log)) for name, log in logs.items())
    assert len(data) * 3 < sum(map(len, logs.values()))


def made(counts: Any, parts: Any = STANDARD_PARTS, version: int = 1, **more: Any) -> bytes:
    return encode_trf(counts, start=START, machine="4299", version=version, item_parts=parts, **more)


def test_no_value_is_null_for_every_kind_of_column() -> None:
    counts = np.ones((4, 350), np.int16)
    counts[1] = NO_VALUE
    counts[2, 40] = NO_VALUE  # one leaf alone
    data = made(counts)
    table = read(data).read(0)
    assert different(table, data) == []
    frame = table.to_pandas()
    assert frame["gantry_deg"].isna().tolist() == [False, True, False, False]
    assert frame["control_point"].isna().tolist() == [False, True, False, False]
    assert frame["linac_state"].isna().tolist() == [False, True, False, False]
    assert frame["raw_dose_mu"].isna().sum() == 0  # all 65536 counts are readings there
    leaves = np.stack(frame["y2_leaves_mm"])
    assert np.isnan(leaves[1]).all()
    assert np.isnan(leaves[2]).sum() == 1


def test_a_column_without_any_value_is_null() -> None:
    data = made(np.full((3, 350), NO_VALUE, np.int16))
    table = read(data).read(0)
    assert different(table, data) == []
    assert table.column("gantry_deg").null_count == 3
    assert duckdb.from_arrow(table).aggregate("max(y1_leaves_mm[80])").fetchone() == (None,)


def test_what_the_schema_does_not_know_is_kept_as_counted() -> None:
    parts = [(3001, 129), *STANDARD_PARTS[:9], (3002, 5), STANDARD_PARTS[8]]
    counts = np.arange(3 * len(parts)).reshape(3, -1)
    table = read(made(counts, parts)).read(0)
    others = table.column("other_items").to_pylist()
    assert others[2] == [
        {"item_part": 3001, "sub_part": 129, "count": counts[2, 0]},
        {"item_part": 3002, "sub_part": 5, "count": counts[2, 10]},
        {"item_part": 2224, "sub_part": 129, "count": counts[2, 11]},  # the second of a pair listed twice
    ]
    assert np.allclose(table.column("gantry_deg").to_numpy(), counts[:, 9] / 10)


def test_leaves_that_a_log_does_not_have_are_null_and_others_stay_in_their_place() -> None:
    y1 = [part for part in STANDARD_PARTS if 2460 <= part.part <= 2539 and part.subpart == 129]
    parts = [*STANDARD_PARTS[:10], *y1[40:], *reversed(y1[10:40])]  # neither all nor in order, and no other bank
    counts = np.arange(2 * len(parts)).reshape(2, -1)
    data = made(counts, parts)
    table = read(data).read(0)
    assert different(table, data) == []
    leaves = table.column("y1_leaves_mm").to_pylist()
    assert leaves[0][:10] == [None] * 10
    assert leaves[0][10] == pytest.approx(counts[0, -1] / 10)
    assert leaves[1][79] == pytest.approx(counts[1, 49] / 10)
    assert table.column("y2_leaves_mm").to_pylist() == [None, None]
    assert table.column("x1_diaphragm_mm").null_count == 2


def test_version_4_counts_of_32_bits_are_kept() -> None:
    counts = np.arange(3 * 351).reshape(3, -1) * 100_000
    data = made(counts, UNITY_PARTS, 4, timestamp_ms=[0, 40, 80])
    table = read(data).read(0)
    assert different(table, data) == []
    assert table.column("mlc_status").to_pylist() == [int(count) for count in counts[:, 350]]


def test_times_that_no_calendar_has_are_null() -> None:
    data = made(np.ones((3, 350)), version=3, timestamp_ms=[2**62, 1_767_605_400_000, -(2**62)])
    table = read(data).read(0)
    assert table.column("timestamp").to_pylist() == [None, START, None]


def test_deliveries_can_be_read_one_by_one_and_columns_too(make_log: Callable[..., bytes]) -> None:
    logs = [make_log(number, rows=3 + number) for number in range(4)]
    file = read(*logs)
    assert file.hashes == [hashlib.sha256(data).hexdigest() for data in logs]
    for number, data in enumerate(logs):
        assert different(file.read(number), data) == []
    assert file.read(2, ["row", "gantry_deg"]).column_names == ["row", "gantry_deg"]


class Watched(io.BytesIO):
    """A file on a share: who reads of it, and how often."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.threads: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        self.threads.append(threading.get_ident())
        return super().read(size)


def test_a_delivery_is_read_of_an_open_file_in_one_piece_by_the_thread_that_asks(make_log: Callable[..., bytes]) -> None:
    """A thread of pyarrow that holds the file when the interpreter ends aborts the process."""
    logs = [make_log(number, rows=200) for number in range(3)]
    stream = Watched(encode((hashlib.sha256(data).hexdigest(), trf.read(data)) for data in logs))
    file = SamplesFile(stream, "a.parquet", check_pages=True)
    opened = len(stream.threads)
    assert different(file.read(1), logs[1]) == []
    assert len(stream.threads) == opened + 1
    assert file.read(2, ["row", "gantry_deg"]).column_names == ["row", "gantry_deg"]
    assert set(stream.threads) == {threading.get_ident()}


def test_the_catalogue_is_read_by_the_thread_that_asks() -> None:
    entries = pa.table(
        [
            pa.array([number.to_bytes(32, "big") for number in range(9000)], pa.binary(32)),
            *[pa.array(["2026-01"] * 9000).dictionary_encode()] * 4,
        ],
        schema=catalogue.SCHEMA,
    )
    data = catalogue.encode(entries)
    stream = Watched(data)
    assert catalogue.decode(stream, "2026.parquet", ["linac", "month"]).num_rows == 9000
    assert set(stream.threads) == {threading.get_ident()}
    assert catalogue.decode(Watched(data), "2026.parquet").equals(catalogue.decode(data, "2026.parquet"))


def test_statistics_let_readers_skip_other_deliveries(make_log: Callable[..., bytes], tmp_path: Path) -> None:
    logs = [make_log(number) for number in range(3)]
    data = encode((str(number) * 64, trf.read(log)) for number, log in enumerate(logs))
    (tmp_path / "a.parquet").write_bytes(data)
    groups = pq.read_metadata(tmp_path / "a.parquet")
    for number, log in enumerate(logs):
        text, row, when = (groups.row_group(number).column(index).statistics for index in range(3))
        assert (text.min, text.max) == (str(number) * 64, str(number) * 64)
        assert row is None
        start = trf.read_header(log).start
        assert when.min == start
        assert (when.max - start).total_seconds() == pytest.approx(11 * 0.04)
    filtered = pd.read_parquet(tmp_path / "a.parquet", filters=[("sha256", "==", "1" * 64)])
    assert len(filtered) == 12


def test_a_log_without_rows_has_no_row_group(make_log: Callable[..., bytes]) -> None:
    with pytest.raises(ValueError, match="without rows"):
        Encoded().add(trf.read(make_log(1, rows=0)), "0" * 64)


def test_what_is_no_samples_file_is_refused(make_log: Callable[..., bytes]) -> None:
    for data in (b"", b"PAR1", b"nonsense" * 100, encode([("0" * 64, trf.read(make_log(1)))])[:-20]):
        with pytest.raises(DamagedError, match="cannot be read"):
            SamplesFile(data, "a.parquet")


def test_a_bit_that_turned_over_is_found(make_log: Callable[..., bytes]) -> None:
    data = bytearray(encode([("0" * 64, trf.read(make_log(1)))]))
    metadata = pq.read_metadata(io.BytesIO(data))
    leaf = metadata.row_group(0).column(metadata.num_columns - 5)
    data[leaf.data_page_offset + leaf.total_compressed_size // 2] ^= 4
    with pytest.raises(DamagedError, match="cannot be read"):
        SamplesFile(bytes(data), "a.parquet", check_pages=True).read(0)


def test_a_file_of_newer_software_is_refused_with_the_number(make_log: Callable[..., bytes]) -> None:
    table = read(make_log(1)).read(0)
    sink = io.BytesIO()
    metadata = {**SAMPLES_SCHEMA.metadata, b"linac.index.version": b"2"}
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    with pytest.raises(SetupError, match="layout 2"):
        SamplesFile(sink.getvalue(), "a.parquet")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_log_comes_back_as_linac_trf_reads_it(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([1, 3, 4]))
    parts = data.draw(
        st.lists(st.sampled_from([*UNITY_PARTS, Part(3001, 1)]), min_size=1, max_size=400, unique=data.draw(st.booleans()))
    )
    rows = data.draw(st.integers(1, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    spread = data.draw(st.sampled_from([1, 3, 200, 2**15 if version < 4 else 2**31]))
    counts = random.integers(-spread, spread, (rows, len(parts)))
    counts[random.random(counts.shape) < data.draw(st.sampled_from([0, 0.2, 1]))] = NO_VALUE
    stamps = None if version == 1 else random.integers(0, 2**41, rows)
    log = made(counts, parts, version, timestamp_ms=stamps)
    assert different(read(log).read(0), log) == []
