"""The data dictionary is true: it has every column, as the files have it. (tests/launch/test_pictures.py runs the examples.)"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from linac.index import Index, Log
from linac.index.schema import DELIVERIES, SAMPLES, as_markdown
from linac.transport import connect


@pytest.fixture
def records(tmp_path: Path, make_log: Callable[..., bytes]) -> Path:
    """Three arcs of a prostate course on 4299, and others."""
    with connect(tmp_path / "records").make_root() as folder:
        index = Index(folder)
        course = [
            Log(
                f"{n}.trf",
                make_log(n, rows=30, start=datetime(2026, 1, 5 + n, 9, tzinfo=UTC), field="2-1/Prostate arc"),
                "SDD+1.zip",
            )
            for n in range(3)
        ]
        index.add("4299", [*course, Log("4.trf", make_log(4, start=datetime(2026, 2, 1, tzinfo=UTC)), "SDD+1.zip")])
        index.add("2694", [Log("5.trf", make_log(5, start=datetime(2026, 1, 9, tzinfo=UTC), machine="2694"), "SDD+1.zip")])
    return tmp_path / "records"


def test_the_dictionary_has_every_column_as_the_files_have_it(project: Path) -> None:
    """`python -m linac.index columns` prints what belongs there."""
    page = (project / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    assert as_markdown(DELIVERIES) in page
    assert as_markdown(SAMPLES) in page


def test_plain_readers_see_units_times_and_types_as_the_dictionary_says(records: Path) -> None:
    frame = pd.read_parquet(records / "TRF" / "deliveries")
    assert str(frame["start_utc"].dtype) == "datetime64[ms, UTC]"
    assert str(frame["start_local"].dtype) == "datetime64[ms]"
    assert (frame["start_local"] == frame["start_utc"].dt.tz_localize(None) + timedelta(hours=1)).all()
    assert sorted(frame["linac"].unique()) == ["2694", "4299"]
    assert sorted(frame["machine"].unique()) == [2694, 4299]
    rows = pd.read_parquet(records / "TRF" / "samples")
    assert str(rows["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert isinstance(rows["linac_state"].dtype, pd.CategoricalDtype)
    assert rows["y1_leaves_mm"].map(len).eq(80).all()
    described = duckdb.sql(f"DESCRIBE SELECT * FROM '{records}/TRF/samples/**/*.parquet'").fetchall()
    types = {name: kind for name, kind, *_ in described}
    assert types["timestamp"] == "TIMESTAMP WITH TIME ZONE"
    assert types["gantry_deg"] == "FLOAT"
    assert types["y2_leaves_error_mm"] == "FLOAT[]"
    assert types["linac_state"] == types["sha256"] == "VARCHAR"
    assert types["machine"] == "BIGINT"
    assert types["other_items"] == "STRUCT(item_part INTEGER, sub_part INTEGER, count INTEGER)[]"


def test_machine_is_text_for_those_who_say_so(records: Path) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds

    folders = ds.partitioning(pa.schema([("machine", "string"), ("month", "string")]), flavor="hive")
    frame = pd.read_parquet(records / "TRF" / "deliveries", partitioning=folders, filters=[("machine", "==", "4299")])
    assert set(frame["machine"]) == {"4299"}
    counted = duckdb.sql(
        f"SELECT count(*) FROM read_parquet('{records}/TRF/deliveries/**/*.parquet', "
        "hive_types = {'machine': VARCHAR, 'month': VARCHAR}) WHERE machine = '4299'"
    ).fetchone()
    assert counted == (len(frame),)


def test_a_time_of_day_in_sql_is_the_same_instant(records: Path) -> None:
    first = duckdb.sql(f"SELECT min(epoch_ms(start_utc)) FROM '{records}/TRF/deliveries/**/*.parquet'").fetchone()
    assert first == (int(datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp() * 1000),)
