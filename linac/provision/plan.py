"""What would be written, and how it differs from what is there: shown before, done after, and done again without harm."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from linac.transport.paths import Folder

LONGEST_DIFF_LINES = 200
"""Of one file; the rest is counted."""


@dataclass(frozen=True)
class Change:
    """One file: its name in the folder, and its bytes before and after (None: it is not there)."""

    name: str
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)

    @property
    def outcome(self) -> str:
        """`new`, `changed`, `removed` or `unchanged`."""
        if self.before == self.after:
            return "unchanged"
        if self.before is None:
            return "new"
        return "removed" if self.after is None else "changed"

    @property
    def diff(self) -> str:
        """The difference, as `diff -u` shows it; empty where nothing changes."""
        return difference(self.name, self.before, self.after)


@dataclass(frozen=True)
class Plan:
    """Files for one folder, compared with what is there. `apply` writes those that differ."""

    folder: Folder = field(repr=False)
    changes: tuple[Change, ...]

    @property
    def changed(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.outcome != "unchanged")

    def text(self, *, diffs: bool = True) -> str:
        """For people: a line for each file, and the differences."""
        width = max((len(change.outcome) for change in self.changes), default=0)
        lines = [f"{change.outcome:{width}}  {change.name}" for change in self.changes]
        if not self.changed:
            lines.append(f"Nothing to do: {self.folder.location} is as it should be.")
        parts = [change.diff for change in self.changed] if diffs else []
        return "\n".join([*lines, *(f"\n{part}" for part in parts)]) + "\n"

    def apply(self) -> tuple[Change, ...]:
        """Write what differs, each file whole or not at all; returns what was written. Raises `StorageError`."""
        for change in self.changed:
            if change.after is None:
                self.folder.remove(change.name)
            else:
                self.folder.write(change.name, change.after)
        return self.changed


def plan(folder: Folder, files: Mapping[str, bytes], gone: tuple[str, ...] = ()) -> Plan:
    """Compare `files` (names in the folder, contents) with what the folder holds; `gone` names files that shall not be there.

    Raises `StorageError` where the folder cannot be read.
    """
    wanted: dict[str, bytes | None] = {**dict.fromkeys(gone), **files}
    changes = []
    for name, after in wanted.items():
        before = folder.read(name) if folder.find(name) is not None else None
        if before is not None or after is not None:
            changes.append(Change(name, before, after))
    return Plan(folder, tuple(changes))


def difference(name: str, before: bytes | None, after: bytes | None) -> str:
    """Two versions of a file as `diff -u` shows them; for what is not text, the sizes."""
    if before == after:
        return ""
    try:
        old, new = (part.decode("utf-8").splitlines() if part is not None else [] for part in (before, after))
    except UnicodeDecodeError:
        return f"{name}: {_size(before)} -> {_size(after)}"
    sides = (f"{name} (is)" if before is not None else "(nothing)", f"{name} (shall be)" if after is not None else "(nothing)")
    lines = list(difflib.unified_diff(old, new, *sides, lineterm=""))
    if not lines:
        lines = [f"{name}: only the ends of its lines change"]
    if len(lines) > LONGEST_DIFF_LINES:
        lines = [*lines[:LONGEST_DIFF_LINES], f"... and {len(lines) - LONGEST_DIFF_LINES} lines more"]
    return "\n".join(lines)


def _size(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes"
