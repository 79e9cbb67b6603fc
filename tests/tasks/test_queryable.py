"""The Parquet thread writes to the records share only when it is there, and does later what it could not do then."""

import logging
import lzma
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from linac.simulator import PATIENTS, Session, make_beams
from linac.simulator.messages import make_message
from linac.simulator.session import moments
from linac.transport import connect
from linac.transport.records import MARK, mark
from tasks import queryable
from tasks.queryable import Queryable

STAMP = "20260105_093000"


@pytest.fixture
def linac(tmp_path: Path) -> Any:
    """What the thread needs of a Linac block, and a session in the archive."""
    records = tmp_path / "records"
    with connect(records).make_root() as folder:
        mark(folder)
        start = datetime(2026, 1, 5, 9, 30)  # noqa: DTZ001 (the linac's clock)
        session = Session(*PATIENTS[0], beams=make_beams(1, mu=10))
        raw = [
            make_message(moment, start + number * timedelta(seconds=0.25), number % 256, "4299")
            for number, moment in enumerate(moments(session, 4.0))
        ]
        folder.write(f"iCom/patients/TEST-0001_Simulated, Patient/{STAMP}.xz", lzma.compress(b"".join(raw), preset=0))
    share = SimpleNamespace(connect=lambda: connect(records))
    return SimpleNamespace(serial="4299", site=SimpleNamespace(records=share, spool=str(tmp_path / "spool")), records=records)


def run(thread: Queryable, caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Let the thread work until it has said so."""
    until = time.monotonic() + 60
    while words not in caplog.text and time.monotonic() < until:
        time.sleep(0.05)
    assert words in caplog.text


def test_without_the_share_nothing_is_written_and_with_it_all_is_there(
    linac: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queryable, "RETRY_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    (linac.records / MARK).unlink()
    thread = Queryable(linac, logging.getLogger("test"))
    thread.start()
    try:
        run(thread, caplog, f"The records share {linac.records} is away")
        assert [path.name for path in linac.records.rglob("*.parquet")] == []
        (linac.records / MARK).write_text("")
        run(thread, caplog, "1 sessions archived earlier are in the Parquet files now: 1 beams.")
    finally:
        thread.finish(30)
    assert not thread.is_alive()
    assert len(list((linac.records / "iCom").rglob("*.parquet"))) == 2
    assert "Simulated" not in caplog.text
    assert "TEST-0001" not in caplog.text


def test_a_fault_of_ours_ends_nothing_and_quotes_nobody(
    linac: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from linac.index import icom

    real, faults = icom.repair, [ValueError("could not convert 'TEST-0001_Simulated'")]

    def repair(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(*given)

    monkeypatch.setattr(queryable, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr(icom, "repair", repair)
    caplog.set_level(logging.INFO)
    thread = Queryable(linac, logging.getLogger("test"))
    thread.start()
    try:
        run(thread, caplog, "Parquet of linac 4299: Unexpected ValueError (test_queryable.py:")
        run(thread, caplog, "1 sessions archived earlier are in the Parquet files now: 1 beams.")
    finally:
        thread.finish(30)
    assert "TEST-0001" not in caplog.text + capfd.readouterr().err
