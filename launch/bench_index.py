"""The index of TRF logs: how fast and how small it is made, how fast one delivery is read back, and what all of that costs when
the index is old.

The old index is made up: the deliveries and the catalogue of ten linacs over ten years, by the index's own schema and encoder,
without the rows of the logs. The month that logs are added to is real: a night's logs are in it already, so its files have to be
continued, as they have in a hospital.
"""

import io
import random
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from launch.bench import BenchError, Limit, Row, Setting, Worker, median_ratio
from linac import trf
from linac.index import Index, Log
from linac.index import measure as made_up
from linac.transport import connect
from linac.trf.backup import read_trfs
from linac.trf.writer import encode

TITLE = "The index"

MB_PER_SECOND = Limit(60, at_most=False)
TIMES_SMALLER = Limit(6, at_most=False)
READ_BACK_MS = Limit(20)
AGED = Limit(1.3)
LOOK_UP_MS = Limit(200)


@dataclass(frozen=True)
class Sizes:
    """How old the index is made, how many logs come in a night, how often; and how large PyMedPhys's is made."""

    deliveries: int = 1_000_000
    added: int = 200
    nights: int = 5
    repeats: int = 9
    look_ups: int = 15
    peer_entries: tuple[int, ...] = (0, 10_000, 100_000)
    peer_logs: int = 3


QUICK = Sizes(deliveries=20_000, added=20, nights=3, repeats=3, look_ups=5, peer_entries=(0, 1_000), peer_logs=2)


def measure(setting: Setting, sizes: Sizes | None = None) -> Iterator[Row]:
    """All figures, with PyMedPhys's where there is one."""
    sizes = sizes or (QUICK if setting.quick else Sizes())
    yield from _fresh(setting, sizes)
    theirs = list(_pymedphys(setting, sizes))
    yield from _aged(setting, sizes, theirs)


class Stopwatch:
    """Seconds of the clock and of a core, from `with` to its end."""

    def __enter__(self) -> "Stopwatch":
        self.clock, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock, self.cpu = time.perf_counter() - self.clock, time.process_time() - self.cpu


def _add(root: Path, serial: str, logs: Any, wanted: int) -> Stopwatch:
    """Add logs to the index in a folder, and make sure that they are in it: what is not done is not fast."""
    with connect(root).make_root() as folder, Stopwatch() as watch:
        added = Index(folder).add(serial, logs)
    if added.indexed != wanted or added.quarantined:
        raise BenchError(f"{added.indexed} of {wanted} logs were indexed. Run `python run.py test`: something is broken.")
    return watch


# A fresh index


def _fresh(setting: Setting, sizes: Sizes) -> Iterator[Row]:
    """From a zip to the committed index, the size, and one delivery back, with the logs as they are and with a night's."""
    setting.note(
        "Zip to committed Parquet is what the night waits for: unpack, decode, hash, metrics, rows, index, raw logs kept. The "
        "same run packs the samples harder after that, when all its logs are in the index and can be asked for."
    )
    logs = [Log(path.name, path.read_bytes()) for path in setting.logs]
    night = make_night(logs, sizes.added, datetime(2026, 1, 5, 8, tzinfo=UTC), 0)
    for name, what, repeats in (
        ("samples", logs, sizes.repeats),
        ("night", night, max(3, sizes.repeats // 2)),
    ):
        raw = sum(len(log.data) for log in what)
        packed = _zip(what)
        clocks, cores = [], []
        for number in range(repeats + 1):
            root = setting.work / f"{name}-{number}"
            watch = _add(root, "4299", _unpacked(packed), len(what))
            if number:  # the first one warms up
                clocks.append(watch.clock)
                cores.append(watch.cpu)
                shutil.rmtree(setting.work / f"{name}-{number - 1}")
        many = f"{len(what)} logs, {raw / 1e6:.1f} MB"
        yield Row(
            f"{many}: zip to committed Parquet, a core's work",
            raw / 1e6 / statistics.median(cores),
            "MB/s of TRF",
            n=repeats,
            limit=MB_PER_SECOND,
        )
        by_clock = raw / 1e6 / statistics.median(clocks)
        yield Row(f"{many}: the same by the clock, disk included", by_clock, "MB/s of TRF", n=repeats)
        yield Row(
            f"{many}: raw size / size of the samples, as they come in", raw / _bytes_below(root / "TRF" / "samples"), "times"
        )
        with connect(root) as folder, Stopwatch() as watch:
            done = Index(folder).repack()
        if done.problems or done.months_left or not done.files:
            raise BenchError("The samples were not packed harder. Run `python run.py test`: something is broken.")
        parquet = [_bytes_below(root / "TRF" / tree) for tree in ("samples", "deliveries", "catalogue")]
        yield Row(
            f"{many}: raw size / size of the samples, packed harder when all is in",
            raw / parquet[0],
            "times",
            limit=TIMES_SMALLER,
        )
        yield Row(f"{many}: raw size / size of all Parquet then", raw / sum(parquet), "times")
        yield Row(f"{many}: packing harder, a core's work", raw / 1e6 / watch.cpu, "MB/s of TRF")
        yield from _read_back(root, sizes, many)
        shutil.rmtree(root)


def _read_back(root: Path, sizes: Sizes, many: str) -> Iterator[Row]:
    """One delivery with all columns as a DataFrame, opening the index included, for the largest and for the one in the middle."""
    with connect(root) as folder:
        by_rows = Index(folder).deliveries(columns=["sha256", "rows"]).sort_values("rows")
    for place in (-1, len(by_rows) // 2):
        sha256, rows = by_rows["sha256"].iloc[place], int(by_rows["rows"].iloc[place])
        for leaves, how in (("lists", ""), ("columns", ", a column per leaf")):

            def ask(sha256: str = sha256, leaves: str = leaves, rows: int = rows) -> None:
                with connect(root) as folder:
                    frame = Index(folder).samples(sha256, leaves=leaves)
                if len(frame) != rows:
                    raise BenchError(f"{len(frame)} of {rows} rows came back. Run `python run.py test`: something is broken.")

            times = _times(ask, sizes.repeats)
            yield Row(
                f"{many}: one delivery of {rows:,} rows as DataFrame{how}, a core's work",
                1000 * statistics.median(times),
                "ms",
                n=len(times),
                limit=READ_BACK_MS if leaves == "lists" else None,
            )


def _times(work: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of a core of each time, after one that does not count. Nothing in it waits for a disk."""
    work()
    times = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            work()
        times.append(watch.cpu)
    return times


def make_night(logs: list[Log], count: int, start: datetime, number: int) -> list[Log]:
    """A night's logs: the given ones again and again, each with other counts in its first row, 3 minutes after one another."""
    read = [trf.decode(log.data) for log in logs]
    made = []
    for place in range(count):
        log = read[place % len(read)]
        header, counts = log.header, log.counts.copy()
        counts[0, :2] = place, number
        data = encode(
            counts,
            log.timestamp_ms,
            start=start + timedelta(minutes=3 * place),
            utc_offset=header.utc_offset,
            field=header.field,
            machine=header.machine,
            prescribed_mu=header.prescribed_mu,
            version=header.version,
            item_parts=header.item_parts,
        )
        made.append(Log(f"night {number} log {place}.trf", data, "SDD+1.zip"))
    return made


def _zip(logs: list[Log]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as backup:
        for log in logs:
            backup.writestr(f"TCS/{log.name}", log.data)
    return packed.getvalue()


def _unpacked(packed: bytes) -> Iterator[Log]:
    for member in read_trfs(io.BytesIO(packed)):
        if member.data is None:
            raise BenchError(f"A log did not come out of its zip: {member.error}")
        yield Log(member.name, member.data, "SDD+1.zip")


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


# An old index


def _aged(setting: Setting, sizes: Sizes, theirs: list[dict[str, Any]]) -> Iterator[Row]:
    """Adding a night's logs to an old index and to an empty one, in turns; then look-ups in the old one."""
    old = setting.work / "old"
    logs = [Log(path.name, path.read_bytes()) for path in setting.logs]
    setting.say(f"making an index of {sizes.deliveries:,} deliveries")
    with Stopwatch() as watch:
        made_up.make_old(old, logs[0].data, sizes.deliveries)
    serials = [str(4000 + place) for place in range(min(made_up.LINACS, sizes.nights))]
    last = made_up.MONTHS - 1
    month = datetime(made_up.FIRST_YEAR + last // 12, last % 12 + 1, 5, 8, tzinfo=UTC)
    for number, serial in enumerate(serials):
        _add(old, serial, make_night(logs, sizes.added, month, 100 + number), sizes.added)
    with connect(old) as folder:
        count = len(Index(folder).deliveries(columns=["sha256"]))
    setting.say(f"{count:,} deliveries made in {watch.clock:.0f} s")
    setting.note(
        f"The old index: {count:,} deliveries of {made_up.LINACS} linacs in {made_up.MONTHS} months, "
        f"{_bytes_below(old / 'TRF') / 1e6:.0f} MB of Parquet, made in {watch.clock:.0f} s. Each linac's month had "
        f"{sizes.added} logs with their rows before the night that is measured."
    )
    into_old: list[Stopwatch] = []
    into_empty: list[Stopwatch] = []
    for number, serial in enumerate(serials):
        night = make_night(logs, sizes.added, month + timedelta(days=1), number)
        empty = setting.work / f"empty-{number}"
        for root, watches in ((old, into_old), (empty, into_empty)) if number % 2 else ((empty, into_empty), (old, into_old)):
            watches.append(_add(root, serial, night, sizes.added))
        shutil.rmtree(empty)
    raw, n = sum(len(log.data) for log in night), len(serials)
    clocks = [[watch.clock for watch in watches] for watches in (into_old, into_empty)]
    cores = [[watch.cpu for watch in watches] for watches in (into_old, into_empty)]
    each = f"{sizes.added} logs, {raw / 1e6:.0f} MB"
    yield Row(f"adding {each}, to an empty index", statistics.median(clocks[1]), "s", n=n)
    yield Row(f"adding {each}, to an index of {count:,} deliveries", statistics.median(clocks[0]), "s", n=n)
    yield Row("the second / the first", median_ratio(*clocks), "times", n=n, limit=AGED)
    yield Row("the same by a core's work", median_ratio(*cores), "times", n=n)
    entries = theirs[-1]["entries"] if theirs else 0
    yield Row(
        f"adding one log, index of {count:,}" + (f" (PyMedPhys: of {entries:,})" if theirs else ""),
        1000 * statistics.median(clocks[0]) / sizes.added,
        "ms",
        1000 * statistics.median(theirs[-1]["clock"]) if theirs else None,
        n=n,
    )
    yield from _look_ups(setting, old, sizes, count, theirs)
    shutil.rmtree(old)
    waited = statistics.median(watch.clock / watch.cpu for watch in (*into_old, *into_empty))
    setting.note(
        "Times are those of the clock, disk included, medians; a core's work is the processor's time alone. While logs were "
        f"added, the clock showed {waited:.2f} times as much as the processor."
    )


def _look_ups(setting: Setting, old: Path, sizes: Sizes, count: int, theirs: list[dict[str, Any]]) -> Iterator[Row]:
    """Open the index and ask it once: another delivery of another linac and month each time."""
    choose = random.Random(1)  # noqa: S311 (which deliveries to look for)
    wanted = []
    with connect(old) as folder:
        for _ in range(sizes.look_ups + 1):
            serial = str(4000 + choose.randrange(made_up.LINACS))
            place = choose.randrange(made_up.MONTHS)
            begin = datetime(made_up.FIRST_YEAR + place // 12, place % 12 + 1, 1, tzinfo=UTC)
            rows = Index(folder).deliveries(serial, begin, begin + timedelta(days=28))
            wanted.append(rows.iloc[choose.randrange(len(rows))])
    questions: dict[str, Callable[[Any], dict[str, Any]]] = {
        "hash": lambda row: {"sha256": row["sha256"]},
        "field": lambda row: {"field": f"{row['field_label']}/{row['field_name']}"},
        "day": lambda row: {"day": row["start_local"].date()},
    }
    work = []
    for what, question in questions.items():
        times, cores, found = [], [], []
        for row in wanted:
            with Stopwatch() as watch, connect(old) as folder:
                frame = Index(folder).find(**question(row))
            if row["sha256"] not in set(frame["sha256"]):
                raise BenchError(f"The look-up by {what} did not find its delivery. Run `python run.py test`.")
            times.append(watch.clock)
            cores.append(watch.cpu)
            found.append(len(frame))
        by_hash = theirs[-1] if theirs and what == "hash" else None
        yield Row(
            f"opening an index of {count:,} and looking up a {what} ({statistics.median(found[1:]):.0f} found)"
            + (f" (PyMedPhys: of {by_hash['entries']:,})" if by_hash else ""),
            1000 * statistics.median(times[1:]),
            "ms",
            1000 * by_hash["open"] if by_hash else None,
            n=sizes.look_ups,
            limit=LOOK_UP_MS,
        )
        work.append(f"{what} {1000 * statistics.median(cores[1:]):.0f} ms")
    setting.note(
        f"The look-ups took of a core: {', '.join(work)}. Files were in the system's memory; Python's start is not in it."
    )


# PyMedPhys's index


def _pymedphys(setting: Setting, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """PyMedPhys's own indexing at several sizes of its index.json."""
    if setting.peer is None:
        return
    labelled = [str(path) for path in setting.logs if trf.read_header(path).field_label]
    with Worker(setting.peer) as worker:
        logs = worker.ask("readable", what="pymedphys frame", files=labelled)["files"]
    if not logs:
        setting.note("PyMedPhys indexes only logs with a field label, in ASCII, and none of these has one.")
        return
    for entries in sizes.peer_entries:
        root = setting.work / f"pymedphys-{entries}"
        setting.say(f"PyMedPhys's index of {entries:,} entries")
        with Worker(setting.peer) as worker:
            found = worker.ask(
                "pymedphys index",
                root=str(root),
                entries=entries,
                logs=[logs[number % len(logs)] for number in range(sizes.peer_logs)],
            )
        setting.note(
            f"PyMedPhys, adding one log to an index.json of {entries:,} entries: "
            f"{1000 * statistics.median(found['clock']):,.1f} ms (n = {sizes.peer_logs}; the file is then "
            f"{found['bytes'] / 1e6:.1f} MB, and opening it takes {1000 * found['open']:,.1f} ms)."
        )
        shutil.rmtree(root)
        yield found
    setting.note(
        "That is PyMedPhys's own `file_ready_to_be_indexed`, which rewrites index.json whole for every log: it grows with the "
        "index, so a million would take ten times as long as 100,000. Mosaiq's answer was taken to come at once, it unpacks and "
        "decodes no rows, and item parts were left out of its entries. "
        + (
            f"Left as they are, 0.41 writes no index at all: json.dump raises {found['as_is']}."
            if found["as_is"] != "works"
            else ""
        )
    )
