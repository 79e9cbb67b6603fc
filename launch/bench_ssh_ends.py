"""The two ends of a measured connection, each a process of its own: `serve`, or one transfer against it.

`serve` prints its port. A transfer (`read`, `write` or `ask`: reads of 1 MiB, each asked for when the one before is there, as a
simple SMB client does) prints its MB/s. Standard library alone.
"""

import socket
import sys
import threading
import time

CHUNK = 1 << 20
WAIT_SECONDS = 120.0


def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    say(str(listener.getsockname()[1]))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Do what the other end asks for in its first 16 bytes: a letter and a number of bytes."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        order = exactly(connection, 16)
        if not order.strip():
            return  # opened ahead, never used
        what, size = order[:1], int(order[1:])
        if what == b"r":
            send(connection, size)
        elif what == b"w":
            receive(connection, size)
            connection.sendall(b"k")
        else:
            while exactly(connection, 32):
                send(connection, CHUNK)


def transfer(what: str, host: str, port: int, size: int) -> float:
    """MB a second."""
    with socket.create_connection((host, port), WAIT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.perf_counter()
        connection.sendall(what[:1].encode() + str(size).rjust(15).encode())
        if what == "read":
            receive(connection, size)
        elif what == "write":
            send(connection, size)
            exactly(connection, 1)
        else:
            for _ in range(size // CHUNK):
                connection.sendall(b"q" * 32)
                receive(connection, CHUNK)
        return size / 1e6 / (time.perf_counter() - begin)


def send(connection: socket.socket, size: int) -> None:
    block = memoryview(bytes(CHUNK))
    while size > 0:
        connection.sendall(block[: min(size, CHUNK)])
        size -= CHUNK


def receive(connection: socket.socket, size: int) -> None:
    buffer = bytearray(CHUNK)
    while size > 0:
        count = connection.recv_into(buffer, min(size, CHUNK))
        if not count:
            raise EOFError
        size -= count


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or none where the other end is gone."""
    found = b""
    while len(found) < size:
        data = connection.recv(size - len(found))
        if not data:
            return b""
        found += data
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        say(str(transfer(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
