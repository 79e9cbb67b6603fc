"""Reading TRF logs: `linac.trf` beside PyMedPhys and beside the floor, which is to read the file and to turn its matrix.

Times are those of a core: seconds of the processor, user and system. Nothing here waits for a disk, so on an idle machine they
are the seconds of the clock; on a busy one they are the honest ones, for the clock would punish whoever takes longer.
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.bench import Limit, Row, Setting, Worker, in_turns, median_ratio
from linac import trf
from linac.trf.writer import encode

TITLE = "Reading TRF logs"

TIMES_FASTER = Limit(60, at_most=False)
TIMES_THE_FLOOR = Limit(2.5)
TIMES_THE_FILE = Limit(4)


@dataclass(frozen=True)
class Sizes:
    """How often, and for how long at least each time; how often memory, and how many rows its long log has."""

    rounds: int = 15
    seconds: float = 0.25
    peaks: int = 3
    long_rows: int = 45_000  # half an hour, 31 MB


QUICK = Sizes(rounds=3, seconds=0.05, peaks=1, long_rows=5_000)


def measure(setting: Setting, sizes: Sizes | None = None) -> Iterator[Row]:
    """All figures, with PyMedPhys's where there is one."""
    sizes = sizes or (QUICK if setting.quick else Sizes())
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(Path(sys.executable)))
        theirs = stack.enter_context(Worker(setting.peer)) if setting.peer else None
        if theirs is not None and not _keep_what_it_reads(setting, theirs):
            theirs = None
        yield from _speed(setting, sizes, ours, theirs)
    yield from _memory(setting, sizes, with_peer=theirs is not None)


def _keep_what_it_reads(setting: Setting, theirs: Worker) -> bool:
    """Measure only with logs that PyMedPhys reads too, if there is one."""
    files = theirs.ask("readable", what="pymedphys frame", files=[str(path) for path in setting.logs])["files"]
    if len(files) < len(setting.logs):
        setting.note(f"PyMedPhys reads {len(files)} of the {len(setting.logs)} logs; with those it was compared, if any.")
    if files:
        setting.logs = [Path(file) for file in files]
    return bool(files)


def _speed(setting: Setting, sizes: Sizes, ours: Worker, theirs: Worker | None) -> Iterator[Row]:
    read = [trf.read(path) for path in setting.logs]
    rows, size = sum(log.rows for log in read), sum(path.stat().st_size for path in setting.logs)
    many = f"{len(read)} logs, {size / 1e6:.1f} MB, {rows:,} rows"

    largest = max(setting.logs, key=lambda path: path.stat().st_size)

    def order(what: str, logs: list[Path]) -> dict[str, Any]:
        return {"do": "time", "what": what, "files": [str(path) for path in logs], "seconds": sizes.seconds}

    names = ["linac table", "floor", "float floor", "linac frame", "linac metrics"]
    sides = [(name, ours, order(name, setting.logs)) for name in names]
    sides += [(f"{name}, largest", ours, order(name, [largest])) for name in ("linac table", "floor")]
    if theirs is not None:
        sides.append(("pymedphys frame", theirs, order("pymedphys frame", setting.logs)))
    setting.say(f"{sizes.rounds} rounds of {many}")
    answers = in_turns(sides, sizes.rounds)
    times = {name: [answer["cpu"] for answer in given] for name, given in answers.items()}
    middle = {name: statistics.median(given) for name, given in times.items()}
    peer, n = middle.get("pymedphys frame"), sizes.rounds

    def rate(amount: float, name: str) -> float | None:
        return amount / middle[name] if name in middle else None

    yield Row(
        "`read(f).table` of all logs",
        1000 * middle["linac table"],
        "ms",
        1000 * peer if peer else None,
        1000 * middle["floor"],
        n,
    )
    yield Row("the same, bytes", *_three(rate, size / 1e6, "MB/s"), n=n)
    yield Row("the same, rows", *_three(rate, rows, "rows/s"), n=n)
    if peer:
        yield Row(
            "PyMedPhys's time / that of `.table`",
            median_ratio(times["pymedphys frame"], times["linac table"]),
            "times",
            n=n,
            limit=TIMES_FASTER,
        )
    yield Row(
        "time of `.table` of all / the floor",
        median_ratio(times["linac table"], times["floor"]),
        "times",
        n=n,
        limit=TIMES_THE_FLOOR,
    )
    yield Row(
        f"the same for the largest log alone, {largest.stat().st_size / 1e6:.1f} MB",
        median_ratio(times["linac table, largest"], times["floor, largest"]),
        "times",
        n=n,
    )
    yield Row(
        "time of `.table` of all / the float floor",
        median_ratio(times["linac table"], times["float floor"]),
        "times",
        n=n,
    )
    yield Row(
        "`read(f).to_pandas()`, as Elekta's export shows it",
        1000 * middle["linac frame"],
        "ms",
        1000 * peer if peer else None,
        n=n,
    )
    yield Row("`read` and metrics of all", 1000 * middle["linac metrics"], "ms", n=n)
    busy = statistics.median(answer["clock"] / answer["cpu"] for given in answers.values() for answer in given if answer["cpu"])
    setting.note(f"The logs: {many}. They are read one after the other, each table let go before the next log.")
    setting.note(
        f"Times are seconds of a core, medians of {n} rounds in turns. The clock showed {busy:.2f} times as much, 1.00 on "
        "an idle machine."
    )
    setting.note(
        "Floor: read the file, turn the matrix of counts. The float floor turns it into float32 divided by 10: twice the bytes, "
        "and what a table in physical units has to hold. PyMedPhys's: `pymedphys.trf.read(f)`."
    )


def _three(rate: Any, amount: float, unit: str) -> tuple[float | None, str, float | None, float | None]:
    return rate(amount, "linac table"), unit, rate(amount, "pymedphys frame"), rate(amount, "floor")


def _memory(setting: Setting, sizes: Sizes, *, with_peer: bool) -> Iterator[Row]:
    """Peak memory, each time in a fresh process."""
    largest = max(setting.logs, key=lambda path: path.stat().st_size)
    short, long = setting.work / "short.trf", setting.work / "long.trf"
    _longer(trf.read(largest), 2, short)
    _longer(trf.read(largest), sizes.long_rows, long)
    n = sizes.peaks
    for path, what in ((largest, "the largest log"), (long, "a long log made of its rows")):
        size = path.stat().st_size
        ours = [_peak(Path(sys.executable), "linac table", path, short) for _ in range(n)]
        peaks = [peak / size for peak in ours if peak is not None]
        if not peaks:
            setting.note("This system does not tell how much memory a process used at most.")
            return
        theirs = _peak(setting.peer, "pymedphys frame", path, short) if setting.peer and with_peer else None
        yield Row(
            f"peak memory of `read(f).table` / the file: {what}, {size / 1e6:.1f} MB",
            statistics.median(peaks),
            "times",
            theirs / size if theirs else None,
            n=n,
            limit=TIMES_THE_FILE,
        )
    setting.note(
        "Memory: resident, as the system counts it, in a fresh process; the most while reading, above what was held after "
        "reading a log of two rows. The file's own bytes are in it. PyMedPhys's is of one run."
    )


def _peak(python: Path, what: str, path: Path, warm_up: Path) -> int | None:
    with Worker(python) as worker:
        found: int | None = worker.ask("memory", what=what, file=str(path), warm_up=str(warm_up))["bytes"]
    return found


def _longer(log: trf.Trf, rows: int, path: Path) -> None:
    """The rows of a log again and again, as a log of so many rows."""
    places = [number % log.rows for number in range(rows)]
    header = log.header
    data = encode(
        log.counts[places],
        None if log.timestamp_ms is None else log.timestamp_ms[places],
        start=header.start,
        utc_offset=header.utc_offset,
        field=header.field,
        machine=header.machine,
        prescribed_mu=header.prescribed_mu,
        version=header.version,
        item_parts=header.item_parts,
    )
    path.write_bytes(data)
