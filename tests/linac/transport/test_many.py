"""Many small files at one go: the same as one by one, only faster."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linac.errors import BackupError, LinacError, SetupError, StorageError, UnreachableError
from linac.simulator.samba import Samba
from linac.transport import Folder, LocalFolder, connect
from linac.transport.settling import SETTLING
from linac.transport.smb import SmbFolder

SIZES = [0, 1, 70_000, 1 << 20, (1 << 20) + 1, 3_300_000, 5, 200_000, 0, 12]


@pytest.fixture(params=["local", "smb"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "local":
        with LocalFolder(tmp_path / "there").make_root() as made:
            yield made
        return
    server = request.getfixturevalue("smb_server")
    own = f"many {uuid.uuid4().hex[:8]}"
    with connect(server.unc("physics", own), server.credentials, port=server.port, timeout=20).make_root() as made:
        yield made


@pytest.fixture
def contents(folder: Folder) -> dict[str, bytes]:
    """Files of many sizes below `logs`, and what is in them."""
    made = {f"logs/{number:02}.trf": os.urandom(size) for number, size in enumerate(SIZES)}
    for name, data in made.items():
        folder.write(name, data)
    return made


def test_each_file_arrives_whole_in_order_and_with_its_time(folder: Folder, contents: dict[str, bytes], tmp_path: Path) -> None:
    to = tmp_path / "to"
    found = list(folder.fetch_many((name, to / Path(name).name) for name in contents))
    assert found == [(name, True) for name in contents]
    assert {name: (to / Path(name).name).read_bytes() for name in contents} == contents
    for entry in folder.list("logs/*"):
        assert abs((to / entry.name).stat().st_mtime - entry.modified.timestamp()) < 1e-3
    assert SETTLING.wait()
    assert len(list(to.iterdir())) == len(contents), "nothing is left beside them"


def test_what_is_here_already_is_left_and_what_is_another_is_fetched(
    folder: Folder, contents: dict[str, bytes], tmp_path: Path
) -> None:
    pairs = [(name, tmp_path / "to" / Path(name).name) for name in contents]
    list(folder.fetch_many(pairs))
    first, second, *_ = pairs
    second[1].write_bytes(b"damaged")
    before = first[1].stat()
    assert list(folder.fetch_many(pairs)) == [(name, local == second[1]) for name, local in pairs]
    assert second[1].read_bytes() == contents[second[0]]
    assert (first[1].stat().st_ino, first[1].stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_cannot_be_had_does_not_stop_the_others(folder: Folder, contents: dict[str, bytes], tmp_path: Path) -> None:
    names = list(contents)
    names[1:1] = ["logs/none.trf", "../out.trf"]
    names[6:6] = ["logs"]
    fetched = dict(folder.fetch_many((name, tmp_path / "to" / f"{place}.trf") for place, name in enumerate(names)))
    read = dict(folder.read_many(names))
    assert list(fetched) == list(read) == names
    for found in (fetched, read):
        assert isinstance(found["logs/none.trf"], StorageError)
        assert "it is not there" in str(found["logs/none.trf"])
        assert isinstance(found["../out.trf"], SetupError)
        assert isinstance(found["logs"], StorageError)
    assert {name: read[name] for name in contents} == contents
    assert all(fetched[name] is True for name in contents)
    assert SETTLING.wait()
    assert len(list((tmp_path / "to").iterdir())) == len(contents)


def test_a_file_that_does_not_pass_is_thrown_away_alone(folder: Folder, contents: dict[str, bytes], tmp_path: Path) -> None:
    def verify(path: Path) -> None:
        if path.stat().st_size == 5:
            raise BackupError("it is damaged")

    pairs = [(name, tmp_path / "to" / Path(name).name) for name in contents]
    found = dict(folder.fetch_many(pairs, verify))
    failed = [name for name, fetched in found.items() if isinstance(fetched, LinacError)]
    assert failed == ["logs/06.trf"]
    assert SETTLING.wait()
    assert len(list((tmp_path / "to").iterdir())) == len(contents) - 1


def test_a_place_that_the_local_disk_does_not_take_does_not_stop_the_others(
    folder: Folder, contents: dict[str, bytes], tmp_path: Path
) -> None:
    first, second, third, *_ = contents
    places = {first: tmp_path / "1.trf", second: tmp_path / ("x" * 300), third: tmp_path / "3.trf"}
    found = dict(folder.fetch_many(places.items()))
    assert (found[first], found[third]) == (True, True)
    assert isinstance(found[second], StorageError)


def test_reading_gives_what_reading_one_by_one_gives(folder: Folder, contents: dict[str, bytes]) -> None:
    assert dict(folder.read_many(iter(contents))) == {name: folder.read(name) for name in contents} == contents
    assert list(folder.read_many([])) == []


def test_the_folder_can_be_used_meanwhile_and_the_rest_be_left(folder: Folder, contents: dict[str, bytes]) -> None:
    for name, data in folder.read_many(contents):
        assert data == contents[name]
        assert folder.read("logs/03.trf") == contents["logs/03.trf"]
        folder.write("seen.txt", name.encode())
        if name == "logs/05.trf":
            break
    assert folder.read("seen.txt") == b"logs/05.trf"
    folder.check()


def test_the_next_are_asked_for_and_no_more_than_a_few(smb_server: Samba) -> None:
    own = f"ahead {uuid.uuid4().hex[:8]}"
    with connect(smb_server.unc("physics", own), smb_server.credentials, port=smb_server.port, timeout=20).make_root() as folder:
        assert isinstance(folder, SmbFolder)
        for number in range(40):
            folder.write(f"{number}", b"x" * 1000)
        asked: list[str] = []

        def names() -> Iterator[str]:
            for number in range(40):
                asked.append(str(number))
                yield str(number)

        reading = folder.read_many(names())
        assert next(reading) == ("0", b"x" * 1000)
        link = folder._links.get()
        assert 2 <= len(asked) <= link.depth + 1
        assert len(list(reading)) == 39
        until = time.monotonic() + 20
        while link._wire.requests and time.monotonic() < until:
            time.sleep(0.01)
        assert link._wire.requests == {}, "no request is left over"


@pytest.fixture
def many(own_server: Samba) -> dict[str, bytes]:
    made = {f"{number:03}.trf": os.urandom(50_000) for number in range(60)}
    for name, data in made.items():
        (own_server.folder("physics") / name).write_bytes(data)
    return made


def test_a_server_that_is_restarted_meanwhile_costs_no_file(
    dial: Callable[..., Folder], own_server: Samba, many: dict[str, bytes], tmp_path: Path
) -> None:
    folder = dial(timeout=10)
    found = []
    for number, pair in enumerate(folder.fetch_many((name, tmp_path / "to" / name) for name in many)):
        found.append(pair)
        if number == 10:
            own_server.kill()
            own_server.start()
    assert found == [(name, True) for name in many]
    assert SETTLING.wait()
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == many


def test_a_server_that_is_gone_is_raised_and_what_came_stays(
    dial: Callable[..., Folder], own_server: Samba, many: dict[str, bytes], tmp_path: Path
) -> None:
    folder = dial(timeout=4)
    pairs = [(name, tmp_path / "to" / name) for name in many]
    fetching = folder.fetch_many(pairs)
    for _ in range(10):
        assert next(fetching)[1] is True
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        list(fetching)
    assert time.monotonic() - began < 30
    assert SETTLING.wait()
    there = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    assert len(there) >= 10
    assert there.items() <= many.items(), "what is there is whole"
    own_server.start()
    assert [fetched for _, fetched in folder.fetch_many(pairs)] == [name not in there for name in many]
