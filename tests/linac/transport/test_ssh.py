"""Gateways, against a real sshd: who is let in, who is spoken to, what is told when not; commands, files, forwards."""

import contextlib
import gc
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from linac.errors import LinacError, SetupError, StorageError
from linac.transport import ssh, ssh_errors, ssh_wire, tunnel
from linac.transport.__main__ import main
from linac.transport.ssh import Gateway
from linac.transport.ssh_packets import Data, Note
from linac.transport.ssh_route import Route, Stream
from linac.transport.ssh_wire import Inlet

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer

Service = Callable[[Callable[[socket.socket], None]], int]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a thread or a socket behind."""
    before, sockets = set(threading.enumerate()), open_sockets()
    yield
    until = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) or open_sockets() > sockets:
        assert time.monotonic() < until, f"left behind: {[thread.name for thread in left]}, {open_sockets() - sockets} sockets"
        time.sleep(0.02)


def open_sockets() -> int:
    if not os.path.isdir("/proc/self/fd"):
        return 0
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


@pytest.fixture
def gateway(ssh_server: "SshServer") -> Gateway:
    return to(ssh_server)


def to(server: "SshServer", **changes: object) -> Gateway:
    """A gateway that is right, apart from `changes`."""
    values: dict[str, object] = {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "host_key": server.host_key,
        "key": server.key_file,
        "timeout": 8.0,
    }
    return Gateway(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def own_server(ssh_server: "SshServer", tmp_path: Path) -> Iterator[Callable[..., "SshServer"]]:
    """Makes servers for one test, with settings of its own."""
    made = []

    def start(**settings: str) -> "SshServer":
        made.append(type(ssh_server)(tmp_path / f"sshd-{len(made)}", settings))
        return made[-1].start()

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def service() -> Iterator[Service]:
    """Starts a TCP service that serves each connection by a function; gives its port."""
    stop, threads, servers = threading.Event(), [], []

    def start(serve: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(0.05)
        servers.append(server)

        def one(connection: socket.socket) -> None:
            with connection:
                connection.settimeout(10)
                with contextlib.suppress(OSError):
                    serve(connection)

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                threads.append(threading.Thread(target=one, args=(connection,), daemon=True))
                threads[-1].start()

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        port: int = server.getsockname()[1]
        return port

    yield start
    stop.set()
    for thread in threads:
        thread.join(12)
    for server in servers:
        server.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while data := sock.recv(1 << 16):
        pieces.append(data)
    return b"".join(pieces)


def copy(source: socket.socket, to: socket.socket) -> None:
    """Everything, until either is over."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def trouble(action: Callable[[], object], kind: type[LinacError], within: float = 15.0) -> str:
    """The text of the error that the action raises, in time."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        action()
    assert time.monotonic() - began < within
    return str(caught.value)


class TestLogin:
    def test_a_gateway_that_hangs_up_during_the_login_is_not_told_as_a_wrong_key(
        self, own_server: Callable[..., "SshServer"], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = own_server()
        ask = ssh_wire.paramiko.Transport.auth_publickey

        def after_its_death(transport: Any, *arguments: Any) -> Any:
            server.stop()
            return ask(transport, *arguments)

        monkeypatch.setattr(ssh_wire.paramiko.Transport, "auth_publickey", after_its_death)
        assert "hung up" in trouble(lambda: to(server).connect(), ssh_errors.GatewayLostError)

    def test_what_is_no_sense_in_the_agreement_on_keys_is_told_as_a_gateway_that_fails(self) -> None:
        lists = b"".join(len(name).to_bytes(4, "big") + name for name in (b"\xff", *[b"none"] * 9))
        payload = b"\x14" + bytes(16) + lists + bytes(5)
        padding = 4 + -(5 + len(payload) + 4) % 8
        packet = (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-Odd\r\n" + packet)
                    connection.settimeout(10)
                    with contextlib.suppress(OSError):
                        read_all(connection)

            thread = threading.Thread(target=serve)
            thread.start()
            trouble(lambda: ssh.shown_key(*server.getsockname(), timeout=5), ssh_errors.GatewayRefusedError)
            thread.join(15)

    def test_a_key_that_is_refused_by_hanging_up_is_told_as_refused(
        self, own_server: Callable[..., "SshServer"], tmp_path: Path
    ) -> None:
        server = own_server(MaxAuthTries="1")
        other = server.make_key("another")
        trouble(lambda: to(server, key=other).connect(), ssh_errors.LoginRefusedError)

    def test_the_right_key_is_let_in_and_a_command_runs(self, gateway: Gateway) -> None:
        assert gateway.run("echo hello; echo beside >&2; exit 3") == (3, "hello\nbeside\n")

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_keys_and_host_keys_of_every_kind_work(self, own_server: Callable[..., "SshServer"], kind: str) -> None:
        server = own_server()
        server.stop()
        server.new_host_key(kind)
        key = server.make_key(f"id_{kind}_locked", kind, passphrase="offen-sesam")
        with (server.folder / "authorized_keys").open("a") as file:
            file.write(key.with_suffix(".pub").read_text())
        server.start()
        gateway = to(server, key=key, passphrase="offen-sesam", host_key=server.host_key)
        assert gateway.run("exit 0")[0] == 0
        assert ssh.shown_key(server.host, server.port, kind="ssh-rsa").line == server.host_key

    def test_another_key_is_refused_with_what_to_do_and_no_word_of_it(self, ssh_server: "SshServer") -> None:
        stranger = ssh_server.make_key("stranger")
        text = trouble(lambda: to(ssh_server, key=stranger).connect(), ssh_errors.LoginRefusedError)
        assert "authorized_keys" in text
        assert stranger.read_text().splitlines()[1] not in text

    def test_a_server_that_takes_passwords_only_is_told_and_no_password_is_asked_for(
        self, own_server: Callable[..., "SshServer"]
    ) -> None:
        server = own_server(PubkeyAuthentication="no", PasswordAuthentication="yes")
        assert "PubkeyAuthentication" in trouble(lambda: to(server).connect(), ssh_errors.LoginRefusedError)

    def test_an_agent_that_is_not_there_is_told(self, ssh_server: "SshServer", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        assert "no key at all" in trouble(lambda: to(ssh_server, key=None).connect(), ssh_errors.LoginRefusedError)

    @pytest.mark.skipif(os.name == "nt", reason="starts an agent on a POSIX socket")
    def test_the_agents_keys_are_used(self, ssh_server: "SshServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                assert agent.poll() is None
                time.sleep(0.02)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
            stranger = ssh_server.make_key("stranger")
            for key in (stranger, ssh_server.key_file):
                subprocess.run(["ssh-add", "-q", str(key)], check=True, timeout=10)
            assert to(ssh_server, key=None).run("echo in") == (0, "in\n")
        finally:
            agent.kill()
            agent.wait()

    @pytest.mark.skipif(os.name == "nt", reason="makes an agent on a POSIX socket")
    def test_an_agent_that_hangs_is_not_waited_for(
        self, ssh_server: "SshServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(tmp_path / "agent")
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(path)
            agent.listen(1)
            monkeypatch.setenv("SSH_AUTH_SOCK", path)
            assert "no key at all" in trouble(
                lambda: to(ssh_server, key=None, timeout=4.0).connect(), ssh_errors.LoginRefusedError, within=25
            )
            agent.accept()[0].close()


class TestHostKey:
    def test_a_kind_that_the_gateway_has_none_of_is_said_beside_the_key_that_it_shows(
        self, ssh_server: "SshServer", capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["key", ssh_server.host, "--port", str(ssh_server.port)]
        assert main(arguments) == 0
        assert "no host key of type" not in capsys.readouterr().out
        assert main([*arguments, "--type", "ssh-rsa"]) == 0
        told = capsys.readouterr().out
        assert "no host key of type ssh-rsa" in told
        assert ssh_server.host_key in told

    @pytest.mark.parametrize("host", ["127.0.0.1:15022", "tunnel@127.0.0.1"])
    def test_a_port_or_a_user_in_the_host_is_told_where_it_belongs(self, host: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["key", host]) == 1
        assert "Give the name or address alone" in capsys.readouterr().err

    def test_a_changed_host_key_is_refused_with_both_fingerprints_before_anything_is_sent(
        self, own_server: Callable[..., "SshServer"]
    ) -> None:
        server = own_server()
        before, gateway = ssh.host_keys(server.host_key)[0], to(server)
        server.stop()
        server.new_host_key()
        server.start()
        now = ssh.host_keys(server.host_key)[0]
        text = trouble(gateway.connect, ssh_errors.HostKeyChangedError)
        assert before.fingerprint in text
        assert now.fingerprint in text
        assert "installed anew" in text
        assert f"linac.transport key {server.host} --port {server.port}`" in text
        assert "Accepted publickey" not in server.log
        assert "userauth" not in server.log

    def test_a_host_key_of_another_kind_than_the_pinned_one_is_a_changed_one(
        self, own_server: Callable[..., "SshServer"]
    ) -> None:
        server = own_server()
        gateway = to(server)
        server.stop()
        server.new_host_key("ecdsa")
        server.start()
        assert "ecdsa-sha2-nistp256" in trouble(gateway.connect, ssh_errors.HostKeyChangedError)

    def test_of_a_server_with_several_the_pinned_kind_is_asked_for(self, ssh_server: "SshServer", tmp_path: Path) -> None:
        server = type(ssh_server)(tmp_path / "two")
        other = server.make_key("second_host_key", "ecdsa")
        server.settings["HostKey"] = f"{server.host_key_file}\nHostKey {other}"
        with server:
            for public in (server.host_key_file, other):
                assert to(server, host_key=public.with_suffix(".pub").read_text()).run("exit 0")[0] == 0

    def test_the_command_prints_the_key_and_its_fingerprint(self, ssh_server: "SshServer", project: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "linac.transport", "key", ssh_server.host, "--port", str(ssh_server.port)],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=60,
        )
        line = done.stdout.strip().splitlines()[-1]
        assert (done.returncode, done.stderr) == (0, "")
        assert line == ssh_server.host_key
        assert ssh.host_keys(line)[0].fingerprint in done.stdout

    def test_the_command_tells_what_is_wrong_in_words(self, closed_port: int, project: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "linac.transport", "key", "127.0.0.1", "--port", str(closed_port)],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "refused the connection" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class TestNoGateway:
    def test_a_closed_port_is_told(self, ssh_server: "SshServer", closed_port: int) -> None:
        assert "OpenSSH SSH Server" in trouble(to(ssh_server, port=closed_port).connect, ssh_errors.GatewayRefusedError)

    def test_a_name_that_nobody_knows_is_told(self, ssh_server: "SshServer") -> None:
        text = trouble(to(ssh_server, host="gate.invalid").connect, LinacError, within=30)
        assert "gate.invalid' is not known here" in text or "no name server answers" in text  # where there is none at all

    def test_a_host_that_does_not_answer_is_given_up_in_time(self, ssh_server: "SshServer") -> None:
        with socket.socket() as full:  # a backlog that is full drops what comes
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            text = trouble(to(ssh_server, port=full.getsockname()[1], timeout=1.0).connect, LinacError)
            for filler in fillers:
                filler.close()
        assert "did not answer within 1 s" in text or "said nothing" in text

    def test_who_accepts_and_says_nothing_is_given_up_in_time(self, ssh_server: "SshServer", service: Service) -> None:
        port = service(lambda connection: read_all(connection) and None)
        text = trouble(to(ssh_server, port=port, timeout=1.0).connect, ssh_errors.GatewayHungError)
        assert "said nothing within 1 s" in text

    @pytest.mark.parametrize("says", [b"SSH-2.0-Test\r\n", b"SSH-2.0-Test\r\n\x00\x00\x01"])
    def test_who_stops_in_the_middle_of_the_greeting_is_given_up_in_time(
        self, ssh_server: "SshServer", service: Service, says: bytes
    ) -> None:
        port = service(lambda connection: connection.sendall(says) or (read_all(connection) and None))
        text = trouble(to(ssh_server, port=port, timeout=1.0).connect, ssh_errors.GatewayHungError)
        assert "middle of the greeting" in text

    def test_who_hangs_up_at_once_is_told(self, ssh_server: "SshServer", service: Service) -> None:
        assert "MaxStartups" in trouble(to(ssh_server, port=service(lambda _: None)).connect, ssh_errors.GatewayRefusedError)

    def test_a_server_that_has_too_many_logins_is_not_taken_for_another_service(
        self, ssh_server: "SshServer", service: Service
    ) -> None:
        port = service(lambda connection: connection.sendall(b"Exceeded MaxStartups\r\n"))
        assert "MaxStartups" in trouble(to(ssh_server, port=port).connect, ssh_errors.GatewayRefusedError)

    def test_what_is_no_ssh_is_told(self, ssh_server: "SshServer", service: Service) -> None:
        port = service(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200))
        assert "does not speak SSH" in trouble(to(ssh_server, port=port).connect, ssh_errors.NotSshError)

    @pytest.mark.parametrize("says", [b"220 mail.example ESMTP\r\n", b"\xff\xfd\x18\xff\xfd\x20", b"J\0\0\0\n8.0.36\0"])
    def test_what_speaks_but_no_ssh_is_told_soon_and_not_after_the_whole_timeout(
        self, ssh_server: "SshServer", service: Service, says: bytes
    ) -> None:
        port = service(lambda connection: connection.sendall(says) or (read_all(connection) and None))
        began = time.monotonic()
        assert "does not speak SSH" in trouble(to(ssh_server, port=port, timeout=15.0).connect, ssh_errors.NotSshError, within=14)
        assert time.monotonic() - began < 13

    def test_lines_before_the_greeting_do_no_harm(self, ssh_server: "SshServer", service: Service) -> None:
        """RFC 4253 section 4.2 allows them; sshd itself is behind."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"Welcome to this hospital.\r\nAll is logged.\r\n")
            with socket.create_connection((ssh_server.host, ssh_server.port)) as real:
                pump = threading.Thread(target=copy, args=(connection, real), daemon=True)
                pump.start()
                copy(real, connection)
                pump.join(5)

        assert to(ssh_server, port=service(serve)).run("echo in") == (0, "in\n")

    @pytest.mark.parametrize("wrong", [{"timeout": 0.0}, {"timeout": float("nan")}, {"port": 0}, {"port": 70000}])
    def test_numbers_that_cannot_be_are_refused(self, ssh_server: "SshServer", wrong: dict[str, Any]) -> None:
        with pytest.raises(SetupError, match=r"more than 0 s|from 1 to 65535"):
            to(ssh_server, **wrong)

    def test_a_server_without_a_cipher_that_we_accept_is_told(self, own_server: Callable[..., "SshServer"]) -> None:
        server = own_server(Ciphers="3des-cbc")
        assert "no algorithm" in trouble(to(server).connect, ssh_errors.NotSshError)


class TestCommandsAndFiles:
    def test_a_command_that_takes_too_long_is_given_up(self, gateway: Gateway) -> None:
        assert "after 1 s" in trouble(lambda: gateway.run("sleep 30", timeout=1), ssh_errors.GatewayHungError)

    @pytest.mark.parametrize("what", ["exec_command", "invoke_subsystem"])
    def test_a_gateway_that_lives_and_does_not_answer_is_given_up(
        self, gateway: Gateway, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The library waits for such an answer without end."""
        monkeypatch.setattr(ssh.paramiko.Channel, what, lambda channel, _: channel._wait_for_event())
        if what == "exec_command":
            text = trouble(lambda: gateway.run("true", timeout=1), ssh_errors.GatewayHungError, within=20)
            assert "had not ended after 1 s" in text
        else:
            hasty = Gateway(gateway.host, gateway.port, gateway.user, gateway.pinned[0].line, key=None, timeout=4)
            hasty._key, hasty._agent = gateway._key, False
            text = trouble(lambda: hasty.put(Path(__file__), str(tmp_path / "x")), ssh_errors.GatewayHungError, within=20)
            assert "did not open a file transfer" in text

    def test_much_output_is_cut_off_and_read_to_its_end(self, gateway: Gateway) -> None:
        status, output = gateway.run("head -c 3000000 /dev/zero | tr '\\0' x; exit 5")
        assert (status, len(output)) == (5, 1 << 20)

    def test_an_account_without_a_shell_is_told(self, own_server: Callable[..., "SshServer"]) -> None:
        server = own_server(MaxSessions="0")
        assert "no session" in trouble(lambda: to(server).run("true"), SetupError)
        assert "no session" in trouble(lambda: to(server).put(Path(__file__), "/tmp/x"), SetupError)

    def test_a_file_is_copied_whole_and_replaces_an_older_one(self, gateway: Gateway, tmp_path: Path) -> None:
        source, target = tmp_path / "bundle.zip", tmp_path / "there" / "bundle.zip"
        target.parent.mkdir()
        for size in (3 << 20, 0, 12345):
            source.write_bytes(random.Random(size).randbytes(size))
            gateway.put(source, str(target))
            assert target.read_bytes() == source.read_bytes()
        assert [path.name for path in target.parent.iterdir()] == ["bundle.zip"]

    def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(self, gateway: Gateway, tmp_path: Path) -> None:
        text = trouble(lambda: gateway.put(Path(__file__), str(tmp_path / "missing" / "x")), StorageError)
        assert "missing" in text
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "inside").touch()
        trouble(lambda: gateway.put(Path(__file__), str(tmp_path / "folder")), StorageError)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]

    def test_a_server_without_file_transfer_is_told(self, own_server: Callable[..., "SshServer"], tmp_path: Path) -> None:
        server = own_server(Subsystem="other /bin/false")
        trouble(lambda: to(server).put(Path(__file__), str(tmp_path / "x")), SetupError)

    def test_a_local_file_that_is_missing_is_told_as_such(self, gateway: Gateway, tmp_path: Path) -> None:
        assert "nowhere" in trouble(lambda: gateway.put(tmp_path / "nowhere", "/tmp/x"), StorageError)


class TestForward:
    def test_more_connections_than_may_be_are_refused_and_the_others_go_on(
        self, gateway: Gateway, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tunnel, "MOST_CONNECTIONS", 2)
        with gateway.forward("127.0.0.1", service(echo)) as address, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(2)]
            for client in clients:
                client.settimeout(10)
                client.sendall(b"in")
                assert client.recv(10) == b"in"
            with socket.create_connection(address) as third:
                third.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    third.recv(10)
            clients[0].sendall(b"still")
            assert clients[0].recv(10) == b"still"

    def test_bytes_arrive_as_they_were_sent_both_ways_at_once(self, gateway: Gateway, service: Service) -> None:
        sent = random.Random(1).randbytes(8 << 20)
        with gateway.forward("127.0.0.1", service(echo)) as address, socket.create_connection(address) as client:
            client.settimeout(20)
            writer = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            writer.start()
            found = read_all(client)
            writer.join()
        assert hashlib.sha256(found).digest() == hashlib.sha256(sent).digest()

    def test_keys_are_renewed_in_the_middle_without_a_loss(
        self, gateway: Gateway, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from paramiko.packet import Packetizer

        monkeypatch.setattr(Packetizer, "REKEY_BYTES", 1 << 20)  # 512 MiB otherwise
        renewed: list[int] = []
        activate = ssh_wire.Transport._activate_outbound
        monkeypatch.setattr(ssh_wire.Transport, "_activate_outbound", lambda self: (renewed.append(1), activate(self))[1])
        sent = random.Random(3).randbytes(3 << 20)
        with gateway.forward("127.0.0.1", service(echo)) as address:
            for _ in range(5):  # one that is closed just while keys are renewed must not end them all
                with socket.create_connection(address) as client:
                    client.settimeout(30)
                    writer = threading.Thread(target=lambda to=client: (to.sendall(sent), to.shutdown(socket.SHUT_WR)))
                    writer.start()
                    found = read_all(client)
                    writer.join()
                assert found == sent
        assert len(renewed) > 3

    def test_a_slow_reader_gets_every_byte_in_order(self, gateway: Gateway, service: Service) -> None:
        sent = random.Random(2).randbytes(12 << 20)
        port = service(lambda connection: connection.sendall(sent))
        with gateway.forward("127.0.0.1", port) as address, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.settimeout(20)
            client.connect(address)
            pieces, pause = [], iter([0.3, 0.2, 0.1])
            while data := client.recv(1 << 15):
                pieces.append(data)
                if len(pieces) % 50 == 0:
                    time.sleep(next(pause, 0))
        assert b"".join(pieces) == sent

    def test_many_connections_at_once_do_not_mix(self, gateway: Gateway, service: Service) -> None:
        with gateway.forward("127.0.0.1", service(echo)) as address:

            def one(number: int) -> None:
                sent = random.Random(number).randbytes(300_000)
                with socket.create_connection(address) as client:
                    client.settimeout(20)
                    client.sendall(sent[:100_000])
                    found = b""
                    while len(found) < 100_000:
                        found += client.recv(1 << 16)
                    client.sendall(sent[100_000:])
                    client.shutdown(socket.SHUT_WR)
                    good.append(found + read_all(client) == sent)

            good: list[bool] = []
            threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert good == [True] * 12

    def test_a_service_that_speaks_first_is_heard(self, gateway: Gateway, service: Service) -> None:
        with gateway.forward("127.0.0.1", service(lambda connection: connection.sendall(b"welcome"))) as address:
            for _ in range(3):
                with socket.create_connection(address) as client:
                    client.settimeout(10)
                    assert read_all(client) == b"welcome"

    def test_the_target_gets_one_connection_for_each_of_ours(self, gateway: Gateway, service: Service) -> None:
        seen: list[bytes] = []
        with gateway.forward("127.0.0.1", service(lambda connection: seen.append(read_all(connection)))) as address:
            for word in (b"one", b"two"):
                with socket.create_connection(address) as client:
                    client.settimeout(10)
                    client.sendall(word)
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(client) == b""
        assert seen == [b"one", b"two"]

    def test_a_connection_that_the_target_resets_does_not_look_whole(self, gateway: Gateway, service: Service) -> None:
        ended = threading.Event()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"half")
            ended.wait(10)

        with gateway.forward("127.0.0.1", service(serve)) as address, socket.create_connection(address) as client:
            client.settimeout(10)
            assert client.recv(10) == b"half"
            ended.set()
            assert client.recv(10) == b""

    def test_a_target_that_refuses_is_told_at_once(self, gateway: Gateway, closed_port: int) -> None:
        text = trouble(lambda: gateway.forward("127.0.0.1", closed_port).__enter__(), ssh_errors.TargetRefusedError)
        assert f"127.0.0.1 port {closed_port}" in text
        assert "it refused the connection" in text

    def test_a_name_that_the_gateway_does_not_know_is_told(self, gateway: Gateway) -> None:
        text = trouble(lambda: gateway.forward("nss.invalid", 445).__enter__(), ssh_errors.TargetRefusedError, within=30)
        assert "nss.invalid port 445" in text

    @pytest.mark.parametrize("settings", [{"AllowTcpForwarding": "no"}, {"PermitOpen": "127.0.0.1:1"}])
    def test_a_forward_that_the_gateway_forbids_is_told(
        self, own_server: Callable[..., "SshServer"], settings: dict[str, str], closed_port: int
    ) -> None:
        server = own_server(**settings)
        text = trouble(lambda: to(server).forward("127.0.0.1", closed_port).__enter__(), ssh_errors.ForwardProhibitedError)
        assert "PermitOpen" in text

    def test_a_target_that_goes_away_meanwhile_resets_and_says_why(self, gateway: Gateway, service: Service) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        forward = gateway.forward(*server.getsockname())
        with forward as address:
            first = socket.create_connection(address)
            server.accept()[0].close()
            server.close()
            with socket.create_connection(address) as second:
                second.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    second.recv(1)
            first.close()
            assert isinstance(forward.trouble, ssh_errors.TargetRefusedError)

    def test_leaving_ends_connections_that_are_under_way(self, gateway: Gateway, service: Service) -> None:
        port = service(lambda connection: read_all(connection) and None)
        with gateway.forward("127.0.0.1", port) as address:
            client = socket.create_connection(address)
            client.sendall(b"x")
            began = time.monotonic()
        assert time.monotonic() - began < 8
        client.settimeout(5)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 1)

    def test_threads_may_share_a_gateway(self, gateway: Gateway, service: Service) -> None:
        port = service(echo)
        found: list[bytes] = []

        def one() -> None:
            with gateway.forward("127.0.0.1", port) as address, socket.create_connection(address) as client:
                client.settimeout(10)
                client.sendall(b"ping")
                found.append(client.recv(10))

        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [b"ping"] * 6


class TestRoute:
    """Connections of this program alone, without a port of this computer."""

    @pytest.fixture
    def route(self, gateway: Gateway, service: Service) -> Iterator[Route]:
        made = gateway.route("127.0.0.1", service(echo))
        yield made
        made.close()

    def exchange(self, stream: Stream, sent: bytes) -> bytes:
        """What comes back of it, read while it is written."""
        stream.settimeout(20)

        def write() -> None:
            rest = memoryview(sent)
            while rest:
                rest = rest[stream.send(rest) :]

        writer = threading.Thread(target=write)
        writer.start()
        found = memoryview(bytearray(len(sent)))
        rest = found
        while rest:
            count = stream.recv_into(rest)
            assert count
            rest = rest[count:]
        writer.join()
        return bytes(found)

    @pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"])
    def test_bytes_arrive_as_they_were_sent_whatever_the_cipher(
        self, own_server: Callable[..., "SshServer"], service: Service, cipher: str
    ) -> None:
        sent = random.Random(5).randbytes(6 << 20)
        route = to(own_server(Ciphers=cipher)).route("127.0.0.1", service(echo))
        try:
            assert self.exchange(route.dial(), sent) == sent
        finally:
            route.close()

    def test_keys_are_renewed_in_the_middle_without_a_loss(self, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
        from paramiko.packet import Packetizer

        monkeypatch.setattr(Packetizer, "REKEY_BYTES", 1 << 20)
        renewed: list[int] = []
        activate = ssh_wire.Transport._activate_outbound
        monkeypatch.setattr(ssh_wire.Transport, "_activate_outbound", lambda self: (renewed.append(1), activate(self))[1])
        sent = random.Random(6).randbytes(8 << 20)
        assert self.exchange(route.dial(), sent) == sent
        assert len(renewed) > 3

    def test_its_connections_share_one_login_and_do_not_mix(self, route: Route, ssh_server: "SshServer") -> None:
        logins, good = ssh_server.log.count("Accepted publickey"), list[bool]()

        def one(number: int) -> None:
            stream = route.dial()
            sent = random.Random(number).randbytes(700_000)
            good.append(self.exchange(stream, sent) == sent)
            stream.close()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert good == [True] * 6
        assert ssh_server.log.count("Accepted publickey") == logins + 1

    def test_the_end_and_a_silent_service_are_told(self, gateway: Gateway, service: Service) -> None:
        ended, buffer = threading.Event(), memoryview(bytearray(100))

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"half")
            ended.wait(20)

        route = gateway.route("127.0.0.1", service(serve))
        try:
            stream = route.dial()
            stream.settimeout(0.5)
            assert stream.recv_into(buffer) == 4
            with pytest.raises(TimeoutError):
                stream.recv_into(buffer)
            ended.set()
            stream.settimeout(20)
            assert stream.recv_into(buffer) == 0
        finally:
            route.close()

    def test_a_service_that_takes_nothing_is_told(self, gateway: Gateway, service: Service) -> None:
        done = threading.Event()
        route = gateway.route("127.0.0.1", service(lambda _: done.wait(60)))  # type: ignore[arg-type,return-value]
        try:
            stream = route.dial()
            stream.settimeout(0.5)
            with pytest.raises(TimeoutError):
                all(stream.send(memoryview(bytes(1 << 20))) for _ in range(1000))
        finally:
            route.close()
            done.set()

    def test_who_reads_is_woken_when_another_thread_shuts_it(self, route: Route) -> None:
        stream, found = route.dial(), list[int]()
        stream.settimeout(60)
        reader = threading.Thread(target=lambda: found.append(stream.recv_into(memoryview(bytearray(10)))))
        reader.start()
        began = time.monotonic()
        stream.shutdown(socket.SHUT_RDWR)
        reader.join(20)
        stream.close()
        assert found == [0]
        assert time.monotonic() - began < 10

    def test_a_gateway_that_hangs_is_waited_for_by_nobody_who_closes(
        self, own_server: Callable[..., "SshServer"], service: Service
    ) -> None:
        server = own_server()
        route = to(server).route("127.0.0.1", service(echo))
        stream = route.dial()
        server.freeze()
        try:
            began = time.monotonic()
            stream.shutdown(socket.SHUT_RDWR)
            stream.close()
            assert time.monotonic() - began < 1
            route.close()
            assert time.monotonic() - began < 8
        finally:
            server.thaw()

    def test_a_gateway_that_was_lost_is_logged_in_to_anew(self, own_server: Callable[..., "SshServer"], service: Service) -> None:
        server = own_server()
        route = to(server).route("127.0.0.1", service(echo))
        try:
            stream = route.dial()
            stream.settimeout(20)
            server.stop()
            assert stream.recv_into(memoryview(bytearray(10))) == 0
            with pytest.raises(LinacError):
                route.dial()
            assert route.trouble is not None
            server.start()
            assert self.exchange(route.dial(), b"again") == b"again"
            assert route.trouble is None
        finally:
            route.close()

    def test_what_comes_too_late_for_a_closed_channel_ends_nothing_else(self, gateway: Gateway, service: Service) -> None:
        """OpenSSH ends the whole connection when it gets something for a channel that has ended."""
        link = gateway.connect()
        try:
            port = service(echo)
            other = Stream(link.open(("127.0.0.1", port), buffer=Inlet))
            late: Callable[[Any], Any]
            for late in (lambda of: Data(of, [memoryview(b"late")]), lambda of: Note(of, of._send_eof())):
                channel: Any = link.open(("127.0.0.1", port), buffer=Inlet)
                late_message = late(channel)
                channel.close()
                until = time.monotonic() + 10
                while link._transport._channels.get(channel.chanid) is not None and time.monotonic() < until:
                    time.sleep(0.01)  # until the gateway has closed it as well
                link._transport._send_user_message(late_message)
                assert self.exchange(other, b"still here") == b"still here"
            assert link.alive
        finally:
            link.close()

    def test_what_the_garbage_collector_closes_amid_sending_is_told_afterwards(
        self, gateway: Gateway, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = gateway.connect()
        port, closed_while_sending = service(echo), list[bool]()
        send = ssh_wire.paramiko.Transport._send_message

        def with_garbage(transport: Any, message: Any) -> None:
            """As Python may at any moment: here it finds a channel that nobody holds, but itself."""
            if isinstance(message, Data) and not closed_while_sending:
                gc.collect()
                closed_while_sending.append(transport._channels.get(number) is None)
            send(transport, message)

        try:
            stream = Stream(link.open(("127.0.0.1", port), buffer=Inlet))
            gc.collect()
            gc.disable()
            channel: Any = link.open(("127.0.0.1", port))
            number, channel.itself = channel.chanid, channel
            del channel
            monkeypatch.setattr(ssh_wire.paramiko.Transport, "_send_message", with_garbage)
            assert self.exchange(stream, b"heard" * 1000) == b"heard" * 1000
            assert closed_while_sending == [True]
            assert link.alive
        finally:
            gc.enable()
            link.close()

    def test_who_is_interrupted_amid_a_packet_ends_the_connection_at_once(
        self, gateway: Gateway, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = gateway.connect()
        try:
            stream = Stream(link.open(("127.0.0.1", service(echo)), buffer=Inlet))
            send = link.wire.send

            def interrupted(data: Any) -> int:
                send(data[: len(data) // 2])
                raise KeyboardInterrupt

            monkeypatch.setattr(link.wire, "send", interrupted)
            with pytest.raises(KeyboardInterrupt):
                stream.send(memoryview(b"x" * 1000))
            assert link.ended.wait(10)
        finally:
            link.close()

    def test_an_old_refusal_is_not_told_of_what_fails_later(self, gateway: Gateway, service: Service, closed_port: int) -> None:
        route = gateway.route("127.0.0.1", closed_port)
        try:
            trouble(route.dial, ssh_errors.TargetRefusedError)
            assert isinstance(route.trouble, ssh_errors.TargetRefusedError)
            assert route.failure(5) is None, "the gateway is well"
        finally:
            route.close()

    def test_who_waits_for_a_login_that_fails_is_told_the_same_and_does_not_try_it_once_more(self) -> None:
        tried, waiting, told = list[int](), threading.Event(), list[str]()

        def connect() -> Any:
            tried.append(1)
            waiting.wait(10)
            raise ssh_errors.GatewayHungError("It hangs.")

        route = Route(connect, ("nss-4299", 445))

        def one() -> None:
            try:
                route.dial()
            except ssh_errors.GatewayHungError as error:
                told.append(str(error))

        threads = [threading.Thread(target=one) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        waiting.set()
        for thread in threads:
            thread.join(20)
        assert told == ["It hangs."] * 5
        assert len(tried) == 1
        trouble(route.dial, ssh_errors.GatewayHungError)
        assert len(tried) == 2, "who comes later tries it himself"

    def test_once_closed_it_is_not_opened_again(self, route: Route) -> None:
        route.dial()
        route.close()
        trouble(route.dial, ssh_errors.GatewayLostError)

    def test_a_target_that_refuses_is_told(self, gateway: Gateway, closed_port: int) -> None:
        route = gateway.route("127.0.0.1", closed_port)
        try:
            assert "it refused the connection" in trouble(route.dial, ssh_errors.TargetRefusedError)
        finally:
            route.close()
