"""Connecting within a time: looking the name up and trying its addresses, all together.

`socket.create_connection` gives each address of a name the whole time anew, and does not bound the look-up at all, which takes a
minute and more where name servers do not answer.
"""

import socket
import threading
import time
from typing import Any


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A socket connected to a host, by name or address, within so many seconds.

    Raises OSError as `socket.create_connection` does (`socket.gaierror`, EAI_AGAIN where the look-up takes too long;
    TimeoutError) and UnicodeError for a name that DNS cannot know.
    """
    until = time.monotonic() + seconds
    found = resolved(host, port, seconds)
    failed: OSError | None = None
    for place, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            # an address that nobody answers at must not take the time of those after it
            sock.settimeout(max(until - time.monotonic(), 0.1) / (len(found) - place))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failed = error
    raise failed or OSError(f"no address is known for {host}")


def resolved(host: str, port: int, seconds: float) -> list[Any]:
    """What `socket.getaddrinfo` finds. A look-up cannot be interrupted: it is left behind after so many seconds."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:  # no address, but a name
        pass
    found: list[Any] = []
    failed: list[OSError | UnicodeError] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, name=f"look up {host}", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer")
    return list(found[0])
