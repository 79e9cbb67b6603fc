"""The files on customers' shares outlive us: what they hold may grow, but never change its name, type or meaning in silence."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linac.errors import DamagedError, SetupError
from linac.index import schema
from linac.index.deliveries import decode, encode
from linac.index.schema import DELIVERIES, DELIVERIES_SCHEMA, SAMPLES, SAMPLES_SCHEMA, VERSION, upgrade

SAMPLES_1 = """
sha256 dictionary<values=string, indices=int32, ordered=0>, row int32, timestamp timestamp[ms, tz=UTC], control_point int32,
energy_cal_block int32, linac_state dictionary<values=string, indices=int32, ordered=0>, dose_rate_mu_per_min int32,
step_dose_mu float, raw_dose_mu float, prf_pauses int32, wedge_position dictionary<values=string, indices=int32, ordered=0>,
gantry_deg float, gantry_error_deg float, collimator_deg float, collimator_error_deg float, table_isocentric_deg float,
table_isocentric_error_deg float, table_longitudinal_mm float, table_longitudinal_error_mm float, table_lateral_mm float,
table_lateral_error_mm float, table_height_mm float, table_height_error_mm float, x1_diaphragm_mm float, x2_diaphragm_mm float,
x1_diaphragm_error_mm float, x2_diaphragm_error_mm float, dlg_y2_mm float, dlg_y1_mm float, dlg_y2_error_mm float,
dlg_y1_error_mm float, y2_leaf_40_tolerance_mm float, y1_leaf_40_tolerance_mm float, mlc_status int32,
y1_leaves_mm list<element: float>, y1_leaves_error_mm list<element: float>, y2_leaves_mm list<element: float>,
y2_leaves_error_mm list<element: float>, other_items list<element: struct<item_part: int32, sub_part: int32, count: int32>>
"""
"""The columns of samples of version 1, as they are on customers' shares. More may come; none of these may change."""

DELIVERIES_1 = """
sha256 string, linac string, header_machine string, field_label string, field_name string, version int64,
start_utc timestamp[ms, tz=UTC], start_local timestamp[ms], end_utc timestamp[ms, tz=UTC], row_clock_ahead_s double,
duration_s double, beam_on_s double, interruptions int64, end_state string, prescribed_mu double, delivered_mu double,
dose_rate_max_mu_per_min double, dose_rate_mean_mu_per_min double, energy_cal_blocks list<element: int64>,
gantry_start_deg double, gantry_stop_deg double, gantry_travel_deg double, collimator_start_deg double,
collimator_stop_deg double, collimator_travel_deg double, y1_leaves_error_rms_mm double, y1_leaves_error_p95_mm double,
y1_leaves_error_max_mm double, y2_leaves_error_rms_mm double, y2_leaves_error_p95_mm double, y2_leaves_error_max_mm double,
x1_diaphragm_error_rms_mm double, x1_diaphragm_error_p95_mm double, x1_diaphragm_error_max_mm double,
x2_diaphragm_error_rms_mm double, x2_diaphragm_error_p95_mm double, x2_diaphragm_error_max_mm double,
gantry_error_rms_deg double, gantry_error_p95_deg double, gantry_error_max_deg double, collimator_error_rms_deg double,
collimator_error_p95_deg double, collimator_error_max_deg double, worst_leaf string, worst_leaf_error_rms_mm double,
rows int64, missing_values int64, unknown_item_parts int64, trailing_bytes int64, field string, utc_offset_minutes int32,
item_parts int32, header_encoding string, size_bytes int64, original_name string, backup string, raw_file string,
samples_file string, samples_row_group int32, indexed_utc timestamp[ms, tz=UTC]
"""


def listed(text: str) -> dict[str, str]:
    """Names and types, of a text that separates them by commas outside brackets."""
    found, depth, begin = [], 0, 0
    text = " ".join(text.split()) + ","
    for index, letter in enumerate(text):
        depth += (letter in "<[") - (letter in ">]")
        if letter == "," and not depth:
            found.append(text[begin:index].strip())
            begin = index + 1
    return dict(item.split(" ", 1) for item in found)


@pytest.mark.parametrize(("now", "then"), [(SAMPLES_SCHEMA, SAMPLES_1), (DELIVERIES_SCHEMA, DELIVERIES_1)])
def test_columns_of_version_1_keep_their_names_and_types(now: pa.Schema, then: str) -> None:
    there = {field.name: str(field.type) for field in now}
    assert {name: there.get(name) for name in listed(then)} == listed(then)
    assert VERSION == 1, "a new version needs its own list here, and an entry in UPGRADES"


def test_no_column_is_called_like_a_folder() -> None:
    """pandas refuses to read a partitioned folder whose files hold a column named like a partition."""
    assert not {"machine", "month"} & {column.name for column in (*SAMPLES, *DELIVERIES)}


def test_every_column_says_what_it_means_and_its_unit_where_its_name_does() -> None:
    for column in (*SAMPLES, *DELIVERIES):
        assert column.meaning.endswith("."), column.name
        for end, unit in (("_mm", "mm"), ("_deg", "deg"), ("_mu", "MU"), ("_utc", "UTC"), ("_bytes", "bytes"), ("_s", "s")):
            if column.name.endswith(end):
                assert column.unit == unit, column.name


def test_an_older_file_gets_nulls_for_new_columns_and_keeps_those_of_a_newer_one() -> None:
    table = DELIVERIES_SCHEMA.empty_table().slice(0, 0)
    row = pa.table({"sha256": ["a" * 64], "start_utc": pa.array([0], pa.timestamp("ms", "UTC")), "brought_later": [1.5]})
    found = upgrade(row, "deliveries", 1, "a.parquet")
    assert found.column_names == [*table.column_names, "brought_later"]
    assert found.column("linac").to_pylist() == [None]
    data = encode(found)
    again = decode(data, "a.parquet")
    assert again.column("brought_later").to_pylist() == [1.5]
    assert again.schema.field("start_utc").type == pa.timestamp("ms", "UTC")


def test_a_column_of_another_type_is_made_ours_where_nothing_is_lost() -> None:
    wide = pa.table({"sha256": pa.array(["a"], pa.large_string()), "item_parts": pa.array([350], pa.int64())})
    found = upgrade(wide, "deliveries", 1, "a.parquet")
    assert found.schema.field("item_parts").type == pa.int32()
    with pytest.raises(DamagedError, match="item_parts"):
        upgrade(pa.table({"item_parts": ["many"]}), "deliveries", 1, "a.parquet")


def test_an_older_version_is_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "VERSION", 3)
    steps = {
        1: lambda table: table.rename_columns(["hash"]),
        2: lambda table: table.rename_columns(["sha256"]),
    }
    monkeypatch.setitem(schema.UPGRADES, "deliveries", steps)
    assert upgrade(pa.table({"digest": ["a"]}), "deliveries", 1, "a.parquet").column("sha256").to_pylist() == ["a"]


@pytest.mark.parametrize("version", [b"2", b"99", b"", b"one"])
def test_a_newer_version_is_refused_and_nothing_is_changed(version: bytes) -> None:
    sink = io.BytesIO()
    metadata = {**DELIVERIES_SCHEMA.metadata, b"linac.index.version": version}
    pq.write_table(DELIVERIES_SCHEMA.empty_table().replace_schema_metadata(metadata), sink)
    with pytest.raises(SetupError, match="newer version"):
        decode(sink.getvalue(), "a.parquet")


def test_a_file_that_is_not_ours_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    with pytest.raises(DamagedError, match="not a file of the index"):
        decode(sink.getvalue(), "a.parquet")
