"""Files of older software are brought up to date from the raw logs, whole, and without a loss."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from linac.errors import SetupError
from linac.index import Index, Log, deliveries
from linac.transport import Folder

FILE = "TRF/deliveries/machine=4299/month=2026-01/deliveries-4299-2026-01.parquet"


@pytest.fixture
def old(index: Index, make_log: Callable[..., bytes]) -> Index:
    """An index whose January was written before two of the metrics existed, and has one that we do not know."""
    import pyarrow as pa

    index.add("4299", [Log(f"{n}.trf", make_log(n), "SDD+1.zip") for n in range(3)])
    table = deliveries.decode(index.folder.read(FILE), FILE).drop_columns(["worst_leaf", "gantry_travel_deg"])
    table = table.append_column("from_the_future", pa.array([1, 2, 3]))
    index.folder.write(FILE, deliveries.encode(table))
    return index


def plain(folder: Folder) -> pd.DataFrame:
    return pd.read_parquet(Path(folder.location) / "TRF" / "deliveries").drop(columns=["machine", "month"])


def test_new_columns_are_filled_from_the_raw_logs(old: Index, make_log: Callable[..., bytes]) -> None:
    before = old.deliveries()
    assert before["worst_leaf"].isna().all()
    done = old.compact()
    assert (done.renewed, done.deliveries, done.recovered) == ([FILE], 3, 0)
    after = plain(old.folder)
    assert after["worst_leaf"].notna().all()
    assert after["gantry_travel_deg"].gt(0).all()
    same = [name for name in before.columns if name not in ("worst_leaf", "gantry_travel_deg")]
    pd.testing.assert_frame_equal(after[same], before[same])
    assert list(after["from_the_future"]) == [1, 2, 3]
    assert old.compact().renewed == []
    assert old.verify(values=True).problems == []
    assert len(old.samples(hashlib.sha256(make_log(1)).hexdigest())) == 12


def test_a_row_whose_log_is_gone_stays_as_it_is(old: Index) -> None:
    old.folder.remove("TRF/raw/4299/2026/01/1.trf")
    assert old.compact().renewed == [FILE]
    frame = old.deliveries()
    assert frame["worst_leaf"].isna().tolist() == [False, True, False]
    assert frame["original_name"].tolist() == ["0.trf", "1.trf", "2.trf"]


def test_adding_to_an_old_file_keeps_what_it_has(old: Index, make_log: Callable[..., bytes]) -> None:
    old.add("4299", [Log("9.trf", make_log(9))])
    frame = plain(old.folder)
    assert frame["from_the_future"].tolist()[:3] == [1, 2, 3]
    assert frame["worst_leaf"].notna().tolist() == [False, False, False, True]


def test_a_file_of_newer_software_is_left_alone(old: Index) -> None:
    import io

    import pyarrow.parquet as pq

    table = deliveries.decode(old.folder.read(FILE), FILE)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"linac.index.version": b"2"}), sink)
    old.folder.write(FILE, sink.getvalue())
    with pytest.raises(SetupError, match="newer version"):
        old.compact()
    assert old.folder.read(FILE) == sink.getvalue()


def test_the_samples_of_months_that_are_over_are_made_smaller(
    index: Index, samples: Path, make_log: Callable[..., bytes]
) -> None:
    index.add("2694", [Log(path.name, path.read_bytes()) for path in sorted(samples.glob("*.trf"))])
    index.add("2694", [Log("now.trf", make_log(1, start=datetime.now(UTC)))])
    before = {path: path.stat().st_size for path in Path(index.folder.location).rglob("samples-*.parquet")}
    frames = {sha256: index.samples(sha256) for sha256 in index.deliveries()["sha256"]}
    assert index.compact().smaller == []
    done = index.compact(smaller=True)
    after = {path: path.stat().st_size for path in before}
    assert sorted(done.smaller) == sorted(
        path.relative_to(index.folder.location).as_posix() for path in list(before) if "/month=201" in path.as_posix()
    )
    assert sum(before.values()) - sum(after.values()) == done.saved_bytes
    assert done.saved_bytes > 0.1 * sum(before.values())
    assert index.verify(values=True).problems == []
    for sha256, frame in frames.items():
        pd.testing.assert_frame_equal(index.samples(sha256), frame)
    assert index.compact(smaller=True).smaller == []


def test_a_file_that_was_made_smaller_is_not_continued(index: Index, make_log: Callable[..., bytes]) -> None:
    index.add("4299", [Log("1.trf", make_log(1, start=datetime(2020, 5, 5, tzinfo=UTC)))])
    (name,) = index.compact(smaller=True).smaller
    data = index.folder.read(name)
    for number in (2, 3):
        index.add("4299", [Log(f"{number}.trf", make_log(number, start=datetime(2020, 5, 6, tzinfo=UTC)))])
    assert index.folder.read(name) == data
    assert len(index.folder.list("TRF/samples/machine=4299/month=2020-05/*.parquet")) == 2
    assert index.verify(values=True).problems == []


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_samples_whose_raw_logs_are_not_as_they_were_are_left_alone(
    index: Index, make_log: Callable[..., bytes], harm: str
) -> None:
    index.add("4299", [Log(f"{n}.trf", make_log(n, start=datetime(2020, 5, 5, n, tzinfo=UTC))) for n in range(2)])
    raw = "TRF/raw/4299/2020/05/1.trf"
    if harm == "gone":
        index.folder.remove(raw)
    else:
        index.folder.write(raw, make_log(7))
    assert index.compact(smaller=True).smaller == []
