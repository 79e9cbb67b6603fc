"""Packets between ours and paramiko's own, both ways; and what keeps arrived data for its reader."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from paramiko.common import MSG_CHANNEL_DATA, MSG_IGNORE, cMSG_CHANNEL_DATA, cMSG_IGNORE
from paramiko.packet import Packetizer as Theirs

from linac.transport import ssh_wire
from linac.transport.ssh_packets import BATCH, READ_AHEAD, Data, Packetizer, Wire, give
from linac.transport.ssh_wire import ACKNOWLEDGED, Inlet

KEY = bytes(range(16))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = pair()
    yield left, right
    left.close()
    right.close()


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:  # TCP, as that is what our socket is set up for
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    for sock in (left, right):
        sock.settimeout(0.1)
    return left, right


def ready(packetizer: Any) -> Any:
    """As after the login: both directions encrypted."""
    for activate in (packetizer.set_outbound_cipher, packetizer.set_inbound_cipher):
        activate(AESGCM(KEY), 16, None, 16, b"", aead=True, **{"iv_out" if "out" in activate.__name__ else "iv_in": bytes(12)})
    return packetizer


def data_message(channel: int, data: bytes) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_DATA)
    message.add_int(channel)
    message.add_string(data)
    return message


def read(packetizer: Any) -> tuple[int, int, bytes]:
    kind, message = packetizer.read_message()
    return kind, message.get_int(), bytes(message.get_binary())


sizes = st.lists(st.integers(0, 40_000), min_size=1, max_size=12)


@given(sizes, st.integers(0, 2**32 - 1))
def test_what_we_send_is_what_paramiko_reads(lengths: list[int], channel: int) -> None:
    left, right = pair()
    with left, right:
        ours, theirs = ready(Packetizer(Wire(left))), ready(Theirs(right))
        sent = [random.Random(length).randbytes(length) for length in lengths]
        writer = threading.Thread(
            target=ours.send_message, args=(Data(Channel(0, channel), [memoryview(piece) for piece in sent]),)
        )
        writer.start()
        assert [read(theirs) for _ in sent] == [(MSG_CHANNEL_DATA, channel, piece) for piece in sent]
        writer.join()


@given(sizes, st.integers(0, 2**32 - 1))
def test_what_paramiko_sends_is_what_we_read(lengths: list[int], channel: int) -> None:
    left, right = pair()
    with left, right:
        ours, theirs = ready(Packetizer(Wire(left))), ready(Theirs(right))
        sent = [random.Random(length).randbytes(length) for length in lengths]

        def write() -> None:
            for piece in sent:
                theirs.send_message(data_message(channel, piece))
            other = paramiko.Message()
            other.add_byte(cMSG_IGNORE)
            other.add_int(7)
            other.add_string(b"not a channel's")
            theirs.send_message(other)

        writer = threading.Thread(target=write)
        writer.start()
        assert [read(ours) for _ in sent] == [(MSG_CHANNEL_DATA, channel, piece) for piece in sent]
        assert read(ours) == (MSG_IGNORE, 7, b"not a channel's")
        writer.join()


def test_a_packet_that_was_tampered_with_is_not_believed(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, between = ready(Packetizer(Wire(ends[0]))), ends[1]
    made, caught = pair()
    with made, caught:
        ready(Theirs(made)).send_message(data_message(1, b"x" * 100))
        packet = bytearray(caught.recv(1 << 16))
    packet[20] ^= 1
    between.sendall(packet)
    with pytest.raises(InvalidTag):
        ours.read_message()


def test_a_packet_longer_than_packets_may_be_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    ours = ready(Packetizer(Wire(ends[0])))
    ends[1].sendall(READ_AHEAD.to_bytes(4, "big") + bytes(1000))
    with pytest.raises(paramiko.SSHException, match="longer"):
        ours.read_message()


def test_a_packet_whose_data_is_shorter_than_it_says_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ready(Packetizer(Wire(ends[0]))), ready(Theirs(ends[1]))
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_DATA)
    message.add_int(1)
    message.add_int(5000)
    theirs.send_message(message)
    with pytest.raises(paramiko.SSHException, match="cut off"):
        ours.read_message()


def test_the_end_in_the_middle_of_a_packet_is_an_end(ends: tuple[socket.socket, socket.socket]) -> None:
    ours = ready(Packetizer(Wire(ends[0])))
    ends[1].sendall((1000).to_bytes(4, "big") + bytes(500))
    ends[1].close()
    with pytest.raises(EOFError):
        ours.read_message()


def test_new_keys_are_asked_for_after_so_much_either_way(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Theirs, "REKEY_BYTES", 1 << 16)
    monkeypatch.setattr(Theirs, "REKEY_BYTES_OVERFLOW_MAX", 1 << 16)
    left, right = ready(Packetizer(Wire(ends[0]))), ready(Packetizer(Wire(ends[1])))
    for _ in range(3):
        assert not left.need_rekey()
        left.send_message(Data(Channel(0), [memoryview(bytes(30_000))]))
        assert not right.need_rekey()
        right.read_message()
    assert left.need_rekey()
    assert right.need_rekey()
    for _ in range(2):
        left.send_message(Data(Channel(0), [memoryview(bytes(30_000))]))
        right.read_message()
    left.send_message(Data(Channel(0), [memoryview(bytes(30_000))]))
    with pytest.raises(paramiko.SSHException, match="new keys"):
        right.read_message()


class Channel:
    """A channel whose peer takes so many bytes, in packets of 1000."""

    closed = False

    def __init__(self, window: int, number: int = 3) -> None:
        self.lock, self.transport, self.out_window_size, self.remote_chanid = threading.Lock(), self, window, number
        self.sent: list[Data] = []

    def _wait_for_send_window(self, size: int) -> int:
        assert self.out_window_size, "it would wait, with packets in hand"
        size = min(size, 1000, self.out_window_size)
        self.out_window_size -= size
        return size

    def _send_user_message(self, message: Data) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(
    ("window", "given"), [(100_000, BATCH * 1000), (2500, 2500), (1, 1)], ids=["all at once", "a window", "a byte"]
)
def test_no_more_is_given_than_the_peer_takes(window: int, given: int) -> None:
    channel, data = Channel(window), random.Random(1).randbytes(50_000)
    assert give(channel, memoryview(data)) == given
    [message] = channel.sent
    assert message.channel is channel
    assert b"".join(message.pieces) == data[:given]


def test_a_channel_that_is_closed_takes_nothing() -> None:
    channel = Channel(1000)
    channel.closed = True
    with pytest.raises(OSError, match=r"^$"):
        give(channel, memoryview(b"x"))
    assert channel.sent == []


class Taking:
    """A socket that takes what it is given, or does not."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    def setsockopt(self, *_: int) -> None:
        """Taken."""

    def send(self, data: memoryview) -> int:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer
        return len(data)


def test_room_after_there_was_none_is_a_sign_of_life_and_mere_sending_is_not() -> None:
    wire = Wire(Taking(None, TimeoutError(), TimeoutError(), None, None))  # type: ignore[arg-type]
    wire.heard = 0.0
    wire.send(b"into an empty buffer, which the peer's death would not show")
    assert wire.heard == 0.0
    for _ in range(2):
        with pytest.raises(TimeoutError):
            wire.send(b"full")
    assert wire.heard == 0.0
    wire.send(b"room")
    assert wire.heard > 0.0
    wire.heard = 0.0
    wire.send(b"more")
    assert wire.heard == 0.0


def test_a_socket_that_broke_while_data_went_to_it_by_itself_is_told_to_the_other_thread() -> None:
    outlet = ssh_wire.Outlet()
    outlet.attach(Taking(None, BlockingIOError(), ConnectionResetError()))  # type: ignore[arg-type]
    outlet.feed(b"taken")
    outlet.feed(b"full")
    assert outlet.take(1) == (b"full", 5, False)
    assert outlet.take(0) == (b"", 0, False)
    outlet.feed(b"broken")
    with pytest.raises(OSError, match=r"^$"):
        outlet.take(1)


class TestInlet:
    @given(st.lists(st.integers(1, 70_000), max_size=30), st.lists(st.integers(1, 100_000), min_size=1, max_size=10))
    def test_every_byte_in_order(self, fed: list[int], wanted: list[int]) -> None:
        inlet, sent = Inlet(), [random.Random(size).randbytes(size) for size in fed]

        def feed() -> None:
            for piece in sent:
                inlet.feed(piece)
            inlet.close()

        writer = threading.Thread(target=feed)
        writer.start()
        found, turn = b"", 0
        while True:
            buffer = bytearray(wanted[turn % len(wanted)])
            count = inlet.take_into(memoryview(buffer), 20)
            if not count:
                break
            found, turn = found + bytes(buffer[:count]), turn + 1
        writer.join()
        assert found == b"".join(sent)
        assert inlet.take_into(memoryview(bytearray(10)), 20) == 0

    def test_who_wants_much_is_not_woken_for_little_but_gets_it_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssh_wire, "GATHER_SECONDS", 0.05)
        inlet, buffer = Inlet(), memoryview(bytearray(1 << 20))
        inlet.feed(b"some")
        began = time.monotonic()
        assert inlet.take_into(buffer, 20) == 4
        assert 0.04 < time.monotonic() - began < 10
        inlet.feed(bytes(ACKNOWLEDGED + 1))
        assert inlet.take_into(buffer, 20) == ACKNOWLEDGED
        assert inlet.take_into(buffer, 20) == 1

    def test_nothing_for_so_long_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssh_wire, "GATHER_SECONDS", 0.05)
        inlet, began = Inlet(), time.monotonic()
        with pytest.raises(TimeoutError):
            inlet.take_into(memoryview(bytearray(4)), 0.2)
        assert 0.2 <= time.monotonic() - began < 10

    def test_nothing_is_kept_for_who_reads_no_more(self) -> None:
        inlet = Inlet()
        inlet.close()
        inlet.feed(b"late")
        assert inlet.take_into(memoryview(bytearray(4)), 1) == 0
