"""`table` is the log in physical units, with typed columns and nulls, ready for any Arrow reader."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linac import trf
from linac.trf.item_parts import STANDARD, columns, label
from linac.trf.table import BLOCK_ROWS, write_parquet

Make = Callable[..., bytes]


def expected(log: trf.Trf) -> dict[str, list[object]]:
    """The table the slow way: one count after the other."""
    found: dict[str, list[object]] = {
        "timestamp": [
            datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000) for ms in log.utc_ms.tolist()
        ],
        "time_s": [float(np.float32((ms - log.utc_ms.tolist()[0]) / 1000)) for ms in log.utc_ms.tolist()],
    }
    for index, column in enumerate(columns(log.header.item_parts)):
        item = column.item
        cells: list[object] = []
        for count in log.counts[:, index].tolist():
            if item.unsigned:
                cells.append(float(np.float32((count % 65536) / item.divisor)))
            elif count == -32767:
                cells.append(None)
            elif item.codes:
                cells.append(label(item.codes, count))
            elif item.divisor == 1:
                cells.append(count)
            else:
                cells.append(float(np.float32(item.sign * count / item.divisor)))
        found[column.column] = cells
    return found


def same(log: trf.Trf) -> None:
    log.table.validate(full=True)
    wanted = expected(log)
    assert log.table.column_names == list(wanted)
    for name, cells in wanted.items():
        assert log.table[name].to_pylist() == cells, name


def test_real_logs_cell_by_cell(logs: list[Path]) -> None:
    for path in logs:
        if path.stat().st_size < 400_000:  # one of each clock; the slow way takes its time
            same(trf.read(path))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_any_number_of_rows(make: Make, version: int, rows: int) -> None:
    same(trf.read(make(version, rows=rows, item_parts=[(2224, 129), (2543, 111), (2162, 101), (2380, 129), (2240, 111), (7, 7)])))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    version=st.integers(1, 4),
    parts=st.lists(
        st.sampled_from(STANDARD).map(lambda item: (item.part, item.subpart)) | st.just((7, 7)), min_size=1, max_size=6
    ),
    rows=st.lists(st.lists(st.integers(-32768, 32767) | st.just(-32767), min_size=6, max_size=6), max_size=40),
)
def test_any_columns_with_any_counts(make: Make, version: int, parts: list[tuple[int, int]], rows: list[list[int]]) -> None:
    def change(counts: np.ndarray) -> None:
        if rows:
            counts[:] = np.array(rows)[:, : len(parts)]

    same(trf.read(make(version, rows=len(rows), item_parts=parts, change=change)))


def test_it_says_degrees_where_the_export_says_tenths(make: Make) -> None:
    where = {item.column: index for index, item in enumerate(STANDARD)}

    def change(counts: np.ndarray) -> None:
        counts[:, where["table_isocentric_deg"]] = -30
        counts[:, where["raw_dose_mu"]] = 64
        counts[:, where["linac_state"]] = 43

    table = trf.read(make(1, rows=1, change=change)).table
    assert table["table_isocentric_deg"].to_pylist() == [-3]
    assert table["raw_dose_mu"].to_pylist() == [1]
    assert table["linac_state"].to_pylist() == ["Interrupted"]


def test_types_depend_on_the_header_alone(make: Make, logs: list[Path]) -> None:
    tables = [trf.read(path).table for path in logs] + [trf.read(make(version, rows=0)).table for version in (1, 2, 3)]
    assert all(table.schema.equals(tables[0].schema, check_metadata=True) for table in tables)
    together = pa.concat_tables(tables)
    assert together.num_rows == sum(table.num_rows for table in tables)
    assert tables[0].schema.field("gantry_deg").metadata == {b"elekta": b"Step Gantry/Scaled Actual (deg)"}
    assert {str(field.type) for field in tables[0].schema} == {
        "timestamp[ms, tz=UTC]",
        "float",
        "int32",
        "dictionary<values=string, indices=int32, ordered=0>",
    }


def test_it_outlives_the_log(make: Make) -> None:
    table = trf.read(make(3, rows=300)).table
    again = trf.read(make(3, rows=300))
    for _ in range(5):
        trf.read(make(1, rows=300)).table.to_pandas()
    assert table.equals(again.table)


def test_parquet_holds_the_table_and_the_header(make: Make, tmp_path: Path) -> None:
    log = trf.read(make(3, field="1-1/Prüfkörper", prescribed_mu=227.4, utc_offset="+10:00"))
    write_parquet(log, tmp_path / "a.parquet")
    back = pq.read_table(tmp_path / "a.parquet")
    assert back.equals(log.table.cast(back.schema))
    said = {key.decode(): value.decode() for key, value in back.schema.metadata.items()}
    assert said["field_name"] == "Prüfkörper"
    assert said["prescribed_mu"] == "227.4"
    assert said["start_local"] == "2024-02-29T23:05:07+10:00"
