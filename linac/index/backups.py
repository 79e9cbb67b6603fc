"""Which backups are taken in already: a note per backup, so that a night with nothing new costs a listing."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from linac.errors import DamagedError
from linac.index import names
from linac.transport import Entry, Folder


@dataclass(frozen=True)
class Backup:
    """A backup that was taken in completely: its name, size in bytes and time of change then, when, and what it brought."""

    name: str
    size: int
    modified: datetime
    done: datetime
    counts: dict[str, int]


def _folder(serial: str) -> str:
    return f"{names.BACKUPS}/{serial}"


def new(folder: Folder, serial: str, entries: Iterable[Entry]) -> list[Entry]:
    """Those of a listing of backups that are not taken in yet, or changed since. One listing."""
    done = {entry.name for entry in folder.list(f"{_folder(serial)}/*.json")}
    return [entry for entry in entries if names.backup_name(entry) not in done]


def is_done(folder: Folder, serial: str, entry: Entry) -> bool:
    """Whether a backup, as it is now, is taken in."""
    return folder.find(f"{_folder(serial)}/{names.backup_name(entry)}") is not None


def mark(folder: Folder, serial: str, entry: Entry, counts: Mapping[str, int]) -> None:
    """Note that a backup is taken in completely."""
    known = {
        "name": entry.name,
        "size": entry.size,
        "modified": entry.modified.astimezone(UTC).isoformat(),
        "done": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": dict(counts),
    }
    text = json.dumps(known, ensure_ascii=False, indent=1)
    folder.write(f"{_folder(serial)}/{names.backup_name(entry)}", text.encode("utf-8", "replace"))


def read(folder: Folder, serial: str) -> list[Backup]:
    """All backups taken in for a linac, the oldest first."""
    found = []
    for entry in folder.list(f"{_folder(serial)}/*.json"):
        path = f"{_folder(serial)}/{entry.name}"
        try:
            known: dict[str, Any] = json.loads(folder.read(path))
            modified, done = (datetime.fromisoformat(known[key]) for key in ("modified", "done"))
            found.append(Backup(known["name"], known["size"], modified, done, known["counts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged. Remove it: its backup is then taken in again, which does no harm.") from error
    return sorted(found, key=lambda backup: (backup.modified, backup.name))
