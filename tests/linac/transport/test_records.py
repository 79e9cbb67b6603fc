"""A share that is away is told from one that is there, whatever stands in its place."""

from pathlib import Path

import pytest

from linac.errors import StorageError, UnreachableError
from linac.transport import LocalFolder
from linac.transport.records import MARK, mark, require


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
