"""A client that reads what the pretend linac sends."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from linac.icom import Message, split


class Reader:
    """Reads from a linac until the connection ends; `ending` says how: `fin`, `reset`, or None while it lasts."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.data = bytearray()
        self.ending: str | None = None
        self.connection = socket.create_connection(address, timeout=10)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            while chunk := self.connection.recv(65536):
                self.data += chunk
            self.ending = "fin"
        except ConnectionResetError:
            self.ending = "reset"
        except OSError:
            self.ending = self.ending or "closed here"

    def wait(self) -> str | None:
        """Wait for the end of the connection."""
        self.thread.join(10)
        return self.ending

    def messages(self) -> list[Message]:
        return split(bytes(self.data))

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def read() -> Iterator[Callable[[tuple[str, int]], Reader]]:
    """`read(address)` connects a reader; all are closed at the end."""
    readers: list[Reader] = []

    def connect(address: tuple[str, int]) -> Reader:
        readers.append(Reader(address))
        return readers[-1]

    yield connect
    for reader in readers:
        reader.close()
