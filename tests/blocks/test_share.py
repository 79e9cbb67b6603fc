"""The form of a share: what it opens, what it refuses, and what its check says to an operator."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from blocks import Share, SmbCredentials, SshGateway
from linac.errors import SetupError, StorageError
from linac.simulator.samba import Samba

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def on(server: Samba, share: str = "physics", password: str = "") -> Share:
    credentials = SmbCredentials(username=server.user, password=SecretStr(password or server.password))
    return Share(path=server.unc(share), port=server.port, credentials=credentials)


class TestPath:
    @pytest.mark.parametrize("path", ["records", "./records", "../records", "records/iCom", "D:records", "", '" "', "~/records"])
    def test_a_path_that_depends_on_where_a_worker_runs_is_refused(self, path: str) -> None:
        with pytest.raises(ValidationError, match=r"Give|at least 1 character"):
            Share(path=path)

    @pytest.mark.parametrize(
        "path", ["/srv/records", "D:\\records", "D:/records", r"\\nss\Backup\TCS", "//nss/Backup", ' "/srv/a b" ']
    )
    def test_whole_paths_are_taken(self, path: str) -> None:
        assert Share(path=path).path == path.strip(' "')

    @pytest.mark.parametrize("path", [r"\\nss", "\\\\nss\\", "//nss", "//nss/"])
    def test_a_server_without_a_share_is_told_as_that(self, path: str) -> None:
        with pytest.raises(ValidationError, match="names a server but no share"):
            Share(path=path)

    def test_a_local_folder_with_credentials_is_a_mistake(self, tmp_path: Path) -> None:
        credentials = SmbCredentials(username="a", password=SecretStr("b"))
        with pytest.raises(SetupError, match="Leave them out"):
            Share(path=str(tmp_path), credentials=credentials).connect()

    def test_a_folder_below_it_is_made_by_writing_and_the_root_is_not(self, tmp_path: Path) -> None:
        share = Share(path=str(tmp_path / "records"))
        with share.connect("iCom") as folder, pytest.raises(StorageError, match="make it first"):
            folder.write("a", b"1")
        assert not (tmp_path / "records").exists()
        (tmp_path / "records").mkdir()
        with share.connect("iCom") as folder:
            folder.write("a", b"1")
        assert (tmp_path / "records" / "iCom" / "a").read_bytes() == b"1"


class TestServer:
    def test_it_opens_with_its_account_and_port(self, smb_server: Samba) -> None:
        with on(smb_server).connect("from a block") as folder:
            folder.write("a", b"1")
            assert folder.list()[0].name == "a"

    def test_a_gateway_leads_there(self, smb_server: Samba, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        asked: list[object] = []

        class Way:
            def route(self, host: str, port: int) -> "Way":
                asked.append((host, port))
                return self

            def dial(self) -> socket.socket:
                return socket.create_connection(("127.0.0.1", smb_server.port), 10)

            def close(self) -> None:
                asked.append("closed")

        monkeypatch.setattr(SshGateway, "open", lambda _self: Way())
        monkeypatch.setattr(SshGateway, "check", lambda _self, host, port: [f"ok: through it, {host} port {port} answers."])
        gateway = SshGateway(host="gate", username="tunnel", host_key=HOST_KEY)
        share = Share(path=r"\\nss-4299\physics", credentials=on(smb_server).credentials, gateway=gateway)
        with share.connect() as folder:
            folder.check()
        assert asked == [("nss-4299", 445), "closed"]
        first, *rest = share.check()
        assert str(first) == "ok: Gateway gate: through it, nss-4299 port 445 answers."
        assert all(line.ok for line in rest)


class TestCheck:
    def test_what_works_is_told_step_by_step(self, smb_server: Samba) -> None:
        lines = on(smb_server).check(write=True)
        assert [(line.what.split(" ")[0], line.ok) for line in lines] == [
            ("Opening", True),
            ("Listing", True),
            ("Free", True),
            ("Writing,", True),
        ]
        assert "takes the account 'icomreader'" in lines[0].seen
        assert not list(smb_server.folder("physics").glob("linac-flows-check*"))

    def test_a_share_that_may_only_be_read_passes_unless_it_is_to_be_written(self, smb_server: Samba) -> None:
        assert all(line.ok for line in on(smb_server, "Backup").check())
        *_, last = on(smb_server, "Backup").check(write=True)
        assert not last.ok
        assert "access denied" in last.seen

    def test_the_first_step_that_fails_is_the_last_line_and_says_what_to_do(self, smb_server: Samba) -> None:
        for share, said in (
            (on(smb_server, password="wrong one"), "name or the password of icomreader"),
            (on(smb_server, "Backups"), "has no share 'Backups'"),
            (on(smb_server).model_copy(update={"port": 1}), "Ask IT to open the port"),
        ):
            (line,) = share.check()
            assert not line.ok
            assert said in str(line)
            assert "wrong one" not in str(line)

    def test_a_local_folder_is_checked_too(self, tmp_path: Path) -> None:
        assert all(line.ok for line in Share(path=str(tmp_path)).check(write=True))
        assert list(tmp_path.iterdir()) == []
        (line,) = Share(path=str(tmp_path / "gone")).check(write=True)
        assert "not there" in line.seen
        assert not (tmp_path / "gone").exists()

    @pytest.mark.parametrize("gateway", [None, SshGateway(host="gate", username="tunnel", host_key=HOST_KEY)])
    def test_a_path_that_leads_out_of_its_share_is_a_line_of_trouble(self, gateway: SshGateway | None) -> None:
        credentials = SmbCredentials(username="a", password=SecretStr("b"))
        (line,) = Share(path=r"\\nss\Backup\..\x", credentials=credentials, gateway=gateway).check()
        assert not line.ok
        assert "holds '..'" in line.seen

    def test_trouble_with_the_gateway_ends_the_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SshGateway, "check", lambda *_: ["ok: it answers.", "trouble: it shows another host key."])
        gateway = SshGateway(host="gate", username="tunnel", host_key=HOST_KEY)
        credentials = SmbCredentials(username="a", password=SecretStr("b"))
        lines = Share(path=r"\\nss\Backup", credentials=credentials, gateway=gateway).check()
        assert [line.ok for line in lines] == [True, False]
        assert "another host key" in str(lines[-1])
