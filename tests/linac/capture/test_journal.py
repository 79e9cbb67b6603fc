"""The journal: whatever happens to disk or power, what is whole is found, once, and what is lost is said."""

import errno
import lzma
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linac.capture import journal
from linac.capture.journal import Damage, Kind, Position, Reader, Record, Writer, decode, encode, seal
from linac.capture.spool import Spool, write_whole
from linac.errors import StorageError

UNHURRIED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy computer, too

RECORDS = [
    Record(Kind.CONNECTED, 1, 10, 20, b'{"peer": "127.0.0.1"}'),
    Record(Kind.DATA, 2, 11, 21, b"bytes as they came"),
    Record(Kind.DATA, 3, 12, 22, b""),
    Record(Kind.DATA, 4, 13, 23, bytes(range(256)) + journal.MARKER),  # the marker inside a payload is no record
    Record(Kind.DISCONNECTED, 5, 14, 24, b'{"reason": "test"}'),
]
WHOLE = b"".join(map(encode, RECORDS))
ENDS = [sum(len(encode(record)) for record in RECORDS[: n + 1]) for n in range(len(RECORDS))]


def found(data: bytes, *, final: bool) -> tuple[list[Record], list[Damage]]:
    what = [each for each, _ in decode(data, final=final)]
    return [each for each in what if isinstance(each, Record)], [each for each in what if isinstance(each, Damage)]


def read_all(folder: Path, position: Position | None = None) -> tuple[list[bytes], list[Damage]]:
    payloads, damages = [], []
    for entry in Reader(folder, position).read():
        if isinstance(entry.what, Damage):
            damages.append(entry.what)
        elif entry.what.kind == Kind.DATA:
            payloads.append(entry.what.payload)
    return payloads, damages


def write(writer: Writer, *payloads: bytes) -> None:
    for payload in payloads:
        writer.append(Kind.DATA, payload, time.time_ns(), time.monotonic_ns())
        writer.commit()


def test_a_record_is_what_its_layout_says() -> None:
    raw = encode(Record(Kind.DATA, 7, 1, 2, b"AB"))
    assert raw[:4] == b"\xf0LJ1"  # marker
    assert raw[4:8] == b"\x01\0\0\0"  # kind: data
    assert raw[8:16] == (7).to_bytes(8, "little")  # number
    assert raw[16:32] == (1).to_bytes(8, "little") + (2).to_bytes(8, "little")  # wall and monotonic ns
    assert raw[32:36] == (2).to_bytes(4, "little")  # payload length
    assert raw[44:] == b"AB"
    assert len(raw) == journal.HEADER_BYTES + 2


def test_what_was_encoded_is_decoded() -> None:
    assert found(WHOLE, final=True) == (RECORDS, [])
    assert RECORDS[0].facts() == {"peer": "127.0.0.1"}
    assert RECORDS[1].facts() == {}


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_tail_torn_at_any_byte_costs_no_more_than_its_record(cut: int) -> None:
    whole = [record for record, end in zip(RECORDS, ENDS, strict=True) if end <= cut]
    assert found(WHOLE[:cut], final=False) == (whole, []), "while it is being written it is waited for"
    records, damages = found(WHOLE[:cut], final=True)
    assert records == whole
    torn = cut - max([0, *(end for end in ENDS if end <= cut)])
    assert [(damage.size, damage.torn) for damage in damages] == ([(torn, True)] if torn else [])


@pytest.mark.parametrize("at", range(ENDS[0], ENDS[1]))
def test_a_wrong_byte_anywhere_in_a_record_costs_that_record_alone(at: int) -> None:
    damaged = WHOLE[:at] + bytes([WHOLE[at] ^ 0x55]) + WHOLE[at + 1 :]
    records, damages = found(damaged, final=True)
    assert records == [RECORDS[0], *RECORDS[2:]]
    assert [damage.size for damage in damages] == [ENDS[1] - ENDS[0]]
    assert not damages[0].torn


@UNHURRIED
@given(st.lists(st.integers(0, len(WHOLE)), max_size=8), st.binary(max_size=60))
def test_however_a_segment_grows_the_same_records_come_out(cuts: list[int], tail: bytes) -> None:
    data = WHOLE + tail
    at, records = 0, []
    for edge in [*sorted(cuts), len(data)]:
        done = 0
        for what, done in decode(data[at:edge], final=False):  # noqa: B007 (where it ended is needed after the loop)
            records.append(what)
        at += done
    assert records[: len(RECORDS)] == RECORDS


@UNHURRIED
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_rubbish_between_records_never_hides_a_record(before: bytes, between: bytes) -> None:
    records, _ = found(before + encode(RECORDS[1]) + between + encode(RECORDS[3]), final=True)
    assert RECORDS[3] in records
    assert RECORDS[1] in records


def test_rubbish_longer_than_any_record_is_passed_over_while_it_is_written() -> None:
    data = encode(RECORDS[0]) + b"\0" * (journal.MAX_PAYLOAD + 1000)
    steps = list(decode(data, final=False))
    assert isinstance(steps[1][0], Damage)
    assert steps[-1][1] <= len(data)
    rest = data[steps[-1][1] :] + encode(RECORDS[1])
    assert RECORDS[1] in found(rest, final=False)[0]


def test_reader_follows_a_writer(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299")
    reader = Reader(tmp_path)
    assert list(reader.read()) == []
    write(writer, b"one")
    assert [e.what.payload for e in reader.read() if isinstance(e.what, Record)][-1] == b"one"
    assert list(reader.read()) == []
    assert reader.at_end
    write(writer, b"two", b"three")
    assert [e.what.payload for e in reader.read() if isinstance(e.what, Record)] == [b"two", b"three"]


def test_a_new_segment_begins_after_size_and_after_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299", segment_bytes=500)
    write(writer, *[b"x" * 300] * 4)
    assert len(journal.segments(tmp_path)) == 2
    writer.segment_seconds = 0.0
    write(writer, b"later")
    writer.close()
    assert len(journal.segments(tmp_path)) == 3
    assert read_all(tmp_path) == ([b"x" * 300] * 4 + [b"later"], [])


def test_every_writer_begins_a_segment_of_its_own(tmp_path: Path) -> None:
    for payload in (b"first", b"second"):
        writer = Writer(tmp_path, "4299")
        write(writer, payload)
        writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.journal", "00000002.journal"]
    assert read_all(tmp_path) == ([b"first", b"second"], [])


def test_reading_from_a_position_gives_the_rest(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299", segment_bytes=200)
    payloads = [b"%03d" % n * 20 for n in range(12)]
    write(writer, *payloads)
    entries = [entry for entry in Reader(tmp_path).read() if isinstance(entry.what, Record) and entry.what.kind == Kind.DATA]
    assert {entry.run for entry in entries} == {writer.run}
    for number, entry in enumerate(entries):
        assert read_all(tmp_path, entry.start)[0] == payloads[number:]
        assert read_all(tmp_path, entry.end)[0] == payloads[number + 1 :]


def test_a_torn_tail_is_waited_for_until_there_is_a_newer_segment(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299")
    write(writer, b"whole", b"torn")
    writer.close()
    path = tmp_path / "00000001.journal"
    path.write_bytes(path.read_bytes()[:-2])
    reader = Reader(tmp_path)
    assert [e.what.payload for e in reader.read() if isinstance(e.what, Record)][-1] == b"whole"
    assert list(reader.read()) == []
    after = Writer(tmp_path, "4299")
    write(after, b"after the crash")
    entries = [entry.what for entry in reader.read()]
    assert isinstance(entries[0], Damage)
    assert entries[0].torn
    assert entries[0].size == journal.HEADER_BYTES + 2
    assert isinstance(entries[-1], Record)
    assert entries[-1].payload == b"after the crash"


def test_a_record_that_is_just_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299")
    write(writer, b"one")
    reader = Reader(tmp_path)
    assert len(list(reader.read())) == 2
    raw = encode(Record(Kind.DATA, 2, 1, 1, b"slowly"))
    for at in range(len(raw)):
        assert list(reader.read()) == []
        with (tmp_path / "00000001.journal").open("ab") as file:
            file.write(raw[at : at + 1])
    [entry] = reader.read()
    assert isinstance(entry.what, Record)
    assert entry.what.payload == b"slowly"


@pytest.mark.parametrize("failure", ["write", "half a write", "sync"])
def test_a_disk_that_fails_for_a_while_costs_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    writer = Writer(tmp_path, "4299")
    write(writer, b"before")
    writer.sync()
    write(writer, b"written, not synced")

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, data: memoryview) -> int:
            if failure == "half a write" and len(data) > 20:
                return self.file.write(data[:20])  # type: ignore[attr-defined,no-any-return]
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> object:
            if name == "truncate":
                raise OSError(errno.EIO, "and it cannot be mended either")
            return getattr(self.file, name)

    if failure == "sync":
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
            with pytest.raises(StorageError, match=r"NOTHING IS BEING WRITTEN.* recording resumes by itself as soon as"):
                writer.sync()
    else:
        writer._file = Full(writer._file)  # type: ignore[assignment]
    if failure != "sync":
        writer.append(Kind.DATA, b"while it fails", 1, 1)
        with pytest.raises(StorageError, match="No space left"):
            writer.commit()
    write(writer, b"after")
    writer.close()
    middle = [] if failure == "sync" else [b"while it fails"]
    assert read_all(tmp_path) == ([b"before", b"written, not synced", *middle, b"after"], [])


def test_what_a_failed_sync_did_lose_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may drop what it could not write and say so only once."""
    writer = Writer(tmp_path, "4299")
    write(writer, b"safe")
    writer.sync()
    size = (tmp_path / "00000001.journal").stat().st_size
    write(writer, b"dropped by the kernel")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(StorageError):
            writer.sync()
    os.truncate(tmp_path / "00000001.journal", size + 10)
    write(writer, b"after")
    assert read_all(tmp_path) == ([b"safe", b"dropped by the kernel", b"after"], [])


def test_a_nearly_full_disk_is_left_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299", reserve_bytes=1 << 62)
    writer.append(Kind.DATA, b"waits", 1, 1)
    for _ in range(3):
        with pytest.raises(StorageError, match=r"^NOTHING IS BEING WRITTEN: .* resumes by itself as soon as there is room"):
            writer.commit()
    assert list(tmp_path.iterdir()) == [], "no heap of empty segments"
    writer.reserve_bytes = 0
    writer.commit()
    assert read_all(tmp_path) == ([b"waits"], [])


def test_missing_records_are_said(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "4299")
    write(writer, b"one", b"two", b"three")
    writer.close()
    path = tmp_path / "00000001.journal"
    whole = path.read_bytes()
    middle = encode(next(r for r, _ in decode(whole, final=True) if isinstance(r, Record) and r.payload == b"two"))
    path.write_bytes(whole.replace(middle, b""))
    payloads, damages = read_all(tmp_path)
    assert payloads == [b"one", b"three"]
    assert [damage.reason for damage in damages] == ["journal records 2 to 2 are missing"]


def test_a_segment_removed_by_hand_is_said(tmp_path: Path) -> None:
    for n in range(3):
        writer = Writer(tmp_path, "4299")
        write(writer, b"%d" % n)
        writer.close()
    reader = Reader(tmp_path)
    next(iter(reader.read()))
    (tmp_path / "00000002.journal").unlink()
    rest = [entry.what for entry in reader.read()]
    assert any(isinstance(what, Damage) and "2 to 2 are gone" in what.reason for what in rest)
    assert isinstance(rest[-1], Record)
    assert rest[-1].payload == b"2"


def test_a_packed_segment_reads_the_same_from_every_position(tmp_path: Path) -> None:
    for n in range(3):
        writer = Writer(tmp_path, "4299")
        write(writer, *[b"%d-%d" % (n, k) * 300 for k in range(20)])
        writer.close()
    before = [(entry.start, entry.what) for entry in Reader(tmp_path).read()]
    plain = journal.size(tmp_path)
    assert seal(tmp_path, 1)
    assert seal(tmp_path, 2)
    assert seal(tmp_path, 1)
    assert not seal(tmp_path, 3), "the newest may still be written to"
    assert journal.size(tmp_path) < plain / 2
    assert [(entry.start, entry.what) for entry in Reader(tmp_path).read()] == before
    for start, _ in before[::7]:
        assert [entry.what for entry in Reader(tmp_path, start).read()] == [what for at, what in before if at >= start]


def test_packing_can_be_interrupted_at_any_point(tmp_path: Path) -> None:
    for payload in (b"a", b"b"):
        writer = Writer(tmp_path, "4299")
        write(writer, payload)
        writer.close()
    (tmp_path / "00000001.journal.xz.part").write_bytes(b"half")
    assert read_all(tmp_path) == ([b"a", b"b"], [])
    plain = (tmp_path / "00000001.journal").read_bytes()
    assert seal(tmp_path, 1)
    (tmp_path / "00000001.journal").write_bytes(plain)  # power went between renaming the packed and removing the plain one
    assert read_all(tmp_path) == ([b"a", b"b"], [])
    assert seal(tmp_path, 1)
    assert not (tmp_path / "00000001.journal").exists()


def test_a_damaged_packed_segment_is_said_and_passed_over(tmp_path: Path) -> None:
    for payload in (b"a", b"b"):
        writer = Writer(tmp_path, "4299")
        write(writer, payload)
        writer.close()
    seal(tmp_path, 1)
    (tmp_path / "00000001.journal.xz").write_bytes(b"not xz at all")
    payloads, damages = read_all(tmp_path)
    assert payloads == [b"b"]
    assert "damaged" in damages[0].reason


def test_reading_in_small_bites_gives_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_PAYLOAD", 500)
    monkeypatch.setattr(journal, "READ_BYTES", 1000)
    writer = Writer(tmp_path, "4299", segment_bytes=3000)
    payloads = [os.urandom(n % 480 + 1) for n in range(0, 4000, 37)]
    write(writer, *payloads)
    reader = Reader(tmp_path)
    got = []
    while True:
        bite = [entry.what for entry in reader.read(limit_bytes=1)]
        got += [what.payload for what in bite if isinstance(what, Record) and what.kind == Kind.DATA]
        if not bite and reader.at_end:
            break
    assert got == payloads


def test_a_packed_segment_is_unpacked_once_however_small_the_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_PAYLOAD", 500)
    monkeypatch.setattr(journal, "READ_BYTES", 1000)
    folder = tmp_path
    writer = Writer(folder, "4299")
    sent = [bytes([n % 251]) * (n % 400 + 1) for n in range(200)]
    for n, payload in enumerate(sent):
        writer.append(Kind.DATA, payload, n, n)
    writer.close()
    later = Writer(folder, "4299")
    later.note(Kind.STARTED, 0, 0)
    later.close()
    assert journal.seal(folder, 1)
    opened: list[int] = []
    original = journal._Packed.__init__

    def counted(self: Any, path: Path) -> None:
        opened.append(1)
        original(self, path)

    monkeypatch.setattr(journal._Packed, "__init__", counted)
    reader = journal.Reader(folder)
    found = [entry.what.payload for entry in reader.read() if isinstance(entry.what, Record) and entry.what.kind == Kind.DATA]
    assert found == sent
    assert len(opened) == 1
    assert reader.at_end


def test_a_packed_segment_can_be_read_from_any_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "READ_BYTES", 64)
    path = tmp_path / "00000001.journal.xz"
    data = bytes(n % 256 for n in range(1000))
    path.write_bytes(lzma.compress(data))
    packed = journal._Packed(path)
    for offset, count in [(0, 64), (50, 64), (50, 10), (300, 64), (299, 64), (0, 1000), (990, 64), (1000, 5), (2000, 5), (10, 3)]:
        assert packed.read(offset, count) == data[offset : offset + count], (offset, count)
    packed.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows inherits rights from the folder above")
def test_the_spool_is_for_its_own_account_alone(tmp_path: Path) -> None:
    places = Spool(tmp_path / "new" / "spool", "4299")
    places.make()
    for made in (places.root, places.folder, places.journal):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    writer = Writer(places.journal, "4299")
    writer.append(Kind.DATA, b"x", 1, 1)
    writer.close()
    write_whole(places.status, b"{}")
    for path in (*places.journal.iterdir(), places.status):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    places.folder.chmod(0o755)  # as earlier versions made it
    places.make()
    assert stat.S_IMODE(places.folder.stat().st_mode) == 0o700
    places.folder.chmod(0o750)  # what an administrator chose stays
    places.make()
    assert stat.S_IMODE(places.folder.stat().st_mode) == 0o750


def test_reading_from_a_later_segment_on_finds_nothing_missing_before_it(tmp_path: Path) -> None:
    """Older segments have their time and go; only who reads from the very first on may say that they are missing."""
    writer = Writer(tmp_path, "4299", segment_bytes=1000)
    write(writer, *[b"x" * 400] * 12)
    writer.close()
    first, second, *_ = sorted(journal.segments(tmp_path))
    all_of_it, damages = read_all(tmp_path)
    assert (len(all_of_it), damages) == (12, [])
    journal.segments(tmp_path)[first].unlink()
    later, damages = read_all(tmp_path, Position(second, 0))
    assert 0 < len(later) < 12
    assert damages == []
    _, damages = read_all(tmp_path)
    assert len(damages) == 1
    assert "are missing" in damages[0].reason
