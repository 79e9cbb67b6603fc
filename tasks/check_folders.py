"""Shares and disks: can backups be read, records be written, images be kept, and is there room?"""

import contextlib
import os
import re
import socket
import time
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blocks import Linac, Share, Site
from blocks.linac import Service
from linac.errors import LinacError, StorageError, TrfError
from linac.provision import config
from linac.transport import Entry, Folder, connect
from linac.transport.records import MARK
from linac.trf import parse_header
from tasks.check import Check, Seen, failed, passed, warned

WRITE_TEST = ".linac-flows-write-test"

SPOOL_WANTED_BYTES = 25 << 30
"""8 kB, 4 times a second (facts-icom.md), for a week without the share."""

RECORDS_WANTED_BYTES = 20 << 30

BACKUP_AGE_DAYS = 8
"""A linac keeps its logs for 8 days (facts-trf.md): with no newer backup, logs are being lost."""

HEADERS_READ, HEADER_BYTES = 3, 1 << 16

DATE = re.compile(r"20[0-9]{6}")
"""What else stands in a backup's name, and is no machine."""

SPEED_BYTES = 8 << 20
SLOW_MB_PER_S = 2.0
"""A night's backups take gigabytes; the recording itself needs 33 kB a second."""

FORWARD_SECONDS = 5.0

IVIEW_TABLE, IVIEW_IMAGE = "LFTEST.DBF", "LFTEST.JPG"
IVIEW_DATABASE = "PATIMG.dbf"


def capture_host(linac: Linac) -> Seen:
    """Is this the computer that will record the linac?"""
    name, here = "Capture host", socket.gethostname()
    if is_recorded_here(linac):
        return Seen([passed(name, f"This computer, {here}, is the one that records it.")])
    return Seen(
        [
            warned(
                name,
                f"{linac.recorded_by} records it, but these checks are made on {here}: what is said of the network holds for the "
                f"way from {here}. Run check-linac/{linac.serial} with a worker on {linac.recorded_by}, too.",
            )
        ]
    )


def is_recorded_here(linac: Linac) -> bool:
    """Whether this computer records a linac. One with the other system does not, whatever the host is called."""
    windows = os.name == "nt"
    return is_here(linac.recorded_by) and linac.service is not (Service.SYSTEMD if windows else Service.NSSM)


def is_here(host: str) -> bool:
    """Whether a computer's name is this one's, with or without its domain; an empty one is."""
    names = {socket.gethostname().lower(), socket.getfqdn().lower(), "localhost", "127.0.0.1"}
    return not host or host.lower() in names or host.lower().partition(".")[0] in {name.partition(".")[0] for name in names}


def backups(linac: Linac) -> Seen:
    """Does the NSS let us in, and does its folder hold backups with logs in them?"""
    share = linac.backup
    account = f" as {share.credentials.username}" if share.credentials else ""
    login, holds = f"NSS share {share.path}", "Diagnostic backups"
    try:
        folder = share.connect()
    except LinacError as error:
        return Seen([failed(login, error)])
    with folder:
        try:
            folder.check()
            found = folder.list("SDD+*.zip")
        except LinacError as error:
            return Seen([failed(login, error)])
        checks = [passed(login, f"It can be listed{account}.")]
        if not found:
            advice = "If none appears within a week, ask the Elekta engineer for scheduled diagnostic backups."
            return Seen([*checks, warned(holds, f"It holds no SDD+*.zip yet. {advice}")])
        return Seen([*checks, *_of_another(linac, folder, found), _newest_backup(holds, folder, found)])


def _of_another(linac: Linac, folder: Folder, found: list[Entry]) -> list[Check]:
    """A warning where the logs' headers or, without any, the backups' names tell of another machine. Sites may use names."""
    newest = sorted(found, key=lambda entry: entry.modified, reverse=True)[:2]
    told, where = {machine for entry in newest for machine in _machines(folder, entry)}, "The logs in the newest backups are of"
    if not told:
        names = [re.fullmatch(r"SDD\+([A-Za-z0-9_-]+)\+.*\.zip", entry.name, re.IGNORECASE) for entry in found]
        told, where = {name[1] for name in names if name is not None and not DATE.match(name[1])}, "The backups are named after"
    if not told or linac.serial.lower() in {machine.lower() for machine in told}:
        return []
    seen = f"{where} machine {', '.join(sorted(repr(machine[:40]) for machine in told)[:3])}, not {linac.serial}."
    advice = (
        "If that is not what this site calls this linac, correct the backup folder: another linac's logs would be taken for its."
    )
    return [warned("Machine of the backups", f"{seen} {advice}")]


def _machines(folder: Folder, entry: Entry) -> set[str]:
    """The machines that the first logs of a backup name; none where it cannot be read."""
    machines: set[str] = set()
    try:
        with folder.open(entry.name) as file, zipfile.ZipFile(file) as archive:
            for log in [name for name in archive.namelist() if name.lower().endswith(".trf")][:HEADERS_READ]:
                with archive.open(log) as member, contextlib.suppress(TrfError):
                    machines.add(parse_header(member.read(HEADER_BYTES)).machine.strip())
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, LinacError):
        pass  # _newest_backup tells
    return machines - {""}


def _newest_backup(name: str, folder: Folder, found: list[Entry]) -> Check:
    """How old the newest backup is, and how many logs are in it. One that is being written now is passed over."""
    ordered = sorted(found, key=lambda entry: entry.modified, reverse=True)
    newest = ordered[0]
    age = datetime.now(UTC) - newest.modified
    seen = f"{len(found)} {'backup' if len(found) == 1 else 'backups'}, the newest of {newest.modified:%Y-%m-%d %H:%M} UTC"
    for entry in ordered[:2]:
        try:
            with folder.open(entry.name) as file, zipfile.ZipFile(file) as archive:
                logs = sum(member.lower().endswith(".trf") for member in archive.namelist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, LinacError):
            continue
        seen += (
            f", with {logs} TRF logs in it." if entry is newest else f" (perhaps just being written); before it {logs} TRF logs."
        )
        if not logs:
            return warned(name, f"{seen} Ask the Elekta engineer to include the delivery logs in the backup.")
        break
    else:
        return warned(name, f"{seen}; it cannot be read as a zip. Look at it on the NSS, then check again.")
    if age > timedelta(days=BACKUP_AGE_DAYS):
        return warned(
            name,
            f"{seen} It is {age.days} days old, and the linac keeps its logs for {BACKUP_AGE_DAYS}: ask the "
            "Elekta engineer whether the scheduled backup still runs.",
        )
    return passed(name, seen)


def records(linac: Linac, in_service: Sequence[Linac] = ()) -> Seen:
    """Can files be written, replaced and removed where the records go, is there room, and how fast is it?

    An empty folder is no new records share where linacs in service have their records: that share is not connected.
    """
    share = linac.site.records
    name = f"Records share {share.path}"
    try:
        with share.connect() as folder:
            folder.check()
            marked = folder.find(MARK) is not None
            used = marked or any(folder.find(kind) is not None for kind in ("iCom", "TRF"))
            others = sorted(other.serial for other in in_service if other.site.records.path == share.path)
            if others and not used:
                seen = f"It is empty, although linac {others[0]} has its records there: the share is probably not connected, and"
                return Seen([failed(name, f"{seen} this is the folder where it should be. Connect it, then check again.")])
            replaced = _replaceable(folder)
            writes, reads = _speed(folder)
            free = folder.free()
    except LinacError as error:
        return Seen([failed(name, error)])
    if not replaced:
        return Seen([failed(name, "A file that was replaced still shows its old content. Turn off offline caching.")])
    seen = f"It can be written; {free / 2**30:.0f} GiB are free; {writes:.0f} MB/s to write, {reads:.0f} MB/s to read"
    if not marked:
        seen += f"; it is not marked yet as a records share by the file {MARK}"
    if free < RECORDS_WANTED_BYTES:
        return Seen([warned(name, f"{seen}. A year of a linac takes some {RECORDS_WANTED_BYTES >> 30} GiB: ask for more space.")])
    if min(writes, reads) < SLOW_MB_PER_S:
        return Seen([warned(name, f"{seen}. That is slow: recording does not mind, but a night's backups take long.")])
    return Seen([passed(name, f"{seen}.")])


def _replaceable(folder: Folder) -> bool:
    """Whether a file can be written, replaced, read back and removed. Its name is this check's own."""
    name = f"{WRITE_TEST}-{uuid.uuid4().hex[:8]}"
    try:
        folder.write(name, b"1")
        folder.write(name, b"2")
        return folder.read(name) == b"2"
    finally:
        folder.remove(name)


def _speed(folder: Folder) -> tuple[float, float]:
    """Megabytes a second, written and read back."""
    name = f"{WRITE_TEST}-{uuid.uuid4().hex[:8]}"
    data = os.urandom(SPEED_BYTES)
    try:
        began = time.perf_counter()
        folder.write(name, data)
        between = time.perf_counter()
        if folder.read(name) != data:
            raise StorageError(f"{folder.location}: what was read back is not what was written. Have the share or disk checked.")
        ended = time.perf_counter()
    finally:
        folder.remove(name)
    return SPEED_BYTES / 1e6 / max(between - began, 1e-6), SPEED_BYTES / 1e6 / max(ended - between, 1e-6)


def spool(linac: Linac) -> Seen:
    """Can the capture host keep what the linac sends on a disk of its own? The folder itself is made later."""
    path = linac.spool
    name = f"Spool folder {path}"
    if not is_recorded_here(linac):
        return Seen([warned(name, f"It is on {linac.recorded_by}, so it was not looked at from here.")])
    if path.startswith(("\\\\", "//")):
        return Seen(
            [
                failed(
                    name,
                    "It is on a share. Give a folder on a local disk in the Site block: recording must not depend on "
                    "a network behind it.",
                )
            ]
        )
    try:
        connect(path).close()  # refuses a relative path
        there = next((folder for folder in (Path(path), *Path(path).parents) if folder.is_dir()), None)
        if there is None:
            return Seen([failed(name, "Its disk is not there. Correct the Site block, or connect the disk.")])
        with connect(there) as folder:
            _replaceable(folder)
            free = folder.free()
    except LinacError as error:
        return Seen([failed(name, error)])
    if free < SPOOL_WANTED_BYTES:
        seen = f"Only {free / 2**30:.1f} GiB are free. A linac fills 3 GB a day: free {SPOOL_WANTED_BYTES >> 30} GiB at least, "
        return Seen([warned(name, seen + "or choose another disk in the Site block.")])
    return Seen([passed(name, f"It can be written; {free / 2**30:.0f} GiB are free.")])


def iview(linac: Linac) -> Seen:
    """Can the iView keep its database there? Done as it does: a table written and rewritten, an image written and renamed."""
    share = linac.site.iview
    if share is None:
        if linac.iview_alias:
            advice = "Give the share of its database in the Site block, or leave the alias empty."
            return Seen([warned("iView database", f"The linac has the iView alias {linac.iview_alias}. {advice}")])
        return Seen()
    name = f"iView database {share.path}"
    try:
        with share.connect() as folder:
            folder.check()
            whole = _as_the_iview_writes(folder)
            table = next((entry for entry in folder.list() if entry.name.lower() == IVIEW_DATABASE.lower()), None)
    except LinacError as error:
        return Seen([failed(name, error)])
    if not whole:
        return Seen([failed(name, "A table that was rewritten shows its old content. Turn off offline caching for this share.")])
    if not linac.iview_alias:
        advice = "Give the iView alias, under which the database knows this linac."
        return Seen([warned(name, f"It can be written as the iView does. {advice}")])
    if table is None:
        advice = f"{IVIEW_DATABASE} appears once the iView has mounted the share."
        return Seen([passed(name, f"It can be written as the iView does. No image is in it yet: {advice}")])
    return Seen([passed(name, f"It can be written as the iView does. Last image: {table.modified:%Y-%m-%d %H:%M} UTC.")])


def _as_the_iview_writes(folder: Folder) -> bool:
    """Write a table and an image, rewrite the table with one row more, rename the image; all of it is removed again."""
    image = b"\xff\xd8\xff\xe0" + bytes(1000) + b"\xff\xd9"
    renamed = IVIEW_IMAGE.lower().replace("test", "done")
    try:
        folder.write(IVIEW_TABLE, dbase_table(["00000001"]))
        folder.write(IVIEW_IMAGE, image)
        rewritten = dbase_table(["00000001", "00000002"])
        folder.write(IVIEW_TABLE, rewritten)
        folder.replace(IVIEW_IMAGE, renamed)
        return folder.read(IVIEW_TABLE) == rewritten and folder.read(renamed) == image and folder.find(IVIEW_IMAGE) is None
    finally:
        for left in (IVIEW_TABLE, IVIEW_IMAGE, renamed):
            folder.remove(left)


def dbase_table(ids: list[str]) -> bytes:
    """A dBase III table with one column of 8 letters, as small as they come (dBase III header: 32 bytes, 32 for each column)."""
    columns = b"DBID".ljust(11, b"\x00") + b"C" + bytes(4) + bytes([8, 0]) + bytes(14) + b"\r"
    head = (
        bytes([3, 126, 11, 22])
        + len(ids).to_bytes(4, "little")
        + (32 + len(columns)).to_bytes(2, "little")
        + (9).to_bytes(2, "little")
    )
    return head + bytes(20) + columns + b"".join(b" " + row.encode("ascii").ljust(8) for row in ids) + b"\x1a"


def gateways(linac: Linac) -> Seen:
    """Do the gateways let us through, where shares are behind some?"""
    shares = [linac.backup, linac.site.records, linac.site.iview, linac.site.pymedphys_config]
    checks = []
    known = set()
    for share in shares:
        gateway = share.gateway if share is not None else None
        if share is None or gateway is None or (gateway.host, gateway.port) in known:
            continue
        known.add((gateway.host, gateway.port))
        name = f"Gateway {gateway.host} port {gateway.port}"
        lines = gateway.check(*smb_target(share))
        trouble = [line.removeprefix("trouble: ") for line in lines if line.startswith("trouble: ")]
        checks.append(
            failed(name, trouble[0]) if trouble else passed(name, " ".join(line.removeprefix("ok: ") for line in lines))
        )
    if linac.capture_login is not None:
        lines = linac.capture_login.check()
        trouble = [line.removeprefix("trouble: ") for line in lines if line.startswith("trouble: ")]
        name = f"SSH login of the capture host {linac.capture_login.host}"
        checks.append(
            failed(name, trouble[0]) if trouble else passed(name, " ".join(line.removeprefix("ok: ") for line in lines))
        )
    return Seen(checks + forwards(linac.site))


def forwards(site: Site) -> list[Check]:
    """Does something answer where the site's forwards listen?"""
    if site.gateway is None:
        return []
    checks = []
    for forward in site.forwards:
        name = f"Forward {forward.label or f'to {forward.target_host}'}, port {forward.listen_port}"
        host = "127.0.0.1" if forward.listen_address in ("*", "", "localhost") else forward.listen_address
        if forward.direction == "local":
            problem = _no_answer(host, forward.listen_port)
        else:
            lines = site.gateway.check(host, forward.listen_port)
            problem = next((line.removeprefix("trouble: ") for line in lines if line.startswith("trouble: ")), "")
        advice = f"Run the deployment site-tunnel of {site.name}, which keeps the forwards open, and look at its report."
        checks.append(warned(name, f"{problem} {advice}") if problem else passed(name, "Something answers there."))
    return checks


def _no_answer(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), FORWARD_SECONDS).close()
    except OSError as error:
        return f"Nothing answers at {host} port {port}: {error.strerror or error}."
    return ""


def smb_target(share: Share) -> tuple[str, int]:
    """Host and port of a share's SMB service; no host for a path that is no UNC path."""
    path = share.path.replace("/", "\\")
    return (path.strip("\\").partition("\\")[0], share.port) if path.startswith("\\\\") else ("", share.port)


def pymedphys(linac: Linac) -> Seen:
    """Can PyMedPhys's configuration be read, if somebody uses it?"""
    share = linac.site.pymedphys_config
    if share is None:
        return Seen()
    name = f"PyMedPhys configuration in {share.path}"
    try:
        with share.connect() as folder:
            folder.check()
            text = config.read(folder)
            sites = config.check(text).get("site", [])
    except LinacError as error:
        return Seen([failed(name, error)])
    if not text:
        return Seen([warned(name, "There is no config.toml yet; add-linac makes one.")])
    entered = [site["name"] for site in sites for item in site.get("linac", []) if item["name"] == linac.serial]
    where = f"this linac is entered at {entered[0]}" if entered else "this linac is not entered in it"
    return Seen([passed(name, f"config.toml can be read; {where}.")])
