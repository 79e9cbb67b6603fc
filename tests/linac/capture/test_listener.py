"""The listener: it drains the socket whatever happens, journals every byte, and leaves in order."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import linac
from linac.capture import control, journal
from linac.capture.connection import peer_of
from linac.capture.journal import Damage, Kind, Reader, Record, Writer
from linac.capture.listener import EXIT_ALREADY, EXIT_SETUP, EXIT_STOPPED, HeaderCounter, Listener
from linac.capture.lock import FileLock
from linac.capture.recorder import Recorder
from linac.capture.sessions import cut
from linac.capture.spool import Spool
from linac.capture.status import Status, told_interruptions
from linac.errors import AlreadyRunningError, SetupError, StorageError

ROOT = Path(linac.__file__).parents[1]


def journalled(spool: Path) -> bytes:
    folder = spool / "4299" / "journal"
    return b"".join(
        entry.what.payload for entry in Reader(folder).read() if isinstance(entry.what, Record) and entry.what.kind == Kind.DATA
    )


def notes(spool: Path) -> list[tuple[str, dict[str, Any]]]:
    folder = spool / "4299" / "journal"
    what = [entry.what for entry in Reader(folder).read()]
    return [(Kind(each.kind).name, each.facts()) for each in what if isinstance(each, Record) and each.kind != Kind.DATA]


@pytest.fixture
def listening(spool: Path, peer: Any) -> Iterator[Callable[..., Listener]]:
    """Starts a listener in a thread of this process, with quick reconnects."""
    running: list[tuple[Listener, threading.Thread]] = []

    def start(**more: Any) -> Listener:
        listener = Listener("4299", "127.0.0.1", peer.port, spool, **({"first_wait_seconds": 0.05} | more))
        thread = threading.Thread(target=listener.run, daemon=True)
        thread.start()
        running.append((listener, thread))
        return listener

    yield start
    for listener, thread in running:
        listener.stop("end of the test")
        thread.join(10)
        assert not thread.is_alive()


def test_every_byte_is_in_the_journal_as_it_came(listening: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listening()
    stream = b"".join([*lab.idle(3, 0), b"garbage \x00\xff", *lab.session("TEST-1", 20, first=3)])
    peer.wait()
    rng = random.Random(1)
    at = 0
    while at < len(stream):
        size = rng.choice([1, 7, 100, 3000, 20000])
        peer.send(stream[at : at + size])
        at += size
    lab.wait_for(lambda: journalled(spool) == stream)
    assert [kind for kind, _ in notes(spool)] == ["OPENED", "STARTED", "CONNECTED"]


def records(spool: Path) -> list[Record]:
    found = [entry.what for entry in Reader(spool / "4299" / "journal").read()]
    return [each for each in found if isinstance(each, Record) and each.kind == Kind.DATA]


def test_a_flood_is_taken_in_few_pieces_and_what_follows_at_the_linacs_pace_message_by_message(
    listening: Any, peer: Any, spool: Path, lab: SimpleNamespace
) -> None:
    """Waking up for each of thousands of messages would cost ten times what recording them costs; nothing is lost or held up by
    letting some gather."""
    listening()
    peer.wait()
    flood = [lab.message(n % 256) for n in range(1500)]
    peer.send(*flood, pause=0.0005)
    lab.wait_for(lambda: journalled(spool) == b"".join(flood), 30)
    pieces = len(records(spool))
    assert pieces < 1000, f"{pieces} pieces for 1500 messages"
    slow = [lab.message(n) for n in range(5)]
    peer.send(*slow, pause=0.2)
    lab.wait_for(lambda: journalled(spool) == b"".join(flood + slow))
    assert [each.payload for each in records(spool)[pieces:]] == slow


def test_the_status_says_what_it_does_and_names_no_patient(listening: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listening()
    peer.wait()
    peer.send(*lab.session("TEST-1", 10))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.messages == 10, what="10 messages in the status")
    status = control.status(spool, "4299")
    assert status is not None
    assert status.running
    assert status.connected
    assert status.state == "connected"
    assert status.connected_since
    assert (status.address, status.port, status.pid, status.connections) == ("127.0.0.1", peer.port, os.getpid(), 1)
    assert status.last_message
    assert (status.gaps, status.reconnects, status.dropped_bytes, status.silent) == (0, 0, 0, False)
    assert status.bytes == len(b"".join(lab.session("TEST-1", 10)))
    assert status.age_seconds < 3
    assert status.backlog_bytes >= status.bytes
    assert status.journal_bytes == journal.size(spool / "4299" / "journal")
    assert status.findings == []
    text = (spool / "4299" / "status.json").read_text()
    assert "TEST-1" not in text
    assert "Nobody" not in text


def test_a_stop_ends_the_connection_in_order(listening: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    """FIN, not reset, even if bytes are still coming in; and these are journalled."""
    listener = listening()
    peer.wait()
    sending = threading.Event()

    def send() -> None:
        for n in range(400):
            with contextlib.suppress(OSError):
                peer.connections[0].sendall(lab.message(n))
            sending.set()
            if 0 in peer.endings:
                return
            time.sleep(0.001)

    thread = threading.Thread(target=send)
    thread.start()
    sending.wait()
    listener.stop("test")
    thread.join()
    lab.wait_for(lambda: peer.endings)
    assert peer.endings == {0: "fin"}
    lab.wait_for(lambda: not control.is_running(spool, "4299"))
    assert notes(spool)[-2:] == [("DISCONNECTED", {"reason": "test"}), ("STOPPED", {"reason": "test"})]
    got, everything = journalled(spool), b"".join(lab.message(n) for n in range(400))
    assert everything.startswith(got)
    assert len(got) >= len(lab.message(0))
    status = control.status(spool, "4299")
    assert status is not None
    assert (status.running, status.connected, status.state) == (False, False, "stopped")


@pytest.mark.parametrize("end", ["hang_up", "reset", "half"])
def test_after_a_lost_connection_it_connects_again_and_the_session_is_one(
    listening: Any, peer: Any, spool: Path, lab: SimpleNamespace, end: str
) -> None:
    treated = lab.session("TEST-1", 30)
    listening()
    peer.wait()
    peer.send(*treated[:10])
    if end == "half":
        peer.send(treated[10][:1000])
    lab.wait_for(lambda: len(journalled(spool)) >= len(b"".join(treated[:10])))
    peer.reset() if end == "reset" else peer.hang_up()
    peer.wait(1)
    peer.send(*treated[12:], *lab.idle(3, 30), number=1)
    lab.wait_for(lambda: journalled(spool).endswith(lab.message(32)))
    [(session, messages)] = cut(Reader(spool / "4299" / "journal").read())
    assert [message.raw for message in messages] == treated[:10] + treated[12:]
    assert session.gaps == 1
    status = control.status(spool, "4299")
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.gaps == 1 and status.reconnects == 1)
    assert status is not None
    reason = dict(notes(spool))["DISCONNECTED"]["reason"]
    assert reason == ("the network: Connection reset by peer" if end == "reset" else "the linac ended it")


def test_it_never_connects_while_connected_nor_in_a_tight_loop(listening: Any, peer: Any, lab: SimpleNamespace) -> None:
    """A service that hangs up at once is called again after longer and longer waits."""
    listening(first_wait_seconds=0.1)
    for number in range(4):
        peer.wait(number)
        peer.hang_up()
    waits = [after - before for before, after in zip(peer.accepted, peer.accepted[1:], strict=False)][:3]
    assert all(wait >= 0.08 * 2**n for n, wait in enumerate(waits)), waits
    lab.wait_for(lambda: len(peer.endings) >= 4)
    assert set(peer.endings.values()) == {"fin"}


def test_a_linac_that_drops_connections_with_messages_in_them_is_not_kept_waiting(
    listening: Any, peer: Any, monkeypatch: pytest.MonkeyPatch, lab: SimpleNamespace
) -> None:
    """Each such pause may be a part of a beam. Else the seventh wait would be 6.4 s."""
    pauses = []
    monkeypatch.setattr(Listener, "_wait", lambda _self, seconds: pauses.append(seconds) or time.sleep(seconds / 10))
    monkeypatch.setattr("linac.capture.listener.BROUGHT_WAIT_SECONDS", 0.4)
    listening(first_wait_seconds=0.1)
    for number in range(7):
        peer.wait(number)
        peer.send(lab.message(2 * number), lab.message(2 * number + 1))
        peer.hang_up()
    lab.wait_for(lambda: len(pauses) == 7)
    assert max(pauses) <= 0.4 * 1.2
    assert min(pauses) >= 0.1 * 0.8
    peer.wait(7)
    peer.hang_up()
    lab.wait_for(lambda: len(pauses) == 8)
    assert pauses[-1] > 5, "one that brings nothing waits longer, as before"


def test_connections_that_bring_nothing_are_neither_losses_nor_the_end_of_an_interruption(
    listening: Any, peer: Any, lab: SimpleNamespace
) -> None:
    """A tunnel whose linac is switched off for the night accepts a connection every minute and ends it at once."""
    listener = listening()
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: listener.status().messages == 1)
    peer.hang_up()
    lab.wait_for(lambda: listener.status().gaps == 1)
    since = listener.status().disconnected_since
    for number in range(1, 5):
        peer.wait(number)
        peer.reset() if number % 2 else peer.hang_up()
    lab.wait_for(lambda: "brought nothing: the linac ended it. See whether" in listener.status().last_error, what="advice")
    peer.wait(5)
    status = listener.status()
    assert (status.gaps, status.interruptions) == (1, [])
    assert (status.disconnected_since, status.disconnected_reason) == (since, "the linac ended it")
    peer.send(lab.message(9), number=5)
    lab.wait_for(lambda: listener.status().messages == 2)
    status = listener.status()
    assert [(one.since, one.reason) for one in status.interruptions] == [(since, "the linac ended it")]
    assert (status.gaps, status.disconnected_since) == (1, None)


def test_a_listener_killed_while_nothing_came_goes_on_from_when_something_last_did(
    spool: Path, listening: Any, peer: Any, lab: SimpleNamespace
) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    places = Spool(spool, "4299")
    places.make()
    killed = Status("4299", "127.0.0.1", peer.port, 1, connected=True, written=datetime.now(UTC), disconnected_since=since)
    places.status.write_text(killed.to_json())
    listener = listening()
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: listener.status().messages == 1)
    assert [one.since for one in listener.status().interruptions] == [since]


def test_a_clock_that_was_set_back_makes_no_interruption_shorter_than_nothing(
    spool: Path, listening: Any, peer: Any, lab: SimpleNamespace
) -> None:
    since = datetime.now(UTC) + timedelta(hours=1)
    places = Spool(spool, "4299")
    places.make()
    places.status.write_text(Status("4299", "127.0.0.1", peer.port, 1, disconnected_since=since).to_json())
    listener = listening()
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: listener.status().messages == 1)
    assert "1 in the last 24 h, 0 s in all" in told_interruptions(listener.status().interruptions)


def test_a_connection_broken_off_at_once_is_no_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, listening: Any, peer: Any, lab: SimpleNamespace
) -> None:
    """A forwarded port may accept and then reset, before the listener has looked at the connection."""

    def connect(_serial: str, address: str, port: int, **_: Any) -> socket.socket:
        sock = socket.create_connection((address, port))
        peer.wait(len(connected))
        connected.append(sock)
        peer.reset()
        lab.wait_for(lambda: not peer_of(sock), what="the reset")
        return sock

    said: list[str] = []
    connected: list[socket.socket] = []
    monkeypatch.setattr("linac.capture.listener.connect", connect)
    listening(say=said.append)
    lab.wait_for(lambda: len(connected) >= 2)
    assert [line for line in said if line.startswith("disconnected: the network: ")]
    assert not [line for line in said if "unexpected" in line]


def test_a_refused_port_is_said_once_and_tried_again(spool: Path, lab: SimpleNamespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said: list[str] = []
    listener = Listener("4299", "127.0.0.1", port, spool, say=said.append, first_wait_seconds=0.05)
    thread = threading.Thread(target=listener.run)
    thread.start()
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and "refused port" in status.last_error)
    time.sleep(0.5)
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        listener.stop("test")
        thread.join(5)
        assert connection.recv(1) == b""
        connection.close()
    assert sum("refused port" in line for line in said) == 1


def test_silence_is_noted_and_the_connection_kept(listening: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listening(silence_seconds=0.3, silence_reconnect_seconds=60)
    peer.wait()
    peer.send(lab.message(0))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and status.silent)
    status = control.status(spool, "4299")
    assert status is not None
    assert status.connected
    assert any("says nothing" in finding for finding in status.findings)
    time.sleep(0.6)
    assert [kind for kind, _ in notes(spool)].count("SILENT") == 1
    assert len(peer.connections) == 1
    peer.send(lab.message(1))
    lab.wait_for(lambda: (status := control.status(spool, "4299")) and not status.silent)
    assert status.silences == 1
    assert len(peer.connections) == 1


def test_a_connection_that_leads_nowhere_is_made_anew_in_order(listening: Any, peer: Any, lab: SimpleNamespace) -> None:
    listening(silence_seconds=0.2, silence_reconnect_seconds=0.6)
    peer.wait()
    peer.wait(1)
    lab.wait_for(lambda: peer.endings.get(0))
    assert peer.endings[0] == "fin"
    assert peer.accepted[1] - peer.accepted[0] >= 0.6


def test_what_is_not_icom_is_recorded_and_said(listening: Any, peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    listening()
    peer.wait()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n" * 5000)
    lab.wait_for(lambda: (s := control.status(spool, "4299")) and any("not look like iCom" in f for f in s.findings))


class StallingWriter(Writer):
    """A disk that hangs, or fails, until it is told otherwise."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "4299")
        self.going = threading.Event()
        self.going.set()
        self.error = ""

    def commit(self) -> None:
        self.going.wait()
        if self.error and self._waiting:
            raise StorageError(self.error)
        super().commit()


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_disk_that_stalls_never_holds_the_linac_up(
    peer: Any, spool: Path, listening: Any, lab: SimpleNamespace, how: str
) -> None:
    """What does not fit into the queue is dropped, counted, journalled as a gap and said; the connection stays."""
    folder = spool / "4299" / "journal"
    folder.mkdir(parents=True)
    writer = StallingWriter(folder)
    said: list[str] = []
    listener = listening(writer=writer, queue_bytes=200_000, say=said.append)
    peer.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection = peer.wait()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    treated = lab.session("TEST-1", 1000)
    peer.send(*treated[:10])
    lab.wait_for(lambda: len(journalled(spool)) == len(b"".join(treated[:10])))
    if how == "hangs":
        writer.going.clear()
    else:
        writer.error = "the journal cannot be written: No space left on device"
    longest = 0.0
    for message in treated[10:900]:
        began = time.monotonic()
        connection.sendall(message)
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.0005)
    assert longest < 0.25, f"a send blocked for {longest:.3f} s"
    status = listener.status()
    assert status.dropped_bytes > 1_000_000
    assert status.queue_bytes <= 200_000
    assert status.connected
    assert status.losing
    [line] = [line for line in said if "being lost" in line]
    assert "ATTENTION, what the linac sends is being lost; so far " in line
    if how == "fails":
        lab.wait_for(lambda: any("No space left" in line for line in said))
        assert any("No space left" in finding for finding in listener.status().findings)
    writer.error = ""
    writer.going.set()
    lab.wait_for(lambda: listener.status().queue_bytes == 0)
    rest = [*treated[900:], *lab.idle(2, 1000)]
    for n in range(0, len(rest), 20):  # never more than the queue takes, however busy this computer is
        some = b"".join(rest[n : n + 20])
        peer.send(some)
        lab.wait_for(lambda some=some: journalled(spool).endswith(some))
    facts = dict(notes(spool))["DROPPED"]
    assert facts["bytes"] == listener.status().dropped_bytes
    assert not listener.status().losing
    [line] = [line for line in said if "recording goes on" in line and "were lost" in line]
    assert f"{facts['bytes']} bytes were lost since 20" in line
    assert facts["first_wall_ns"] <= facts["last_wall_ns"]
    [(session, messages)] = cut(Reader(folder).read())
    assert [event.kind for event in session.events if event.kind == "dropped"] == ["dropped"]
    raws = [message.raw for message in messages]
    assert raws[:10] == treated[:10]
    assert raws[-90:] == treated[-90:]
    assert len(raws) < 1000
    assert len(peer.connections) == 1


def test_bytes_are_in_the_journal_at_once_and_on_the_disk_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, "4299")
    recorder = Recorder(writer, lambda _: None)
    synced: list[float] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (original(handle), synced.append(time.monotonic())))
    recorder.start()
    recorder.data(b"first")
    began = time.monotonic()
    while not (journal.segments(tmp_path) and any(w.what.payload == b"first" for w in Reader(tmp_path).read())):  # type: ignore[union-attr]
        assert time.monotonic() - began < 1
    synced.clear()
    for _ in range(30):
        recorder.data(b"x")
        time.sleep(0.05)
    time.sleep(0.9)
    assert not writer.dirty
    edges = [began, *synced]
    assert max(after - before for before, after in itertools.pairwise(edges)) < 1.0
    assert recorder.close(5)


def test_a_closed_recorder_has_written_everything(tmp_path: Path) -> None:
    recorder = Recorder(Writer(tmp_path, "4299"), lambda _: None)
    recorder.start()
    for n in range(2000):
        recorder.data(b"%04d" % n * 100)
    assert recorder.close(10)
    got = [e.what.payload for e in Reader(tmp_path).read() if isinstance(e.what, Record) and e.what.kind == Kind.DATA]
    assert got == [b"%04d" % n * 100 for n in range(2000)]


def test_a_disk_that_recovers_while_the_recorder_is_closed_gets_everything(tmp_path: Path) -> None:
    writer = StallingWriter(tmp_path)
    said: list[str] = []
    recorder = Recorder(writer, said.append)
    writer.error = "No space left on device"
    recorder.start()
    recorder.data(b"0")
    while not said:
        time.sleep(0.01)
    for n in range(1, 50):
        recorder.data(b"%d" % n)
    threading.Timer(0.15, lambda: setattr(writer, "error", "")).start()
    assert recorder.close(5)
    got = [e.what.payload for e in Reader(tmp_path).read() if isinstance(e.what, Record) and e.what.kind == Kind.DATA]
    assert got == [b"%d" % n for n in range(50)]
    assert said == ["No space left on device", "the journal can be written again"]


@pytest.mark.parametrize("full", [True, False])
def test_what_a_full_disk_costs_is_not_laid_to_a_slow_one(tmp_path: Path, full: bool, lab: SimpleNamespace) -> None:
    writer = Writer(tmp_path, "4299", reserve_bytes=1 << 62 if full else 0)
    recorder = Recorder(writer, lambda _: None, queue_bytes=10_000)
    if not full:
        writer.commit = lambda: (_ for _ in ()).throw(StorageError("broken"))  # type: ignore[method-assign]
    recorder.start()
    recorder.data(bytes(5000))
    lab.wait_for(lambda: recorder.failing)
    for _ in range(4):
        recorder.data(bytes(5000))
    assert recorder.dropped_bytes > 0
    assert recorder.dropped_full == full
    if not full:
        del writer.commit
    writer.reserve_bytes = 0
    assert recorder.close(10)


def test_what_was_written_before_the_disk_filled_up_is_brought_to_the_disk(tmp_path: Path, lab: SimpleNamespace) -> None:
    writer = Writer(tmp_path, "4299", reserve_bytes=0)
    recorder = Recorder(writer, lambda _: None)
    recorder.start()
    recorder.data(b"written")
    lab.wait_for(lambda: writer.dirty)
    writer.reserve_bytes, writer._looked = 1 << 62, float("-inf")
    recorder.data(b"waits")
    lab.wait_for(lambda: recorder.failing)
    lab.wait_for(lambda: not writer.dirty, what="a sync although the disk is full")
    assert recorder.failing
    writer.reserve_bytes = 0
    assert recorder.close(10)


def test_what_was_dropped_last_is_said_at_the_end(tmp_path: Path) -> None:
    writer = StallingWriter(tmp_path)
    writer.going.clear()
    recorder = Recorder(writer, lambda _: None, queue_bytes=1000)
    recorder.start()
    for _ in range(5):
        recorder.data(b"x" * 400)
    writer.going.set()
    assert recorder.close(5)
    last = list(Reader(tmp_path).read())[-1].what
    assert isinstance(last, Record)
    assert (last.kind, last.facts()["bytes"], recorder.dropped_bytes) == (Kind.DROPPED, 1200, 1200)


def test_a_disk_that_never_recovers_does_not_keep_the_recorder_from_closing(tmp_path: Path) -> None:
    writer = StallingWriter(tmp_path)
    writer.error = "No space left on device"
    recorder = Recorder(writer, lambda _: None)
    recorder.start()
    recorder.data(b"lost")
    assert not recorder.close(5)
    writer = StallingWriter(tmp_path)
    writer.going.clear()
    recorder = Recorder(writer, lambda _: None)
    recorder.start()
    recorder.data(b"lost")
    began = time.monotonic()
    assert not recorder.close(0.3)
    assert time.monotonic() - began < 1
    writer.going.set()


def test_why_nothing_can_be_written_is_said_once_a_minute_whatever_numbers_are_in_it(
    tmp_path: Path, lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linac.capture.recorder.RETRY_SECONDS", 0.02)
    said: list[str] = []
    writer = StallingWriter(tmp_path)
    writer.error = "only 99 MB left"
    recorder = Recorder(writer, said.append, queue_bytes=1000)
    recorder.start()
    for left in range(99, 90, -1):
        writer.error = f"only {left} MB left"
        recorder.data(b"x" * 400)
        lab.wait_for(lambda: recorder.failing == writer.error)
    assert len([line for line in said if line.startswith("only ")]) == 1
    assert len([line for line in said if "being lost" in line]) == 1
    monkeypatch.setattr("linac.capture.recorder.TELL_SECONDS", 0.0)
    writer.error = "only 3 MB left"
    lab.wait_for(lambda: said[-1] == "only 3 MB left")
    recorder.data(b"x" * 400)
    assert f"so far {recorder.dropped_bytes} bytes were lost since 20" in said[-1]
    writer.error = ""
    assert recorder.close(5.0)
    assert f"{recorder.dropped_bytes} bytes were lost since 20" in "".join(said[-2:])


def test_what_a_full_disk_takes_of_the_last_data_is_counted_to_the_byte(tmp_path: Path) -> None:
    writer = StallingWriter(tmp_path)
    recorder = Recorder(writer, lambda _: None)
    recorder.start()
    recorder.data(b"safe")
    deadline = time.monotonic() + 10
    while recorder.unsafe_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    writer.error = "No space left on device"
    recorder.note(Kind.STARTED, pid=1)
    for _ in range(3):
        recorder.data(b"12345")
    assert not recorder.close(5.0)
    assert recorder.unsafe_bytes == 15


def test_headers_are_counted_however_the_bytes_are_cut(lab: SimpleNamespace) -> None:
    stream = b"".join(lab.session("2024-05-06 12:13:14", 20))
    for size in (1, 17, 18, 19, 1000, len(stream)):
        counter = HeaderCounter()
        assert sum(counter.count(stream[at : at + size]) for at in range(0, len(stream), size)) == 20


# As a process of its own.


def command(spool: Path, port: int, *flags: str) -> list[str]:
    return [
        sys.executable,
        *flags,
        "-m",
        "linac.capture.listener",
        *("--serial", "4299", "--address", "127.0.0.1", "--port", str(port), "--spool", str(spool)),
    ]


@pytest.fixture
def process(spool: Path, peer: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(spool, peer.port, "-S"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_it_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    """Every module that it loads comes with Python or is this project's."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from linac.capture import listener; import linac\n"
        "import os\n"
        "for name, module in sys.modules.items():\n"
        "    file = getattr(module, '__file__', None)\n"
        "    if file and name.split('.')[0] not in sys.stdlib_module_names and name.split('.')[0] != 'linac':\n"
        "        print('foreign', name)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('linac')))\n"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, timeout=20)
    assert run.returncode == 0, run.stderr
    assert "foreign" not in run.stdout
    loaded = set(run.stdout.split())
    assert loaded == {
        "linac",
        "linac.errors",
        *(
            f"linac.capture{name}"
            for name in ("", ".connection", ".journal", ".listener", ".lock", ".log", ".recorder", ".spool", ".status")
        ),
    }, "and it loads nothing that it does not need"


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such signals between processes; the stop file is tested elsewhere")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_it_in_order(
    process: subprocess.Popen[str], peer: Any, spool: Path, lab: SimpleNamespace, name: str
) -> None:
    peer.wait()
    peer.send(*lab.session("TEST-1", 5))
    lab.wait_for(lambda: len(journalled(spool)) == len(b"".join(lab.session("TEST-1", 5))))
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=5)
    assert process.returncode == EXIT_STOPPED
    lab.wait_for(lambda: peer.endings == {0: "fin"})
    assert notes(spool)[-1] == ("STOPPED", {"reason": name})
    assert "connected to 127.0.0.1" in out
    assert f"stopped: {name}" in out
    assert "TEST-1" not in out
    assert "Nobody" not in out


def test_a_second_one_refuses_to_start(process: subprocess.Popen[str], peer: Any, spool: Path, tmp_path: Path) -> None:
    peer.wait()
    second = subprocess.run(command(spool, peer.port), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (second.returncode, len(peer.connections)) == (EXIT_ALREADY, 1)
    assert "a listener already runs" in second.stderr
    third = subprocess.run(command(tmp_path / "other", peer.port), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (third.returncode, len(peer.connections)) == (EXIT_ALREADY, 1)
    assert "must have one connection only" in third.stderr


def test_a_killed_one_frees_the_lock_and_loses_no_more_than_was_under_way(
    process: subprocess.Popen[str], peer: Any, spool: Path, lab: SimpleNamespace
) -> None:
    treated = lab.session("TEST-1", 40)
    peer.wait()
    peer.send(*treated[:15])
    lab.wait_for(lambda: len(journalled(spool)) == len(b"".join(treated[:15])))
    process.kill()
    process.wait()
    running = control.start("4299", "127.0.0.1", peer.port, spool)
    assert not running.adopted
    peer.wait(1)
    peer.send(*treated[18:], *lab.idle(2, 40))
    lab.wait_for(lambda: journalled(spool).endswith(lab.message(41)))
    assert control.stop(spool, "4299")
    entries = list(Reader(spool / "4299" / "journal").read())
    assert not [entry for entry in entries if isinstance(entry.what, Damage)]
    [(session, messages)] = cut(entries)
    assert [message.raw for message in messages] == treated[:15] + treated[18:]
    assert [(event.kind, event.missing) for event in session.events] == [("restart", 3)]


def test_a_spool_removed_under_it_is_made_again(peer: Any, spool: Path, lab: SimpleNamespace) -> None:
    running = control.start("4299", "127.0.0.1", peer.port, spool)
    peer.wait()
    peer.send(*lab.session("TEST-1", 5))
    lab.wait_for(lambda: journalled(spool) == b"".join(lab.session("TEST-1", 5)))
    reader = Reader(spool / "4299" / "journal")
    list(reader.read())
    time.sleep(1)  # synced: what was safe in the removed files is lost, and no more than that
    (spool / "4299").rename(spool / "going")  # at once, whatever is being written in it
    shutil.rmtree(spool / "going")
    peer.send(lab.message(5))
    lab.wait_for(lambda: control.is_running(spool, "4299") and journalled(spool), what="making the spool again")
    peer.send(*lab.idle(5, 6))
    lab.wait_for(lambda: journalled(spool).endswith(lab.message(10)))
    assert journalled(spool) == b"".join([lab.message(5), *lab.idle(5, 6)])
    rest = [entry.what for entry in reader.read() if isinstance(entry.what, Record) and entry.what.kind == Kind.DATA]
    assert b"".join(record.payload for record in rest) == journalled(spool), "a reader finds its way"
    assert control.start("4299", "127.0.0.1", peer.port, spool) == control.Running(running.pid, True, running.log)
    assert control.stop(spool, "4299")
    lab.wait_for(lambda: peer.endings == {0: "fin"})


def test_a_stdout_that_nobody_reads_holds_nothing_up(spool: Path, peer: Any, lab: SimpleNamespace) -> None:
    listener = subprocess.Popen(command(spool, peer.port), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for number in range(3):
            peer.wait(number)
            peer.send(lab.message(number))
            peer.hang_up()
        assert control.stop(spool, "4299")
        assert listener.wait(5) == EXIT_STOPPED
    finally:
        listener.kill()
        listener.communicate()


@pytest.mark.parametrize(("option", "value"), [("--port", "0"), ("--serial", "../4299"), ("--serial", "CON"), ("--address", " ")])
def test_a_wrong_set_up_is_said(spool: Path, option: str, value: str) -> None:
    run = subprocess.run([*command(spool, 1706), option, value], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert run.returncode == EXIT_SETUP
    assert "Give the" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_spool_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(SetupError, match="local disk"):
        Listener("4299", "127.0.0.1", 1706, tmp_path / "spool").run()


def test_a_lock_that_is_only_looked_at_does_not_keep_it_from_starting(spool: Path, listening: Any, peer: Any) -> None:
    looking = threading.Event()

    def look() -> None:
        while not looking.is_set():
            with contextlib.suppress(SetupError):
                control.is_running(spool, "4299")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        listening()
        peer.wait()
    finally:
        looking.set()
        thread.join()


def test_the_lock_of_another_is_respected(spool: Path) -> None:
    (spool / "4299").mkdir(parents=True)
    other = FileLock(spool / "4299" / "listener.lock")
    assert other.acquire()
    with pytest.raises(AlreadyRunningError):
        Listener("4299", "127.0.0.1", 1706, spool).run()
    other.release()


def test_the_status_file_is_always_whole(listening: Any, peer: Any, spool: Path) -> None:
    listening()
    path = spool / "4299" / "status.json"
    peer.wait()
    seen = set()
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            seen.add(json.loads(path.read_bytes())["written"])
    assert len(seen) >= 2, "it is written every second"
