"""`python run.py bench`: what this software reaches on this machine, beside PyMedPhys and beside what no software can beat.

Every figure is measured when it is asked for, in one run: both sides do the same work in turns, on one and the same core, each in
a process of its own. Medians are shown, ratios are medians of the ratios of each turn. PyMedPhys gets an environment of its own
(`.venv-peer`), made once from the same pins; where that cannot be made, its column stays empty.

`--out FILE` keeps the tables in a file: in one that has tables of an earlier run, such as docs/benchmarks.md, the ones that were
measured are replaced and all else stays.
"""

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launch.stack import PROJECT
from linac.errors import LinacError, SetupError

PARTS = {
    "trf": "launch.bench_trf",
    "index": "launch.bench_index",
    "capture": "launch.bench_capture",
    "hang": "launch.bench_capture_hang",
    "soak": "launch.bench_capture_soak",
    "smb": "launch.bench_smb",
    "ssh": "launch.bench_ssh",
}
"""What can be measured: a module each, with a `TITLE` and `measure(setting)`, which yields rows."""

WITHOUT_LOGS = ("capture", "hang", "soak", "smb", "ssh")
"""These need no logs, and no core for themselves: several processes take part that must not wait for each other."""

ON_DEMAND = ("hang", "soak", "smb", "ssh")
"""Not part of `all`."""

SOAK_MINUTES = 10.0

SAMPLES = PROJECT.parent / "shared" / "samples" / "trf"
PEER = PROJECT / ".venv-peer"
PEER_PACKAGES = ("pymedphys", "numpy", "pandas", "attrs", "python-dateutil")
"""PyMedPhys, and what it needs to read and index TRFs but does not ask for. All in the versions of requirements.txt."""
PEER_SECONDS = 600.0
ANSWER_SECONDS = 1200.0
VERSIONS_TOLD = ("numpy", "pandas", "pyarrow")

Value = float | str | None


@dataclass(frozen=True)
class Limit:
    """What a figure should reach: at most, or at least, a number."""

    number: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.number if self.at_most else value >= self.number

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.number:g}"


@dataclass(frozen=True)
class Row:
    """One figure: ours, PyMedPhys's, and what nothing can beat, in `unit`. `n` is how often it was measured."""

    name: str
    ours: Value
    unit: str = ""
    peer: Value = None
    floor: Value = None
    n: int = 1
    limit: Limit | None = None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None where there is none, or no number."""
        return self.limit.met(self.ours) if self.limit is not None and isinstance(self.ours, int | float) else None


@dataclass
class Setting:
    """What a part is given: where it may write, the logs to measure with, PyMedPhys's Python if there is one, how much to do
    (`minutes`: of the soak test)."""

    work: Path
    logs: list[Path]
    peer: Path | None
    quick: bool = False
    minutes: float = SOAK_MINUTES
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something that the reader of the table must know."""
        self.notes.append(text)

    def say(self, text: str) -> None:
        """Progress, which is no part of the result."""
        print(f"  {text}", file=sys.stderr, flush=True)


class BenchError(LinacError):
    """A measurement did not come about."""


class Worker:
    """A process that measures one side, see `launch.bench_worker`. Use it with `with`."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), "-I", str(Path(__file__).with_name("bench_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer. Raises `BenchError` where it fails, or takes too long."""
        assert self._process.stdin is not None  # noqa: S101 (for mypy: they are pipes)
        assert self._process.stdout is not None  # noqa: S101
        late = threading.Timer(ANSWER_SECONDS, self._process.kill)
        late.daemon = True
        late.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended, or was too slow and was ended"}
        if "error" in answer:
            raise BenchError(f"Could not measure ({do}): {answer['error']}.")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def in_turns(sides: Sequence[tuple[str, Worker, dict[str, Any]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Give each side its order, in turns, so often; each second round the other way round. The answers by name."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in sides}
    for turn in range(rounds):
        for name, worker, order in sides if turn % 2 == 0 else reversed(sides):
            answers[name].append(worker.ask(**order))
    return answers


def median_ratio(above: Iterable[float], below: Iterable[float]) -> float:
    """The median of the ratios of each turn."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


# One core for all


@contextlib.contextmanager
def one_core() -> Iterator[str]:
    """Keep this process, and those that it starts meanwhile, on one core. Says which, or that it could not be done."""
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        core = max(before)
        os.sched_setaffinity(0, {core})
        try:
            yield f"on core {core} alone"
        finally:
            os.sched_setaffinity(0, before)
    elif os.name == "nt":
        system: Any = ctypes
        kernel = system.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.GetProcessAffinityMask.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.POINTER(ctypes.c_size_t),
        ]
        kernel.SetProcessAffinityMask.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        mask, all_cores = ctypes.c_size_t(), ctypes.c_size_t()
        this = kernel.GetCurrentProcess()
        done = kernel.GetProcessAffinityMask(this, ctypes.byref(mask), ctypes.byref(all_cores))
        core = mask.value.bit_length() - 1
        done = done and core >= 0 and kernel.SetProcessAffinityMask(this, 1 << core)
        try:
            yield f"on core {core} alone" if done else "on any core (it could not be kept on one)"
        finally:
            if done:
                kernel.SetProcessAffinityMask(this, mask.value)
    else:
        yield "on any core (this system cannot keep it on one)"


# PyMedPhys in an environment of its own


def pin(package: str) -> str:
    """A package's version by requirements.txt."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", (PROJECT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "?"


def peer_python(home: Path = PEER) -> Path:
    """The Python of PyMedPhys's environment, which is made unless it is there. Raises `SetupError` if it cannot be made."""
    import venv

    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = PROJECT / "requirements.txt"
    digest = hashlib.sha256(pins.read_bytes() + repr((PEER_PACKAGES, sys.version, home)).encode()).hexdigest()
    stamp = home / "linac-flows.installed"
    if python.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return python
    print("Installing PyMedPhys into .venv-peer (once, about half a minute)...", file=sys.stderr, flush=True)
    try:
        shutil.rmtree(home, ignore_errors=True)
        venv.EnvBuilder(with_pip=True).create(home)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input"]
        done = subprocess.run(
            [*pip, "-c", str(pins), *PEER_PACKAGES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PEER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"PyMedPhys's environment .venv-peer could not be made: {type(error).__name__}: {error}") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        raise SetupError(f"pip could not install PyMedPhys into .venv-peer: {said[-1] if said else 'it did not say why'}")
    stamp.write_text(digest, encoding="utf-8")
    return python


# The machine


def machine() -> str:
    """What it ran on: nothing that names the computer."""
    pieces = [processor(), f"{os.cpu_count()} cores", *memory(), platform.platform(terse=True)]
    pieces.append(f"Python {platform.python_version()}")
    pieces += [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS_TOLD]
    return ", ".join(pieces)


def processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def memory() -> list[str]:
    """Its memory, where the system tells it without more software."""
    try:
        return [f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB memory"]
    except (AttributeError, ValueError, OSError):
        return []


def load() -> list[str]:
    """How busy it is, where the system tells."""
    return [f"load {os.getloadavg()[0]:.1f}"] if hasattr(os, "getloadavg") else []


# Logs to measure with


def logs_in(folder: Path, setting: Setting) -> list[Path]:
    """The TRF files of a folder; where it holds none, invented ones, and a note that they are."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".trf") if folder.is_dir() else []
    if found:
        return found
    from linac.simulator import make_beams, make_log

    setting.note("There are no real logs beside the repository: these figures are of invented ones.")
    start = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
    made = []
    for number, beam in enumerate(make_beams(2, mu=30) if setting.quick else make_beams(6)):
        path = setting.work / f"log-{number}.trf"
        plain = replace(beam, name=f"Field {number}")  # PyMedPhys reads no umlauts
        path.write_bytes(make_log(plain, start, "4299", version=(1, 3)[number % 2], seed=number).data)
        made.append(path)
    return made


# The table


def shown(value: Value) -> str:
    """A number to three digits or more, a text as it is."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


HEADINGS = ("figure", "unit", "linac-flows", "PyMedPhys", "floor", "n", "target", "reached")
NUMBERS = range(2, 6)
"""Those of them that hold numbers."""


def cells(row: Row) -> list[str]:
    reached = {True: "yes", False: "NO", None: ""}[row.met]
    texts = [row.name, row.unit, shown(row.ours), shown(row.peer), shown(row.floor), str(row.n)]
    return [*texts, str(row.limit) if row.limit else "", reached]


def as_table(rows: Sequence[Row]) -> str:
    """Rows as a table of Markdown that can be read as it is; columns in which nothing stands are left out."""
    lines = [list(HEADINGS), *(cells(row) for row in rows)]
    used = [column for column in range(len(HEADINGS)) if any(line[column] for line in lines[1:])]
    widths = {column: max(3, *(len(line[column]) for line in lines)) for column in used}

    def written(line: list[str]) -> str:
        padded = (line[at].rjust(widths[at]) if at in NUMBERS else line[at].ljust(widths[at]) for at in used)
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (widths[at] - 1) + ":") if at in NUMBERS else "-" * widths[at] for at in used]
    return "\n".join([written(lines[0]), f"| {' | '.join(rule)} |", *(written(line) for line in lines[1:])])


def as_section(title: str, machine_text: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """One part's result."""
    missed = [row.name for row in rows if row.met is False]
    after = [f"Not reached: {'; '.join(missed)}."] if missed else []
    text = [f"## {title}", "", machine_text, "", as_table(rows), ""]
    return "\n".join([*text, *(f"- {note}" for note in [*notes, *after])]).rstrip() + "\n"


def keep(file: Path, sections: dict[str, str]) -> None:
    """Write sections into a file, whole; sections of an earlier run are replaced where they stand."""
    text = file.read_text(encoding="utf-8") if file.is_file() else "# Benchmarks\n"
    for name, section in sections.items():
        begin, end = f"<!-- bench {name} -->", f"<!-- end of bench {name} -->"
        marked = f"{begin}\n{section}{end}"
        found = re.search(rf"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
        text = text[: found.start()] + marked + text[found.end() :] if found else f"{text.rstrip()}\n\n{marked}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.part")
    aside.write_text(text, encoding="utf-8", newline="\n")
    aside.replace(file)


def run(parts: Sequence[str], setting: Setting, samples: Path) -> dict[str, str]:
    """Measure, print each part's table when it is done, and give the sections by part."""
    sections = {}
    for part in parts:
        alone = part not in WITHOUT_LOGS
        with one_core() if alone else contextlib.nullcontext("on all cores") as where:
            module = importlib.import_module(PARTS[part])
            setting.notes, busy = [], load()
            setting.logs = logs_in(samples, setting) if alone else []
            rows: list[Row] = []
            for row in module.measure(setting):
                setting.say(f"{row.name}: {shown(row.ours)} {row.unit}")
                rows.append(row)
            moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            peer = f"PyMedPhys {pin('pymedphys')}" if setting.peer else "no PyMedPhys"
            run_on = ", ".join([machine(), peer, where, *(f"{text} before" for text in busy), moment])
            if setting.quick:
                setting.note("A quick run (`--quick`): small and few, to see that it works. Its figures say little.")
            sections[part] = as_section(module.TITLE, f"{run_on}.", rows, setting.notes)
            print(f"\n{sections[part]}", flush=True)
    return sections


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python run.py bench", description=__doc__.partition("\n\n")[0] if __doc__ else "")
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"], help="what to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="small and few, in a minute: to see that it works")
    parser.add_argument(
        "--minutes", type=float, default=SOAK_MINUTES, help="how long hang or soak may take (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a Markdown file to keep the tables in")
    parser.add_argument("--samples", type=Path, metavar="DIR", default=SAMPLES, help="a folder of TRF logs to measure with")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a folder on the disk to measure (else a temporary one)")
    options = parser.parse_args(arguments)
    out = options.out.resolve() if options.out else None
    try:
        peer = peer_python()
    except SetupError as error:
        print(f"{error}\nGoing on without PyMedPhys's column.", file=sys.stderr, flush=True)
        peer = None
    try:
        if options.work is not None:
            options.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="linac-bench-", dir=options.work, ignore_cleanup_errors=True) as work:
            setting = Setting(Path(work), [], peer, options.quick, options.minutes)
            parts = [part for part in PARTS if part not in ON_DEMAND] if options.part == "all" else [options.part]
            sections = run(parts, setting, options.samples)
        if out is not None:
            keep(out, sections)
    except OSError as error:
        print(f"Could not write: {error.strerror or error}. Check --work and --out.", file=sys.stderr)
        return 1
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
