"""A fetch goes on where an earlier one broke off, however that ended."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from linac.transport import fetching
from linac.transport.fetching import Source

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
