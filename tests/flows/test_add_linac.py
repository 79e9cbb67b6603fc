"""add-linac as a physicist meets it: what it makes, what it says when something is wrong, and that it then changes nothing."""

import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from linac.errors import LinacError, SetupError
from linac.simulator import write_backup

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


def add(lab: "Lab", **other: Any) -> None:
    from flows.add_linac import add_linac

    add_linac(**{**lab.answers, **other})


def in_service(lab: "Lab") -> bool:
    from blocks import Linac, block_name, load

    return load(Linac, block_name(lab.serial)) is not None


class TestAdding:
    def test_the_block_the_deployment_and_the_schedule_are_there_and_the_capture_is_started(self, lab: "Lab") -> None:
        from prefect.client.orchestration import get_client

        from blocks import Linac, block_name, load
        from tasks.provision import unfinished_runs

        write_backup(lab.backup, date(2026, 11, 20), serial=lab.serial)
        add(lab)
        linac = load(Linac, block_name(lab.serial))
        assert linac is not None
        assert (linac.address, linac.port) == lab.linac.address
        assert linac.site.name == f"Lab {lab.serial}"
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(f"icom-capture/{lab.serial}")
            assert deployment.parameters == {"serial": lab.serial}
            assert deployment.entrypoint == "flows/capture_icom.py:icom_capture"
            assert deployment.job_variables == {"stream_output": False}
            (run,) = unfinished_runs(client, deployment.id)
            slugs = {item.slug: item for item in client.read_deployment_by_name("trf-index/nightly").schedules}
            schedule = slugs[f"site-{lab.site_name}"]
            assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 2 * * *", "Australia/Sydney")
            assert schedule.parameters == {"site": lab.site_name}
            client.delete_flow_run(run.id)
        report = lab.report(f"add-linac-{lab.serial.lower()}")
        assert "**In service.**" in report
        assert "1 backups" in report

    def test_the_same_answers_again_change_nothing_and_say_so(self, lab: "Lab") -> None:
        add(lab)
        add(lab)
        report = lab.report(f"add-linac-{lab.serial.lower()}")
        assert "was there and is unchanged" in report
        assert "is running already" in report

    def test_other_answers_update_and_show_the_difference(self, lab: "Lab", tmp_path: Path) -> None:
        add(lab)
        (tmp_path / "other").mkdir()
        add(lab, backup_folder=str(tmp_path / "other"))
        assert f"backup folder {lab.backup} → {tmp_path / 'other'}" in lab.report(f"add-linac-{lab.serial.lower()}")

    def test_a_dry_run_checks_and_changes_nothing(self, lab: "Lab") -> None:
        add(lab, dry_run=True)
        assert not in_service(lab)
        assert "**Dry run.**" in lab.report(f"add-linac-{lab.serial.lower()}")

    def test_a_linac_with_no_backups_yet_is_added_with_a_warning(self, lab: "Lab") -> None:
        add(lab)
        assert in_service(lab)
        assert "⚠️ warn | It holds no SDD+*.zip yet" in lab.report(f"add-linac-{lab.serial.lower()}")

    def test_two_linacs_cannot_have_one_address(self, lab: "Lab") -> None:
        add(lab)
        other = {**lab.answers, "serial": lab.serial}
        from flows.add_linac import add_linac

        lab.linac.machine = "another"  # the NSS now answers for another machine, at the same address
        with pytest.raises(LinacError, match="has the address"):
            add_linac(**{**other, "serial": "another"})


class TestWhatIsWrong:
    """Each case: what the physicist is told, in the run's error and in the report; nothing is changed."""

    def check_refused(self, lab: "Lab", words: str, **other: Any) -> None:
        with pytest.raises(SetupError, match="was not added; nothing was changed") as caught:
            add(lab, **other)
        report = lab.report(f"add-linac-{lab.serial.lower()}")
        for told in (str(caught.value), report):
            assert words in told
        assert "**Not added.**" in report
        assert "❌ fail" in report
        assert "✅ pass" in report, "the other checks went on"
        assert not in_service(lab)

    def test_an_address_that_does_not_exist(self, lab: "Lab") -> None:
        self.check_refused(lab, "nss-that-is-not.invalid", address="nss-that-is-not.invalid")

    def test_a_refused_port(self, lab: "Lab", closed_port: int) -> None:
        self.check_refused(lab, f"refused port {closed_port}", icom_port=closed_port)

    def test_a_service_that_is_not_icom(self, lab: "Lab", service: Callable[[bytes], int]) -> None:
        self.check_refused(lab, "iCom", icom_port=service(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 50))

    def test_a_service_that_says_nothing(self, lab: "Lab", monkeypatch: pytest.MonkeyPatch) -> None:
        from tasks import checks

        monkeypatch.setattr(checks, "ICOM_WAIT_SECONDS", 1.0)
        monkeypatch.setattr(checks, "ICOM_WATCH_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.check_refused(lab, "iCom", icom_port=silent.getsockname()[1])

    def test_another_machine_answers(self, lab: "Lab") -> None:
        lab.linac.machine = "9999"
        self.check_refused(lab, "9999")

    def test_a_backup_folder_that_is_not_there(self, lab: "Lab", tmp_path: Path) -> None:
        self.check_refused(lab, "it is not there", backup_folder=str(tmp_path / "nowhere"))

    def test_records_that_cannot_be_written(self, lab: "Lab") -> None:
        lab.records.rmdir()
        lab.records.write_text("a file where a folder should be")
        self.check_refused(lab, str(lab.records))

    def test_a_site_that_does_not_exist(self, lab: "Lab") -> None:
        with pytest.raises(SetupError, match="no Site block named 'nowhere'"):
            add(lab, site="nowhere")
        assert not in_service(lab)

    def test_credentials_that_do_not_exist(self, lab: "Lab") -> None:
        with pytest.raises(SetupError, match="no SMB credentials block named 'nobody'"):
            add(lab, nss_credentials="nobody")


def test_no_secret_is_in_any_parameter_or_report(lab: "Lab") -> None:
    from prefect.client.orchestration import get_client
    from pydantic import SecretStr

    from blocks import SmbCredentials

    secret = "Sicherlich-geheim-7"
    SmbCredentials(username="icomreader", password=SecretStr(secret)).save("lab-secret", overwrite=True)
    add(lab, nss_credentials="lab-secret")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=20)
        logs = client.read_logs(limit=200)
        artifacts = client.read_artifacts(limit=200)
        linac = client.read_block_documents_by_type("linac", include_secrets=False)
    for told in (runs, logs, artifacts, linac):
        assert secret not in repr([item.model_dump() for item in told])
