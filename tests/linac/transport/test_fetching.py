"""A fetch goes on where an earlier one broke off, however that ended."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from linac.transport import fetching
from linac.transport.fetching import Source
from linac.transport.settling import SETTLING

DATA = os.urandom(300_000)
SOURCE = Source("there/a.zip", len(DATA), 1_700_000_000_000_000_000)

Take = Callable[[memoryview | bytes], object]


def test_a_power_cut_costs_what_came_since_the_last_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "KEEP_SECONDS", 0.0)
    here, left = tmp_path / "here", tmp_path / "left by the power cut"
    record = here / f"a.zip{fetching.RECORD}"

    def copy(offset: int, take: Take) -> Callable[[], Source]:
        assert offset == 0
        take(DATA[:100_000])
        until = time.monotonic() + 30
        while not (record.exists() and record.read_text().endswith("}")):
            assert time.monotonic() < until, "nothing is kept while it arrives"
            time.sleep(0.01)
        shutil.copytree(here, left)
        take(DATA[100_000:])
        return lambda: SOURCE

    fetching.fetch(SOURCE, copy, here / "a.zip", None, os.replace)
    assert (here / "a.zip").read_bytes() == DATA

    asked: list[int] = []

    def go_on(offset: int, take: Take) -> Callable[[], Source]:
        asked.append(offset)
        take(DATA[offset:])
        return lambda: SOURCE

    fetching.fetch(SOURCE, go_on, left / "a.zip", None, os.replace)
    assert asked == [100_000]
    assert (left / "a.zip").read_bytes() == DATA


def whole(_: int, take: Take) -> Callable[[], Source]:
    take(DATA)
    return lambda: SOURCE


def test_of_two_who_fetch_the_same_and_verify_it_both_succeed(tmp_path: Path) -> None:
    local = tmp_path / "a.zip"
    verified: list[Path] = []

    def verify(path: Path) -> None:
        if not verified:  # just now the other one is done
            verified.append(path)
            fetching.fetch(SOURCE, whole, local, None, os.replace)
        verified.append(path)
        assert path.read_bytes() == DATA

    fetching.fetch(SOURCE, whole, local, verify, os.replace)
    assert verified[-1] == local
    assert SETTLING.wait()
    assert fetching.is_known(SOURCE, local)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("text", ["null", "7", "[]", '{"done": 5}', "", "{"])
def test_a_record_that_makes_no_sense_costs_only_what_had_arrived(text: str, tmp_path: Path) -> None:
    (tmp_path / f"a.zip{fetching.RECORD}").write_text(text)
    fetching.fetch(SOURCE, whole, tmp_path / "a.zip", None, os.replace)
    assert (tmp_path / "a.zip").read_bytes() == DATA


def test_a_name_that_the_disk_does_not_take_is_no_begun_fetch(tmp_path: Path) -> None:
    for name in ("x" * 300, "x" * 245):
        assert not fetching.is_begun(tmp_path / name)
        assert not fetching.is_known(SOURCE, tmp_path / name)
