"""Every kind of folder does the same: a local one, and one on a real SMB server."""

import hashlib
import io
import json
import os
import random
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from linac.errors import SetupError, StorageError
from linac.transport import Folder, LocalFolder, connect
from linac.transport.fetching import Source, part_of
from linac.transport.paths import ClosedError
from linac.transport.settling import SETTLING


@pytest.fixture(params=["local", "smb"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Folder, Path]]:
    """A folder, made, in a path with spaces and umlauts; and where it is on this computer."""
    if request.param == "local":
        there = tmp_path / "Physik Räume"
        with LocalFolder(there).make_root() as folder:
            yield folder, there
        return
    server = request.getfixturevalue("smb_server")
    own = f"Physik Räume {uuid.uuid4().hex[:8]}"
    with connect(server.unc("physics", own), server.credentials, port=server.port, timeout=20).make_root() as folder:
        yield folder, server.folder("physics") / own


@pytest.fixture
def folder(place: tuple[Folder, Path]) -> Folder:
    return place[0]


@pytest.fixture
def there(place: tuple[Folder, Path]) -> Path:
    return place[1]


class TestFiles:
    def test_what_is_written_is_read_listed_found_and_removed(self, folder: Folder) -> None:
        folder.write("TRF/raw/4299/Müller 1.trf", b"log")
        assert folder.read("TRF\\raw\\4299\\Müller 1.trf") == b"log"
        (entry,) = folder.list("TRF/raw/4299/*.trf")
        assert (entry.name, entry.size, entry.is_folder) == ("Müller 1.trf", 3, False)
        assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1)
        assert folder.find("TRF/raw/4299/Müller 1.trf") == entry
        folder.remove("TRF/raw/4299/Müller 1.trf")
        folder.remove("TRF/raw/4299/Müller 1.trf")
        assert folder.find("TRF/raw/4299/Müller 1.trf") is None

    @pytest.mark.parametrize("size", [0, 1, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
    def test_whatever_the_size_the_content_comes_back(self, folder: Folder, there: Path, size: int) -> None:
        data = os.urandom(size)
        folder.write("a/b.bin", data)
        assert (there / "a" / "b.bin").read_bytes() == data
        assert folder.read("a/b.bin") == data
        with folder.open("a/b.bin") as file:
            assert file.read() == data

    def test_an_older_file_is_replaced(self, folder: Folder) -> None:
        folder.write("a", b"first, and longer")
        folder.write("a", b"second")
        assert folder.read("a") == b"second"

    def test_a_missing_file_is_said_to_be_missing(self, folder: Folder, tmp_path: Path) -> None:
        for work in (lambda: folder.read("a/no.txt"), lambda: folder.open("no.txt"), lambda: folder.replace("no.txt", "b")):
            with pytest.raises(StorageError, match=r"it is not there"):
                work()
        with pytest.raises(StorageError, match="it is not there"):
            folder.fetch("no.txt", tmp_path / "no.txt")
        assert not (tmp_path / "no.txt").exists()

    def test_what_is_said_of_two_files_names_both(self, folder: Folder, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"Could not rename .*no\.txt to .*b\.txt: it is not there"):
            folder.replace("no.txt", "b.txt")
        with pytest.raises(StorageError, match=r"Could not store .*gone\.txt as .*b\.txt: it is not there"):
            folder.store(tmp_path / "gone.txt", "b.txt")

    def test_a_name_that_is_too_long_is_told_with_what_to_do(self, folder: Folder) -> None:
        with pytest.raises(StorageError, match=r"too long.* Give a shorter"):
            folder.write("n" * 256, b"")

    def test_a_name_with_wildcard_letters_is_found_as_itself(self, folder: Folder) -> None:
        folder.write("[ICOM_ 7].trf", b"")
        folder.write("I.trf", b"")
        found = folder.find("[ICOM_ 7].trf")
        assert found is not None
        assert found.name == "[ICOM_ 7].trf"

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*", ["SDD+1.zip", "SDD+20.zip", "other.zip", "readme.txt", "sub"]),
            ("SDD+*.zip", ["SDD+1.zip", "SDD+20.zip"]),
            ("SDD+?.zip", ["SDD+1.zip"]),
            ("SDD+[12]*.zip", ["SDD+1.zip", "SDD+20.zip"]),
            ("*.*", ["SDD+1.zip", "SDD+20.zip", "other.zip", "readme.txt"]),
            ("none*", []),
            ("gone/*", []),
            ("sub/*", ["x"]),
        ],
    )
    def test_patterns_mean_the_same(self, folder: Folder, pattern: str, names: list[str]) -> None:
        for name in ("SDD+1.zip", "SDD+20.zip", "other.zip", "readme.txt", "sub/x"):
            folder.write(name, b"1")
        assert [entry.name for entry in folder.list(pattern)] == names

    def test_a_listing_of_thousands_is_complete(self, folder: Folder, there: Path) -> None:
        names = [
            f"a rather long name of a log file, to fill the answers of the server, {number:05}.trf" for number in range(3000)
        ]
        for name in names:
            (there / name).touch()
        assert [entry.name for entry in folder.list("*.trf")] == names

    def test_long_paths_work(self, folder: Folder) -> None:
        name = "/".join(f"{number} {'Strahlentherapie ' * 3}Ärzte" for number in range(8)) + "/log.trf"
        assert len(name) > 400
        folder.write(name, b"1")
        assert folder.read(name) == b"1"

    @pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "\\a", "C:\\a", "\\\\host\\share\\a"])
    def test_a_name_that_would_leave_the_folder_is_refused(self, folder: Folder, name: str) -> None:
        for work in (folder.read, folder.remove, folder.make, lambda name: folder.write(name, b"")):
            with pytest.raises(SetupError, match="leads out of its folder"):
                work(name)

    @pytest.mark.parametrize(
        "name",
        [
            "a<b",
            "a>b",
            'a"b',
            "a|b",
            "a?b",
            "a*b",
            "ab:c",
            "a.",
            "a ",
            "x/a. /b",
            "CON",
            "nul.txt",
            "com1",
            "LPT9 .log",
            "CONIN$",
            "a\x00b",
            "a\nb",
            "\ud800",
            "a\udc80",
        ],
    )
    def test_a_name_that_a_windows_share_cannot_hold_is_refused_by_every_folder(
        self, folder: Folder, there: Path, name: str, tmp_path: Path
    ) -> None:
        local = tmp_path / "local.bin"
        local.write_bytes(b"1")
        works = (
            lambda: folder.write(name, b""),
            lambda: folder.create(name, b""),
            lambda: folder.store(local, name),
            lambda: folder.make(name),
            lambda: folder.make(f"{name}/b"),
            lambda: folder.replace("a", name),
            lambda: folder.replace(name, "a"),
            lambda: folder.read(name),
            lambda: folder.open(name),
            lambda: folder.fetch(name, tmp_path / "x"),
            lambda: folder.find(name),
            lambda: folder.remove(name),
            lambda: folder.sweep(name),
            lambda: folder.below(name),
            lambda: folder.list(f"{name}/*"),
        )
        for work in works:
            with pytest.raises(SetupError, match="cannot be on a Windows share"):
                work()
        for _, found in [*folder.read_many([name]), *folder.fetch_many([(name, tmp_path / "x")])]:
            assert isinstance(found, SetupError)
        assert list(there.iterdir()) == []

    @pytest.mark.parametrize("pattern", ["a<*", 'SDD"*', "*|", "ab:*", "a\x00*", "\ud800*"])
    def test_a_pattern_that_no_name_fits_is_refused_by_every_folder(self, folder: Folder, pattern: str) -> None:
        with pytest.raises(SetupError, match="cannot be on a Windows share"):
            folder.list(pattern)

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
    def test_a_file_that_windows_could_not_hold_does_no_harm_to_a_listing(self, folder: Folder, there: Path) -> None:
        for name in (b"a:b", b"NUL", b"end.", b"half \xff"):
            Path(os.fsdecode(os.fsencode(there) + b"/" + name)).write_bytes(b"1")
        folder.write("good.zip", b"22")
        assert ("good.zip", 2) in [(entry.name, entry.size) for entry in folder.list()]
        assert [entry.name for entry in folder.list("good*")] == ["good.zip"]

    @pytest.mark.parametrize("name", ["", ".", "./"])
    def test_a_file_has_a_name(self, folder: Folder, there: Path, name: str, tmp_path: Path) -> None:
        local = tmp_path / "local.bin"
        local.write_bytes(b"1")
        for work in (
            lambda: folder.write(name, b"1"),
            lambda: folder.create(name, b"1"),
            lambda: folder.store(local, name),
            lambda: folder.replace("a", name),
            lambda: folder.replace(name, "a"),
            lambda: folder.read(name),
            lambda: folder.open(name),
            lambda: folder.fetch(name, tmp_path / "x"),
            lambda: folder.find(name),
            lambda: folder.remove(name),
        ):
            with pytest.raises(SetupError, match="Give the name of a file"):
                work()
        assert there.is_dir()
        assert list(there.iterdir()) == []

    def test_a_closed_folder_is_used_no_more(self, folder: Folder, tmp_path: Path) -> None:
        folder.write("a/b", b"1")
        below = folder.below("a")
        folder.close()
        folder.close()
        for each in (folder, below):
            for work in (
                lambda each=each: each.list(),
                lambda each=each: each.check(),
                lambda each=each: each.read("b"),
                lambda each=each: each.write("b", b"2"),
                lambda each=each: each.create("c", b"2"),
                lambda each=each: each.fetch("b", tmp_path / "b"),
                lambda each=each: each.remove("b"),
                lambda each=each: each.make("d"),
                lambda each=each: each.make_root(),
                lambda each=each: each.free(),
                lambda each=each: each.sweep(),
                lambda each=each: list(each.read_many(["b"])),
            ):
                with pytest.raises(ClosedError, match="was closed"):
                    work()

    def test_files_are_never_opened_for_writing_in_place(self, folder: Folder) -> None:
        with pytest.raises(ValueError, match="write\\(\\) or store\\(\\)"):
            folder.open("a", "wb")

    def test_free_space_is_told_in_bytes(self, folder: Folder) -> None:
        assert folder.free() > 1 << 20


class TestMistakes:
    """A file where a folder should be, and the like, are told alike."""

    def test_what_is_a_folder_or_a_file_is_told(self, folder: Folder, tmp_path: Path) -> None:
        folder.write("file", b"1")
        folder.write("full/file", b"1")
        for said, works in {
            "it is a folder, not a file": (
                lambda: folder.read("full"),
                lambda: folder.open("full"),
                lambda: folder.fetch("full", tmp_path / "full"),
            ),
            "something on the way to it is a file": (lambda: folder.list("file/*"), lambda: folder.write("file/x", b"1")),
            "the folder is not empty": (lambda: folder.remove("full"),),
        }.items():
            for work in works:
                with pytest.raises(StorageError, match="Access denied|access denied" if os.name == "nt" else said):
                    work()
        assert folder.find("file/x") is None
        found = folder.find("full")
        assert found is not None
        assert (found.is_folder, found.size) == (True, 0)

    @pytest.mark.skipif(os.name == "nt", reason="making a link takes an administrator there")
    def test_a_link_that_leads_nowhere_does_no_harm_to_a_listing(self, folder: Folder, there: Path) -> None:
        folder.write("good.zip", b"1")
        (there / "loop.zip").symlink_to("loop.zip")
        (there / "gone.zip").symlink_to("nowhere")
        assert [entry.name for entry in folder.list("*.zip")] == ["good.zip"]


class TestFolders:
    def test_folders_are_listed_with_size_zero(self, folder: Folder) -> None:
        folder.make("a/b")
        folder.make("a/b")
        assert [(entry.name, entry.size, entry.is_folder) for entry in folder.list("a/*")] == [("b", 0, True)]

    def test_an_empty_folder_is_removed_and_a_full_one_is_not(self, folder: Folder) -> None:
        folder.write("a/b/c", b"1")
        with pytest.raises(StorageError):
            folder.remove("a/b")
        assert folder.read("a/b/c") == b"1"
        folder.remove("a/b/c")
        folder.remove("a/b")
        assert folder.list("a/*") == []

    def test_a_folder_below_is_a_folder_of_its_own_with_the_same_root(self, folder: Folder) -> None:
        icom = folder.below("iCom")
        assert icom.list() == []
        icom.check()
        icom.write("live/1.txt", b"1")
        assert folder.read("iCom/live/1.txt") == b"1"
        assert icom.root.location == folder.location
        assert icom.below("live").root.location == folder.location
        with pytest.raises(SetupError):
            folder.below("../iCom")

    def test_a_file_is_made_only_if_it_is_not_there(self, folder: Folder) -> None:
        assert folder.create("a/b.txt", b"first")
        assert not folder.create("a/b.txt", b"second")
        assert folder.read("a/b.txt") == b"first"
        assert folder.create("empty", b"")
        assert not folder.create("empty", b"x")

    def test_of_many_who_make_a_file_one_does(self, folder: Folder) -> None:
        made: list[int] = []
        start = threading.Barrier(6)

        def run(number: int) -> None:
            start.wait()
            if folder.create("deep/one", str(number).encode()):
                made.append(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert folder.read("deep/one") == str(made[0]).encode()

    def test_replacing_takes_the_place_of_an_older_file(self, folder: Folder) -> None:
        folder.write("a", b"new")
        folder.write("b/c", b"old")
        folder.replace("a", "b/c")
        folder.replace("b/c", "d/e")
        assert folder.read("d/e") == b"new"
        assert folder.find("a") is None
        assert folder.find("b/c") is None


class TestRoot:
    """A share that is not connected must not come into being as a folder of its own."""

    @pytest.fixture
    def gone(self, folder: Folder, there: Path) -> Folder:
        there.rmdir()
        return folder

    def test_no_operation_makes_the_root(self, gone: Folder, there: Path, tmp_path: Path) -> None:
        local = tmp_path / "local.bin"
        local.write_bytes(b"1")
        works = {
            "make root": lambda: gone.make(),
            "make": lambda: gone.make("a"),
            "write": lambda: gone.write("a", b"1"),
            "write below": lambda: gone.write("a/b", b"1"),
            "write big": lambda: gone.write("a/b", b"1" * 3_000_000),
            "store": lambda: gone.store(local, "a/b"),
            "create": lambda: gone.create("a", b"1"),
            "create below": lambda: gone.create("a/b", b"1"),
            "below": lambda: gone.below("iCom").write("a", b"1"),
        }
        for what, work in works.items():
            with pytest.raises(StorageError, match="is not there") as caught:
                work()
            assert not there.exists(), what
            assert "make it first" in str(caught.value), what
        with pytest.raises(StorageError, match="not there"):
            gone.replace("a", "b")
        assert not there.exists()

    def test_it_is_made_when_asked_for_and_then_all_is_well(self, gone: Folder) -> None:
        assert gone.make_root() is gone
        gone.make_root()
        gone.make()
        gone.write("a/b", b"1")
        assert gone.read("a/b") == b"1"

    def test_a_missing_folder_lists_empty_but_does_not_pass_a_check(self, gone: Folder) -> None:
        assert gone.list("SDD+*.zip") == []
        assert gone.find("a") is None
        with pytest.raises(StorageError, match="not there"):
            gone.check()
        gone.make_root()
        gone.check()


class TestWhole:
    def test_readers_see_the_old_or_the_new_file_and_never_a_part(self, folder: Folder) -> None:
        contents = {letter * 200_000 for letter in (b"a", b"b")}
        folder.write("live.txt", min(contents))
        stop = threading.Event()
        seen: set[bytes] = set()
        refused: list[StorageError] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    seen.add(folder.read("live.txt"))
                except StorageError as error:  # Windows may refuse to open a file in the moment of its replacement
                    refused.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(20):
            for content in sorted(contents):
                folder.write("live.txt", content)
        stop.set()
        thread.join(10)
        assert seen
        assert seen <= contents
        assert refused == [] or os.name == "nt"

    def test_what_is_half_written_is_neither_listed_nor_found(self, folder: Folder, there: Path) -> None:
        (there / "a.parquet.part-0badc0de").write_bytes(b"half")
        assert folder.list() == []
        assert folder.find("a.parquet.part-0badc0de") is None

    def test_what_crashed_writers_left_is_swept_away_and_nothing_else(self, folder: Folder, there: Path) -> None:
        old = time.time() - 90_000
        for name, age in (("a.part-0badc0de", old), ("b.part-0badc0de", time.time()), ("c.txt", old), ("d/e.part-0badc0de", old)):
            (there / name).parent.mkdir(exist_ok=True)
            (there / name).write_bytes(b"half")
            os.utime(there / name, (age, age))
        assert folder.sweep() == 1
        assert sorted(path.name for path in there.iterdir()) == ["b.part-0badc0de", "c.txt", "d"]
        assert folder.sweep("d") == 1
        assert folder.sweep("gone") == 0

    def test_writing_leaves_no_part(self, folder: Folder, there: Path, big: Path) -> None:
        folder.store(big, "a")
        folder.write("b", b"1")
        assert sorted(path.name for path in there.iterdir()) == ["a", "b"]


class TestTransfers:
    def test_fetch_and_store_bring_whole_files_with_their_time(
        self, folder: Folder, there: Path, big: Path, tmp_path: Path
    ) -> None:
        os.utime(big, ns=(1_700_000_000_123_456_700, 1_700_000_000_123_456_700))
        folder.store(big, "deep/there.bin")
        assert (there / "deep" / "there.bin").read_bytes() == big.read_bytes()
        assert folder.fetch("deep/there.bin", tmp_path / "back" / "again.bin")
        again = tmp_path / "back" / "again.bin"
        assert again.read_bytes() == big.read_bytes()
        assert again.stat().st_mtime_ns == 1_700_000_000_123_456_700
        assert folder.list("deep/*")[0].modified == datetime.fromtimestamp(1_700_000_000.123457, UTC)
        assert SETTLING.wait()
        assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["again.bin"]

    def test_what_is_here_already_is_not_fetched_again_and_what_changed_is(
        self, folder: Folder, there: Path, tmp_path: Path
    ) -> None:
        folder.write("a.zip", b"first")
        assert folder.fetch("a.zip", tmp_path / "a.zip")
        assert not folder.fetch("a.zip", tmp_path / "a.zip")
        (there / "a.zip").write_bytes(b"other")
        os.utime(there / "a.zip", (1_700_000_000, 1_700_000_000))
        assert folder.fetch("a.zip", tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes() == b"other"
        (tmp_path / "a.zip").write_bytes(b"damaged")
        assert folder.fetch("a.zip", tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes() == b"other"

    def test_a_fetch_that_broke_off_goes_on_where_it_stopped(
        self, folder: Folder, there: Path, big: Path, tmp_path: Path
    ) -> None:
        folder.store(big, "a.zip")
        stat = (there / "a.zip").stat()
        with pytest.raises(StopIteration):
            folder.fetch("a.zip", tmp_path / "a.zip", verify=raise_stop)
        assert list(tmp_path.glob("a.zip*")) == [], "what is not verified is thrown away"
        separator, step = ("\\", 100) if folder.location.startswith("\\") else (os.sep, 1)  # SMB counts in steps of 100 ns
        source = Source(f"{folder.location}{separator}a.zip", stat.st_size, stat.st_mtime_ns // step * step)
        half = bytearray(big.read_bytes()[: 10 << 20])
        half[0] ^= 1  # were it fetched from the begin, this would be mended
        part = part_of(source, tmp_path / "a.zip")
        part.write_bytes(half + b"more than is known to be safe")
        (tmp_path / "a.zip.part-fetch.json").write_text(json.dumps({**asdict(source), "done": 10 << 20}))
        assert folder.fetch("a.zip", tmp_path / "a.zip")
        fetched = bytearray((tmp_path / "a.zip").read_bytes())
        assert fetched[0] == big.read_bytes()[0] ^ 1, "it did not go on from what was there"
        fetched[0] ^= 1
        assert fetched == big.read_bytes()
        assert SETTLING.wait()
        assert sorted(path.name for path in tmp_path.glob("a.zip*")) == ["a.zip"]

    def test_the_part_of_another_file_is_not_gone_on_from(self, folder: Folder, there: Path, big: Path, tmp_path: Path) -> None:
        folder.store(big, "a.zip")
        stat = (there / "a.zip").stat()
        separator, step = ("\\", 100) if folder.location.startswith("\\") else (os.sep, 1)
        source = Source(f"{folder.location}{separator}a.zip", stat.st_size, stat.st_mtime_ns // step * step)
        part = part_of(source, tmp_path / "a.zip")
        other = {**asdict(source), "size": 1 << 20, "done": 1 << 20}
        for text in ("", "[]", '{"done": 5}', json.dumps(other), json.dumps({**asdict(source), "done": 1 << 30})):
            part.write_bytes(b"x" * (30 << 20))
            (tmp_path / "a.zip.part-fetch.json").write_text(text)
            assert folder.fetch("a.zip", tmp_path / "a.zip")
            assert (tmp_path / "a.zip").read_bytes() == big.read_bytes()
            assert SETTLING.wait()
            assert sorted(path.name for path in tmp_path.glob("a.zip*")) == ["a.zip"]
            (tmp_path / "a.zip").unlink()

    def test_two_who_fetch_the_same_to_the_same_place_do_no_harm(self, folder: Folder, big: Path, tmp_path: Path) -> None:
        folder.store(big, "a.zip")
        failed: list[BaseException] = []
        start = threading.Barrier(3)

        def run() -> None:
            start.wait()
            try:
                folder.fetch("a.zip", tmp_path / "a.zip")
            except StorageError as error:
                failed.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [] or os.name == "nt"  # Windows does not rename what another has open
        assert (tmp_path / "a.zip").read_bytes() == big.read_bytes()
        assert not folder.fetch("a.zip", tmp_path / "a.zip") or failed

    def test_a_file_that_grows_meanwhile_is_not_taken_for_whole(
        self, folder: Folder, there: Path, big: Path, tmp_path: Path
    ) -> None:
        folder.store(big, "a.zip")

        def look(_path: Path) -> None:
            raise AssertionError("it must not come so far")

        done = threading.Event()

        def grow() -> None:
            while not done.is_set():
                with (there / "a.zip").open("ab") as file:
                    file.write(b"more")

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            with pytest.raises(StorageError, match="still being written"):
                folder.fetch("a.zip", tmp_path / "a.zip", verify=look)
        finally:
            done.set()
            thread.join()
        assert not (tmp_path / "a.zip").exists()
        assert folder.fetch("a.zip", tmp_path / "a.zip")

    def test_a_store_from_a_missing_file_changes_nothing(self, folder: Folder, there: Path, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="it is not there"):
            folder.store(tmp_path / "none", "a")
        assert list(there.iterdir()) == []

    def test_a_fetch_to_where_nothing_can_be_written_says_so(self, folder: Folder, tmp_path: Path) -> None:
        folder.write("a", b"1")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="Could not fetch"):
            folder.fetch("a", tmp_path / "file" / "a")


def raise_stop(_path: Path) -> None:
    raise StopIteration


class TestReading:
    def test_it_reads_and_seeks_like_a_file_in_memory(self, folder: Folder, big: Path) -> None:
        data = big.read_bytes()
        folder.store(big, "big")
        choose = random.Random(2)
        plain = io.BytesIO(data)
        with folder.open("big") as file:
            assert file.seekable()
            assert file.readable()
            for step in range(400):
                if step % 3 == 0:
                    whence = choose.choice([io.SEEK_SET, io.SEEK_END, io.SEEK_CUR])
                    offset = choose.randrange(len(data)) if whence == io.SEEK_SET else -choose.randrange(1000)
                    if whence == io.SEEK_CUR:
                        offset = choose.randrange(3_000_000)
                    assert file.seek(offset, whence) == plain.seek(offset, whence)
                length = choose.choice([0, 1, 7, 4096, 100_000, 1 << 20, 3_000_001])
                assert file.read(length) == plain.read(length), step
                assert file.tell() == plain.tell()
            plain.seek(12345)
            file.seek(12345)
            assert hashlib.sha256(file.read()).digest() == hashlib.sha256(plain.read()).digest()
            assert file.read() == b""
        with pytest.raises(ValueError, match="closed"):
            file.read(1)

    def test_zips_and_parquet_are_read_in_place(self, folder: Folder) -> None:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({"x": list(range(200_000)), "y": [str(number) for number in range(200_000)]})
        packed, stored = io.BytesIO(), io.BytesIO()
        parquet.write_table(table, stored, row_group_size=50_000)
        with zipfile.ZipFile(packed, "w") as archive:
            for number in range(20):
                archive.writestr(f"TCS/{number}.trf", os.urandom(70_000))
        folder.write("a.zip", packed.getvalue())
        folder.write("a.parquet", stored.getvalue())
        with folder.open("a.zip") as file, zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
            assert len(archive.namelist()) == 20
        with folder.open("a.parquet") as file:
            assert parquet.ParquetFile(file).read() == table
        with folder.open("a.parquet") as file:
            assert parquet.ParquetFile(file, pre_buffer=True).read_row_group(2, ["y"])["y"][0].as_py() == "100000"

    def test_two_open_files_do_not_mix(self, folder: Folder, big: Path) -> None:
        data = big.read_bytes()
        folder.store(big, "one")
        folder.write("two", data[::-1][:5_000_000])
        with folder.open("one") as one, folder.open("two") as two:
            a, b = bytearray(), bytearray()
            while more := one.read(300_000):
                a += more
                b += two.read(100_000)
                assert folder.find("one") is not None
            b += two.read()
        assert a == data
        assert b == data[::-1][:5_000_000]

    def test_threads_read_at_the_same_time(self, folder: Folder, big: Path, tmp_path: Path) -> None:
        folder.store(big, "big")
        failed: list[BaseException] = []

        def run(number: int) -> None:
            try:
                folder.fetch("big", tmp_path / f"{number}.bin")
                folder.write(f"{number}/x", b"1")
                assert folder.read(f"{number}/x") == b"1"
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert {(tmp_path / f"{number}.bin").read_bytes() == big.read_bytes() for number in range(5)} == {True}
