"""A local folder behind the interface that shares will have too."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from linac.errors import SetupError, StorageError
from linac.transport import LocalFolder, connect
from linac.transport import paths as paths_module
from linac.transport.paths import split_name


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "Physik Räume")


class TestNames:
    @pytest.mark.parametrize("name", ["a/b.txt", "a\\b.txt", "./a//b.txt"])
    def test_slashes_of_either_kind_mean_the_same(self, name: str) -> None:
        assert split_name(name) == ["a", "b.txt"]

    @pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "\\a", "C:\\a", "C:a", "\\\\host\\share\\a", "//h/s/a"])
    def test_a_name_that_would_leave_its_folder_is_refused(self, name: str) -> None:
        with pytest.raises(SetupError, match="leads out of its folder"):
            split_name(name)


class TestLocalFolder:
    def test_what_is_written_is_read_listed_found_and_removed(self, folder: LocalFolder) -> None:
        folder.write("TRF/raw/4299/Müller 1.trf", b"log")
        assert folder.read("TRF\\raw\\4299\\Müller 1.trf") == b"log"
        (entry,) = folder.list("TRF/raw/4299/*.trf")
        assert (entry.name, entry.size, entry.is_folder) == ("Müller 1.trf", 3, False)
        assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1)
        assert folder.find("TRF/raw/4299/Müller 1.trf") == entry
        folder.remove("TRF/raw/4299/Müller 1.trf")
        folder.remove("TRF/raw/4299/Müller 1.trf")
        assert folder.find("TRF/raw/4299/Müller 1.trf") is None

    def test_a_name_with_wildcard_letters_is_found_as_itself(self, folder: LocalFolder) -> None:
        folder.write("[ICOM_ 7].trf", b"")
        folder.write("I.trf", b"")
        found = folder.find("[ICOM_ 7].trf")
        assert found is not None
        assert found.name == "[ICOM_ 7].trf"

    def test_folders_are_listed_with_size_zero(self, folder: LocalFolder) -> None:
        folder.make("a/b")
        assert [(entry.name, entry.size, entry.is_folder) for entry in folder.list("a/*")] == [("b", 0, True)]

    def test_a_missing_folder_lists_empty_but_does_not_pass_a_check(self, folder: LocalFolder) -> None:
        assert folder.list("SDD+*.zip") == []
        with pytest.raises(StorageError, match="it is not there"):
            folder.check()

    def test_fetch_and_store_bring_whole_files_with_their_time(self, folder: LocalFolder, tmp_path: Path) -> None:
        here = tmp_path / "here.bin"
        here.write_bytes(os.urandom(3 << 20))
        os.utime(here, (1_700_000_000, 1_700_000_000))
        folder.store(here, "deep/there.bin")
        folder.fetch("deep/there.bin", tmp_path / "back" / "again.bin")
        assert (tmp_path / "back" / "again.bin").read_bytes() == here.read_bytes()
        assert folder.list("deep/*")[0].modified == datetime.fromtimestamp(1_700_000_000, UTC)

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

    def test_parts_of_a_write_cut_by_a_power_failure_are_not_listed(self, folder: LocalFolder) -> None:
        folder.make()
        (folder.path / "a.parquet.part-0badc0de").write_bytes(b"half")
        assert folder.list() == []

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

    def test_readers_see_the_old_or_the_new_file_and_never_a_part(self, folder: LocalFolder) -> None:
        contents = {letter * 200_000 for letter in (b"a", b"b")}
        folder.write("live.txt", min(contents))
        stop = threading.Event()
        seen: set[bytes] = set()

        def reader() -> None:
            while not stop.is_set():
                seen.add(folder.read("live.txt"))

        thread = threading.Thread(target=reader)
        thread.start()
        for _ in range(40):
            for content in contents:
                folder.write("live.txt", content)
        stop.set()
        thread.join(10)
        assert seen <= contents

    def test_files_are_never_opened_for_writing_in_place(self, folder: LocalFolder) -> None:
        with pytest.raises(ValueError, match="write\\(\\) or store\\(\\)"):
            folder.open("a", "wb")

    def test_free_space_is_told_in_bytes(self, tmp_path: Path) -> None:
        assert LocalFolder(tmp_path).free() > 1 << 20


class TestConnect:
    def test_a_relative_path_is_refused(self) -> None:
        with pytest.raises(SetupError, match="not an absolute path"):
            connect("records")

    @pytest.mark.skipif(os.name == "nt", reason="Windows opens UNC paths by itself")
    def test_a_unc_path_that_the_system_cannot_open_is_refused_with_advice(self) -> None:
        with pytest.raises(SetupError, match="Mount the share"):
            connect(r"\\192.168.17.40\Backup\TCS")

    def test_an_absolute_path_is_a_folder(self, tmp_path: Path) -> None:
        with connect(tmp_path) as folder:
            assert folder.location == str(tmp_path)
