"""The archiver's thread as a flow run sees it."""

from types import SimpleNamespace
from typing import Any

from tasks.archiving import Archiving


def test_a_share_whose_calls_do_not_return_is_told_and_so_is_its_return() -> None:
    linac: Any = SimpleNamespace(serial="4299")
    archiving = Archiving(linac)
    said = ["The iCom folder does not answer.", "The iCom folder does not answer.", "", ""]
    archiver: Any = SimpleNamespace(hanging=lambda: said.pop(0), warnings=[], run_once=list)
    archiving._archiver = archiver
    assert [now.trouble for now in archiving.news()] == ["The iCom folder does not answer."]
    assert [now.trouble for now in archiving.news()] == ["The iCom folder does not answer."]
    archiving._tell(archiving._round())
    assert [now.trouble for now in archiving.news()] == [""], "it answers again"
    archiving._tell(archiving._round())
    assert archiving.news() == []
