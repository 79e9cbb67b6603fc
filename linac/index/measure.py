"""How small, how fast, and how fast still when it is old: the index measured on this machine, or on a share of yours.

    python -m linac.index measure FOLDER --samples TRF_FOLDER [--deliveries 1000000]

FOLDER is where it may write, on the disk or share to be measured; it makes a folder of its own there and removes it. The
samples are real logs. `--deliveries` makes an index of that many deliveries first (about 2 minutes and 200 MB for a million).
"""

import functools
import hashlib
import io
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from linac import trf
from linac.index import Index, Log, deliveries, names
from linac.index.repack import repacked
from linac.index.samples import encode
from linac.index.schema import DELIVERIES_SCHEMA
from linac.transport import connect
from linac.trf.backup import read_trfs
from linac.trf.reader import Trf
from linac.trf.writer import encode as encode_trf

REPEATS = 5
"""Times that each figure is taken; the median counts."""

ADDED = 200
"""Logs that come in a night."""

LINACS, MONTHS, FIRST_YEAR = 10, 120, 2016
"""How the deliveries of the old index are spread."""


@dataclass(frozen=True)
class Figure:
    """One result."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name:<66} {self.value:>9.2f} {self.unit}"


def _median_s(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median seconds of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def layouts(logs: list[bytes]) -> Iterator[Figure]:
    """Size and speed of the ways to put rows into Parquet that were compared, ours last. No index, no disk."""
    raw = sum(map(len, logs))
    read = [trf.read(data) for data in logs]
    named = [(str(number), log) for number, log in enumerate(read)]
    ways: dict[str, Callable[[], bytes]] = {
        "350 columns of float32, a row group per log, by pyarrow": lambda: _by_pyarrow(_tables(read, lists=False)),
        "350 columns of float32, one row group, by pyarrow": lambda: _by_pyarrow(
            iter([pa.concat_tables(_tables(read, lists=False), promote_options="default")])
        ),
        "lists of 80 leaves, a row group per log, by pyarrow": lambda: _by_pyarrow(_tables(read, lists=True)),
        "lists of 80 leaves, a row group per log, from counts (ours)": lambda: encode(named),
        "the same packed harder, as after the night": lambda: repacked(encode(named), "") or b"",
    }
    for name, way in ways.items():
        yield Figure(f"{name}: raw size / size", raw / len(way()), "times")
        yield Figure(f"{name}: writing", raw / 1e6 / _median_s(way, 3), "MB/s of TRF")


def _tables(logs: list[Trf], *, lists: bool) -> Iterator[Any]:
    for log in logs:
        fresh = Trf(log.header, log.counts, log.timestamp_ms, log.trailing_bytes)  # not the one that keeps its table
        table = fresh.table
        if lists:
            leaves = [name for name in table.column_names if "_leaf_" in name and "tolerance" not in name]
            arrays = {}
            for bank in ("y1", "y2"):
                for end in ("_mm", "_error_mm"):
                    these = [f"{bank}_leaf_{leaf}{end}" for leaf in range(1, 81)]
                    matrix = np.column_stack([table.column(name).to_numpy() for name in these])
                    offsets = pa.array(np.arange(0, matrix.size + 1, 80, dtype=np.int32))
                    arrays[f"{bank}_leaves{end}"] = pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))
            table = table.drop_columns(leaves)
            for name, array in arrays.items():
                table = table.append_column(name, array)
        yield table


def _by_pyarrow(tables: Iterator[Any]) -> bytes:
    sink = io.BytesIO()
    first = next(tables)
    with pq.ParquetWriter(sink, first.schema, compression="zstd", compression_level=3, write_statistics=False) as writer:
        for table in (first, *tables):
            writer.write_table(table, row_group_size=table.num_rows)
    return sink.getvalue()


def throughput(where: Path, logs: list[bytes]) -> Iterator[Figure]:
    """From a zip to the committed index, for the samples alone and for a night of logs; size; one delivery as a DataFrame."""
    for what, given in ((f"the {len(logs)} samples", logs), (f"{ADDED} logs", [log.data for log in _night(logs)])):
        raw = sum(map(len, given))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as backup:
            for number, data in enumerate(given):
                backup.writestr(f"TCS/{number}.trf", data)
        times, cpu_times = [], []
        for repeat in range(REPEATS + 1):
            root = where / f"throughput-{repeat}"
            shutil.rmtree(root, ignore_errors=True)
            with connect(root).make_root() as folder:
                begin, cpu = time.perf_counter(), time.process_time()
                taken = (Log(member.name, member.data, "SDD+1.zip") for member in read_trfs(packed) if member.data is not None)
                Index(folder).add("4299", taken)
                times.append(time.perf_counter() - begin)
                cpu_times.append(time.process_time() - cpu)
            if repeat < REPEATS:
                shutil.rmtree(root)
        yield Figure(f"zip of {what} to committed Parquet", raw / 1e6 / statistics.median(times[1:]), "MB/s of TRF")
        yield Figure("the same per second of a core", raw / 1e6 / statistics.median(cpu_times[1:]), "MB/s of TRF")
        sizes = [path.stat().st_size for path in (root / "TRF" / "samples").rglob("*.parquet")]
        yield Figure("raw size / size of samples", raw / sum(sizes), "times")
        sizes += [path.stat().st_size for path in (root / "TRF" / "deliveries").rglob("*.parquet")]
        yield Figure("raw size / size of samples and deliveries", raw / sum(sizes), "times")
    with connect(root) as folder:
        index = Index(folder)
        frame = index.deliveries(columns=["sha256", "rows"]).sort_values("rows")
        for what, row in (("smallest", 0), ("middle", len(frame) // 2), ("largest", -1)):
            sha256, rows = frame["sha256"].iloc[row], frame["rows"].iloc[row]
            seconds = _median_s(functools.partial(index.samples, sha256))
            yield Figure(f"the {what} delivery ({rows} rows) as a DataFrame", 1000 * seconds, "ms")
    shutil.rmtree(root)


def aged(where: Path, logs: list[bytes], count: int) -> Iterator[Figure]:
    """Adding to an index of `count` deliveries and to an empty one, in turns; and looking one up."""
    old = where / "aged"
    make_old(old, logs[0], count)
    new = _night(logs)
    ratios, empties, olds = [], [], []
    for repeat in range(3):
        with connect(where / f"empty-{repeat}").make_root() as folder:
            begin = time.perf_counter()
            Index(folder).add("4000", new)
            empties.append(time.perf_counter() - begin)
        shutil.copytree(old, where / f"old-{repeat}")
        with connect(where / f"old-{repeat}") as folder:
            begin = time.perf_counter()
            Index(folder).add("4000", new)
            olds.append(time.perf_counter() - begin)
        ratios.append(olds[-1] / empties[-1])
        shutil.rmtree(where / f"empty-{repeat}")
        shutil.rmtree(where / f"old-{repeat}")
    yield Figure(f"adding {ADDED} logs to an empty index", statistics.median(empties), "s")
    yield Figure(f"adding them to an index of {count} deliveries", statistics.median(olds), "s")
    yield Figure("the ratio of the two", statistics.median(ratios), "times")
    with connect(old) as folder:
        middle = datetime(FIRST_YEAR + MONTHS // 24, 5, 1, tzinfo=UTC)
        row = Index(folder).deliveries("4000", middle, middle + timedelta(days=28)).iloc[0]
        field = f"{row['field_label']}/{row['field_name']}"
        asked: dict[str, Callable[[], Any]] = {
            "hash": lambda: Index(folder).find(sha256=row["sha256"]),
            "field": lambda: Index(folder).find(field=field),
            "day": lambda: Index(folder).find(day=row["start_local"].date()),
        }
        for what, ask in asked.items():
            yield Figure(f"opening it and one look-up by {what} ({len(ask())} found)", 1000 * _median_s(ask), "ms")
    shutil.rmtree(old)


def _night(logs: list[bytes]) -> list[Log]:
    """A night's logs: the samples again and again, each with other counts in its first row, in a month that is there."""
    read = [trf.read(data) for data in logs]
    start = datetime(FIRST_YEAR + MONTHS // 12 - 1, 12, 5, tzinfo=UTC)
    made = []
    for number in range(ADDED):
        log = read[number % len(read)]
        counts = log.counts.copy()
        counts[0, :2] = number % 100, number
        header = log.header
        data = encode_trf(
            counts,
            log.timestamp_ms,
            start=start + timedelta(minutes=3 * number),
            utc_offset=header.utc_offset,
            field=header.field,
            machine=header.machine,
            prescribed_mu=header.prescribed_mu,
            version=header.version,
            item_parts=header.item_parts,
        )
        made.append(Log(f"{number}.trf", data, "SDD+1.zip"))
    return made


def make_old(root: Path, log: bytes, count: int) -> None:
    """An index of `count` deliveries: ten linacs, ten years, courses of 30 fractions. Deliveries and catalogue only."""
    random = np.random.default_rng(1)
    per_month = -(-count // (LINACS * MONTHS))
    like = deliveries.make_row(
        trf.read(log), "0" * 64, linac="4000", name="log.trf", source="SDD+1.zip", size=len(log), indexed=datetime.now(UTC)
    )
    one = pa.Table.from_pylist([like], schema=DELIVERIES_SCHEMA)
    table = pa.concat_tables([one] * per_month).combine_chunks()
    with connect(root).make_root() as folder:
        for linac in range(LINACS):
            serial = str(4000 + linac)
            for month in range(MONTHS):
                begin = datetime(FIRST_YEAR + month // 12, month % 12 + 1, 1, tzinfo=UTC)
                hashes = [random.bytes(32).hex() for _ in range(per_month)]
                starts = [begin + timedelta(seconds=int(s)) for s in np.sort(random.integers(0, 27 * 86400, per_month))]
                patients = random.integers(0, 1 + per_month // 20, per_month) + month * 1000
                columns: dict[str, list[Any]] = {
                    "sha256": hashes,
                    "linac": [serial] * per_month,
                    "start_utc": starts,
                    "start_local": [start.replace(tzinfo=None) for start in starts],
                    "field_label": [f"{patient % 9 + 1}-1" for patient in patients],
                    "field_name": [f"Field {linac}.{patient}" for patient in patients],
                    "raw_file": [f"TRF/raw/{serial}/{begin:%Y/%m}/{text}.trf" for text in hashes],
                    "delivered_mu": list(random.random(per_month) * 500),
                    "y1_leaves_error_rms_mm": list(random.random(per_month)),
                    "y2_leaves_error_rms_mm": list(random.random(per_month)),
                    "beam_on_s": list(random.random(per_month) * 100),
                }
                filled = table
                for name, values in columns.items():
                    place = filled.column_names.index(name)
                    filled = filled.set_column(
                        place, filled.schema.field(place), pa.array(values, filled.schema.field(place).type)
                    )
                text = f"{begin:%Y-%m}"
                folder.write(
                    f"{names.partition('deliveries', serial, text)}/deliveries-{serial}-{text}.parquet", deliveries.encode(filled)
                )
        Index(folder).compact()


def measure(where: Path, samples: Path, count: int) -> Iterator[Figure]:
    """All figures, one after the other; in a folder of its own below `where`, which is removed."""
    logs = [path.read_bytes() for path in sorted(samples.glob("*.trf"))]
    own = where / f"linac-index-measure-{hashlib.sha256(str(time.time()).encode()).hexdigest()[:8]}"
    own.mkdir(parents=True)
    try:
        yield from layouts(logs)
        yield from throughput(own, logs)
        if count:
            yield from aged(own, logs, count)
    finally:
        shutil.rmtree(own, ignore_errors=True)
