"""What keeps records and reads backups works on a real SMB share as it does on a local folder."""

import lzma
import time
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from linac.capture import archive as archiving
from linac.capture.archive import Archiver
from linac.capture.journal import Kind, Writer
from linac.errors import StorageError, UnreachableError
from linac.index import Index, Log
from linac.index.icom import add_session, missing
from linac.simulator import PATIENTS, Session, make_beams, write_backup
from linac.simulator.messages import make_message
from linac.simulator.samba import Samba
from linac.simulator.session import moments
from linac.transport import Folder, connect
from linac.transport import records as records_share
from linac.transport.smb import SmbFolder
from linac.trf.backup import read_trfs

START = datetime(2026, 1, 5, 9, 30)  # noqa: DTZ001 (the linac writes local time)


@pytest.fixture
def own(smb_server: Samba) -> str:
    return f"Aufzeichnungen {uuid.uuid4().hex[:8]}"


@pytest.fixture
def records(smb_server: Samba, own: str) -> Iterator[Folder]:
    with connect(smb_server.unc("physics", own), smb_server.credentials, port=smb_server.port, timeout=20).make_root() as folder:
        assert isinstance(folder, SmbFolder)
        yield folder


@pytest.fixture
def backup(smb_server: Samba, own: str) -> Iterator[tuple[Folder, Path]]:
    """The NSS's read-only share with two backups, and where it is on this computer."""
    there = smb_server.folder("Backup") / own / "TCS"
    for night in (date(2026, 1, 6), date(2026, 1, 7)):
        write_backup(there, night, per_day=1, mu=20, days=3, damaged=1)
    with connect(smb_server.unc("Backup", own, "TCS"), smb_server.credentials, port=smb_server.port, timeout=20) as folder:
        yield folder, there


def logs(path: Path) -> list[Log]:
    return [Log(member.name, member.data, path.name) for member in read_trfs(path) if member.data is not None]


def test_backups_are_listed_fetched_and_read(backup: tuple[Folder, Path], tmp_path: Path) -> None:
    folder, there = backup
    entries = folder.list("SDD+*.zip")
    assert [entry.name for entry in entries] == sorted(path.name for path in there.iterdir())

    def whole(path: Path) -> None:
        with zipfile.ZipFile(path) as opened:
            assert opened.testzip() is None

    for entry in entries:
        assert folder.fetch(entry.name, tmp_path / entry.name, verify=whole)
        assert not folder.fetch(entry.name, tmp_path / entry.name, verify=whole)
        assert (tmp_path / entry.name).read_bytes() == (there / entry.name).read_bytes()


def test_a_backup_is_read_where_it_lies(backup: tuple[Folder, Path]) -> None:
    folder, there = backup
    name = folder.list("SDD+*.zip")[0].name
    with folder.open(name) as file:
        found = [(member.name, member.data) for member in read_trfs(file)]
    assert found == [(member.name, member.data) for member in read_trfs(there / name)]
    assert len(found) == 4


def test_the_index_adds_finds_and_verifies(records: Folder, backup: tuple[Folder, Path], smb_server: Samba, own: str) -> None:
    folder, there = backup
    index = Index(records)
    first, second = folder.list("SDD+*.zip")
    assert index.new_backups("4299", folder.list("SDD+*.zip")) == [first, second]
    added = index.add("4299", logs(there / first.name))
    assert (added.indexed, added.duplicates, len(added.quarantined)) == (3, 0, 1)
    index.mark_done("4299", first, added.counts)
    assert index.new_backups("4299", folder.list("SDD+*.zip")) == [second]
    again = Index(records)
    added = again.add("4299", logs(there / second.name))
    assert (added.indexed, added.duplicates) == (1, 2)
    frame = again.deliveries()
    assert len(frame) == 4
    found = again.find(sha256=frame["sha256"][0])
    assert len(found) == 1
    assert len(again.samples(frame["sha256"][0])) == found["rows"].iloc[0]
    assert again.verify(values=True).problems == []
    again.compact()
    # the same files, seen as plain ones by somebody at the server
    with connect(smb_server.folder("physics") / own) as plain:
        assert Index(plain).verify(values=True).problems == []
        assert len(Index(plain).deliveries()) == 4


def test_sessions_are_archived_and_become_queryable(records: Folder, smb_server: Samba, own: str, tmp_path: Path) -> None:
    session = Session(*PATIENTS[1], beams=make_beams(2))
    raw = [
        make_message(moment, START + timedelta(seconds=n / 4), n, "4299", with_name=True)
        for n, moment in enumerate(moments(session, 4.0))
    ]
    journal = tmp_path / "spool" / "4299" / "journal"
    journal.mkdir(parents=True)
    writer = Writer(journal, "4299")
    ago = 3_600_000_000_000
    for message in raw:
        writer.append(Kind.DATA, message, time.time_ns() - ago, time.monotonic_ns() - ago)
    writer.commit()
    writer.sync()
    writer.close()
    archiver = Archiver(tmp_path / "spool", "4299", "192.168.17.40", records.below("iCom"))
    [done] = archiver.run_once()
    assert done.outcome == "archived"
    there = smb_server.folder("physics") / own / "iCom"
    [path] = there.glob("patients/*/*.xz")
    assert lzma.decompress(path.read_bytes()) == b"".join(raw)
    assert path.relative_to(there).as_posix() == done.path
    assert [line.outcome for line in archiving.sessions(tmp_path / "spool", "4299")] == ["archived"]
    assert missing(records, "4299") == [f"iCom/{done.path}"]
    assert add_session(records, "4299", f"iCom/{done.path}", records.read(f"iCom/{done.path}"), done.stamp) == 2
    assert missing(records, "4299") == []


def test_a_records_share_is_told_from_an_empty_folder(records: Folder, smb_server: Samba, own: str) -> None:
    with pytest.raises(UnreachableError, match="is away: a folder is there"):
        records_share.require(records)
    assert records_share.mark(records)
    assert not records_share.mark(records)
    records_share.require(records)
    records_share.require(records.below("iCom"))
    there = smb_server.folder("physics") / own
    (there / records_share.MARK).unlink()
    there.rmdir()
    with pytest.raises(UnreachableError, match=r"is away.*not there") as caught:
        records_share.require(records)
    assert isinstance(caught.value, StorageError), "who only minds storage takes it for such"


def test_times_are_told_in_utc(backup: tuple[Folder, Path]) -> None:
    folder, there = backup
    entry = folder.list("SDD+*.zip")[0]
    wanted = datetime.fromtimestamp((there / entry.name).stat().st_mtime, UTC)
    assert abs(entry.modified - wanted) <= timedelta(microseconds=1)
