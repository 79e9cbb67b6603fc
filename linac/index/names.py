"""Where things lie under a records root, and names that every file system takes.

>>> partition("samples", "4299", "2026-01")
'TRF/samples/machine=4299/month=2026-01'
>>> log_name("TCS/Logs/17_04_19 21_59_24 Z 2-2_A?B.TRF")
'17_04_19 21_59_24 Z 2-2_A_B.trf'
"""

import re
from datetime import UTC, datetime

from linac.errors import SetupError
from linac.transport import Entry

ROOT = "TRF"
DELIVERIES = f"{ROOT}/deliveries"
SAMPLES = f"{ROOT}/samples"
RAW = f"{ROOT}/raw"
QUARANTINE = f"{ROOT}/quarantine"
BACKUPS = f"{ROOT}/backups"
CATALOGUE = f"{ROOT}/catalogue"
PENDING = f"{ROOT}/pending"
REPACK = f"{ROOT}/repack"
LEASE = f"{ROOT}/writer.lease"

MAX_STEM_BYTES = 160
"""A raw log's name without its ending, in UTF-8. Linux takes 255 bytes for a name, and a hash may follow."""

_SERIAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,30}[A-Za-z0-9_-])?")
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))})


def check_serial(serial: str) -> str:
    """`serial`, if a folder can be called so everywhere. Raises `SetupError` otherwise."""
    if not _SERIAL.fullmatch(serial) or serial.partition(".")[0].upper() in _DEVICES:
        raise SetupError(
            f"The linac's serial {serial!r} cannot name a folder. Give letters, digits, '-', '_' or '.' only, 32 at most, "
            "such as 4299."
        )
    return serial


def month_of(start: datetime) -> str:
    """The UTC month that a delivery is filed under, `yyyy-mm`."""
    return f"{start.astimezone(UTC):%Y-%m}"


def partition(tree: str, machine: str, month: str) -> str:
    """The folder of one linac's month, in `deliveries` or `samples`."""
    return f"{ROOT}/{tree}/machine={machine}/month={month}"


def split_partition(path: str) -> tuple[str, str]:
    """Machine and month of a file or folder below `deliveries` or `samples`."""
    parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
    return parts["machine"], parts["month"]


def is_month(text: str) -> bool:
    """Whether `text` is a month as folders are called, `yyyy-mm`."""
    return _MONTH.fullmatch(text) is not None


def log_stem(name: str) -> str:
    """The name of a log, without folders and without `.trf`, as it can be used for a file on Windows, Linux and SMB shares."""
    last = re.split(r"[\\/]", name)[-1].encode("utf-8", "replace").decode("utf-8")
    stem = last[:-4] if last.lower().endswith(".trf") else last
    stem = _NOT_IN_NAMES.sub("_", stem).replace(".part-", "_part-")  # files with .part- are taken for unfinished ones
    stem = stem.encode("utf-8")[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    if stem.strip(" .") == "":
        return "log"
    return f"_{stem}" if stem.partition(".")[0].strip().upper() in _DEVICES else stem


def log_name(name: str, suffix: str = "") -> str:
    """The file name of a log; `suffix`, the begin of its hash, tells it from another of the same name."""
    return f"{log_stem(name)}{f' [{suffix}]' if suffix else ''}.trf"


def raw_folder(serial: str, start: datetime) -> str:
    """The folder of a raw log, by the UTC start of the delivery."""
    return f"{RAW}/{serial}/{start.astimezone(UTC):%Y/%m}"


def backup_name(entry: Entry) -> str:
    """The name of the note that a backup was taken in. Size and time are in it, so that a listing says what is new."""
    cleaned = _NOT_IN_NAMES.sub("_", entry.name).replace(".part-", "_part-").replace("/", "_").replace("\\", "_")
    return f"{cleaned}.{entry.size}.{entry.modified.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
