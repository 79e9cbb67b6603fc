"""What local folders alone can show, and which kind of folder a path means."""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linac.errors import SetupError, StorageError, UnreachableError
from linac.transport import AwayError, Credentials, LocalFolder, connect
from linac.transport import paths as paths_module
from linac.transport.paths import extended_path, split_name


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "Physik Räume").make_root()


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file gets more than 100 bytes."""
    if sys.platform == "win32":
        pytest.skip("Windows cannot limit the size of files")
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestNames:
    @pytest.mark.parametrize("name", ["a/b.txt", "a\\b.txt", "./a//b.txt"])
    def test_slashes_of_either_kind_mean_the_same(self, name: str) -> None:
        assert split_name(name) == ["a", "b.txt"]

    @pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "\\a", "C:\\a", "C:a", "\\\\host\\share\\a", "//h/s/a"])
    def test_a_name_that_would_leave_its_folder_is_refused(self, name: str) -> None:
        with pytest.raises(SetupError, match="leads out of its folder"):
            split_name(name)


class TestLocalFolder:
    """What every folder does is in test_folders.py."""

    def test_a_write_that_fails_leaves_the_old_file_and_no_part(
        self, folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.write("status.json", b"old")

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(paths_module.os, "fsync", full)
        with pytest.raises(StorageError, match="full"):
            folder.write("status.json", b"new")
        assert folder.read("status.json") == b"old"
        assert [path.name for path in folder.path.iterdir()] == ["status.json"]

    def test_a_file_made_where_its_content_has_no_room_is_taken_away_again(self, folder: LocalFolder) -> None:
        with no_room(), pytest.raises(StorageError, match="Could not make"):
            folder.create("lease.json", b"y" * 300)
        assert list(folder.path.iterdir()) == []
        assert folder.create("lease.json", b"y" * 300)
        with no_room():
            assert not folder.create("lease.json", b"z" * 300)
        assert folder.read("lease.json") == b"y" * 300

    def test_anothers_file_that_took_its_place_meanwhile_stays(self, folder: LocalFolder) -> None:
        path = folder.path / "lease.json"
        with no_room():
            file = path.open("xb")
            folder.write("lease.json", b"another's")
            with pytest.raises(OSError, match="large"):
                paths_module._fill(file, b"y" * 300, path)
        assert path.read_bytes() == b"another's"

    def test_replacing_is_tried_again_while_somebody_has_the_target_open(
        self, folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        real = os.replace

        def refusing(old: Path, new: Path) -> None:
            calls.append(1)
            if len(calls) < 4:
                raise PermissionError(13, "in use")
            real(old, new)

        monkeypatch.setattr(paths_module.os, "replace", refusing)
        monkeypatch.setattr(paths_module, "REPLACE_FIRST_PAUSE_SECONDS", 0.001)
        folder.write("a", b"1")
        assert folder.read("a") == b"1"
        assert len(calls) == 4

    @pytest.mark.parametrize(
        ("path", "extended"),
        [
            ("C:\\a\\" + "b" * 300, "\\\\?\\C:\\a\\" + "b" * 300),
            ("\\\\nss\\Backup\\" + "b" * 300, "\\\\?\\UNC\\nss\\Backup\\" + "b" * 300),
            ("\\\\?\\C:\\" + "b" * 300, "\\\\?\\C:\\" + "b" * 300),
            ("C:\\short", "C:\\short"),
        ],
    )
    def test_windows_takes_long_paths_in_a_form_of_their_own(self, path: str, extended: str) -> None:
        assert extended_path(path) == extended

    @pytest.mark.skipif(os.name == "nt", reason="making a link takes an administrator there")
    def test_a_link_that_somebody_laid_in_it_is_followed(self, folder: LocalFolder, tmp_path: Path) -> None:
        """Records are put on a larger disk that way."""
        (tmp_path / "larger disk").mkdir()
        (folder.path / "TRF").symlink_to(tmp_path / "larger disk")
        folder.write("TRF/raw/a.trf", b"log")
        assert (tmp_path / "larger disk" / "raw" / "a.trf").read_bytes() == b"log"
        assert [(entry.name, entry.is_folder) for entry in folder.list()] == [("TRF", True)]
        with pytest.raises(SetupError, match="leads out of its folder"):
            folder.read("TRF/../../larger disk/raw/a.trf")
        with pytest.raises(StorageError):
            folder.remove("TRF")
        assert (folder.path / "TRF").is_symlink()

    @pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that is opened and cannot be read")
    def test_what_fails_while_a_file_is_read_is_told_as_well(self, tmp_path: Path) -> None:
        with LocalFolder("/proc/self") as folder:
            with pytest.raises(StorageError, match=r"Could not read .*mem"):
                folder.read("mem")
            with folder.open("mem") as file, pytest.raises(StorageError, match=r"Could not read .*mem"):
                file.read(10)
            with pytest.raises(StorageError):
                folder.fetch("mem", tmp_path / "mem")

    def test_a_name_that_is_too_long_for_any_system_is_refused(self, folder: LocalFolder) -> None:
        for work in (folder.read, folder.list, folder.make, lambda name: folder.write(name, b"")):
            with pytest.raises(SetupError, match="too long"):
                work("a/" * 16_001 + "b")

    @pytest.mark.skipif(os.name != "nt", reason="elsewhere nobody is kept from it")
    def test_a_file_that_is_read_may_be_renamed_and_removed_meanwhile(self, folder: LocalFolder) -> None:
        folder.write("SDD+1.zip", b"backup")
        with folder.open("SDD+1.zip") as file:
            assert file.read(2) == b"ba"
            os.rename(folder.path / "SDD+1.zip", folder.path / "SDD+2.zip")
            os.remove(folder.path / "SDD+2.zip")


class TestAway:
    """A share that the operating system opens, and cannot reach: it is not taken for an empty folder."""

    @pytest.fixture
    def says(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[OSError], None]:
        """Lets the operating system say that of whatever it is asked for."""

        def fails(error: OSError) -> None:
            def failing(*_: object, **__: object) -> None:
                raise error

            for name in ("scandir", "unlink", "rmdir", "open", "replace"):
                monkeypatch.setattr(paths_module.os, name, failing)
            monkeypatch.setattr(Path, "stat", failing)
            monkeypatch.setattr(paths_module.io, "BufferedReader", failing)
            monkeypatch.setattr(Path, "unlink", failing)
            monkeypatch.setattr(Path, "is_dir", lambda _: False)

        return fails

    @staticmethod
    def of_windows(number: int, kind: type[OSError]) -> OSError:
        error = kind(2 if kind is FileNotFoundError else 22, "The network path was not found")
        error.winerror = number  # type: ignore[attr-defined,unused-ignore]
        return error

    @pytest.mark.parametrize(
        "error",
        [
            of_windows(53, FileNotFoundError),
            of_windows(64, OSError),
            of_windows(121, OSError),
            OSError(errno.ETIMEDOUT, "Connection timed out"),
            OSError(errno.EHOSTUNREACH, "No route to host"),
        ],
    )
    def test_it_is_told_as_one_that_cannot_be_reached(
        self, folder: LocalFolder, says: Callable[[OSError], None], error: OSError
    ) -> None:
        folder.write("a", b"1")
        says(error)
        for work in (
            folder.list,
            folder.check,
            lambda: folder.find("a"),
            lambda: folder.open("a"),
            lambda: folder.remove("a"),
            folder.sweep,
            lambda: list(folder.read_many(["a", "b"])),
        ):
            with pytest.raises(AwayError, match="its server cannot be reached"):
                work()

    @pytest.mark.parametrize(
        ("number", "said"),
        [(67, "no share of that name"), (1326, "does not let the account in"), (1219, "with another account already")],
    )
    def test_a_share_that_is_not_there_and_an_account_that_is_not_let_in_are_for_the_operator(
        self, folder: LocalFolder, says: Callable[[OSError], None], number: int, said: str
    ) -> None:
        says(self.of_windows(number, FileNotFoundError if number == 67 else OSError))
        for work in (folder.list, folder.check):
            with pytest.raises(SetupError, match=said):
                work()


class TestConnect:
    @pytest.mark.parametrize("path", ["records", "./records", "..\\records", "D:records", ""])
    def test_a_relative_path_is_refused(self, path: str) -> None:
        with pytest.raises(SetupError, match="not an absolute path"):
            connect(path)

    @pytest.mark.skipif(os.name == "nt", reason="Windows opens UNC paths by itself")
    @pytest.mark.parametrize("path", [r"\\192.168.17.40\Backup\TCS", "//nss/Backup"])
    def test_a_unc_path_that_the_system_cannot_open_is_refused_with_advice(self, path: str) -> None:
        with pytest.raises(SetupError, match="mount the share"):
            connect(path)

    @pytest.mark.skipif(os.name == "nt", reason="there they are what they say")
    @pytest.mark.parametrize("path", [r"D:\physics\records", "D:/physics/records", r"\\?\C:\x", r"\\?\UNC\nss\Backup"])
    def test_a_path_of_windows_is_not_made_into_a_folder_elsewhere(
        self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SetupError, match="is a path of Windows, and this computer does not run Windows"):
            connect(path).make_root()
        assert list(tmp_path.iterdir()) == []

    def test_an_absolute_path_is_a_folder(self, tmp_path: Path) -> None:
        with connect(tmp_path) as folder:
            assert folder.location == str(tmp_path)
            assert isinstance(folder, LocalFolder)

    @pytest.mark.parametrize("path", [r"\\nss", r"\\nss\\", "//nss", "//nss/"])
    def test_a_server_without_a_share_is_refused(self, path: str) -> None:
        with pytest.raises(SetupError, match="names a server but no share"):
            connect(path)

    @pytest.mark.parametrize("wrong", [{"port": "445"}, {"timeout": None}, {"credentials": ("linac", "geheim")}])
    def test_what_is_of_another_kind_is_refused_with_what_to_give(self, wrong: dict[str, Any]) -> None:
        account = Credentials("a", "b")
        with pytest.raises(SetupError, match="Give") as caught:
            connect(r"\\server\share", **{"credentials": account, **wrong})
        assert "geheim" not in str(caught.value)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
    def test_a_timeout_that_is_no_time_is_refused(self, tmp_path: Path, timeout: float) -> None:
        for path, account in ((str(tmp_path), None), (r"\\nss\Backup", Credentials("a", "b"))):
            with pytest.raises(SetupError, match="more than 0 s"):
                connect(path, account, timeout=timeout)

    @pytest.mark.parametrize("port", [0, -1, 65536])
    def test_a_port_that_is_none_is_refused(self, port: int) -> None:
        with pytest.raises(SetupError, match="from 1 to 65535"):
            connect(r"\\nss\Backup", Credentials("a", "b"), port=port)

    @pytest.mark.parametrize("path", [r"\\nss:1445\Backup\TCS", "//nss@1445/Backup", "//192.168.17.40:445/Backup"])
    def test_a_path_that_holds_the_port_is_refused_with_where_to_put_it(self, path: str) -> None:
        with pytest.raises(
            SetupError, match=r"the field for it, and the path without, as in '\\\\(nss|192[.]168[.]17[.]40)\\Backup'"
        ):
            connect(path, Credentials("a", "b"))

    def test_the_share_for_messages_between_servers_is_refused(self) -> None:
        with pytest.raises(SetupError, match="holds no files"):
            connect(r"\\nss\ipc$", Credentials("a", "b"))

    @pytest.mark.parametrize("path", ["/a\0b", "C:\\a\0b", "/a/\ud800", "\\\\nss\\Backup\\a\0"])
    def test_a_path_that_no_system_could_be_asked_for_is_refused(self, path: str) -> None:
        if os.name == "nt" and "\0" not in path:
            pytest.skip("Windows takes half characters")
        with pytest.raises(SetupError, match="no path can hold"):
            connect(path, Credentials("a", "b") if path.startswith("\\") else None)

    def test_a_server_whose_name_no_dns_could_know_is_told(self) -> None:
        with connect("\\\\" + "n" * 70 + "\\Backup", Credentials("a", "b")) as folder:
            with pytest.raises(UnreachableError, match="not known here"):
                folder.check()

    def test_a_path_that_leaves_its_share_is_refused(self) -> None:
        with pytest.raises(SetupError, match=r"holds '[.][.]'"):
            connect(r"\\nss\Backup\..\C$", Credentials("a", "b"))

    def test_a_unc_path_with_an_account_is_a_folder_by_smb_and_nothing_is_connected_yet(self) -> None:
        for path in (r"\\no-such.invalid\Backup\TCS\\a b", "//no-such.invalid/Backup/TCS/a b/"):
            with connect(path, Credentials("a", "b")) as folder:
                assert folder.location == r"\\no-such.invalid\Backup\TCS\a b"

    def test_an_account_for_a_local_folder_is_a_mistake(self, tmp_path: Path) -> None:
        for more in ({"credentials": Credentials("a", "b")}, {"port": 1445}, {"gateway": object()}):
            with pytest.raises(SetupError, match="Leave them out"):
                connect(tmp_path, **more)  # type: ignore[arg-type]


def test_recording_needs_no_smbprotocol(project: Path) -> None:
    """`linac.capture` runs with the standard library alone."""
    script = "import sys, linac.capture, linac.transport, linac.transport.records; print(sorted(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=project, capture_output=True, text=True, timeout=60, check=True
    )
    assert "linac.transport.paths" in found.stdout
    for package in ("smbprotocol", "paramiko", "cryptography", "linac.transport.smb"):
        assert f"'{package}'" not in found.stdout
