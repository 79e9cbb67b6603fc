"""Look at TRFs, or turn them into CSV or Parquet.

    python -m linac.trf show FILE...
    python -m linac.trf csv FILE... [--out FOLDER] [--force]
    python -m linac.trf parquet FILE... [--out FOLDER] [--force]

`csv` writes what Elekta's own export writes; `parquet` writes physical units and UTC times. Both write beside each file
unless --out names a folder, and replace nothing unless --force is given. What cannot be read is said on the error output and
the rest goes on; the exit code is then 1.
"""

import argparse
import contextlib
import errno
import glob
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from linac.console import printable, printing
from linac.errors import LinacError, SetupError, StorageError
from linac.trf import Trf, read
from linac.trf.export import csv_lines
from linac.trf.metrics import Metrics, summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if all files could be read, 1 if not."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a console that lacks a letter shows another, rather than failing
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    options = _parser().parse_args(arguments)
    return printing(lambda: _each(options))


def _each(options: argparse.Namespace) -> int:
    options.written = set()
    failed = False
    for path in _expand(options.files):
        try:
            options.action(path, read(_regular(path)), options)
        except LinacError as error:
            print(error, file=sys.stderr)
            failed = True
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m linac.trf", description="Look at TRFs, or turn them into CSV or Parquet.")
    commands = parser.add_subparsers(required=True, metavar="show|csv|parquet")
    for name, action, text in (
        ("show", _show, "print the header and a summary of each file"),
        ("csv", _csv, "write what Elekta's own export writes"),
        ("parquet", _parquet, "write physical units and UTC times"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("files", nargs="+", metavar="FILE", help="a .trf file; * and ? are understood")
        if action is not _show:
            command.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: beside each file)")
            command.add_argument("--force", action="store_true", help="replace files that are there")
        command.set_defaults(action=action)
    return parser


def _expand(names: Sequence[str]) -> Iterator[Path]:
    """Each file; wildcards are expanded here too, as the Windows prompt does not. `[` is no wildcard: TRFs' names have it."""
    for name in names:
        found = []
        if ("*" in name or "?" in name) and not os.path.exists(name):
            found = sorted(glob.glob(name.replace("[", "[[]")))
        yield from map(Path, found or [name])


def _regular(path: Path) -> Path:
    """The path, unless what is there has no end, or none of its own, such as a pipe or a device."""
    if path.is_dir():
        raise SetupError(f"{path} is a folder. Give the logs in it: {path / '*.trf'}")
    if path.exists() and not path.is_file():
        raise SetupError(f"{path} is no file but a device or a pipe. Give a .trf file.")
    return path


def _csv(path: Path, trf: Trf, options: argparse.Namespace) -> None:
    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(csv_lines(trf))

    print(_write(path, ".csv", options, write))


def _parquet(path: Path, trf: Trf, options: argparse.Namespace) -> None:
    from linac.trf.table import write_parquet

    print(_write(path, ".parquet", options, lambda part: write_parquet(trf, part)))


def _write(path: Path, suffix: str, options: argparse.Namespace, write: Callable[[Path], None]) -> Path:
    """Write aside, then rename: the file is there whole, or not at all."""
    target = (options.out or path.parent) / (path.stem + suffix)
    if target.exists() and (not options.force or target.samefile(path)):
        raise SetupError(f"{target} is there already and was left as it is. Give --force to replace it.")
    if target.exists() and _identity(target) in options.written:
        raise SetupError(f"{path} was left out: {target} was just made of another log of that name. Give --out another folder.")
    part = target.with_name(f"{target.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        options.written.add(_identity(target))
    except OSError as error:
        why = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        advice = (
            "Make room there, or give --out another folder" if full else "Check the folder, and that no program has the file open"
        )
        raise StorageError(f"Could not write {target}: {why}. {advice}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return target


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is, however its name is written: `A.csv` is `a.csv` on Windows."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _show(path: Path, trf: Trf, _options: argparse.Namespace) -> None:
    print(summary(path.name, trf))


def summary(name: str, trf: Trf) -> str:
    """What a physicist wants to see of a log, at a glance."""
    header, metrics = trf.header, summarise(trf)
    field = f"{header.field_label} / {header.field_name}" if header.field_label else header.field_name or "(no name)"
    local = f"{metrics.start_local:%Y-%m-%d %H:%M:%S} at the site, {metrics.start_local.tzinfo}"
    rows = [
        ("machine", f"{header.machine}, TRF version {header.version}"),
        ("field", field),
        ("start", f"{metrics.start_utc:%Y-%m-%d %H:%M:%S} UTC ({local})"),
        ("time", f"{metrics.duration_s:.1f} s, beam on {_number(metrics.beam_on_s)} s"),
        ("dose", _dose(metrics)),
        ("ended", f"{metrics.end_state or 'not recorded'}, {_count(metrics.interruptions, 'interruption')}"),
        ("gantry", _axis(metrics.gantry_start_deg, metrics.gantry_stop_deg, metrics.gantry_travel_deg)),
        ("collimator", _axis(metrics.collimator_start_deg, metrics.collimator_stop_deg, metrics.collimator_travel_deg)),
        ("errors", "RMS / 95 % / largest, while the beam is on"),
        ("  Y1 leaves", _errors(metrics, "y1_leaves", "mm")),
        ("  Y2 leaves", _errors(metrics, "y2_leaves", "mm")),
        ("  X1 jaw", _errors(metrics, "x1_diaphragm", "mm")),
        ("  X2 jaw", _errors(metrics, "x2_diaphragm", "mm")),
        ("  gantry", _errors(metrics, "gantry", "deg")),
        ("  collimator", _errors(metrics, "collimator", "deg")),
        ("  worst leaf", f"{metrics.worst_leaf or 'none'}, RMS {_number(metrics.worst_leaf_error_rms_mm, 2)} mm"),
        ("rows", _rows(metrics)),
    ]
    if metrics.prescribed_mu and (metrics.delivered_mu or 0) > 2 * metrics.prescribed_mu:
        rows.append(("look here", "more than twice the prescribed dose: do the header and the rows belong together?"))
    if header.encoding != "utf-8":
        rows.append(("text", f"read as {header.encoding}, as it is not UTF-8"))
    return "\n".join([printable(name), *(f"  {key:<13}{printable(value)}" for key, value in rows)])


def _dose(metrics: Metrics) -> str:
    mean, highest = _number(metrics.dose_rate_mean_mu_per_min, 0), _number(metrics.dose_rate_max_mu_per_min, 0)
    rate = f"{mean} MU/min on average, {highest} at most"
    return f"{metrics.prescribed_mu:.1f} MU prescribed, {_number(metrics.delivered_mu)} delivered; {rate}"


def _axis(start: float | None, stop: float | None, travel: float | None) -> str:
    if start == stop and not travel:
        return f"{_number(start)} deg"
    return f"{_number(start)} to {_number(stop)} deg, travel {_number(travel)} deg"


def _errors(metrics: Metrics, which: str, unit: str) -> str:
    values = (getattr(metrics, f"{which}_error_{what}_{unit}") for what in ("rms", "p95", "max"))
    return " / ".join(_number(value, 2) for value in values) + f" {unit}"


def _rows(metrics: Metrics) -> str:
    text = f"{metrics.rows}, {_count(metrics.missing_values, 'missing value')}"
    if metrics.unknown_item_parts:
        text += f", {_count(metrics.unknown_item_parts, 'unknown column')} kept as counts"
    if metrics.trailing_bytes:
        text += f"; the last row is cut: {_count(metrics.trailing_bytes, 'byte')} left out"
    return text


def _count(number: int | None, what: str) -> str:
    return f"{'?' if number is None else number} {what}{'' if number == 1 else 's'}"


def _number(value: float | None, decimals: int = 1) -> str:
    return "?" if value is None else f"{value:.{decimals}f}"


if __name__ == "__main__":
    sys.exit(main())
