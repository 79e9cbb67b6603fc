"""Keep and ask the index of TRF logs by hand. ROOT is the site's records root, the folder that holds `TRF`.

    python -m linac.index add ROOT --machine SERIAL SOURCE...    bring in backups (zip), .trf files, and folders of them
    python -m linac.index retry ROOT --machine SERIAL            try the logs in quarantine again
    python -m linac.index find ROOT [--field F] [--day D] [--hash H] [--machine SERIAL] [--csv]
    python -m linac.index verify ROOT [--values] [--json]        read everything again and tell what is wrong
    python -m linac.index compact ROOT [--smaller]               finish interrupted runs, bring old files up to date
    python -m linac.index dismiss ROOT --machine SERIAL [--backup NAME]
                                                                 say no more of a damaged backup; without a name, list them
    python -m linac.index export-pymedphys ROOT --out DIR --site NAME [--machine SERIAL] [--dry-run]
                                                                 the tree and index.json of PyMedPhys's trf orchestrate
    python -m linac.index columns                                the columns of the files, as docs/data-dictionary.md has them
    python -m linac.index measure FOLDER --samples TRF_FOLDER    how fast it is on this machine and that disk or share

A backup that is taken in already is not read again, unless --again is given; a log that is there already is not added twice.
The exit code is 0 if all went well, 1 if something could not be read or is wrong or (find) nothing was found, 2 if the command
line is wrong, 130 after a Ctrl-C.
"""

import argparse
import contextlib
import glob
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from linac import ENDED
from linac.errors import BackupError, LinacError, SetupError, StorageError
from linac.index import Added, Index, Log
from linac.index.export import export_pymedphys
from linac.index.names import ROOT, check_serial
from linac.index.schema import DELIVERIES, SAMPLES, as_markdown
from linac.index.verify import as_json, verify
from linac.transport import Entry, Folder, connect
from linac.trf.backup import MAX_TRF_BYTES, read_trfs

SHOWN = ("start_local", "linac", "field_label", "field_name", "delivered_mu", "beam_on_s", "end_state", "rows", "sha256")
"""The columns that `find` prints."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a console that lacks a letter shows another, rather than failing
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    options = _parser().parse_args(arguments)
    if options.action is None:
        return _columns()
    try:
        with connect(_absolute(options.root)) as folder:
            folder.check()  # a share that is away must not look like an empty index
            _check_root(folder, is_new=options.action in (_add, _verify, _measure))  # verify tells it itself
            return int(options.action(Index(folder), options))
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. What was brought in stays; run it again to go on.", file=sys.stderr)
        return ENDED


def _absolute(path: str) -> str:
    return path if path.startswith("\\\\") else os.path.abspath(path)


def _check_root(folder: Folder, *, is_new: bool) -> None:
    """Raise `SetupError` for a folder that cannot be the one meant: it holds no index, though it should, or is `TRF` itself."""
    if folder.find(ROOT) is not None:
        return
    if all(folder.find(tree) is not None for tree in ("deliveries", "raw", "catalogue")):
        raise SetupError(f"{folder.location} is the folder {ROOT} of an index. Give the records root, which is one above.")
    if not is_new:
        raise SetupError(f"{folder.location} holds no index: there is no folder {ROOT}. Give the site's records root.")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no day. Give year, month and day, such as 2026-01-31.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m linac.index", description="Keep and ask the index of TRF logs.")
    commands = parser.add_subparsers(
        required=True, metavar="add|retry|find|verify|compact|dismiss|export-pymedphys|columns|measure"
    )

    def command(name: str, action: Callable[[Index, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("root", metavar="ROOT", help="the site's records root, which holds the folder TRF")
        made.set_defaults(action=action)
        return made

    add = command("add", _add, "bring in backups (zip), .trf files, and folders of them")
    add.add_argument("--machine", required=True, metavar="SERIAL", help="the linac's serial, as in 4299")
    add.add_argument("--again", action="store_true", help="read backups that are taken in already as well")
    add.add_argument("sources", nargs="+", metavar="SOURCE", help="a zip, a .trf file or a folder of them; * and ? work")
    retry = command("retry", _retry, "try the logs in quarantine again, as after an update")
    retry.add_argument("--machine", required=True, metavar="SERIAL", help="the linac's serial, as in 4299")
    find = command("find", _find, "find deliveries, by all that is given")
    find.add_argument("--field", help="the field's label, name or label/name, in any case; * stands for any text")
    find.add_argument("--day", type=_day, metavar="YYYY-MM-DD", help="the day, by the site's clock")
    find.add_argument("--hash", metavar="HEX", help="the SHA-256 of the log, or its begin")
    find.add_argument("--machine", metavar="SERIAL", help="the linac's serial")
    find.add_argument("--csv", action="store_true", help="print all columns, as CSV")
    check = command("verify", _verify, "read everything again and tell what is wrong")
    check.add_argument("--values", action="store_true", help="compare every value with the log it came from, too")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    compact = command(
        "compact", _compact, "finish interrupted runs, bring files of older software up to date, make the catalogue anew"
    )
    compact.add_argument(
        "--smaller", action="store_true", help="also pack all samples harder that are not yet, however long it takes"
    )
    let_go = command("dismiss", _dismiss, "say no more of damaged backups in the report of trf-index; without names, list them")
    let_go.add_argument("--machine", required=True, metavar="SERIAL", help="the linac's serial, as in 4299")
    let_go.add_argument("--backup", action="append", default=[], metavar="NAME", help="its file name; may be repeated")
    export = command("export-pymedphys", _export, "write the tree and index.json of PyMedPhys's trf orchestrate, as far as new")
    export.add_argument("--out", required=True, metavar="DIR", help="the folder to write to, which must be there")
    export.add_argument("--site", required=True, metavar="NAME", help="the site's name in PyMedPhys's config.toml")
    export.add_argument("--machine", metavar="SERIAL", help="this linac's logs only")
    export.add_argument("--dry-run", action="store_true", help="count what would be exported, and write nothing")
    text = "print the columns of the files, as docs/data-dictionary.md has them"
    commands.add_parser("columns", help=text, description=text).set_defaults(action=None)
    timing = command("measure", _measure, "measure how fast it is on this machine; ROOT is where it may write, and cleans up")
    timing.add_argument("--samples", required=True, type=Path, metavar="TRF_FOLDER", help="a folder of real .trf files")
    timing.add_argument("--deliveries", type=int, default=0, metavar="N", help="also in an index of so many deliveries")
    return parser


class _Progress:
    """One line on the error output, at most every second, and not into files."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1
        self._shown = False

    def __call__(self, text: str) -> None:
        if time.monotonic() >= self._next and sys.stderr.isatty():
            print(f"\r{text[:110]:<110}", end="", file=sys.stderr, flush=True)
            self._next, self._shown = time.monotonic() + 1, True

    def end(self) -> None:
        if self._shown:
            print(f"\r{'':<110}\r", end="", file=sys.stderr, flush=True)


class _Sources:
    """The logs of the sources, one by one. What cannot be read is said, and the rest goes on."""

    def __init__(self, index: Index, serial: str, again: bool) -> None:
        self._index, self._serial, self._again = index, check_serial(serial), again
        self.failed = False
        self.skipped = 0
        self.now = ""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)
        self.failed = True

    def backup(self, path: Path) -> Iterator[Log]:
        """The logs of one zip."""
        try:
            for member in read_trfs(path):
                if member.data is not None:
                    yield Log(member.name, member.data, path.name)
                else:
                    self.say(f"{path.name}: {member.error}")
        except (BackupError, StorageError) as error:
            self.say(f"{path.name}: {error}")

    def files(self, paths: list[Path]) -> Iterator[Log]:
        """Single logs."""
        for path in paths:
            self.now = path.name
            try:
                if path.stat().st_size > MAX_TRF_BYTES:
                    self.say(f"{path} is larger than {MAX_TRF_BYTES >> 20} MB, which no delivery is. Look at it by hand.")
                    continue
                yield Log(path.name, path.read_bytes(), str(path.parent))
            except OSError as error:
                self.say(f"{path}: {error.strerror or error}. Check the path and the right to read it.")

    def add_all(self, names: Sequence[str]) -> Added:
        """Bring everything in: backup by backup, so that each is noted as taken in, then single logs together."""
        progress = _Progress()
        total = Added()

        def show(added: Added) -> None:
            count = total.indexed + added.indexed
            progress(f"{self.now}: {count} indexed, {total.duplicates + added.duplicates} known")

        zips: list[Path] = []
        single: list[Path] = []
        for path in self._paths(names):
            (zips if path.suffix.lower() == ".zip" else single).append(path)
        for path in zips:
            self.now = path.name
            try:
                stat = path.stat()
            except OSError as error:
                self.say(f"{path}: {error.strerror or error}. Check the path and the right to read it.")
                continue
            entry = Entry(path.name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
            if not self._again and self._index.is_done(self._serial, entry):
                self.skipped += 1
                continue
            failed_before, self.failed = self.failed, False
            added = self._index.add(self._serial, self.backup(path), show)
            if not self.failed:
                self._index.mark_done(self._serial, entry, added.counts)
            self.failed |= failed_before
            total = _sum(total, added)
        if single:
            total = _sum(total, self._index.add(self._serial, self.files(single), show))
        progress.end()
        return total

    def _paths(self, names: Sequence[str]) -> Iterator[Path]:
        """Each zip and .trf file; wildcards are expanded here too, as the Windows prompt does not. `[` is no wildcard."""
        for name in names:
            found = [name]
            if ("*" in name or "?" in name) and not os.path.exists(name):
                found = sorted(glob.glob(name.replace("[", "[[]"))) or found
            for path in map(Path, found):
                if path.is_dir():
                    inside = sorted(path.rglob("*"))
                    yield from (item for item in inside if item.suffix.lower() in (".zip", ".trf") and item.is_file())
                else:
                    yield path


def _sum(one: Added, other: Added) -> Added:
    """Both together; a log that could not be read in either is one log."""
    fresh = [*dict.fromkeys([*one.newly_quarantined, *other.newly_quarantined])]
    before = [item for added in (one, other) for item in added.quarantined[: added.quarantined_before]]
    before = [item for item in dict.fromkeys(before) if item not in fresh]
    return Added(
        one.indexed + other.indexed,
        one.duplicates + other.duplicates,
        before + fresh,
        one.released + other.released,
        one.recovered + other.recovered,
        one.rows + other.rows,
        one.bytes + other.bytes,
        one.files + [name for name in other.files if name not in one.files],
        len(before),
        [*dict.fromkeys([*one.called, *other.called])],
    )


def _say(added: Added, seconds: float) -> None:
    print(f"{added.indexed} logs indexed ({added.rows} rows, {added.bytes / 1e6:.1f} MB in {seconds:.1f} s)")
    print(f"{added.duplicates} known before, {len(added.quarantined)} in quarantine, {added.released} left it")
    if added.recovered:
        print(f"{added.recovered} deliveries of an interrupted run brought to their end")
    for name, reason in added.quarantined:
        print(f"In quarantine: {name}: {reason}", file=sys.stderr)


def _add(index: Index, options: argparse.Namespace) -> int:
    begin = time.monotonic()
    sources = _Sources(index, options.machine, options.again)
    added = sources.add_all(options.sources)
    _say(added, time.monotonic() - begin)
    if added.called:
        print(added.doubt(options.machine), file=sys.stderr)
    if sources.skipped:
        print(f"{sources.skipped} backups were taken in before (--again reads them again)")
    return 1 if sources.failed or added.quarantined else 0


def _retry(index: Index, options: argparse.Namespace) -> int:
    begin = time.monotonic()
    added = index.retry(options.machine)
    _say(added, time.monotonic() - begin)
    return 1 if added.quarantined else 0


def _find(index: Index, options: argparse.Namespace) -> int:
    frame = index.find(sha256=options.hash, field=options.field, day=options.day, machine=options.machine)
    if options.csv:
        print(frame.to_csv(index=False, lineterminator="\n"), end="")
    elif len(frame):
        print(frame[list(SHOWN)].to_string(index=False))
    else:
        print("No such delivery.", file=sys.stderr)
    return 0 if len(frame) else 1


def _verify(index: Index, options: argparse.Namespace) -> int:
    progress = _Progress()
    report = verify(index.folder, progress, values=options.values)
    progress.end()
    if options.json:
        print(as_json(report))
        return 0 if report.ok else 1
    print(f"{report.deliveries} deliveries, {report.rows} rows, logs of {report.raw_bytes / 1e6:.1f} MB")
    print(f"{report.samples_files} samples files of {report.samples_bytes / 1e6:.1f} MB, {report.backups} backups taken in")
    if report.damaged_backups:
        print(f"{report.damaged_backups} damaged backups, of which what can be read is taken in (see dismiss)")
    print(f"{report.quarantined} logs in quarantine")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    print("All is well." if report.ok else f"{len(report.problems)} problems.")
    return 0 if report.ok else 1


def _compact(index: Index, options: argparse.Namespace) -> int:
    done = index.compact(smaller=options.smaller)
    print(f"{done.recovered} deliveries of interrupted runs brought to their end, {len(done.renewed)} files brought up to date.")
    if options.smaller:
        print(f"{len(done.smaller)} samples files made smaller by {done.saved_bytes / 1e6:.1f} MB.")
    print(f"The catalogue lists {done.deliveries} deliveries.")
    return 0


def _dismiss(index: Index, options: argparse.Namespace) -> int:
    there = index.damaged_backups(options.machine)
    for name in options.backup:
        if not index.dismiss(options.machine, name):
            known = ", ".join(sorted({backup.name for backup in there})) or "none"
            raise SetupError(f"No damaged backup of linac {options.machine} is called {name}. There are: {known}.")
        print(f"{name}: nothing more will be said of it, unless it changes.")
    for backup in there if not options.backup else []:
        print(f"{backup.name}  {backup.size} bytes, told {backup.told:%Y-%m-%d}: {backup.problem}")
    return 0


def _export(index: Index, options: argparse.Namespace) -> int:
    begin, progress = time.monotonic(), _Progress()
    with connect(_absolute(options.out)) as out:
        out.check()
        done = export_pymedphys(
            index.folder, out, options.site, machine=options.machine, dry_run=options.dry_run, progress=progress
        )
    progress.end()
    what = "would be exported" if options.dry_run else f"exported ({done.bytes / 1e6:.1f} MB, {time.monotonic() - begin:.1f} s)"
    print(f"{done.new} new logs {what}: {done.indexed} under their patients, {done.no_patient} without a known patient,")
    print(f"{done.no_label} without a field label, {done.unreadable} unreadable. {done.moved} earlier ones have a patient now.")
    for problem in done.problems:
        print(problem, file=sys.stderr)
    return 1 if done.problems else 0


def _measure(_: Index, options: argparse.Namespace) -> int:
    from linac.index.measure import measure

    if not list(options.samples.glob("*.trf")):
        raise SetupError(f"There is no .trf file in {options.samples}. Give a folder that holds some.")
    for figure in measure(Path(options.root), options.samples, options.deliveries):
        print(figure, flush=True)
    return 0


def _columns() -> int:
    print(
        "\n\n".join(
            f"### {name}\n\n{as_markdown(columns)}" for name, columns in (("deliveries", DELIVERIES), ("samples", SAMPLES))
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
