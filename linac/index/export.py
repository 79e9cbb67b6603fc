"""The logs of the index as PyMedPhys's `trf orchestrate` would have left them, for tools that depend on that.

What is written below a folder of its own: `index.json`, `indexed/<site>/<patient>/<clinical>/<field>/<time>_<machine>/<log>`, and
PyMedPhys's three folders for logs without a known patient, without a label, or unreadable. The patient is taken from the iCom
recordings (`linac.index.export_patients`); PyMedPhys asks Mosaiq. A log that nobody can be found for goes where PyMedPhys puts it
then, `no_mosaiq_record_found`, and not into `index.json`; once a recording turns up it is moved.

Every step can be done again: a log is copied before `index.json` tells of it, files appear whole, and what is done is noted for
each linac and month in `linac-flows/`, together with what stood in the index then. So a night with nothing new costs listings.
Entries that PyMedPhys or somebody else wrote into `index.json` stay as they are. Nothing is deleted but our own copy of a log
that is moved.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from linac.errors import DamagedError, SetupError, StorageError
from linac.index import deliveries, export_patients, names, quarantine, writer
from linac.index.export_layout import (
    INDEX,
    INDEXED,
    NO_LABEL,
    NO_PATIENT,
    UNREADABLE,
    entry_of,
    folder_of,
    is_site,
)
from linac.index.lease import Lease
from linac.transport import Folder

NOTES = "linac-flows"
LEASE = f"{NOTES}/writer.lease"

CHECKPOINT_BYTES = 1 << 30
"""`index.json` is written after so many bytes of logs, and at the end: it is one file for all, which takes its time."""

_COLUMNS = [
    "sha256",
    "linac",
    "header_machine",
    "field_label",
    "field_name",
    "version",
    "start_utc",
    "start_local",
    "duration_s",
    "prescribed_mu",
    "delivered_mu",
    "utc_offset_minutes",
    "item_parts",
    "size_bytes",
    "raw_file",
]


@dataclass
class Exported:
    """What an export did: logs now under their patients, logs in the three other folders, logs moved to their patients because
    a recording turned up, bytes copied, and sentences about what could not be done."""

    indexed: int = 0
    no_patient: int = 0
    no_label: int = 0
    unreadable: int = 0
    moved: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def new(self) -> int:
        """Logs exported, in all."""
        return self.indexed + self.no_patient + self.no_label + self.unreadable


@dataclass
class _Note:
    """What is exported of one linac's month: for each log its SHA-1 and file below the export, and what there was to see."""

    seen: str
    done: dict[str, tuple[str, str]]


def export_pymedphys(
    records: Folder,
    out: Folder,
    site: str,
    *,
    machine: str | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Bring what is new in the index below `records` into PyMedPhys's tree in `out`. `site` names the tree's first folder.

    With `machine`, that linac's logs alone. `dry_run` counts and writes nothing. Raises `SetupError` for a site that cannot name
    a folder, `StorageError` where the storage fails, `DamagedError` where `index.json` is none, `AlreadyRunningError`.
    """
    if not is_site(site):
        raise SetupError(
            f"The site {site!r} cannot name a folder. Give the name that PyMedPhys's config.toml has for it, of plain letters, "
            "digits, '-', '_' and '.', such as nbcc."
        )
    if machine is not None:
        names.check_serial(machine)
    exporting = _Exporting(records, out, site, machine, dry_run, progress or (lambda _: None))
    if dry_run:
        return exporting.run(None)
    with Lease(out, LEASE) as lease:
        return exporting.run(lease)


class _Exporting:
    def __init__(
        self, records: Folder, out: Folder, site: str, machine: str | None, dry_run: bool, progress: Callable[[str], None]
    ) -> None:
        self._records, self._out, self._site, self._machine = records, out, site, machine
        self._dry, self._progress = dry_run, progress
        self._index = _read_index(out)
        self._theirs = set(self._index)
        self._changed = out.find(INDEX) is None  # tools expect one, though no patient is known yet
        self._notes: dict[str, _Note] = {}  # by name: not written yet, because index.json was not
        self._since = 0
        self._flat: dict[str, dict[str, int]] = {}  # files and sizes in a folder that may hold very many
        self._leftover: list[tuple[str, str]] = []  # our own copies of logs that moved, and their SHA-1
        self._lease: Lease | None = None
        self.done = Exported()

    def run(self, lease: Lease | None) -> Exported:
        self._lease = lease
        months = [where for where in writer.partitions(self._records) if self._machine in (None, where[0])]
        for count, (machine, month) in enumerate(months, start=1):
            self._progress(
                f"{machine} {month} ({count} of {len(months)} months): {self.done.new} logs, {self.done.bytes / 1e6:.0f} MB"
            )
            self._month(machine, month)
        for entry in self._records.list(f"{names.QUARANTINE}/*"):
            if entry.is_folder and self._machine in (None, entry.name):
                self._quarantine(entry.name)
        self._commit()
        return self.done

    def _month(self, machine: str, month: str) -> None:
        """One linac's month. What is noted is left alone, but for logs that had no patient."""
        files = writer.files(self._records, "deliveries", machine, month)
        recorded = export_patients.files(self._records, machine, month)
        seen = _signature([*files.items(), *recorded])
        note_name = f"{NOTES}/{machine}_{month}.json"
        note = _read_note(self._out, note_name)
        if note.seen == seen:
            return
        rows = [row for name in files for row in deliveries.decode(self._records.read(name), name, _COLUMNS).to_pylist()]
        beams, damaged = export_patients.read(self._records, machine, month)
        if damaged:
            self._wrong(f"{damaged} iCom deliveries of linac {machine}, {month}, are damaged. Remove them: they are made again.")
        problems = len(self.done.problems)
        for row in rows:
            sha1, old = note.done.get(row["sha256"], ("", ""))
            if old and not old.startswith(f"{NO_PATIENT}/"):
                continue
            patient = export_patients.whose(beams, row) if row["field_label"] else None
            base = row["raw_file"].rpartition("/")[2]
            if patient is not None:
                where = folder_of(
                    self._site, patient, row["field_label"], row["field_name"], row["start_local"], row["header_machine"]
                )
                target = f"{INDEXED}/{where}/{base}"
            elif old:
                continue
            else:
                target = f"{NO_PATIENT if row['field_label'] else NO_LABEL}/{base}"
            try:
                sha1, target = self._copy(row["raw_file"], row["sha256"], target, sha1)
            except DamagedError as error:
                self._wrong(str(error))
                continue
            note.done[row["sha256"]] = (sha1, target)
            if patient is not None and sha1 not in self._theirs:
                self._index[sha1] = entry_of(row, patient, target.removeprefix(f"{INDEXED}/"))
                self._changed = True
            self._count(target, old)
            if self._since >= CHECKPOINT_BYTES:
                self._notes[note_name] = _Note("", dict(note.done))
                self._commit()
            if old:
                self._leftover.append((old, sha1))
        note.seen = seen if len(self.done.problems) == problems else ""
        self._notes[note_name] = note

    def _count(self, target: str, old: str) -> None:
        tree = target.partition("/")[0]
        if old:
            self.done.moved += 1
        elif tree == INDEXED:
            self.done.indexed += 1
        elif tree == NO_LABEL:
            self.done.no_label += 1
        elif tree == NO_PATIENT:
            self.done.no_patient += 1
        else:
            self.done.unreadable += 1

    def _copy(self, source: str, sha256: str, target: str, sha1: str) -> tuple[str, str]:
        """Copy a log; its SHA-1 and where it is. One that PyMedPhys has in its index already stays where that says."""
        if self._dry:
            return sha1, target
        data = self._records.read(source)
        if not hashlib.sha256(data).hexdigest().startswith(sha256):
            raise DamagedError(f"{source} is not as it was when it was indexed. Restore it from a backup.")
        sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()  # PyMedPhys's choice; it names, and guards nothing
        if sha1 in self._theirs:
            target = f"{INDEXED}/{self._index[sha1]['filepath']}".replace("\\", "/")
        if self._lease is not None:
            self._lease.keep()
        with _nameless(target):
            there = self._size(target)
            if there is not None and sha1 not in self._theirs and (there != len(data) or self._out.read(target) != data):
                target = f"{target.removesuffix('.trf')} [{sha256[:12]}].trf"  # linacs may name two logs alike
                there = self._size(target)
            if there is None:
                self._out.write(target, data)
                self.done.bytes += len(data)
                self._since += len(data)
        where, _, base = target.rpartition("/")
        if where in self._flat:
            self._flat[where][base] = len(data)
        return sha1, target

    def _size(self, target: str) -> int | None:
        """The size of what lies at `target`, None if nothing does. Folders for all logs alike are listed once."""
        where, _, base = target.rpartition("/")
        if where.startswith(f"{INDEXED}/"):
            entry = self._out.find(target)
            return None if entry is None else entry.size
        if where not in self._flat:
            self._flat[where] = {entry.name: entry.size for entry in self._out.list(f"{where}/*.trf")}
        return self._flat[where].get(base)

    def _quarantine(self, serial: str) -> None:
        note_name = f"{NOTES}/{serial}_quarantine.json"
        note = _read_note(self._out, note_name)
        fresh = False
        for item in quarantine.listed(self._records, serial):
            if item.sha256_begin in note.done:
                continue
            try:
                note.done[item.sha256_begin] = self._copy(item.file, item.sha256_begin, f"{UNREADABLE}/{item.name}", "")
            except DamagedError as error:
                self._wrong(str(error))
                continue
            fresh = True
            self._count(UNREADABLE, "")
        if fresh:
            self._notes[note_name] = note

    def _commit(self) -> None:
        """`index.json`, then our copies of logs that moved go, then the notes: none is ever ahead of what it tells."""
        notes, self._notes, self._since = self._notes, {}, 0
        leftover, self._leftover = self._leftover, []
        if self._dry:
            return
        if self._lease is not None:
            self._lease.keep()
        if self._changed:
            self._out.write(INDEX, json.dumps(self._index, indent=2).encode())
            self._changed = False
        for old, sha1 in leftover:
            if self._size(old) is not None and hashlib.sha1(self._out.read(old), usedforsecurity=False).hexdigest() == sha1:
                self._out.remove(old)
        for name, note in notes.items():
            text = json.dumps({"seen": note.seen, "done": note.done}, ensure_ascii=False)
            self._out.write(name, text.encode("utf-8", "replace"))

    def _wrong(self, text: str) -> None:
        self.done.problems.append(text)


@contextlib.contextmanager
def _nameless(target: str) -> Iterator[None]:
    """A storage's errors name the path, and so the patient: neither that text nor the error it came from may travel on."""
    try:
        yield
    except (StorageError, SetupError) as error:
        text = str(error)
        for part in re.split(r"[/\\]", target)[1:]:
            text = text.replace(part, "(...)") if len(part) > 3 else text
        raise type(error)(text) from None


def _signature(entries: Iterable[tuple[str, Any]]) -> str:
    """Stands for what a listing shows: it changes when a file comes, goes or changes."""
    known = sorted((name, entry.size, entry.modified.isoformat()) for name, entry in entries)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _read_note(out: Folder, name: str) -> _Note:
    """A note, or an empty one where there is none or it is damaged: then what it told is looked at again, and found there."""
    try:
        known = json.loads(out.read(name)) if out.find(name) is not None else {}
        return _Note(str(known.get("seen", "")), {key: (sha1, file) for key, (sha1, file) in known.get("done", {}).items()})
    except (ValueError, TypeError, AttributeError):
        return _Note("", {})


def _read_index(out: Folder) -> dict[str, Any]:
    if out.find(INDEX) is None:
        return {}
    try:
        found = json.loads(out.read(INDEX))
        if isinstance(found, dict) and all(isinstance(entry["filepath"], str) for entry in found.values()):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise DamagedError(
        f"{out.location}: {INDEX} is damaged, or not PyMedPhys's. Restore it from a backup; or move it away and the folder "
        f"{NOTES} with it: it is then made anew of all logs here, and what only it knew is lost."
    )
