"""Servers that can be told to fail, and what a test leaves behind."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linac.simulator.samba import Samba, is_installed
from linac.transport import Folder, connect

TIMEOUT = 4.0
"""Seconds of silence after which these servers count as hung: a busy machine's disk may take some to flush what was stored."""


@pytest.fixture
def needs_samba() -> None:
    """For tests that start an smbd."""
    if not is_installed():
        pytest.skip("Samba's server is not installed (apt-get install --no-install-recommends samba)")


@pytest.fixture
def own_server(needs_samba: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Samba]:
    """An smbd for one test alone, which may kill or stop it."""
    with Samba(tmp_path_factory.mktemp("own"), {"Backup": False, "physics": True}) as server:
        yield server


@pytest.fixture
def dial(own_server: Samba) -> Iterator[Callable[..., Folder]]:
    """Folders on that server, closed at the end; then none of their threads and sockets may be left."""
    opened: list[Folder] = []
    before = open_sockets()

    def connected(share: str = "physics", *below: str, timeout: float = TIMEOUT, password: str = "", user: str = "") -> Folder:
        credentials = type(own_server.credentials)(user or own_server.user, password or own_server.password)
        opened.append(connect(own_server.unc(share, *below), credentials, port=own_server.port, timeout=timeout))
        return opened[-1]

    yield connected
    for folder in opened:
        folder.close()
    assert workers() == []
    assert open_sockets() <= before


def open_sockets() -> int:
    """Open sockets of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    found = 0
    for descriptor in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:")
    return found


def workers() -> list[str]:
    """Threads of connections that still run, after a moment to end."""
    until = time.monotonic() + 10
    while True:
        found = [thread.name for thread in threading.enumerate() if thread.name.startswith("msg_worker")]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


@pytest.fixture
def no_workers() -> Callable[[], list[str]]:
    return workers


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """24 MiB that no compression makes smaller."""
    import random

    path = tmp_path / "big.bin"
    path.write_bytes(random.Random(1).randbytes(24 << 20))
    return path
