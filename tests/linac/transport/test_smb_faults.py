"""Servers that refuse, die, hang or are full: the time to a clear error is bounded, nothing is torn, the next try succeeds."""

import contextlib
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linac.errors import LinacError, PeerError, SetupError, StorageError, UnreachableError
from linac.simulator.samba import Samba
from linac.transport import AwayError, Folder, connect, smb, smb_link
from linac.transport import smb_messages as messages
from linac.transport.paths import ClosedError
from linac.transport.settling import SETTLING
from linac.transport.smb import SmbFolder
from linac.transport.ssh import Gateway
from linac.transport.ssh_errors import GatewayLostError, TargetRefusedError
from linac.transport.ssh_route import Route

Dial = Callable[..., SmbFolder]

BOUND = 25.0
"""Seconds: a busy machine's share on top of the timeout of 4 s."""


@contextlib.contextmanager
def bounded(kind: type[BaseException], text: str) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kind, match=text) as caught:
        yield
    assert time.monotonic() - began < BOUND
    assert isinstance(caught.value, LinacError)


class TestRefusals:
    def test_a_wrong_password_is_said_and_never_shown(self, dial: Dial) -> None:
        folder = dial(password="a wrong one")
        with bounded(SetupError, "does not accept the name or the password of icomreader") as _:
            folder.check()
        with pytest.raises(SetupError) as caught:
            folder.list()
        shown = [repr(caught.value), str(caught.value), repr(folder), repr(vars(folder)), repr(vars(folder._links))]
        assert "a wrong one" not in " ".join(shown)

    def test_a_wrong_user_is_said(self, dial: Dial) -> None:
        with bounded(SetupError, "name or the password of nobody-here"):
            dial(user="nobody-here").check()

    def test_an_account_without_a_name_is_said(self, own_server: Samba) -> None:
        nobody = type(own_server.credentials)("", own_server.password)
        with connect(own_server.unc("physics"), nobody, port=own_server.port, timeout=5) as folder:
            with bounded(SetupError, "an account without a name.*Give the name"):
                folder.check()

    def test_a_wrong_password_fails_although_a_right_one_is_connected(self, dial: Dial) -> None:
        dial().check()
        with bounded(SetupError, "password"):
            dial(password="a wrong one").check()

    def test_a_share_that_is_not_there(self, dial: Dial) -> None:
        with bounded(SetupError, "has no share 'Backups'"):
            dial("Backups").check()

    def test_a_folder_that_is_not_there(self, dial: Dial) -> None:
        with bounded(StorageError, r"Could not list .*physics\\gone: it is not there"):
            dial("physics", "gone").check()

    @pytest.mark.usefixtures("needs_samba")
    def test_a_share_that_the_account_may_not_open(self, tmp_path: Path) -> None:
        with (
            Samba(tmp_path, {"secret": True}, more={"secret": "valid users = somebody"}) as server,
            connect(server.unc("secret"), server.credentials, port=server.port, timeout=5) as folder,
            bounded(SetupError, "does not open the share 'secret' to icomreader"),
        ):
            folder.check()

    @pytest.mark.usefixtures("needs_samba")
    def test_a_share_whose_folder_the_account_may_not_enter(self, tmp_path: Path) -> None:
        """Samba refuses to open anything there, and says of the rest of each request that the share has gone."""
        as_nobody = "force user = nobody" if os.getuid() == 0 else ""  # root may enter any
        with Samba(tmp_path, {"closed": True}, more={"closed": as_nobody}) as server:
            server.folder("closed").chmod(0)
            try:
                with connect(server.unc("closed"), server.credentials, port=server.port, timeout=5) as folder:
                    for work in (
                        folder.check,
                        folder.list,
                        lambda: folder.read("a"),
                        lambda: folder.write("a", b"1"),
                        folder.free,
                    ):
                        with bounded(StorageError, "access denied. Give the account icomreader the right to it") as _:
                            work()
                    with pytest.raises(StorageError) as caught:
                        folder.fetch("a", tmp_path / "a")
                    assert not isinstance(caught.value, AwayError)
            finally:
                server.folder("closed").chmod(0o700)

    def test_a_share_that_may_only_be_read(self, dial: Dial, own_server: Samba) -> None:
        (own_server.folder("Backup") / "a.zip").write_bytes(b"zip")
        folder = dial("Backup")
        assert folder.read("a.zip") == b"zip"
        for work in (
            lambda: folder.write("b", b"1"),
            lambda: folder.create("b", b"1"),
            lambda: folder.remove("a.zip"),
            lambda: folder.make("c"),
            lambda: folder.replace("a.zip", "b.zip"),
        ):
            with bounded(StorageError, "access denied|write-protected"):
                work()
        assert [path.name for path in own_server.folder("Backup").iterdir()] == ["a.zip"]

    def test_a_port_where_nothing_listens(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (
            connect(r"\\127.0.0.1\physics", credentials(), port=port, timeout=2) as folder,
            bounded(AwayError, "refuses the conn"),
        ):
            folder.check()

    def test_a_server_that_no_name_leads_to(self) -> None:
        with (
            connect(r"\\no-such-nss.invalid\physics", credentials(), timeout=2) as folder,
            bounded(UnreachableError, "not known"),
        ):
            folder.check()

    @pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0\0\0\x04abcd", b"\xff" * 200])
    def test_something_that_is_no_smb_server(self, says: bytes) -> None:
        with (
            talking(says) as port,
            connect(r"\\127.0.0.1\physics", credentials(), port=port, timeout=1) as folder,
            bounded(LinacError, "does not speak SMB|did not answer|ended the connection at once"),
        ):
            folder.check()

    def test_a_service_that_gives_a_byte_now_and_then(self) -> None:
        with (
            trickling() as port,
            connect(r"\\127.0.0.1\physics", credentials(), port=port, timeout=1) as folder,
            bounded(AwayError, "did not answer for [14] s"),  # 1 s where this machine itself paused
        ):
            folder.check()

    def test_a_service_that_takes_connections_and_is_silent(self) -> None:
        with (
            talking(None) as port,
            connect(r"\\127.0.0.1\physics", credentials(), port=port, timeout=1) as folder,
            bounded(UnreachableError, "did not answer for 1 s"),
        ):
            folder.check()


def credentials() -> Any:
    from linac.transport import Credentials

    return Credentials("icomreader", "x")


@contextlib.contextmanager
def talking(says: bytes | None) -> Iterator[int]:
    """A server that says something of its own, or nothing at all, to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    kept.append(peer)
                    if says is not None:
                        peer.recv(4096)
                        peer.sendall(says)
                        peer.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
    for peer in kept:
        peer.close()


@contextlib.contextmanager
def trickling() -> Iterator[int]:
    """A server that answers whoever asks byte by byte, and never to the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"\0\0\1\0\xfeSMB")
                    while not over.wait(0.1):
                        peer.sendall(b"\0")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        over.set()
    thread.join(5)


class TestInMidTransfer:
    """The server dies, or stops without a word, while a file goes one way or the other."""

    @pytest.fixture(params=["killed", "stopped"])
    def trouble(
        self, request: pytest.FixtureRequest, own_server: Samba
    ) -> Iterator[tuple[Callable[[], None], Callable[[], None], str]]:
        """What happens to the server, how it comes back, and what is said of it."""
        if request.param == "killed":
            yield own_server.kill, own_server.start, "broke off|refuses the connection"
            return
        yield own_server.freeze, own_server.thaw, "did not answer for 4 s"
        own_server.thaw()

    def test_while_fetching(self, trouble: Any, dial: Dial, own_server: Samba, big: Path, tmp_path: Path) -> None:
        happens, ends, said = trouble
        (own_server.folder("Backup") / "a.zip").write_bytes(big.read_bytes())
        folder = dial("Backup")
        meddle(folder, "end", 6, happens)
        with bounded(AwayError, said):
            folder.fetch("a.zip", tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()
        kept = json.loads((tmp_path / "a.zip.part-fetch.json").read_text(encoding="utf-8"))["done"]
        assert 0 < kept < big.stat().st_size
        ends()
        asked = count_bytes(folder)
        assert folder.fetch("a.zip", tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes() == big.read_bytes()
        assert asked[0] <= big.stat().st_size - kept, "what was there already was fetched again"
        assert SETTLING.wait()
        assert [path.name for path in tmp_path.glob("a.zip*")] == ["a.zip"]

    @pytest.mark.parametrize("replaced", [False, True])
    def test_while_storing(self, trouble: Any, dial: Dial, own_server: Samba, big: Path, replaced: bool) -> None:
        happens, ends, said = trouble
        there = own_server.folder("physics") / "a" / "b.bin"
        folder = dial()
        folder.make("a")
        if replaced:
            there.write_bytes(b"old")
        meddle(folder, "begin", 6, happens)
        with bounded(AwayError, said):
            folder.store(big, "a/b.bin")
        assert (there.read_bytes() if there.exists() else b"") == (b"old" if replaced else b"")
        ends()
        assert [entry.name for entry in folder.list("a/*")] == (["b.bin"] if replaced else [])
        folder.store(big, "a/b.bin")
        assert there.read_bytes() == big.read_bytes()

    def test_what_a_store_that_broke_off_left_is_removed_over_the_next_connection(
        self, dial: Dial, own_server: Samba, big: Path
    ) -> None:
        folder = dial()
        folder.write("b.bin", b"old")
        meddle(folder, "begin", 6, own_server.kill)
        with bounded(AwayError, "broke off|refuses the connection"):
            folder.store(big, "b.bin")
        assert len(list(own_server.folder("physics").iterdir())) == 2
        own_server.start()
        assert folder.read("b.bin") == b"old"
        assert [path.name for path in own_server.folder("physics").iterdir()] == ["b.bin"]

    def test_what_the_server_has_still_open_from_before_is_left_until_it_closes_it(self, dial: Dial, own_server: Samba) -> None:
        """It may yet get its name; removing it then would remove the file of that name."""
        folder, other = dial(), dial()
        part = "b.bin.part-0123abcd"
        (own_server.folder("physics") / part).write_bytes(b"half")
        link = other._links.get()
        handle = messages.opened(link.call(messages.open_file(part, messages.READ_DATA))).handle
        folder._links.leave(part)
        folder.check()
        assert (own_server.folder("physics") / part).exists()
        link.call(messages.close(handle))
        folder._links.get().tear_down()
        folder.check()
        assert list(own_server.folder("physics").iterdir()) == []

    def test_while_a_file_is_read(self, trouble: Any, dial: Dial, own_server: Samba, big: Path) -> None:
        happens, ends, said = trouble
        (own_server.folder("Backup") / "a.zip").write_bytes(big.read_bytes())
        folder = dial("Backup")
        file = folder.open("a.zip")
        assert file.read(100) == big.read_bytes()[:100]
        happens()
        with bounded(AwayError, said):
            file.read()
        began = time.monotonic()
        file.close()
        folder_closed = dial("Backup")
        folder_closed.close()
        assert time.monotonic() - began < 3.5, "closing must not wait for a server that does not answer"
        ends()
        with folder.open("a.zip") as again:
            assert again.read() == big.read_bytes()

    def test_between_two_uses(self, trouble: Any, dial: Dial, own_server: Samba) -> None:
        happens, ends, said = trouble
        folder = dial()
        folder.write("a", b"1")
        happens()
        for work in (
            lambda: folder.list(),
            lambda: folder.write("a", b"2"),
            lambda: folder.create("b", b""),
            lambda: folder.free(),
        ):
            with bounded(AwayError, said):
                work()
        ends()
        folder.write("a", b"3")
        assert folder.read("a") == b"3"

    def test_by_many_threads_at_once(self, trouble: Any, dial: Dial, own_server: Samba, big: Path, tmp_path: Path) -> None:
        happens, ends, _ = trouble
        (own_server.folder("Backup") / "a.zip").write_bytes(big.read_bytes())
        folder = dial("Backup")
        errors: list[BaseException] = []
        under_way = threading.Barrier(4)

        def run(number: int) -> None:
            try:
                folder.check()
                under_way.wait(60)
                for again in range(50):
                    folder.fetch("a.zip", tmp_path / f"{number}-{again}.zip")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        under_way.wait(60)
        time.sleep(0.3)
        began = time.monotonic()
        happens()
        for thread in threads:
            thread.join(BOUND)
        assert time.monotonic() - began < BOUND
        assert [type(error) for error in errors] == [AwayError] * 3
        ends()
        assert folder.fetch("a.zip", tmp_path / "end.zip")


def meddle(folder: Folder, method: str, after: int, happens: Callable[[], None]) -> None:
    """Let something happen after so many requests of this thread's connection."""
    assert isinstance(folder, SmbFolder)
    link = folder._links.get()
    real = getattr(link, method)
    calls = [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            happens()
        return real(*arguments)

    setattr(link, method, counted)


def count_bytes(folder: Folder) -> list[int]:
    """Bytes that this thread's connection is asked for from now on."""
    assert isinstance(folder, SmbFolder)
    link = folder._links.get()
    real = link.read_range
    asked = [0]

    def counted(handle: bytes, offset: int, size: int, take: Any) -> int:
        asked[0] += size
        return real(handle, offset, size, take)

    link.read_range = counted  # type: ignore[method-assign]
    return asked


class TestInUse:
    def test_a_target_that_somebody_has_open_is_replaced_once_it_is_closed(
        self, dial: Dial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = dial()
        folder.write("a", b"old")
        hold = exclusively(folder, "a")
        timer = threading.Timer(0.4, hold)
        timer.start()
        folder.write("a", b"new")
        timer.join()
        assert folder.read("a") == b"new"

    def test_a_target_that_stays_open_is_left_and_no_part_beside_it(
        self, dial: Dial, own_server: Samba, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from linac.transport import smb

        monkeypatch.setattr(smb, "REPLACE_TRIES", 3)
        folder = dial()
        folder.write("a", b"old")
        hold = exclusively(folder, "a")
        with bounded(StorageError, "access denied|has it open"):
            folder.write("a", b"new")
        with bounded(StorageError, "has it open"):
            dial().read("a")
        hold()
        assert folder.read("a") == b"old"
        assert [path.name for path in own_server.folder("physics").iterdir()] == ["a"]

    @pytest.mark.parametrize("by", ["read", "open", "fetch"])
    def test_a_file_that_somebody_has_open_for_a_moment_is_read_once_it_is_closed(
        self, dial: Dial, by: str, tmp_path: Path
    ) -> None:
        folder = dial()
        folder.write("a", b"log")
        timer = threading.Timer(0.4, exclusively(folder, "a"))
        timer.start()
        us = dial()
        if by == "fetch":
            us.fetch("a", tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == b"log"
        elif by == "open":
            with us.open("a") as file:
                assert file.read() == b"log"
        else:
            assert us.read("a") == b"log"
        timer.join()

    @pytest.mark.parametrize("work", ["remove", "replace"])
    def test_a_file_that_somebody_has_open_for_a_moment_is_removed_and_renamed_once_it_is_closed(
        self, dial: Dial, work: str
    ) -> None:
        folder = dial()
        folder.write("a", b"log")
        timer = threading.Timer(0.4, exclusively(folder, "a"))
        timer.start()
        us = dial()
        us.remove("a") if work == "remove" else us.replace("a", "b")
        timer.join()
        assert [entry.name for entry in us.list()] == ([] if work == "remove" else ["b"])

    @pytest.mark.parametrize("how", ["write", "create"])
    def test_a_file_that_takes_the_name_of_a_removed_one_stays_when_a_reader_of_that_closes_it(
        self, dial: Dial, own_server: Samba, how: str
    ) -> None:
        reader, us = dial(), dial()
        name = "n" * 240  # with an ending it would be too long
        us.make("f")
        us.create(f"f/{name}", b"old")
        with reader.open(f"f/{name}") as file:
            us.remove(f"f/{name}")
            assert us.find(f"f/{name}") is None
            us.write(f"f/{name}", b"new") if how == "write" else us.create(f"f/{name}", b"new")
            assert file.read() == b"old"
        reader.list()  # the server has seen the end of the reading
        assert us.read(f"f/{name}") == b"new"
        assert [path.name for path in (own_server.folder("physics") / "f").iterdir()] == [name]

    def test_a_file_that_cannot_be_removed_keeps_its_name(self, dial: Dial, own_server: Samba) -> None:
        reader, us = dial(), dial()
        us.write("a", b"log")
        link = us._links.get()
        handle = messages.opened(link.call(messages.open_file("a", messages.WRITE_ATTRIBUTES))).handle
        read_only = struct.pack("<QQQQII", 0, 0, 0, 0, 1, 0)
        link.call(messages._set(messages.FILE_BASIC_INFORMATION, read_only, handle))
        link.call(messages.close(handle))
        with reader.open("a"), bounded(StorageError, "Could not remove"):
            us.remove("a")
        assert [path.name for path in own_server.folder("physics").iterdir()] == ["a"]

    def test_a_folder_that_somebody_looks_at_is_removed(self, dial: Dial, own_server: Samba) -> None:
        other, us = dial(), dial()
        us.make("f")
        link = other._links.get()
        handle = messages.opened(link.call(messages.open_file("f", messages.LIST_FOLDER, options=messages.A_FOLDER))).handle
        us.remove("f")
        link.call(messages.close(handle))
        assert list(own_server.folder("physics").iterdir()) == []

    def test_reading_never_locks_the_writer_out(self, dial: Dial, own_server: Samba) -> None:
        """The linac may write, replace and remove its backup while we read it."""
        linac, us = dial(), dial()
        linac.write("SDD+1.zip", b"first")
        with us.open("SDD+1.zip") as file:
            assert file.read(2) == b"fi"
            linac.replace("SDD+1.zip", "SDD+2.zip")
            linac.write("SDD+1.zip", b"second")
            linac.remove("SDD+2.zip")
        assert us.read("SDD+1.zip") == b"second"


def exclusively(folder: SmbFolder, name: str) -> Callable[[], None]:
    """Open a file as programs do that share it with nobody; what closes it again."""
    from linac.transport import smb_messages as messages

    link = folder._links.get()  # of another connection Samba would replace the file all the same
    handle = messages.opened(link.call(messages.open_file(name, messages.READ_DATA, share=messages.SHARE_NONE))).handle
    return lambda: link.close_soon(handle)


class TestFull:
    @pytest.fixture
    def full(self, needs_samba: None, tmp_path: Path) -> Iterator[tuple[Folder, Path]]:
        """A share on a disk of 8 MiB."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("a small disk cannot be mounted here (that takes an administrator)")
        try:
            with Samba(tmp_path, {"disk": True}) as server:
                with connect(server.unc("disk"), server.credentials, port=server.port, timeout=10) as folder:
                    yield folder, disk
        finally:
            subprocess.run(["umount", str(disk)], check=True, timeout=30)

    def test_a_full_share_is_said_and_nothing_half_stays_on_it(self, full: tuple[Folder, Path], big: Path) -> None:
        folder, disk = full
        folder.write("old", b"1" * 1_000_000)
        for work in (
            lambda: folder.store(big, "old"),
            lambda: folder.store(big, "new"),
            lambda: folder.write("new", big.read_bytes()),
        ):
            with bounded(StorageError, "the share is full"):
                work()
            assert [path.name for path in disk.iterdir()] == ["old"]
            assert folder.read("old") == b"1" * 1_000_000
        for number in range(9):
            with contextlib.suppress(StorageError):
                folder.write(str(number), os.urandom(1 << 20))
        with bounded(StorageError, "the share is full"):
            folder.write("small", os.urandom(1 << 20))
        assert folder.free() < 1 << 20
        with (disk / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
            while rest.write(bytes(4096)):
                pass
        for size in (300, 3 << 20):
            with bounded(StorageError, "the share is full"):
                folder.create("lease.json", b"y" * size)
            assert not (disk / "lease.json").exists()
        folder.remove("0")
        assert folder.create("lease.json", b"y" * 300)
        assert not folder.create("lease.json", b"z")
        assert folder.read("lease.json") == b"y" * 300
        folder.write("small", b"fits")
        assert folder.read("small") == b"fits"


class TestEnds:
    def test_nothing_is_left_of_a_closed_folder(self, smb_server: Samba, no_workers: Callable[[], list[str]]) -> None:
        before = sockets()
        folder = connect(smb_server.unc("physics"), smb_server.credentials, port=smb_server.port, timeout=5)
        folder.check()
        threads = [threading.Thread(target=folder.check) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        folder.close()
        folder.close()
        assert no_workers() == []
        assert sockets() == before
        with pytest.raises(ValueError, match="closed"):
            folder.list()

    def test_connections_of_threads_that_ended_are_used_again(self, smb_server: Samba) -> None:
        with connect(smb_server.unc("physics"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
            for _ in range(8):
                thread = threading.Thread(target=folder.check)
                thread.start()
                thread.join()
            assert isinstance(folder, SmbFolder)
            assert len(folder._links._by_thread) == 1

    def test_a_file_that_is_dropped_amid_a_request_is_closed_after_it(self, smb_server: Samba) -> None:
        """The garbage collector can close a file at any moment, in the middle of a message too."""
        with connect(smb_server.unc("physics"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
            assert isinstance(folder, SmbFolder)
            folder.write("dropped.txt", b"1")
            link = folder._links.get()
            file = folder.open("dropped.txt")
            file.read()
            link._inside = threading.get_ident()
            file.close()
            link._inside = 0
            assert len(link._to_close) == 1
            worker = folder.open("dropped.txt")
            with link.lock:
                thread = threading.Thread(target=worker.close)
                thread.start()
                thread.join(5)
                assert not thread.is_alive(), "closing waits for nobody"
            assert len(link._to_close) == 1, "the first was closed with the next request"
            folder.check()
            folder.check()
            assert not link._to_close
            assert len(link._wire.requests) <= 2
            assert link._connection.outstanding_requests == {}
            folder.remove("dropped.txt")

    def test_a_file_that_nobody_holds_any_more_is_closed_with_the_next_request(self, smb_server: Samba) -> None:
        """Nothing is sent by the garbage collector, which may come while its thread is sending."""
        with connect(smb_server.unc("physics"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
            assert isinstance(folder, SmbFolder)
            folder.write("dropped.txt", b"1")
            link, post = folder._links.get(), list[object]()
            file: Any = folder.open("dropped.txt")
            assert file.read() == b"1"
            sent = link._connection.post
            link._connection.post = lambda *given, **named: (post.append(1), sent(*given, **named))[1]
            del file
            raw: Any = folder.open("dropped.txt").detach()
            asked = len(post)
            del raw
            assert len(post) == asked
            assert len(link._to_close) == 1, "the first was closed with the next request"
            folder.check()
            assert not link._to_close
            folder.remove("dropped.txt")

    def test_a_connection_that_another_thread_reads_a_file_with_is_not_tried_meanwhile(self, smb_server: Samba) -> None:
        with connect(smb_server.unc("physics"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
            assert isinstance(folder, SmbFolder)
            link, free, busy = folder._links.get(), threading.Event(), threading.Event()

            def read() -> None:
                with link.lock:
                    busy.set()
                    free.wait(20)

            link.used -= 100
            thread = threading.Thread(target=read)
            thread.start()
            assert busy.wait(10)
            link._connection.post = None
            assert link.is_alive()
            free.set()
            thread.join()
            assert not link.is_alive(), "it is tried, and cannot be"

    @pytest.mark.parametrize("how", ["", "server.freeze()", "server.kill()"])
    def test_a_process_ends_that_closes_nothing(self, how: str, project: Path, own_server: Samba, big: Path) -> None:
        (own_server.folder("Backup") / "a.zip").write_bytes(big.read_bytes())
        script = f"""
import sys, threading
from linac.transport import Credentials, connect
folder = connect({own_server.unc("Backup")!r}, Credentials({own_server.user!r}, {own_server.password!r}), port={own_server.port})
file = folder.open("a.zip")
file.read(10)
thread = threading.Thread(target=folder.list)
thread.start()
thread.join()
print("open", flush=True)
sys.stdin.readline()
"""
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            if how == "server.freeze()":
                own_server.freeze()
            elif how:
                own_server.kill()
            _, errors = process.communicate("\n", timeout=BOUND)
        finally:
            process.kill()
            own_server.thaw()
        assert process.returncode == 0
        assert errors == ""


def sockets() -> int:
    """Open sockets of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    found = 0
    for descriptor in folder.iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:")
    return found


def test_a_gateway_is_gone_through_to_the_server(own_server: Samba) -> None:
    """The server's name stays that of the server; only the connection goes elsewhere."""
    ways: list[str] = []

    class Direct:
        """A way that is none."""

        def dial(self) -> socket.socket:
            try:
                return socket.create_connection(("127.0.0.1", own_server.port), 5)
            except OSError as error:
                raise TargetRefusedError("The gateway works, but could not reach it.") from error

        def close(self) -> None:
            ways.append("closed")

        def failure(self, _seconds: float) -> None:
            """It is always well."""

    class Direction:
        def route(self, host: str, port: int) -> Direct:
            ways.append(f"to {host}:{port}")
            return Direct()

    with connect(r"\\nss-4299\physics\a", own_server.credentials, port=4450, gateway=Direction(), timeout=5) as folder:
        folder.make_root()
        folder.write("x", b"1")
        assert folder.location == r"\\nss-4299\physics\a"
        assert ways == ["to nss-4299:4450"]
        own_server.kill()
        with bounded(AwayError, "broke off|could not reach"):
            folder.read("x")
        with bounded(AwayError, "works, but could not reach"):
            folder.read("x")
        own_server.start()
        assert folder.read("x") == b"1"
    assert ways == ["to nss-4299:4450", "closed"]


class SlowGateway:
    """A gateway that lets nobody in until it is told to."""

    alive = True

    def __init__(self) -> None:
        self.asked, self.let_in, self.happened = threading.Event(), threading.Event(), list[str]()

    def route(self, host: str, port: int) -> Route:
        self.happened.append("way laid")
        return Route(self.connect, (host, port))

    def connect(self) -> Any:
        self.asked.set()
        assert self.let_in.wait(60)
        self.happened.append("logged in")
        return self

    def open(self, _target: tuple[str, int], buffer: object) -> None:
        raise GatewayLostError("The connection is closed.")

    def close(self) -> None:
        self.happened.append("logged out")


class Throttle:
    """A proxy on the loopback address that passes so many bytes a second on to the server, and its answers at once."""

    def __init__(self, port: int, bytes_a_second: int) -> None:
        self._to, self._rate = ("127.0.0.1", port), bytes_a_second
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._to)
                threading.Thread(target=self._pass_on, args=(near, far, self._rate), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near, 0), daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket, rate: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 13):
                to.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        for sock in (source, to):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> int:
        return self.port

    def __exit__(self, *_: object) -> None:
        self._server.close()


def test_a_slow_line_that_moves_is_no_hang(own_server: Samba, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mebibyte in one piece would take longer than the timeout."""
    monkeypatch.setattr(smb_link, "QUICK_SECONDS", 0.2)
    data = os.urandom(3 << 19)
    with (
        Throttle(own_server.port, 300_000) as port,
        connect(own_server.unc("physics"), own_server.credentials, port=port, timeout=2) as folder,
    ):
        assert isinstance(folder, SmbFolder)
        folder.write("slow.bin", data)
        assert folder._links.get().portion < 1 << 20
    assert (own_server.folder("physics") / "slow.bin").read_bytes() == data


def test_a_fast_line_is_written_to_in_large_pieces_that_shrink_when_it_gets_slow(
    own_server: Samba, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(own_server.unc("physics"), own_server.credentials, port=own_server.port, timeout=5) as folder:
        assert isinstance(folder, SmbFolder)
        link = folder._links.get()
        folder.write("a", bytes(8 << 20))
        assert link.portion == link.write_chunk > 1 << 16
        monkeypatch.setattr(smb_link, "QUICK_SECONDS", 0.0)
        monkeypatch.setattr(smb_link, "SLOW_SECONDS", 0.0)
        folder.write("a", bytes(8 << 20))
        assert link.portion == 1 << 16
        folder.write("a", data := os.urandom(300_000))
        assert folder.read("a") == data


def test_who_is_interrupted_by_closing_the_folder_is_told_that(dial: Dial, big: Path) -> None:
    folder = dial()
    link, calls = folder._links.get(), list[int]()
    begin = link.begin

    def closed_meanwhile(message: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            folder.close()
        return begin(message)

    link.begin = closed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(ClosedError):
        folder.store(big, "a")


def test_behind_a_gateway_a_connection_that_fails_does_not_end_those_of_other_threads(
    own_server: Samba, ssh_server: Any, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(ssh_server.host, ssh_server.port, ssh_server.user, ssh_server.host_key, key=ssh_server.key_file)
    unc, account = own_server.unc("physics"), own_server.credentials
    with connect(unc, account, port=own_server.port, gateway=gateway, timeout=5) as folder:
        assert isinstance(folder, SmbFolder)
        folder.store(big, "a")
        with folder.open("a") as file:
            found = file.read(1000)
            failed = list[BaseException]()

            def refused(*_: object) -> None:
                raise AwayError("The server takes no more connections.")

            def other() -> None:
                try:
                    folder.list()
                except AwayError as error:
                    failed.append(error)

            monkeypatch.setattr(smb, "Link", refused)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(30)
            assert len(failed) == 1
            found += file.read()
        assert found == big.read_bytes()


def test_closing_does_not_wait_for_a_gateway_that_is_being_logged_in_to_and_no_way_stays_open() -> None:
    gateway, errors = SlowGateway(), list[BaseException]()
    folder = connect(r"\\nss-4299\physics", credentials(), gateway=gateway, timeout=5)

    def use() -> None:
        try:
            folder.list()
        except LinacError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    assert gateway.asked.wait(30)
    began = time.monotonic()
    folder.close()
    assert time.monotonic() - began < 10
    gateway.let_in.set()
    thread.join(30)
    assert gateway.happened == ["way laid", "logged in", "logged out"]
    assert [type(error) for error in errors] == [ClosedError]


def test_who_was_about_to_connect_when_the_folder_was_closed_lays_no_way() -> None:
    gateway = SlowGateway()
    gateway.let_in.set()
    folder = connect(r"\\nss-4299\physics", credentials(), gateway=gateway, timeout=5)
    assert isinstance(folder, SmbFolder)
    folder.close()
    with pytest.raises(ClosedError):
        folder._links._make()
    assert gateway.happened == []


@pytest.mark.parametrize("died_of", [KeyError(7), ValueError("not a message of SMB 2"), TypeError()])
def test_whatever_the_librarys_reading_thread_died_of_is_a_connection_that_broke_off(dial: Dial, died_of: Exception) -> None:
    folder = dial()
    folder.write("a", b"1")
    folder._links.get()._connection._t_exc = died_of
    with bounded(AwayError, "broke off"):
        folder.read("a")
    assert folder.read("a") == b"1"


def test_what_is_not_encrypted_or_not_signed_is_not_believed() -> None:
    from types import SimpleNamespace

    from smbprotocol.connection import Dialects

    from linac.transport.smb_protection import Signatures, UnsafeError
    from linac.transport.smb_wire import Wire

    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    plain = b"\xfeSMB" + bytes(60)
    known: Any = SimpleNamespace(dialect=Dialects.SMB_3_0_2, signing_algorithm_id=None)
    session: Any = SimpleNamespace(signing_key=bytes(16))
    with theirs:
        wire = Wire(ours, 5)

        def say(message: bytes) -> bytes | None:
            theirs.sendall(len(message).to_bytes(4, "big") + message)
            return wire.recv(5)

        assert say(plain) == plain
        wire.signatures = Signatures(known, session)
        with pytest.raises(UnsafeError, match="not signed"):
            say(plain)
        marked = plain[:16] + b"\x08" + plain[17:]
        with pytest.raises(UnsafeError, match="not the server's"):
            say(marked)
        right = wire.signatures._made(memoryview(marked), 0, 0)
        assert say(marked[:48] + right) is not None
        chained = marked[:20] + b"\x40" + marked[21:]
        right = wire.signatures._made(memoryview(chained), 0, 0)
        with pytest.raises(UnsafeError, match="not signed"):
            say(chained[:48] + right + plain)
        wire.cipher = object()  # type: ignore[assignment]
        with pytest.raises(UnsafeError, match="not encrypted"):
            say(plain)
        wire.close()
        assert wire.recv(5) is None


@pytest.mark.usefixtures("needs_samba")
@pytest.mark.parametrize(
    ("settings", "encrypted"),
    [
        ("", True),
        ("server smb encrypt = off", False),
        ("server max protocol = SMB3_02", True),
        ("server max protocol = SMB3_00", True),
        ("server max protocol = SMB3_02\nserver smb encrypt = off", False),
        ("server max protocol = SMB2_10", False),
        ("server max protocol = SMB2_02", False),
    ],
)
def test_messages_are_encrypted_where_the_server_can_and_signed_always(
    settings: str, encrypted: bool, tmp_path: Path, big: Path
) -> None:
    with (
        Samba(tmp_path / "server", {"physics": True}, settings=settings) as server,
        connect(server.unc("physics"), server.credentials, port=server.port, timeout=10) as folder,
    ):
        assert isinstance(folder, SmbFolder)
        folder.store(big, "a")
        assert folder.fetch("a", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == big.read_bytes()
        link = folder._links.get()
        assert link.encrypted == encrypted
        assert (link._wire.cipher is not None) == encrypted
        assert (link._wire.signatures is not None) == (not encrypted)


def test_a_peer_error_is_for_who_gave_the_address() -> None:
    with (
        talking(b"\xff" * 200) as port,
        connect(r"\\127.0.0.1\physics", credentials(), port=port, timeout=1) as folder,
        pytest.raises((PeerError, UnreachableError)),
    ):
        folder.check()


class TestReplacing:
    """Samba tells now and then that a file is missing, in the moment in which it is replaced."""

    @pytest.fixture
    def once_missing(self, dial: Dial, own_server: Samba, monkeypatch: pytest.MonkeyPatch) -> SmbFolder:
        (own_server.folder("Backup") / "a.txt").write_bytes(b"there")
        folder = dial("Backup")
        link = folder._links.get()
        begin_chain, told = link.begin_chain, []

        def missing_at_first(*chained: Any) -> Any:
            if not told:
                told.append(True)
                return begin_chain(messages.open_file("not-there.txt", messages.READ_ATTRIBUTES), *chained[1:])
            return begin_chain(*chained)

        monkeypatch.setattr(link, "begin_chain", missing_at_first)
        return folder

    def test_such_a_file_is_read_all_the_same(self, once_missing: SmbFolder) -> None:
        assert once_missing.read("a.txt") == b"there"

    def test_its_size_is_told(self, once_missing: SmbFolder) -> None:
        found = once_missing.find("a.txt")
        assert found is not None
        assert found.size == 5

    def test_it_is_opened(self, once_missing: SmbFolder) -> None:
        with once_missing.open("a.txt") as file:
            assert file.read() == b"there"

    def test_it_is_fetched(self, once_missing: SmbFolder, tmp_path: Path) -> None:
        assert once_missing.fetch("a.txt", tmp_path / "a.txt")
        assert (tmp_path / "a.txt").read_bytes() == b"there"

    def test_what_is_missing_twice_is_missing(self, once_missing: SmbFolder) -> None:
        assert once_missing.find("b.txt") is None
        with bounded(StorageError, "not there"):
            once_missing.read("b.txt")


def test_memory_of_messages_is_used_again_once_nobody_holds_a_part_of_it_and_never_before() -> None:
    from linac.transport.smb_protection import LARGE, MOST_ROOMS, Rooms

    rooms = Rooms()
    held = [rooms.of(LARGE)[10:20] for _ in range(MOST_ROOMS + 3)]
    for number, part in enumerate(held):
        part[:] = bytes([number]) * 10
    assert len({id(part.obj) for part in held}) == MOST_ROOMS + 3
    assert [bytes(part) for part in held] == [bytes([number]) * 10 for number in range(MOST_ROOMS + 3)]
    place = id(held[2].obj)
    del held[2], part
    assert id(rooms.of(LARGE - 1).obj) != place, "a small message kept memory for a large one"
    again = rooms.of(LARGE)
    assert id(again.obj) == place
    assert len(again) == LARGE
    other = rooms.of(LARGE)
    assert id(other.obj) not in {place, *(id(part.obj) for part in held)}


def test_memory_that_has_become_too_small_is_replaced() -> None:
    """Else, after short messages, none would be left for the long ones."""
    from linac.transport.smb_protection import LARGE, MOST_ROOMS, ROUNDED, Rooms

    rooms = Rooms()
    held = [rooms.of(LARGE) for _ in range(MOST_ROOMS)]
    del held
    longer = rooms.of(LARGE + ROUNDED)
    place = id(longer.obj)
    assert len(longer) == LARGE + ROUNDED
    del longer
    assert id(rooms.of(LARGE + ROUNDED).obj) == place


def test_memory_of_messages_is_not_kept_by_errors_among_the_answers(smb_server: Samba) -> None:
    """The end of a listing is an error, and so is a file that is not there: neither may form a circle with the answers."""
    (smb_server.folder("Backup") / "kept.bin").write_bytes(os.urandom(2 << 20))
    with connect(smb_server.unc("Backup"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
        folder.check()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            assert folder.list("*")
            assert folder.find("missing.bin") is None
            assert len(folder.read("kept.bin")) == 2 << 20
            gc.collect()
            kept = sum(isinstance(thing, memoryview) for thing in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not kept


def test_requests_of_a_transfer_are_sent_together(smb_server: Samba, tmp_path: Path) -> None:
    content = os.urandom(24 << 20)
    (smb_server.folder("Backup") / "together.bin").write_bytes(content)
    with connect(smb_server.unc("Backup"), smb_server.credentials, port=smb_server.port, timeout=5) as folder:
        assert isinstance(folder, SmbFolder)
        folder.check()
        link = folder._links.get()
        sent, posted, send, post = [0], [0], link._wire.send, link._connection.post

        def counting_send(header: bytes | memoryview) -> None:
            sent[0] += 1
            send(header)

        def counting_post(*given: Any, **named: Any) -> Any:
            posted[0] += 1
            return post(*given, **named)

        link._wire.send, link._connection.post = counting_send, counting_post  # type: ignore[method-assign]
        assert folder.fetch("together.bin", tmp_path / "together.bin")
        assert (tmp_path / "together.bin").read_bytes() == content
        assert not link._wire._held
    assert posted[0] >= 24
    assert sent[0] <= posted[0] * 2 / 3
    assert SETTLING.wait()
