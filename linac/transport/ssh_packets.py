"""The socket of an SSH connection, and its packets: RFC 4253 section 6, with AES-GCM as in RFC 5647.

Paramiko copies what a packet carries five to eight times and hands each packet of 32 KiB to the system by itself, which made
sending half as fast as OpenSSH's. Here packets are decrypted where they arrived, and as many as may go are encrypted next to each
other and sent at once.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_DATA, cMSG_CHANNEL_DATA, cMSG_CHANNEL_WINDOW_ADJUST, xffffffff
from paramiko.packet import NeedRekeyException
from paramiko.packet import Packetizer as _Packetizer

READ_AHEAD = 1 << 18
"""Bytes taken off the socket at once; paramiko itself asks twice for every packet."""

GREETING_BYTES = 4096
"""So much of what is said first is kept."""

UNSENT = 1 << 17
TCP_NOTSENT_LOWAT = 25
"""Linux takes more from us only while fewer bytes than that have not gone out yet."""

BATCH = 8
"""So many packets are sent at once, of 32 KiB to OpenSSH. Who else has something to send waits for that long, the thread that
reads among them."""

_HEAD, _ARRIVED = struct.Struct(">IBBII"), struct.Struct(">BBII")
"""Length of what is encrypted; length of the padding; number of the message, of the channel at its receiver, bytes of data. What
has arrived is taken without the first."""

TAG = 16
"""Bytes of a packet's authentication tag, after its end."""


class Wire:
    """The socket as paramiko gets it: reads in large pieces, and notes when the peer was last heard (`time.monotonic`): when a
    byte came, or it had room for more of what we send after it had none."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._full = False
        if (
            sys.platform == "linux"
        ):  # what waits here to be sent delays all that comes after it, our questions for a sign of life too
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT)
        self._buffer = memoryview(bytearray(READ_AHEAD))
        self._begin = self._end = 0
        self._closed = False  # paramiko looks at a socket's own `_closed`
        self.heard = time.monotonic()
        self.greeting = b""
        """What was said first, until it is the line that SSH begins with."""
        self.greeted_at = 0.0
        """When the first byte came."""

    @property
    def is_ssh(self) -> bool:
        """Whether the peer has begun to speak SSH (RFC 4253 section 4.2)."""
        return self.greeting.startswith(b"SSH-") or b"\nSSH-" in self.greeting

    def recv(self, size: int) -> bytes:
        if self._begin == self._end:
            self.fill()
        begin = self._begin
        self._begin = min(begin + size, self._end)
        return bytes(self._buffer[begin : self._begin])

    def packet(self) -> memoryview | None:
        """The next packet, whole, as it arrived; good until the next `fill`. None where more is needed. Raises `SSHException`."""
        there = self._buffer[self._begin : self._end]
        if len(there) < 4:
            return None
        length = 4 + int.from_bytes(there[:4], "big") + TAG
        if length > READ_AHEAD:
            raise paramiko.SSHException("a packet that is longer than packets may be")
        if len(there) < length:
            return None
        self._begin += length
        return there[:length]

    def fill(self) -> int:
        """Take more off the socket; how many bytes, 0 at the end. There must be room: less than a packet may wait here."""
        waiting = self._end - self._begin
        self._buffer[:waiting] = self._buffer[self._begin : self._end]
        self._begin, self._end = 0, waiting
        count = self._socket.recv_into(self._buffer[waiting:])
        self._end += count
        if count:
            self.heard = time.monotonic()
            if sys.platform == "linux":  # sshd keeps the last piece of an answer back until what was before it is acknowledged
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if len(self.greeting) < GREETING_BYTES and not self.is_ssh:
                self.greeted_at = self.greeted_at or self.heard
                self.greeting += bytes(self._buffer[: min(count, GREETING_BYTES)])
        return count

    @property
    def is_empty(self) -> bool:
        return self._begin == self._end

    def send(self, data: bytes | memoryview) -> int:
        try:
            sent = self._socket.send(data)
        except TimeoutError:
            self._full = True
            raise
        if self._full:
            self._full = False
            self.heard = time.monotonic()
        return sent

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def getpeername(self) -> Any:
        return self._socket.getpeername()

    def close(self) -> None:
        """Wakes whoever reads or writes. Never waits."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Data:
    """Data for a channel, in pieces that fit into a packet each (RFC 4254 section 5.2)."""

    def __init__(self, channel: Any, pieces: Sequence[memoryview]) -> None:
        self.channel, self.pieces = channel, pieces


class Note:
    """Another message of ours about a channel."""

    def __init__(self, channel: Any, message: paramiko.Message) -> None:
        self.channel, self.message = channel, message


class _Arrived:
    """Data that has arrived for a channel, as paramiko's channel asks for it, without a copy."""

    def __init__(self, plain: bytes) -> None:
        _, _, self._channel, length = _ARRIVED.unpack_from(plain)
        self._data = memoryview(plain)[_ARRIVED.size : _ARRIVED.size + length]
        if len(self._data) != length:
            raise paramiko.SSHException("a packet that is cut off")

    def get_int(self) -> int:
        return int(self._channel)

    def get_binary(self) -> memoryview:
        return self._data


class Packetizer(_Packetizer):  # type: ignore[misc]  # the library has no types
    """Paramiko's, without its copies where the cipher is AES-GCM, and for `Data`. It has the same name, so that Python gives what
    is private to a `Packetizer` (keys, counters, the lock) to both; all else is paramiko's own."""

    __iv_in: bytes
    __iv_out: bytes
    __sequence_number_in: int
    __sequence_number_out: int
    __received_bytes: int
    __received_packets: int
    __received_bytes_overflow: int
    __received_packets_overflow: int
    __sent_bytes: int
    __sent_packets: int

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._plain, self._hidden = bytearray(), bytearray()

    # What arrives.

    def read_message(self) -> tuple[int, Any]:
        if not self.__aead_in or self.__compress_engine_in is not None or self.__remainder:
            read: tuple[int, Any] = super().read_message()
            return read
        packet = self._packet()
        plain = self.__block_engine_in.decrypt(self.__iv_in, packet[4:], packet[:4])
        self.__iv_in = self._inc_iv_counter(self.__iv_in)
        kind = plain[1]
        message: Any = _Arrived(plain) if kind == MSG_CHANNEL_DATA else paramiko.Message(plain[2 : len(plain) - plain[0]])
        message.seqno = self.__sequence_number_in
        self.__sequence_number_in = (self.__sequence_number_in + 1) & xffffffff
        self._count_received(len(packet))
        return kind, message

    def _packet(self) -> memoryview:
        """Wait for the next one, as paramiko does."""
        while True:
            packet = self._wire.packet()
            if packet is not None:
                return packet
            if self.handshake_timed_out():
                raise EOFError
            try:
                if not self._wire.fill():
                    raise EOFError
            except TimeoutError:
                if self.__closed:
                    raise EOFError from None
                if self.__need_rekey and self._wire.is_empty:
                    raise NeedRekeyException from None
            except OSError:
                if self.__closed:
                    raise EOFError from None
                raise

    def _count_received(self, length: int) -> None:
        """New keys after so much (RFC 4253 section 9); a peer that does not want any is left."""
        self.__received_bytes += length
        self.__received_packets += 1
        if self.__need_rekey:
            self.__received_bytes_overflow += length
            self.__received_packets_overflow += 1
            too_many = self.__received_packets_overflow >= self.REKEY_PACKETS_OVERFLOW_MAX
            if too_many or self.__received_bytes_overflow >= self.REKEY_BYTES_OVERFLOW_MAX:
                raise paramiko.SSHException("the peer does not agree upon new keys")
        elif self.__received_packets >= self.REKEY_PACKETS or self.__received_bytes >= self.REKEY_BYTES:
            self._ask_for_keys()

    def _ask_for_keys(self) -> None:
        self.__received_bytes_overflow = self.__received_packets_overflow = 0
        self._trigger_rekey()

    # What is sent.

    def send_message(self, data: Any) -> None:
        if not isinstance(data, Data):
            super().send_message(data)
            return
        with self.__write_lock:
            if self.__aead_out and self.__compress_engine_out is None:
                try:
                    self._send_data(data.channel.remote_chanid, data.pieces)
                except Exception:
                    raise
                except BaseException:  # interrupted, perhaps amid a packet: who sends next would not be understood
                    self._wire.close()
                    raise
                return
            for piece in data.pieces:
                message = paramiko.Message()
                message.add_byte(cMSG_CHANNEL_DATA)
                message.add_int(data.channel.remote_chanid)
                message.add_string(bytes(piece))
                super().send_message(message)

    def _send_data(self, channel: int, pieces: Sequence[memoryview]) -> None:
        head, block = _HEAD.size, self.__block_size_out
        longest = head + max(len(piece) for piece in pieces) + block + 4
        if len(self._plain) < longest:
            self._plain = bytearray(longest)
        if len(self._hidden) < len(pieces) * (longest + TAG):
            self._hidden = bytearray(len(pieces) * (longest + TAG))
        plain, hidden, at = memoryview(self._plain), memoryview(self._hidden), 0
        for piece in pieces:
            filled = head + len(piece)
            padding = 4 + -filled % block  # what is encrypted, all but the first four bytes, fills whole blocks
            end = filled + padding
            _HEAD.pack_into(plain, 0, end - 4, padding, MSG_CHANNEL_DATA, channel, len(piece))
            plain[head:filled] = piece
            plain[filled:end] = bytes(padding)
            hidden[at : at + 4] = plain[:4]
            self.__block_engine_out.encrypt_into(self.__iv_out, plain[4:end], plain[:4], hidden[at + 4 : at + end + TAG])
            self.__iv_out = self._inc_iv_counter(self.__iv_out)
            self.__sequence_number_out = (self.__sequence_number_out + 1) & xffffffff
            at += end + TAG
        self.write_all(hidden[:at])
        self.__sent_bytes += at
        self.__sent_packets += len(pieces)
        if (self.__sent_packets >= self.REKEY_PACKETS or self.__sent_bytes >= self.REKEY_BYTES) and not self.__need_rekey:
            self._ask_for_keys()


def give(channel: Any, data: memoryview) -> int:
    """Send some of it, what the peer takes now: how much; 0 where the channel has ended. Waits and raises as `Channel.send`."""
    pieces: list[memoryview] = []
    given = 0
    with channel.lock:
        if channel.closed:
            raise ConnectionResetError
        while given < len(data) and len(pieces) < BATCH and (not pieces or channel.out_window_size):
            size = channel._wait_for_send_window(len(data) - given)
            if not size:
                break
            pieces.append(data[given : given + size])
            given += size
    if pieces:
        channel.transport._send_user_message(Data(channel, pieces))
    return given


def acknowledge(channel: Any, count: int) -> None:
    """Tell the peer that so many more bytes may come, as the library does where it is asked for data."""
    more = channel._check_add_window(count)
    if more > 0:
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
        message.add_int(channel.remote_chanid)
        message.add_int(more)
        channel.transport._send_user_message(Note(channel, message))


def end(channel: Any) -> None:
    """Tell the peer that it gets nothing more, as `Channel.shutdown_write` does."""
    with channel.lock:
        message = None if channel.closed else channel._send_eof()
    if message is not None:
        channel.transport._send_user_message(Note(channel, message))
