"""check-linac: a linac in service looked at again, through its own recording; a red run where something is wrong."""

from datetime import date
from typing import TYPE_CHECKING

import pytest

from linac.errors import LinacError, SetupError
from linac.simulator import write_backup

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def report(lab: "Lab") -> str:
    return lab.report(f"check-linac-{lab.serial.lower()}")


def test_a_linac_in_service_is_checked_through_its_listener_and_nothing_is_changed(lab: "Lab") -> None:
    from flows.add_linac import add_linac
    from flows.check_linac import check_linac

    write_backup(lab.backup, date(2026, 11, 20), serial=lab.serial)
    add_linac(**lab.answers)
    with lab.recording():
        assert lab.linac.wait_for_client(10)
        before = len(lab.linac.clients)
        files = {path for path in lab.records.rglob("*") if "live" not in path.parts}
        state = check_linac(lab.serial, 1, return_state=True)
        assert len(lab.linac.clients) == before, "no second connection, not even for a moment"
        assert {path for path in lab.records.rglob("*") if "live" not in path.parts} == files
    assert state.is_completed()
    assert state.message is not None
    assert "0 failed" in state.message
    text = report(lab)
    assert f"of machine {lab.serial}" in text
    assert "our listener is connected to it" in text
    assert f"- **Run**: check-linac-{lab.serial}" in text

    lab.backup.rename(lab.backup.with_name("gone"))
    with pytest.raises(LinacError, match="1 failed"):
        check_linac(lab.serial, 1)
    assert "❌ fail" in report(lab)


def test_a_linac_that_is_not_in_service_is_refused(lab: "Lab") -> None:
    from flows.check_linac import check_linac

    with pytest.raises(SetupError, match="is not in service"):
        check_linac(lab.serial, 1)
