"""Logs that cannot be read: kept beside the reason, out of everybody's way, until they can."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from linac.index import names
from linac.transport import Folder

_NAME = re.compile(r"(.*) \[([0-9a-f]{12})\]\.trf")
REASON = ".reason.txt"


@dataclass(frozen=True)
class Quarantined:
    """A log set aside: its file below the records root, its own name, the first 12 digits of its hash, its size, and why; and
    whether its reason lies beside it, which a run that was interrupted has not written yet."""

    file: str
    name: str
    sha256_begin: str
    size: int
    reason: str = ""
    is_whole: bool = True


def file_name(serial: str, name: str, sha256: str) -> str:
    """Where a log is set aside: by name and content, so doing it twice does it once."""
    return f"{names.QUARANTINE}/{serial}/{names.log_name(name, sha256[:12])}"


def put(folder: Folder, path: str, sha256: str, data: bytes, reason: str, source: str) -> None:
    """Set a log aside at `path`, with its reason. The log is written first: one without a reason was interrupted here."""
    serial, name = path.split("/")[-2:]
    folder.write(path, data)
    text = (
        f"{name} could not be read, and is kept here until it can.\n\n"
        f"Why:        {reason}\n"
        f"Came from:  {source}\n"
        f"SHA-256:    {sha256}\n"
        f"Size:       {len(data)} bytes\n"
        f"Set aside:  {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n\n"
        "If the file was damaged on its way, add it again from another backup. If newer software reads it, run\n"
        f"    python -m linac.index retry <records root> --machine {serial}\n"
        "Either way it leaves this folder by itself once it is in the index.\n"
    )
    folder.write(path + REASON, text.encode("utf-8", "replace"))


def listed(folder: Folder, serial: str) -> list[Quarantined]:
    """What is set aside for a linac, reasons left out. One listing."""
    where = f"{names.QUARANTINE}/{serial}"
    sizes = {entry.name: entry.size for entry in folder.list(f"{where}/*") if not entry.is_folder}
    return [
        Quarantined(f"{where}/{name}", f"{match[1]}.trf", match[2], size, is_whole=name + REASON in sizes)
        for name, size in sizes.items()
        if (match := _NAME.fullmatch(name))
    ]


def reason_of(folder: Folder, item: Quarantined) -> tuple[str, str]:
    """Why a log was set aside, and where it came from."""
    if not item.is_whole:
        return "not recorded: the run was interrupted", ""
    text = folder.read(item.file + REASON).decode("utf-8", "replace")
    found = dict(re.findall(r"^(Why|Came from): +(.*)$", text, re.MULTILINE))
    return found.get("Why", ""), found.get("Came from", "")


def remove(folder: Folder, item: Quarantined) -> None:
    """Let a log go. The reason goes last: a reason without a log says that this was interrupted, and does no harm."""
    folder.remove(item.file)
    folder.remove(item.file + REASON)
