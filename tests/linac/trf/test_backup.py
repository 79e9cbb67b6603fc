"""Backups: every whole log comes out, damaged ones say so, and nothing eats the memory."""

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linac.errors import BackupError, StorageError
from linac.trf import backup as module
from linac.trf.backup import Member, check_zip, read_trfs

LOGS = {f"TCS/Logs/day {day}/17_04_{day:02d} log.trf": bytes([day]) * 3_000 + bytes(range(256)) * day for day in range(1, 6)}
OTHERS = {"TCS/readme.txt": b"PK\x03\x04 in a text", "TCS/Logs/": b"", "TCS/trf": b"x", "a.trf.txt": b"x" * 2_000}

Peak = Callable[[Callable[[], object]], int]


class Unseekable(io.BytesIO):
    """A target that cannot seek: the zip's sizes and checksums then follow the data, as streaming writers do it."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError("no telling")


def pack(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, target: io.BytesIO | None = None) -> bytes:
    target = target or io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def all_of(data: bytes, **options: int) -> tuple[list[Member], BackupError | None]:
    """The members, and how it ended."""
    members: list[Member] = []
    try:
        members.extend(read_trfs(io.BytesIO(data), **options))
    except BackupError as error:
        return members, error
    return members, None


def whole(members: list[Member]) -> dict[str, bytes]:
    return {member.name: member.data for member in members if member.data is not None}


KINDS = [
    (zipfile.ZIP_STORED, None),
    (zipfile.ZIP_DEFLATED, None),
    (zipfile.ZIP_DEFLATED, Unseekable),
]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_logs_come_in_order_and_nothing_else(method: int) -> None:
    members, error = all_of(pack({**OTHERS, **LOGS, "x/UPPER.TRF": b"u", "y\\back.Trf": b"b"}, method))
    assert error is None
    assert [member.name for member in members] == [*LOGS, "x/UPPER.TRF", "y/back.Trf"]
    assert whole(members) == {**LOGS, "x/UPPER.TRF": b"u", "y/back.Trf": b"b"}


def test_from_a_path_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "SDD+1.zip"
    path.write_bytes(pack(LOGS))
    with path.open("rb") as file:
        for source in (path, str(path), file):
            assert whole(list(read_trfs(source))) == LOGS
        assert not file.closed
    assert list(read_trfs(io.BytesIO(pack(OTHERS)))) == []


def test_a_missing_zip_is_storage_and_not_damage(tmp_path: Path) -> None:
    for path in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(StorageError, match="Could not read the backup"):
            list(read_trfs(path))


def test_storage_that_fails_while_reading_is_not_damage() -> None:
    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() < 100:
                raise OSError(5, "Input/output error")
            return super().read(size)

    for data in (pack(LOGS), pack(LOGS)[:-30]):
        with pytest.raises(StorageError, match="Input/output error"):
            list(read_trfs(Gone(data)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_damaged_member_stops_no_other(method: int) -> None:
    data = bytearray(pack(LOGS, method))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.infolist()[2]
        data[info.header_offset + 30 + len(info.filename) + 20] ^= 0xFF
    members, error = all_of(bytes(data))
    assert error is None
    assert [member.name for member in members] == list(LOGS)
    assert members[2].data is None
    assert "damaged" in str(members[2].error)
    assert whole(members) == {name: log for name, log in LOGS.items() if name != members[2].name}


def directory_patch(data: bytes, index: int, offset: int, value: bytes) -> bytes:
    """Change one member's entry in both places where a zip describes it."""
    changed = bytearray(data)
    local = central = -1
    for _ in range(index + 1):
        local = data.index(b"PK\x03\x04", local + 1)
        central = data.index(b"PK\x01\x02", central + 1)
    changed[local + offset : local + offset + len(value)] = value
    changed[central + offset + 2 : central + offset + 2 + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize(("offset", "value", "why"), [(6, b"\x01\x00", "encrypted"), (8, b"\x09\x00", "method 9")])
@pytest.mark.parametrize("cut", [0, 1])
def test_what_python_cannot_unpack_is_said(offset: int, value: bytes, why: str, cut: int) -> None:
    data = directory_patch(pack(LOGS), 1, offset, value)
    members, error = all_of(data[: len(data) - 22 * cut])
    assert (error is None) == (cut == 0)
    assert why in str(members[1].error)
    assert len(whole(members)) == 4


@pytest.mark.parametrize(("method", "target"), KINDS)
@pytest.mark.parametrize("cut", [0, 1])
def test_a_bomb_is_not_unpacked(method: int, target: type[io.BytesIO] | None, cut: int, peak_bytes: Peak) -> None:
    """Neither an honest one nor one that understates its size takes much more memory than the limit."""
    size = 64 << 20 if method == zipfile.ZIP_DEFLATED else 4 << 20
    data = pack({"bomb.trf": bytes(size), **LOGS}, method, target() if target else None)
    data = data[: len(data) - 22 * cut]
    lying = directory_patch(data, 0, 22, struct.pack("<I", 1_000)) if not target else data
    for backup in (data, lying):
        members: list[Member] = []
        peak = peak_bytes(lambda into=members, backup=backup: into.extend(all_of(backup, max_bytes=1 << 20)[0]))
        assert members[0].data is None
        assert members[0].error is not None
        assert whole(members) == LOGS
        assert peak < (8 << 20) + 2 * len(backup)


@pytest.mark.parametrize(("method", "target"), KINDS)
def test_a_zip_cut_anywhere_gives_all_that_is_whole(method: int, target: type[io.BytesIO] | None) -> None:
    files = {"first.txt": b"x" * 500, **LOGS, "last.txt": b"x"}
    data = pack(files, method, target() if target else None)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        starts = [info.header_offset for info in archive.infolist()] + [archive.start_dir]
    follow = 0 if target is None else 16  # checksum and sizes behind the data
    for size in {*range(0, len(data), 97), *(start + more for start in starts for more in (-17, -1, 0, 1, 29, 40))} - {-17, -1}:
        members, error = all_of(data[:size])
        ends = dict(zip(files, starts[1:], strict=True))
        complete = {name: log for name, log in LOGS.items() if ends[name] <= size}
        assert {name: log for name, log in whole(members).items() if ends[name] <= size} == complete
        for name in set(whole(members)) - set(complete):  # only what follows the data is missing
            assert ends[name] - follow < size < ends[name]
            assert whole(members)[name] == LOGS[name]
        assert error is not None
        assert f"{len(whole(members))} TRFs could be read" in str(error)


@pytest.mark.parametrize("data", [b"", b"PK", b"<html>Not found</html>" * 100, bytes(100_000)])
def test_what_is_no_zip_is_said(data: bytes) -> None:
    members, error = all_of(data)
    assert members == []
    assert "0 TRFs could be read" in str(error)


def test_large_sizes_in_the_zip64_field_are_followed() -> None:
    """A member may say its sizes in an extra field, as writers do that expect more than 4 GB."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("large.trf", "w", force_zip64=True) as member:
            member.write(b"log" * 100)
        archive.writestr("next.trf", b"next")
    for data in (target.getvalue(), target.getvalue()[:-22]):
        assert whole(all_of(data)[0]) == {"large.trf": b"log" * 100, "next.trf": b"next"}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), max_size=8),
    cut=st.none() | st.integers(0, 1 << 20),
    torn=st.booleans(),
)
def test_no_damage_invents_a_log_or_raises_anything_else(
    kind: tuple[int, type[io.BytesIO] | None], flips: list[tuple[int, int]], cut: int | None, torn: bool
) -> None:
    """Every log that comes out is one that went in, whatever happened to the zip."""
    data = bytearray(pack(LOGS, kind[0], kind[1]() if kind[1] else None))
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    if cut is not None:
        del data[cut % len(data) :]
    if torn:
        del data[-30:]
    members, _ = all_of(bytes(data))
    known = {zlib.crc32(log) for log in LOGS.values()} | {zlib.crc32(b"")}
    assert all(zlib.crc32(log) in known for log in whole(members).values())
    assert all((member.data is None) == (member.error is not None) for member in members)


def test_messages_hold_no_names() -> None:
    """A log's name holds its field's, and a message travels into logs and reports."""
    data = bytearray(pack({"Muster-Erfunden.trf": b"x" * 5_000}, zipfile.ZIP_STORED))
    data[100] ^= 1
    for backup in (bytes(data), bytes(data[:-30])):
        members, error = all_of(backup)
        assert [member.name for member in members] == ["Muster-Erfunden.trf"]
        assert "Erfunden" not in f"{members[0].error} {error}"


def test_one_log_at_a_time(peak_bytes: Peak) -> None:
    """However many logs a backup holds, one is in memory."""
    data = pack({f"{number}.trf": bytes(4 << 20) for number in range(12)})
    sizes = []

    def read(backup: bytes) -> None:
        with contextlib.suppress(BackupError):
            for member in read_trfs(io.BytesIO(backup)):
                sizes.append(len(member.data or b""))
                del member

    for backup in (data, data[:-22]):
        sizes.clear()
        assert peak_bytes(lambda backup=backup: read(backup)) < 5 * (4 << 20)
        assert sizes == [4 << 20] * 12


def test_a_zip_within_the_backup_is_told_if_it_has_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is to take a backup for done whose logs lie one zip deeper; the many zips without logs are nobody's concern."""
    late = pack({"filler": bytes(module._CHUNK - 70), "b/Late.TRF": b"x"}, zipfile.ZIP_STORED)
    assert late.index(b"PK\x03\x04", 4) == module._CHUNK - 34, "its name begins in one piece and ends in the next"
    quiet = {"quiet.zip": pack(OTHERS), "empty.zip": b"", "no zip.zip": b"text" * 1000, "folder.zip/": b""}
    loud = {"a/Logs.ZIP": pack(LOGS), "late.zip": late, "deep.zip": pack({"deeper.zip": pack(LOGS)})}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        members, error = all_of(pack({**quiet, **loud, **LOGS}, method))
        assert error is None
        assert [member.name for member in members if member.error is not None] == list(loud)
        assert all("holds TRFs" in str(member.error) and "Logs" not in str(member.error) for member in members if member.error)
        assert whole(members) == LOGS
    encrypted = directory_patch(pack({"quiet.zip": pack(OTHERS)}), 0, 6, b"\x01\x00")
    assert "cannot be looked into" in str(all_of(encrypted)[0][0].error)
    monkeypatch.setattr(module, "MAX_ZIP_WITHIN_BYTES", 10)
    assert len(all_of(pack({"quiet.zip": pack(OTHERS)}))[0]) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_very_many_members_gives_its_logs_and_tells_those_it_cannot_find(
    method: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its directory is not read at once."""
    monkeypatch.setattr(module, "MAX_DIRECTORY_BYTES", 20_000)
    data = pack({**{f"{number}.txt": b"" for number in range(1_000)}, **LOGS}, method)
    path = tmp_path / "SDD+1.zip"
    path.write_bytes(data)
    check_zip(path)
    assert all_of(data) == (all_of(data)[0], None)
    assert whole(all_of(data)[0]) == LOGS
    first = data.index(b"PK\x03\x04", data.index(b"999.txt"))
    members, error = all_of(data[:first] + b"PX" + data[first + 2 :])
    assert len(whole(members)) == 4
    assert "of which 5 are TRFs or zips; 4 of these were found" in str(error)
    entry = data.index(b"PK\x01\x02", len(data) - 500)
    damaged = data[:entry] + b"PX" + data[entry + 2 :]
    members, error = all_of(damaged)
    assert whole(members) == LOGS
    assert "5 TRFs could be read" in str(error)
    path.write_bytes(damaged)
    with pytest.raises(BackupError, match="has no directory"):
        check_zip(path)
    assert "zips; 0 of these" in str(all_of(pack({f"{n}.txt": b"" for n in range(999)} | {"in.zip": pack(LOGS)}, 8))[1])
