"""Files of older software are brought up to date from the raw logs, whole, and without a loss."""

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linac.errors import DamagedError, SetupError
from linac.index import Index, Log, deliveries, parquet, upkeep
from linac.index.repack import repacked
from linac.transport import Folder

FILE = "TRF/deliveries/machine=4299/month=2026-01/deliveries-4299-2026-01.parquet"


@pytest.fixture
def old(index: Index, make_log: Callable[..., bytes]) -> Index:
    """An index whose January was written before two of the metrics existed, and has one that we do not know."""
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


# Packing harder


def _sizes(index: Index) -> dict[str, int]:
    root = Path(index.folder.location)
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("samples-*.parquet")}


def test_the_real_samples_take_less_than_a_sixth_once_packed_harder_and_are_the_same(index: Index, samples: Path) -> None:
    logs = [Log(path.name, path.read_bytes()) for path in sorted(samples.glob("*.trf"))]
    index.add("2694", logs)
    before = _sizes(index)
    frames = {sha256: index.samples(sha256) for sha256 in index.deliveries()["sha256"]}
    done = index.repack()
    after = _sizes(index)
    assert sorted(done.files) == sorted(before)
    assert (done.bytes_before, done.bytes_after) == (sum(before.values()), sum(after.values()))
    assert (done.problems, done.months_left) == ([], 0)
    assert sum(after.values()) * 6 < sum(len(log.data) for log in logs)
    assert index.verify(values=True).problems == []
    for sha256, frame in frames.items():
        pd.testing.assert_frame_equal(index.samples(sha256), frame)


def test_packing_harder_does_only_what_is_new_and_costs_two_listings_if_nothing_is(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("4299", [Log(f"{n}.trf", make_log(n)) for n in range(3)])
    (name,) = index.repack().files
    first = index.folder.read(name)
    body = len(first) - 8 - int.from_bytes(first[-8:-4], "little")
    index.add("4299", [Log(f"{n}.trf", make_log(n)) for n in range(3, 5)])
    assert len(_sizes(index)) == 1, "a file that was packed harder is continued"
    assert index.folder.read(name)[:body] == first[:body]
    assert index.repack().files == [name]
    assert index.folder.read(name)[:body] == first[:body]
    assert index.verify(values=True).problems == []
    assert len(index.deliveries()) == 5

    calls: list[str] = []
    listed = index.folder.list
    monkeypatch.setattr(index.folder, "list", lambda pattern="*": (calls.append(pattern), listed(pattern))[1])
    monkeypatch.setattr(index.folder, "read", lambda name: pytest.fail(f"{name} was read"))
    assert index.repack().files == []
    assert calls == ["TRF/pending/*", "TRF/repack/*"]


def test_without_time_the_rest_is_left_for_the_next_call(index: Index, make_log: Callable[..., bytes]) -> None:
    for month in (1, 2, 3):
        index.add("4299", [Log(f"{month}.trf", make_log(month, start=datetime(2020, month, 5, tzinfo=UTC)))])
    none = index.repack(seconds=0)
    assert (none.files, none.months_left) == ([], 3)
    seen: list[int] = []
    every = index.repack(progress=lambda done: seen.append(done.months_left))
    assert (len(every.files), every.months_left, seen) == (3, 0, [2, 1, 0])


def test_a_file_that_grew_meanwhile_is_left_as_it_grew(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("4299", [Log("1.trf", make_log(1))])
    real = upkeep.repacked

    def meanwhile(old: bytes, name: str) -> bytes | None:
        new = real(old, name)
        if len(index.deliveries()) == 1:
            index.add("4299", [Log("2.trf", make_log(2))])
        return new

    monkeypatch.setattr(upkeep, "repacked", meanwhile)
    assert index.repack().files == []
    assert index.verify(values=True).problems == []
    assert len(index.repack().files) == 1, "its month is marked still"
    assert index.verify(values=True).problems == []
    assert len(index.deliveries()) == 2


def test_what_older_software_packed_by_zstd_is_packed_harder_as_well(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(parquet, "quick", lambda: pa.Codec("zstd", compression_level=1))
        older.setattr(parquet, "SNAPPY", parquet.ZSTD)
        index.add("4299", [Log("1.trf", make_log(1, rows=40))])
    ((name, before),) = _sizes(index).items()
    assert _codecs(index, name) == {"ZSTD", "UNCOMPRESSED"}
    index.add("4299", [Log("2.trf", make_log(2, rows=40))])
    assert _codecs(index, name) == {"ZSTD", "SNAPPY", "UNCOMPRESSED"}
    done = index.repack()
    assert done.files == [name]
    assert done.saved_bytes > 0
    assert before < done.bytes_after
    assert _codecs(index, name) == {"ZSTD", "UNCOMPRESSED"}
    assert index.verify(values=True).problems == []


def _codecs(index: Index, name: str) -> set[str]:
    metadata = pq.read_metadata(io.BytesIO(index.folder.read(name)))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return {group.column(place).compression for group in groups for place in range(group.num_columns)}


def test_a_damaged_page_is_told_and_left_as_it_is(index: Index, make_log: Callable[..., bytes]) -> None:
    index.add("4299", [Log("1.trf", make_log(1))])
    (name,) = _sizes(index)
    data = bytearray(index.folder.read(name))
    group = pq.read_metadata(io.BytesIO(bytes(data))).row_group(0)
    largest = max(map(group.column, range(group.num_columns)), key=lambda column: int(column.total_compressed_size))
    place = largest.data_page_offset + 100  # behind the page's header
    data[place] ^= 0xFF
    index.folder.write(name, bytes(data))
    done = index.repack()
    assert done.files == []
    (problem,) = done.problems
    assert "checksum" in problem
    assert index.folder.read(name) == bytes(data)


@pytest.mark.parametrize("cut", [0, 3, 11, 50])
def test_what_is_no_samples_file_is_told(cut: int) -> None:
    with pytest.raises(DamagedError, match=r"x\.parquet"):
        repacked(b"PAR1" + bytes(range(200))[:cut], "x.parquet")


def test_compact_packs_everything_harder_if_asked(index: Index, make_log: Callable[..., bytes]) -> None:
    index.add("4299", [Log("1.trf", make_log(1))])
    (name,) = _sizes(index)
    for entry in index.folder.list("TRF/repack/*"):  # as in an index that was made before there were marks
        index.folder.remove(f"TRF/repack/{entry.name}")
    assert index.repack().files == []
    assert index.compact().smaller == []
    done = index.compact(smaller=True)
    assert done.smaller == [name]
    assert done.saved_bytes > 0
    assert index.compact(smaller=True).smaller == []


def test_chunks_of_several_pages_are_packed_harder_too(
    index: Index, make_log: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PAGE_ROWS", 48)
    data = make_log(1, rows=500)
    index.add("4299", [Log("1.trf", data)])
    before = index.samples(hashlib.sha256(data).hexdigest())
    assert len(index.repack().files) == 1
    assert index.verify(values=True).problems == []
    pd.testing.assert_frame_equal(index.samples(hashlib.sha256(data).hexdigest()), before)
