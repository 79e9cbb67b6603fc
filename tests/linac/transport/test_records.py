"""A share that is away is told from one that is there, whatever stands in its place."""

import os
import time
from pathlib import Path

import pytest

from linac.errors import StorageError, UnreachableError
from linac.transport import LocalFolder, connect
from linac.transport.records import MARK, mark, require, sweep


def test_a_marked_root_is_there(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert mark(folder)
    assert not mark(folder)
    require(folder)
    require(folder.below("iCom"))
    assert (tmp_path / MARK).read_text(encoding="utf-8").startswith("#")
    assert not (tmp_path / "iCom").exists(), "asking makes nothing"


def test_an_empty_mount_point_is_away(tmp_path: Path) -> None:
    for folder in (LocalFolder(tmp_path), LocalFolder(tmp_path).below("iCom")):
        with pytest.raises(UnreachableError, match="stays in the spool") as caught:
            require(folder)
        assert MARK in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_goes_away_between_two_files_gets_nothing_in_its_place(tmp_path: Path) -> None:
    root = tmp_path / "records"
    root.mkdir()
    with connect(root) as folder:
        mark(folder)
        require(folder)
        records = folder.below("iCom")
        records.write("live/001.txt", b"1")
        root.rename(tmp_path / "away")
        root.mkdir()  # the empty mount point
        for write in (lambda: records.write("live/002.txt", b"2"), lambda: folder.make("TRF"), lambda: records.make("patients")):
            with pytest.raises(StorageError):
                write()
        assert list(root.iterdir()) == []


def test_a_root_that_is_gone_is_away_and_is_not_made(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "records")
    with pytest.raises(UnreachableError, match=r"is away.*is not there"):
        require(folder)
    with pytest.raises(StorageError, match="make it first"):
        mark(folder)
    assert not (tmp_path / "records").exists()


def test_the_mark_of_another_folder_is_not_enough(tmp_path: Path) -> None:
    mark(LocalFolder(tmp_path))
    (tmp_path / "iCom").mkdir()
    with pytest.raises(UnreachableError):
        require(LocalFolder(tmp_path / "iCom"))


def test_what_writers_left_half_written_is_swept_away_in_every_depth_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - 90_000
    gone = ["TRF/a.parquet.part-0badc0de", "iCom/patients/7_Invented/b.xz.part-12345678"]
    kept = ["c.part-0badc0de", "TRF/film.part-1.rar", "TRF/d.part-0badc0de.txt", "iCom/e.xz", "other/f.part-0badc0de"]
    for name in [*gone, *kept]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (old, old))
    (tmp_path / "TRF" / "new.part-0badc0de").write_bytes(b"just being written")
    if os.name != "nt":
        (tmp_path / "TRF" / "a:b").mkdir()
    with connect(tmp_path) as folder:
        assert sweep(folder, ["TRF", "iCom", "gone"]) == 2
        assert sweep(folder, ["TRF", "iCom"]) == 0
        assert sweep(folder, ["other"], seconds=0) == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "TRF/new.part-0badc0de"}
