"""One side of a comparison, in a process of its own, run by the Python of the environment that holds the software measured.

It takes orders as lines of JSON, `{"do": "time", "what": "linac table", ...}`, and answers each with a line of JSON. It needs the
standard library alone: what is measured is imported by the order that measures it, so one file serves us and PyMedPhys.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Work = Callable[[], Any]


def timed(work: Work, seconds: float) -> dict[str, float]:
    """Do `work` for about so long, at least once. Seconds by the clock and seconds of a core, each per time."""
    passes, begin, cpu = 0, time.perf_counter(), time.process_time()
    while not passes or time.perf_counter() - begin < seconds:
        work()
        passes += 1
    return {
        "clock": (time.perf_counter() - begin) / passes,
        "cpu": (time.process_time() - cpu) / passes,
        "passes": passes,
    }


# What can be timed, by name: from the files' paths, what to do with all of them, one after the other, once. Each result is let go
# before the next file is read, as whoever goes through a folder does.


def each(files: list[str], read: Callable[[str], Any]) -> Work:
    def work() -> None:
        for path in files:
            read(path)

    return work


def _linac_table(files: list[str]) -> Work:
    trf: Any = importlib.import_module("linac.trf")
    return each(files, lambda path: trf.read(path).table)


def _linac_frame(files: list[str]) -> Work:
    trf: Any = importlib.import_module("linac.trf")
    return each(files, lambda path: trf.read(path).to_pandas())


def _linac_metrics(files: list[str]) -> Work:
    trf: Any = importlib.import_module("linac.trf")
    metrics: Any = importlib.import_module("linac.trf.metrics")
    return each(files, lambda path: metrics.summarise(trf.read(path)))


def _pymedphys_frame(files: list[str]) -> Work:
    pymedphys: Any = importlib.import_module("pymedphys.trf")
    return each(files, lambda path: pymedphys.read(path))


class Shape(NamedTuple):
    """What the floors must know of a log before they read it."""

    counts_at: int
    rows: int
    row_bytes: int
    item_parts: int
    count_bytes: int


def shapes(files: list[str]) -> dict[str, Shape]:
    trf: Any = importlib.import_module("linac.trf")
    found = {}
    for path in files:
        log = trf.read(path)
        rows, parts = log.counts.shape
        size = log.counts.dtype.itemsize
        found[path] = Shape(log.header.size + log.header.row_bytes - size * parts, rows, log.header.row_bytes, parts, size)
    return found


def counts_of(path: str, shape: Shape) -> Any:
    """Read the file; its matrix of rows x item parts, in place."""
    np: Any = importlib.import_module("numpy")
    data = Path(path).read_bytes()
    kind = f"<i{shape.count_bytes}"
    return np.ndarray((shape.rows, shape.item_parts), kind, data, shape.counts_at, (shape.row_bytes, shape.count_bytes))


def turned(path: str, shape: Shape) -> Any:
    """The floor: the matrix turned, so that columns stand together."""
    np: Any = importlib.import_module("numpy")
    return np.ascontiguousarray(counts_of(path, shape).T)


def turned_to_float(path: str, shape: Shape) -> Any:
    """The same, but into float32 in physical units, as the table has them: twice the bytes, and a division each."""
    np: Any = importlib.import_module("numpy")
    counts = counts_of(path, shape)
    columns = np.empty((shape.item_parts, shape.rows), np.float32)
    for first in range(0, shape.rows, 256):
        columns[:, first : first + 256] = (counts[first : first + 256] / np.float32(10)).T
    return columns


def _floor(files: list[str]) -> Work:
    known = shapes(files)
    return each(files, lambda path: turned(path, known[path]))


def _float_floor(files: list[str]) -> Work:
    known = shapes(files)
    return each(files, lambda path: turned_to_float(path, known[path]))


TIMED: dict[str, Callable[[list[str]], Work]] = {
    "linac table": _linac_table,
    "linac frame": _linac_frame,
    "linac metrics": _linac_metrics,
    "pymedphys frame": _pymedphys_frame,
    "floor": _floor,
    "float floor": _float_floor,
}
_ready: dict[tuple[str, ...], Work] = {}


def measure_time(what: str, files: list[str], seconds: float) -> dict[str, float]:
    """Time one of `TIMED`. The first order for it warms up and is not counted."""
    key = (what, *files)
    if key not in _ready:
        _ready[key] = TIMED[what](files)
        _ready[key]()
    return timed(_ready[key], seconds)


def readable(what: str, files: list[str]) -> dict[str, list[str]]:
    """Those of the files with which one of `TIMED` does not fail."""
    good = []
    for file in files:
        with contextlib.suppress(Exception):
            TIMED[what]([file])()
            good.append(file)
    return {"files": good}


def measure_memory(what: str, file: str, warm_up: str) -> dict[str, int | None]:
    """Most memory that the process held while it did one of `TIMED` with a file, above what it held before.

    What is loaded and made once only is there before: the same was done with `warm_up`, a log of a few rows. Real memory as
    the operating system counts it, so what Arrow and numpy take is in it. Null where the system does not tell.
    """
    TIMED[what]([warm_up])()
    work = TIMED[what]([file])
    gc.collect()
    before = _forget_peak()
    work()
    peak = _peak()
    return {"bytes": None if before is None or peak is None else peak - before}


def _forget_peak() -> int | None:
    """Begin a new peak, where that can be done; the memory held now, in bytes."""
    if os.name == "nt":
        return _windows_memory("WorkingSetSize")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _proc_status("VmRSS")


def _peak() -> int | None:
    return _windows_memory("PeakWorkingSetSize") if os.name == "nt" else _proc_status("VmHWM")


def _proc_status(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows. Its peak cannot be set back: what comes of it is at least the truth."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    ]


def _windows_memory(name: str) -> int | None:
    system: Any = ctypes
    kernel = system.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Counters), ctypes.c_uint32]
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return None
    return int(getattr(counters, name))


def pymedphys_index(root: str, entries: int, logs: list[str]) -> dict[str, Any]:
    """PyMedPhys's own indexing of logs, one after the other, into an index.json of so many entries; then opening that.

    Two things are made easy for it: Mosaiq's answer comes at once, and the item parts are left out of the entries. As 0.41 puts
    them in, as a numpy array, `json.dump` raises TypeError and no index is written at all; `as_is` says what happened.
    """
    theirs: Any = importlib.import_module("pymedphys._trf.manage.index")
    mosaiq: Any = importlib.import_module("pymedphys._mosaiq.delivery")
    there = Path(root)
    details = mosaiq.create_ois_delivery_details_class()(
        patient_id="TEST-0001",
        field_id=12345,
        last_name="INVENTED",
        first_name="PATIENT",
        qa_mode=False,
        field_type="VMAT",
        beam_completed=True,
    )
    original = theirs.decode_header_from_file
    try:
        json.dumps(original(logs[0])._asdict())
        as_is = "works"
    except TypeError as error:
        as_is = f"TypeError: {error}"
    theirs.decode_header_from_file = lambda path: original(path)._replace(item_parts=[])
    theirs.get_mosaiq_delivery_details = lambda *_, **__: details
    header = theirs.decode_header_from_file(logs[0])
    index = {
        secrets.token_hex(20): theirs.create_index_entry(
            f"site/TEST-0001_INVENTED_PATIENT/clinical/12345_1-1_Field_VMAT/{number:07}_2694/log.trf",
            details,
            header,
            "2026-01-05 09:30:00",
        )
        for number in range(entries)
    }
    folders = [there / name for name in ("to_be_indexed", "unknown_error", "no_mosaiq", "no_label", "indexed")]
    for folder in folders:
        folder.mkdir(parents=True)
    times = []
    for number, log in enumerate(logs):
        waiting = folders[0] / f"{number}.trf"
        shutil.copyfile(log, waiting)
        filehash = secrets.token_hex(20)
        begin = time.perf_counter()
        theirs.file_ready_to_be_indexed(
            {"server": None},
            [filehash],
            {filehash: str(waiting)},
            *map(str, folders[1:]),
            str(there / "index.json"),
            index,
            {header.machine: {"centre": "site"}, original(log).machine: {"centre": "site"}},
            {"site": {"timezone": "Australia/Sydney"}},
            {"site": "server"},
        )
        times.append(time.perf_counter() - begin)
        if filehash not in index:
            raise RuntimeError("PyMedPhys did not index the log")
    begin = time.perf_counter()
    with (there / "index.json").open() as file:
        opened = len(json.load(file))
    return {
        "clock": times,
        "as_is": as_is,
        "entries": opened,
        "open": time.perf_counter() - begin,
        "bytes": (there / "index.json").stat().st_size,
    }


ORDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "time": measure_time,
    "readable": readable,
    "memory": measure_memory,
    "pymedphys index": pymedphys_index,
}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # PyMedPhys prints as it goes
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = ORDERS[order.pop("do")](**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
