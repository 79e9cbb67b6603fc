"""add-linacs: a list is worked through to its end, whatever fails in between, and told in one table."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from linac.errors import LinacError, SetupError

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def test_one_that_fails_does_not_hinder_the_others(lab: "Lab", closed_port: int, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    from blocks import Linac, block_name, load
    from flows.add_linacs import add_linacs

    host, port = lab.linac.address
    path = tmp_path / "linacs.csv"
    path.write_text(
        f"serial,address,icom_port,backup_folder,steadiness_seconds,wait_seconds,energies,dry_run\n"
        f"T-refused,{host},{closed_port},{lab.backup},1,0,,\n"
        f"{lab.serial},{host},{port},{lab.backup},1,0,6;10 FFF,no\n"
        f"12 34,10.0.0.1,{port},{lab.backup},1,0,,\n",
        encoding="utf-8",
    )
    with pytest.raises(LinacError, match="1 of 3 linacs are as the list wants them, 2 failed") as told:
        add_linacs(str(path), lab.site_name)
    assert "Linac 12 34: These answers do not fit:\n - serial: A serial" in str(told.value)
    with get_client(sync_client=True) as client:
        names = [run.name for run in client.read_flow_runs() if run.parameters.get("serial") == "12 34"]
    assert names == [], "a run with such answers fails under a name drawn by lot"
    added = load(Linac, block_name(lab.serial))
    assert added is not None
    assert added.energies == ["6", "10 FFF"]
    assert load(Linac, block_name("T-refused")) is None
    report = lab.report("add-linacs")
    assert "| T-refused | ❌ | failed, see below |" in report
    assert "- **T-refused**: Linac T-refused was not added; nothing was changed." in report
    assert f"the NSS at {host} refused port {closed_port}" in report
    assert f"| {lab.serial} | ✅ | Prepared, not yet in service |" in report


def test_a_run_that_the_server_does_not_take_is_told_and_the_others_are_tried(
    lab: "Lab", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.add_linacs as module
    from flows.add_linac import add_linac

    tables: list[str] = []

    class Busy:
        parameters, fn = add_linac.parameters, staticmethod(add_linac.fn)

        def validate_parameters(self, answers: object) -> object:
            return answers

        def __call__(self, serial: str, **_: object) -> object:
            if serial == "T-1":
                raise ConnectionError("503 at http://127.0.0.1/api?patient=Mustermann")
            from prefect.states import Completed

            tables.append(lab.report("add-linacs"))
            if serial == "T-2":
                monkeypatch.setattr("tasks.linac_list.create_markdown_artifact", refuse)
            else:
                monkeypatch.setattr("tasks.linac_list.create_markdown_artifact", create)
            return Completed(message="In service since 2026-11-29. And so on.")

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("503")

    from tasks.linac_list import create_markdown_artifact as create

    monkeypatch.setattr(module, "add_linac", Busy())
    path = tmp_path / "linacs.csv"
    path.write_text("serial,address\nT-1,10.0.0.1\nT-2,10.0.0.2\nT-3,10.0.0.3\n", encoding="utf-8")
    with pytest.raises(LinacError, match="2 of 3 linacs are as the list wants them, 1 failed"):
        module.add_linacs(str(path), lab.site_name)
    assert "0 of 3 linacs are as the list wants them, 1 failed. Not tried yet: 2." in tables[0]
    assert "| T-3 |  | not tried yet |" in tables[0]
    report = lab.report("add-linacs")
    assert "| T-1 | ❌ | failed, see below |" in report
    assert "(ConnectionError); the run's log has the details. Run the list again" in report
    assert "Mustermann" not in report
    assert "| T-3 | ✅ | In service since 2026-11-29 |" in report


def test_a_list_with_a_mistake_is_refused_before_anything_is_done(lab: "Lab", tmp_path: Path) -> None:
    from flows.add_linacs import add_linacs

    path = tmp_path / "linacs.toml"
    path.write_text(f'[[linac]]\nserial = "{lab.serial}"\nadress = "127.0.0.1"\n', encoding="utf-8")
    with pytest.raises(SetupError, match="a field 'adress'"):
        add_linacs(str(path), lab.site_name)
