"""Encryption and signatures of SMB messages, as smbprotocol agreed on them with the server ([MS-SMB2] 3.1.4 and 2.2.41).

smbprotocol by itself copies each message several times, and lets unsigned ones pass.
"""

import hashlib
import hmac
import os
import struct
import sys

from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from smbprotocol.connection import Ciphers, Connection, Dialects, SigningAlgorithms
from smbprotocol.exceptions import SMBException
from smbprotocol.session import Session

from linac.transport.smb_requests import PENDING, SIGNED

CANCEL = 12
UNASKED = 0xFFFFFFFFFFFFFFFF


HEAD = 4
"""Before each message on the line stands its length ([MS-SMB2] 2.1)."""

ROUNDED = 1 << 16
LARGE, MOST_ROOMS = 1 << 18, 10
"""Memory for messages of so many bytes is kept, so many times for each connection."""


class Room:
    """Memory that is used again and again: new memory for each mebibyte sent took as long as all else together (measured)."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray())

    def of(self, length: int) -> memoryview:
        """So many bytes; what they held before is of no use any more."""
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(-(-length // ROUNDED) * ROUNDED))
        return self._buffer[:length]


class Rooms:
    """The same for messages that are handed on: each lies in memory of its own, which is used again once nobody holds any part of
    it."""

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def of(self, length: int) -> memoryview:
        if length < LARGE:
            return memoryview(bytearray(length))
        too_small = None
        for place in range(len(self._buffers)):
            if _holders(self._buffers, place) == _NOBODY:
                if len(self._buffers[place]) >= length:
                    return memoryview(self._buffers[place])[:length]
                too_small = place
        made = bytearray(-(-length // ROUNDED) * ROUNDED)
        if too_small is not None:
            self._buffers[too_small] = made
        elif len(self._buffers) < MOST_ROOMS:
            self._buffers.append(made)
        return memoryview(made)[:length]


def _holders(buffers: list[bytearray], place: int) -> int:
    return sys.getrefcount(buffers[place])


_NOBODY = _holders([bytearray()], 0)


class UnsafeError(SMBException):  # type: ignore[misc]  # smbprotocol has no types
    """Somebody between us and the server could have said this."""


class Cipher:
    """What smbprotocol agreed on with the server, applied without copying each message several times ([MS-SMB2] 2.2.41)."""

    def __init__(self, connection: Connection, session: Session) -> None:
        number = connection.cipher_id if connection.dialect >= Dialects.SMB_3_1_1 else Ciphers.AES_128_CCM
        galois = number in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM)
        kind = aead.AESGCM if galois else aead.AESCCM
        self._nonce_length = 12 if galois else 11
        self._ours, self._theirs = kind(session.encryption_key), kind(session.decryption_key)
        self._session_id = session.session_id

    def encrypt(self, data: bytes | memoryview, room: "Room | None" = None) -> memoryview:
        """The message with what goes before it on the line. Good until `room` is used again."""
        nonce = os.urandom(self._nonce_length)
        header = nonce.ljust(16, b"\0") + struct.pack("<IHHQ", len(data), 0, 1, self._session_id)
        message = (room or Room()).of(HEAD + 52 + len(data) + 16)
        self._ours.encrypt_into(nonce, data, header, message[HEAD + 52 :])
        message[:HEAD] = struct.pack(">I", 52 + len(data))
        message[HEAD : HEAD + 52] = b"".join((b"\xfdSMB", message[-16:], header))
        return message[:-16]

    def decrypt(self, message: memoryview, into: memoryview) -> None:
        """`message` has room for 16 bytes behind it; `into` is as long as what is hidden in it. Raises `InvalidTag` for what was
        tampered with."""
        message[-16:] = message[4:20]
        nonce = bytes(message[20 : 20 + self._nonce_length])
        self._theirs.decrypt_into(nonce, message[52:], bytes(message[20:52]), into)


class Signatures:
    """Ours, and the server's, checked where the messages arrive: smbprotocol by itself copies each message several times, and
    lets unsigned ones pass ([MS-SMB2] 3.1.4.1)."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self._key = session.signing_key
        if connection.dialect >= Dialects.SMB_3_1_1 and connection.signing_algorithm_id is not None:
            self._kind = connection.signing_algorithm_id
        else:
            new = connection.dialect >= Dialects.SMB_3_0_0
            self._kind = SigningAlgorithms.AES_CMAC if new else SigningAlgorithms.HMAC_SHA256
        self._galois = aead.AESGCM(self._key) if self._kind == SigningAlgorithms.AES_GMAC else None

    def sign(self, part: memoryview, number: int, command: int) -> None:
        """Put our signature into a message."""
        part[48:64] = bytes(16)
        part[48:64] = self._made(part, number, command, by_server=False)

    def check(self, message: memoryview) -> None:
        """Raises `UnsafeError` for a message, or a chain of them, that is not signed as the server would."""
        at = 0
        while True:
            status, command, flags, following, number = struct.unpack_from("<8xIHxxIIQ", message, at)
            if flags & SIGNED:
                part = message[at : at + following if following else len(message)]
                told = bytes(part[48:64])
                part[48:64] = bytes(16)
                if not hmac.compare_digest(self._made(part, number, command), told):
                    raise UnsafeError("a message whose signature is not the server's")
                part[48:64] = told  # smbprotocol wants to see that answers are signed, while it logs in to old servers
            elif status != PENDING and number != UNASKED:  # the server still works on it; or it speaks unasked
                raise UnsafeError("a message that is not signed")
            if not following:
                return
            at += following

    def _made(self, part: memoryview, number: int, command: int, *, by_server: bool = True) -> bytes:
        if self._galois is not None:
            nonce = struct.pack("<QI", number, int(by_server) | (2 if command == CANCEL else 0))
            return self._galois.encrypt(nonce, b"", part)
        if self._kind == SigningAlgorithms.AES_CMAC:
            made = cmac.CMAC(AES(self._key))
            made.update(part)  # type: ignore[arg-type]  # any buffer will do
            return made.finalize()
        return hmac.new(self._key, part, hashlib.sha256).digest()[:16]
