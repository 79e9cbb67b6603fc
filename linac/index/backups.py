"""Which backups are taken in already: a note per backup, so that a night with nothing new costs a listing.

A note's name says the backup's name, size and time of change; a backup that changes is a new one. A damaged backup, of which all
was taken in that can be read, has a note of another kind, made once somebody was told of it: it is not read again every night,
but stays in the report until it changes, goes away or is dismissed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from linac.errors import DamagedError
from linac.index import names
from linac.transport import Entry, Folder

DONE, DAMAGED = ".json", ".damaged"
"""Endings of the notes."""


@dataclass(frozen=True)
class Backup:
    """A backup that was taken in: its name, size in bytes and time of change then, when, and what it brought. `dismissed` is what
    was wrong with it, if somebody said that this does not matter."""

    name: str
    size: int
    modified: datetime
    done: datetime
    counts: dict[str, int]
    dismissed: str = ""


@dataclass(frozen=True)
class Damaged:
    """A damaged backup that somebody was told of: name, size in bytes, time of change, when it was told, and what is wrong."""

    name: str
    size: int
    modified: datetime
    told: datetime
    problem: str


def _folder(serial: str) -> str:
    return f"{names.BACKUPS}/{serial}"


def _note(serial: str, entry: Entry, ending: str) -> str:
    return f"{_folder(serial)}/{names.backup_name(entry).removesuffix(DONE)}{ending}"


def new(folder: Folder, serial: str, entries: Iterable[Entry]) -> list[Entry]:
    """Those of a listing of backups that have no note, or changed since. One listing."""
    noted = {
        entry.name.removesuffix(DAMAGED).removesuffix(DONE)
        for entry in folder.list(f"{_folder(serial)}/*")
        if entry.name.endswith((DONE, DAMAGED))
    }
    return [entry for entry in entries if names.backup_name(entry).removesuffix(DONE) not in noted]


def is_done(folder: Folder, serial: str, entry: Entry) -> bool:
    """Whether a backup, as it is now, is taken in."""
    return folder.find(_note(serial, entry, DONE)) is not None


def mark(folder: Folder, serial: str, entry: Entry, counts: Mapping[str, int]) -> None:
    """Note that a backup is taken in completely."""
    _mark(folder, serial, entry, dict(counts))


def _mark(folder: Folder, serial: str, entry: Entry, counts: dict[str, int], dismissed: str = "") -> None:
    known = {**_known(entry), "done": _now(), "counts": counts, **({"dismissed": dismissed} if dismissed else {})}
    _write(folder, _note(serial, entry, DONE), known)
    folder.remove(_note(serial, entry, DAMAGED))


def mark_damaged(folder: Folder, serial: str, entry: Entry, problem: str) -> None:
    """Note that a backup is damaged, that what can be read of it is taken in, and that somebody was told."""
    _write(folder, _note(serial, entry, DAMAGED), {**_known(entry), "told": _now(), "problem": problem})


def dismiss(folder: Folder, serial: str, name: str) -> bool:
    """Take the damaged backups of this name for done, whatever is wrong with them. Whether there was one."""
    found = [backup for backup in damaged(folder, serial) if backup.name == name]
    for backup in found:
        _mark(folder, serial, Entry(backup.name, backup.size, backup.modified), {}, backup.problem)
    return bool(found)


def read(folder: Folder, serial: str) -> list[Backup]:
    """All backups taken in for a linac, the oldest first."""
    found = []
    for path, known in _notes(folder, serial, DONE):
        with _Telling(path):
            modified, done = (datetime.fromisoformat(known[key]) for key in ("modified", "done"))
            found.append(Backup(known["name"], known["size"], modified, done, known["counts"], known.get("dismissed", "")))
    return sorted(found, key=lambda backup: (backup.modified, backup.name))


def damaged(folder: Folder, serial: str) -> list[Damaged]:
    """All damaged backups that somebody was told of, the oldest first."""
    found = []
    for path, known in _notes(folder, serial, DAMAGED):
        with _Telling(path):
            modified, told = (datetime.fromisoformat(known[key]) for key in ("modified", "told"))
            found.append(Damaged(known["name"], known["size"], modified, told, known["problem"]))
    return sorted(found, key=lambda backup: (backup.modified, backup.name))


def _known(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "size": entry.size, "modified": entry.modified.astimezone(UTC).isoformat()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Folder, path: str, known: Mapping[str, Any]) -> None:
    folder.write(path, json.dumps(known, ensure_ascii=False, indent=1).encode("utf-8", "replace"))


def _notes(folder: Folder, serial: str, ending: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for entry in folder.list(f"{_folder(serial)}/*{ending}"):
        path = f"{_folder(serial)}/{entry.name}"
        with _Telling(path):
            found.append((path, dict(json.loads(folder.read(path)))))
    return found


class _Telling:
    """Says which note is damaged."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | KeyError | TypeError):
            raise DamagedError(
                f"{self._path} is damaged. Remove it: its backup is then taken in again, which does no harm."
            ) from error
