"""What is asked of the index is answered rightly, with the catalogue and without it."""

import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from linac import trf
from linac.errors import DamagedError, SetupError
from linac.index import Index, Log
from linac.index.reader import Reader
from linac.index.schema import DELIVERIES, SAMPLES
from linac.transport import Folder, LocalFolder


@pytest.fixture
def full(index: Index, make_log: Callable[..., bytes]) -> Index:
    """Two linacs, three months in two years, six fields."""
    for serial, hour in (("4299", 0), ("2694", 6)):
        logs = []
        for number, month in enumerate(
            (datetime(2025, 12, 31, 22, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
        ):
            for beam in range(2):
                start = month + timedelta(hours=hour, minutes=10 * beam)
                seed = number * 2 + beam + 10 * hour
                field = f"{number + 1}-{beam + 1}/Prostate {beam} Größe"
                data = make_log(seed, start=start, field=field, rows=4 + beam, machine=serial)
                logs.append(Log(f"{seed}.trf", data, "SDD+1.zip"))
        index.add(serial, logs)
    return index


@pytest.fixture(params=["catalogue", "no catalogue", "half a catalogue", "damaged catalogue"])
def asked(full: Index, request: pytest.FixtureRequest) -> Index:
    """The catalogue only makes answers fast."""
    for entry in full.folder.list("TRF/catalogue/*"):
        if request.param == "no catalogue" or (request.param == "half a catalogue" and entry.name.startswith("2025")):
            full.folder.remove(f"TRF/catalogue/{entry.name}")
        if request.param == "damaged catalogue":
            full.folder.write(f"TRF/catalogue/{entry.name}", b"damaged")
    return full


def test_deliveries_come_by_start_with_all_columns(full: Index) -> None:
    frame = full.deliveries()
    assert list(frame.columns) == [column.name for column in DELIVERIES]
    assert len(frame) == 12
    assert frame["start_utc"].is_monotonic_increasing
    assert str(frame["start_utc"].dtype) == "datetime64[ms, UTC]"
    assert str(frame["start_local"].dtype) == "datetime64[ms]"


def test_deliveries_of_a_linac_a_time_and_some_columns(full: Index) -> None:
    begin, end = datetime(2025, 12, 31, 22, 10, tzinfo=UTC), datetime(2026, 1, 1, 6, tzinfo=UTC)
    frame = full.deliveries("4299", begin, end, ["field_label", "delivered_mu"])
    assert list(frame.columns) == ["field_label", "delivered_mu"]
    assert list(frame["field_label"]) == ["1-2", "2-1", "2-2"]
    frame = full.deliveries(start=begin, end=end, columns=["linac", "start_utc"])
    assert list(frame["linac"]) == ["4299", "4299", "4299", "2694", "2694"]
    assert frame["start_utc"].min() >= begin
    assert frame["start_utc"].max() < end
    assert len(full.deliveries("9999")) == 0
    assert list(full.deliveries("9999", columns=["rows"]).columns) == ["rows"]


def test_only_the_months_asked_for_are_read(full: Index) -> None:
    opened = []

    class Watching(LocalFolder):
        def open(self, name: str, mode: str = "rb") -> Any:
            opened.append(name)
            return super().open(name, mode)

    reader = Reader(Watching(full.folder.location))
    reader.deliveries("4299", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 20, tzinfo=UTC))
    assert opened == ["TRF/deliveries/machine=4299/month=2026-01/deliveries-4299-2026-01.parquet"]


def test_find_by_hash_or_its_begin(asked: Index) -> None:
    frame = asked.deliveries()
    for sha256 in frame["sha256"]:
        assert list(asked.find(sha256=sha256)["sha256"]) == [sha256]
        assert list(asked.find(sha256=sha256[:11].upper())["sha256"]) == [sha256]
    assert len(asked.find(sha256="0" * 64)) == 0
    assert len(asked.find(sha256=frame["sha256"][0], machine="2694")) == (frame["linac"][0] == "2694")


def test_find_by_field(asked: Index) -> None:
    for field, count in (
        ("2-1", 2),
        ("2-*", 4),
        ("prostate 1 GRÖSSE", 0),  # ß has no single capital letter
        ("prostate 1 größe", 6),
        ("PROSTATE*", 12),
        ("3-2/Prostate 1 Größe", 2),
        ("3-2/prostate*", 2),
        ("*/Prostate 0*", 6),
        ("*", 12),
        ("Prostate", 0),
        ("", 0),
        ("Prostate . Größe", 0),
    ):
        assert len(asked.find(field=field)) == count, field
    assert len(asked.find(field="2-1", machine="2694")) == 1


def test_find_by_day_is_by_the_sites_clock(asked: Index) -> None:
    """The logs say +01:00, so what began at 22:00 and 22:10 UTC is of the same day, and at 04:00 of the next."""
    assert len(asked.find(day=date(2025, 12, 31))) == 2
    assert len(asked.find(day=date(2026, 1, 1))) == 6
    assert len(asked.find(day=date(2026, 1, 1), machine="4299")) == 2
    assert list(asked.find(day=date(2026, 1, 1), machine="4299", field="2-2", columns=["field_label"])["field_label"]) == ["2-2"]
    assert len(asked.find(day=date(2026, 1, 2))) == 0
    sha256 = asked.deliveries("4299")["sha256"][0]
    assert len(asked.find(sha256=sha256[:9], day=date(2025, 12, 31))) == 1
    assert len(asked.find(sha256=sha256[:9], day=date(2026, 1, 1))) == 0


def test_find_by_linac_alone_or_by_nothing(asked: Index) -> None:
    assert len(asked.find(machine="4299")) == 6
    assert len(asked.find(columns=["rows"])) == 12


@pytest.mark.parametrize("begin", ["", "abc", "xyz1", "0" * 65, "a*"])
def test_what_is_no_hash_is_refused(full: Index, begin: str) -> None:
    for ask in (lambda: full.find(sha256=begin), lambda: full.samples(begin), lambda: full.raw(begin)):
        with pytest.raises(SetupError, match="hexadecimal"):
            ask()


def test_a_column_that_does_not_exist_is_refused(full: Index) -> None:
    sha256 = full.deliveries()["sha256"][0]
    for ask in (
        lambda: full.deliveries(columns=["mu"]),
        lambda: full.find(field="1-1", columns=["mu"]),
        lambda: full.samples(sha256, ["mu"]),
    ):
        with pytest.raises(SetupError, match=r"no column mu.*data-dictionary"):
            ask()


def test_the_rows_of_a_delivery_are_those_of_its_log(full: Index) -> None:
    for sha256 in full.deliveries()["sha256"]:
        log = trf.read(full.raw(sha256))
        frame = full.samples(sha256[:16])
        assert list(frame.columns) == [column.name for column in SAMPLES]
        assert set(frame["sha256"]) == {sha256}
        said = log.table
        assert np.array_equal(frame["gantry_deg"], said.column("gantry_deg").to_numpy())
        assert np.array_equal(np.stack(frame["y2_leaves_error_mm"])[:, 79], said.column("y2_leaf_80_error_mm").to_numpy())


def test_leaves_can_come_as_columns_named_as_in_linac_trf(full: Index) -> None:
    sha256 = full.deliveries()["sha256"][0]
    wide = full.samples(sha256, leaves="columns")
    said = trf.read(full.raw(sha256)).table.to_pandas()
    shared = [name for name in wide.columns if name in said.columns]
    assert len(shared) == 351
    for name in shared:
        assert list(wide[name]) == list(said[name]), name
    some = full.samples(sha256, ["row", "y1_leaves_mm"], leaves="columns")
    assert list(some.columns) == ["row", *(f"y1_leaf_{leaf}_mm" for leaf in range(1, 81))]
    with pytest.raises(SetupError, match="leaves"):
        full.samples(sha256, leaves="both")


def test_leaves_that_are_missing_are_not_a_number(index: Index, make_log: Callable[..., bytes]) -> None:
    data = make_log(1, item_parts=[(2224, 129), *((2459 + leaf, 129) for leaf in range(1, 41))])
    index.add("4299", [Log("a.trf", data)])
    wide = index.samples(hashlib.sha256(data).hexdigest(), leaves="columns")
    assert wide["y1_leaf_40_mm"].notna().all()
    assert wide[["y1_leaf_41_mm", "y2_leaf_1_mm", "y2_leaf_80_error_mm"]].isna().all(axis=None)


def test_a_delivery_without_rows_has_an_empty_table(index: Index, make_log: Callable[..., bytes]) -> None:
    data = make_log(1, rows=0)
    index.add("4299", [Log("a.trf", data)])
    sha256 = hashlib.sha256(data).hexdigest()
    assert index.samples(sha256).shape == (0, len(SAMPLES))
    assert index.samples(sha256, ["row"]).shape == (0, 1)
    (row,) = index.deliveries().to_dict("records")
    assert row["rows"] == 0
    assert pd.isna(row["delivered_mu"])


def test_an_unknown_or_ambiguous_delivery_is_said(full: Index) -> None:
    with pytest.raises(SetupError, match="no delivery"):
        full.samples("0" * 64)


def test_a_raw_log_that_changed_is_said(full: Index) -> None:
    frame = full.deliveries()
    full.folder.write(frame["raw_file"][0], b"changed")
    with pytest.raises(DamagedError, match="not as it was"):
        full.raw(frame["sha256"][0])


def test_what_a_crashed_run_left_out_of_the_catalogue_is_found(index: Index, make_log: Callable[..., bytes]) -> None:
    """It died after the deliveries were there: its record tells that the catalogue lacks them."""
    index.add("4299", [Log("1.trf", make_log(1, field="1-1/One"))])
    catalogue = index.folder.read("TRF/catalogue/2026.parquet")
    index.add("4299", [Log("2.trf", make_log(2, field="2-1/Two"))])
    index.folder.write("TRF/catalogue/2026.parquet", catalogue)
    assert len(index.find(field="two")) == 0
    index.folder.write("TRF/pending/4299_2026-01_0123456789ab.record", b"the record")
    assert len(index.find(field="two")) == 1
    index.folder.remove("TRF/pending/4299_2026-01_0123456789ab.record")
    assert len(index.find(sha256=hashlib.sha256(make_log(2)).hexdigest())) == 0
    sha256 = index.deliveries()["sha256"].iloc[-1]
    assert len(index.find(sha256=sha256)) == 1
    assert index.compact().deliveries == 2
    assert len(index.find(field="two")) == 1


def test_an_index_that_does_not_exist_yet_is_empty(folder: Folder) -> None:
    reader = Reader(folder)
    assert len(reader.deliveries()) == 0
    assert len(reader.find(field="1-1")) == 0
    assert reader.machines() == []
    assert list(Path(folder.location).iterdir()) == []
