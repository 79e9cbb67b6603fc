"""add-linac as a physicist meets it: what it makes, what it says when something is wrong, and that it then changes nothing."""

import os
import re
import shutil
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from linac.errors import SetupError, StorageError, UnreachableError
from linac.provision import push
from linac.simulator import write_backup
from linac.simulator.sshd import is_installed
from linac.transport.records import MARK

if TYPE_CHECKING:
    from tests.flows.conftest import Lab


CAN_PUSH = os.name != "nt" and is_installed() and shutil.which("python3", path="/usr/bin") is not None


def add(lab: "Lab", **other: Any) -> None:
    from flows.add_linac import add_linac

    add_linac(**{**lab.answers, **other})


def record(lab: "Lab") -> str:
    """The commissioning record, as it reads on the page."""
    return re.sub(r"\\([\\*<>`\[\]])", r"\1", lab.report(f"add-linac-{lab.serial.lower()}"))


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
            queue = client.read_work_queue_by_name(f"icom-{lab.serial}", "linac-flows")
            assert (deployment.work_queue_name, queue.concurrency_limit) == (queue.name, 2)
            (run,) = unfinished_runs(client, deployment.id)
            assert run.name == f"icom-capture-{lab.serial}"
            weekly = client.read_deployment_by_name(f"check-linac/{lab.serial}")
            assert [(item.slug, item.schedule.timezone) for item in weekly.schedules] == [("weekly", "Australia/Sydney")]
            assert weekly.entrypoint == "flows/check_linac.py:check_linac"
            slugs = {item.slug: item for item in client.read_deployment_by_name("trf-index/nightly").schedules}
            schedule = slugs[f"site-{lab.site_name}"]
            assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 2 * * *", "Australia/Sydney")
            assert schedule.parameters == {"site": lab.site_name}
            client.delete_flow_run(run.id)
        assert (lab.records / MARK).is_file()
        assert (lab.records / "iCom" / "patients").is_dir()
        assert lab.spool.is_dir()
        report = record(lab)
        assert "**Prepared, not yet in service.** Nobody waited" in report
        assert "1 backup, " in report
        assert f"- **Run**: add-linac-{lab.serial}" in report, "under its final name"
        assert "data:image/svg+xml;base64," in report

    def test_once_messages_have_come_through_it_is_in_service_and_running_it_again_changes_nothing(self, lab: "Lab") -> None:
        from blocks import Linac, block_name, load

        with lab.recording():
            add(lab, wait_seconds=60)
            report = record(lab)
            assert "**In service** since" in report
            assert "new in iCom/live/127.0.0.1" in report
            linac = load(Linac, block_name(lab.serial))
            assert linac is not None
            assert linac.in_service is not None
            assert len(lab.linac.clients) <= 2, "one look, then the listener, which stays the only one"

            add(lab, wait_seconds=60)
        report = record(lab)
        assert "It was so already: nothing had to change." in report
        assert "Nothing has to change." in report
        assert "## Done" not in report

    def test_where_no_message_comes_through_it_says_which_link_is_missing(self, lab: "Lab") -> None:
        with pytest.raises(UnreachableError, match="nothing came as far as this within 2 s: Listener connected"):
            add(lab, wait_seconds=2)
        report = record(lab)
        assert "**Not finished.**" in report
        assert f"- Block linac-{lab.serial.lower()}: made" in report
        assert in_service(lab)

    def test_other_answers_update_and_show_the_difference(self, lab: "Lab", tmp_path: Path) -> None:
        add(lab)
        assert "⚠️ warn: **Diagnostic backups**. It holds no SDD+*.zip yet" in record(lab)
        (tmp_path / "other").mkdir()
        add(lab, backup_folder=str(tmp_path / "other"), energies=["6", "10 FFF"])
        report = record(lab)
        assert f"updated: backup folder {lab.backup} → {tmp_path / 'other'}, energies none → 6, 10 FFF" in report
        assert "1 of 10 things have to change." in report

    def test_what_broke_off_half_way_is_told_and_finished_by_running_it_again(
        self, lab: "Lab", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks import automations

        def broken(serial: str) -> None:
            raise StorageError("The power went.")

        with monkeypatch.context() as patch:
            patch.setattr(automations, "put", broken)
            with pytest.raises(StorageError):
                add(lab)
        report = record(lab)
        assert "**Not finished.** The power went." in report
        assert f"- Deployment icom-capture/{lab.serial}: made" in report
        assert f"- Deployment check-linac/{lab.serial}: made" not in report
        add(lab)
        report = record(lab)
        assert f"- **Deployment icom-capture/{lab.serial}**: is as it should be" in report
        assert "- Automations: made" in report

    def test_a_linac_that_has_moved_is_recorded_at_its_new_address_only(self, lab: "Lab") -> None:
        from linac.capture import control
        from linac.simulator import SimulatedLinac

        with lab.recording():
            add(lab)
            with SimulatedLinac(lab.serial, speed=20) as moved:
                add(lab, address=moved.address[0], icom_port=moved.address[1])
        assert not control.is_running(lab.spool, lab.serial), "the listener of the old address was ended in order"
        report = record(lab)
        assert f"Recording as it was: ended in order, at 127.0.0.1 port {lab.linac.address[1]}" in report
        assert f"port {lab.linac.address[1]} → " in report
        assert f"- Recording: icom-capture/{lab.serial} is started" in report

    @pytest.mark.skipif(not CAN_PUSH, reason="it needs OpenSSH's server and /usr/bin/python3")
    def test_its_service_is_installed_on_the_capture_host_and_taken_away_again(
        self, lab: "Lab", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from blocks import SshGateway
        from flows.remove_linac import remove_linac
        from linac.capture import control
        from tests.linac.provision.linux_host import linux_host

        with linux_host(tmp_path / "capture-host") as host:
            monkeypatch.setattr(push, "LINUX_HOME", host.home)
            server = host.server
            login = SshGateway(
                host=server.host, port=server.port, username=server.user, key_file=str(server.key_file), host_key=server.host_key
            )
            login.save("lab-capture", overwrite=True)
            answers = {"service": "systemd", "capture_login": "lab-capture", "wait_seconds": 60}
            add(lab, **answers)
            report = record(lab)
            assert "**In service** since" in report
            assert "SSH login of the capture host 127.0.0.1**. 127.0.0.1 answers" in report
            assert f"started: the recording of linac {lab.serial}" in report
            assert f"+ icom-listening-{lab.serial}.service" in report
            add(lab, **answers)
            assert "It was so already: nothing had to change." in record(lab)

            remove_linac(lab.serial)
            assert not control.is_running(lab.spool, lab.serial)
            assert not list(host.units.glob("*.service"))
            removed = lab.report(f"remove-linac-{lab.serial.lower()}")
            assert "Service on 127.0.0.1: stopped in order and removed" in removed
            SshGateway.delete("lab-capture")

    def test_two_linacs_cannot_have_one_address(self, lab: "Lab") -> None:
        add(lab)
        other = {**lab.answers, "serial": lab.serial}
        from flows.add_linac import add_linac

        lab.linac.machine = "another"  # the NSS now answers for another machine, at the same address
        with pytest.raises(SetupError, match="has the address"):
            add_linac(**{**other, "serial": "another"})


class TestWhatIsWrong:
    """Each case: what the physicist is told, in the run's error and in the report; nothing is changed."""

    def check_refused(self, lab: "Lab", *words: str, **other: Any) -> None:
        with pytest.raises(SetupError, match="was not added; nothing was changed") as caught:
            add(lab, **other)
        report = record(lab)
        for told in (str(caught.value), report):
            for each in words:
                assert each in told
        assert "**Not added.**" in report
        assert "❌ fail" in report
        assert "✅ pass" in report, "the other checks went on"
        assert not in_service(lab)

    def test_several_things_at_once_are_all_told(self, lab: "Lab", closed_port: int, tmp_path: Path) -> None:
        lab.records.rmdir()
        lab.records.write_text("a file where a folder should be")
        words = (f"refused port {closed_port}", "it is not there", str(lab.records))
        self.check_refused(lab, *words, icom_port=closed_port, backup_folder=str(tmp_path / "nowhere"))

    def test_another_machine_answers(self, lab: "Lab") -> None:
        lab.linac.machine = "9999"
        self.check_refused(lab, "9999")

    def test_a_site_or_credentials_that_do_not_exist(self, lab: "Lab") -> None:
        with pytest.raises(SetupError, match="no Site block named 'nowhere'"):
            add(lab, site="nowhere")
        with pytest.raises(SetupError, match="no SMB credentials block named 'nobody'"):
            add(lab, nss_credentials="nobody")
        assert not in_service(lab)


def test_no_secret_is_in_any_parameter_or_report(lab: "Lab", closed_port: int) -> None:
    from prefect.client.orchestration import get_client
    from pydantic import SecretStr

    from blocks import Linac, Share, SmbCredentials, block_name
    from tasks.provision import load_site

    secret = "Sicherlich-geheim-7"
    account = SmbCredentials(username="icomreader", password=SecretStr(secret))
    account.save("lab-secret", overwrite=True)
    share = {"backup_folder": r"\\127.0.0.1\Backup\TCS", "nss_port": closed_port, "nss_credentials": "lab-secret"}
    with pytest.raises(SetupError, match="was not added"):
        add(lab, **share)
    assert "127.0.0.1" in record(lab)
    linac = Linac(
        serial=lab.serial,
        address="127.0.0.1",
        site=load_site(lab.site_name),
        backup=Share(path=share["backup_folder"], credentials=account),
    )
    linac.save(block_name(lab.serial), overwrite=True)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=20)
        logs = client.read_logs(limit=200)
        artifacts = client.read_artifacts(limit=200)
        blocks = client.read_block_documents_by_type("linac", include_secrets=False)
    assert blocks
    for told in (runs, logs, artifacts, blocks):
        assert secret not in repr([item.model_dump() for item in told])


class TestTheForm:
    def test_every_field_has_a_title_and_a_full_sentence(self) -> None:
        from flows.add_linac import add_linac
        from flows.add_linacs import add_linacs
        from flows.check_linac import check_linac
        from flows.remove_linac import remove_linac

        for flow in (add_linac, add_linacs, check_linac, remove_linac):
            for name, field in flow.parameters.properties.items():
                assert field["title"] != name, f"{flow.name}: {name}"
                assert field["title"][0].isupper() or field["title"].startswith(("iCom", "iView")), name
                assert field["description"][0].isupper(), name
                assert field["description"].endswith("."), name

    def test_the_common_case_is_four_fields_and_they_come_first(self) -> None:
        from flows.add_linac import add_linac

        order = sorted(add_linac.parameters.properties, key=lambda name: add_linac.parameters.properties[name]["position"])
        assert order[:4] == ["serial", "address", "site", "nss_credentials"]
        assert add_linac.parameters.required == ["serial", "address", "site"]

    def test_no_parameter_takes_a_secret(self) -> None:
        from flows.add_linac import add_linac

        assert not [name for name in add_linac.parameters.properties if "password" in name or "key" in name or "secret" in name]

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ({"serial": "../4299"}, "letters, digits"),
            ({"address": "192.168.17.4O"}, "is not an address"),
            ({"icom_port": 0}, "greater than or equal to 1"),
            ({"energies": ["much"]}, "An energy is a number"),
            ({"service": "cron"}, "'prefect worker', 'nssm' or 'systemd'"),
            ({"capture_host": "a b"}, "IP address such as"),
        ],
    )
    def test_a_wrong_answer_is_refused_in_words(self, lab: "Lab", answer: dict[str, Any], words: str) -> None:
        from prefect.exceptions import ParameterTypeError

        with pytest.raises(ParameterTypeError) as caught:
            add(lab, **answer)
        assert words in str(caught.value)


class TestFromTheCommandLine:
    def test_its_options_are_the_forms_fields(self) -> None:
        from flows.add_linac import add_linac
        from tasks.command_line import parser

        line = ["--serial", "4299", "--address", "192.168.17.40", "--site", "nbcc", "--energies", "6", "10 FFF", "--dry-run"]
        assert vars(parser(add_linac).parse_args([*line, "--steadiness-seconds", "30", "--service", "nssm"])) == {
            "serial": "4299",
            "address": "192.168.17.40",
            "site": "nbcc",
            "energies": ["6", "10 FFF"],
            "dry_run": True,
            "steadiness_seconds": 30,
            "service": "nssm",
        }

    def test_a_dry_run_checks_shows_the_plan_and_changes_nothing(self, lab: "Lab") -> None:
        from flows.add_linac import add_linac
        from tasks.command_line import run_from_command_line

        answers = [part for name, value in lab.answers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        assert run_from_command_line(add_linac, [*answers, "--dry-run"]) == 0
        assert not in_service(lab)
        assert list(lab.records.iterdir()) == []
        assert not lab.spool.exists()
        report = record(lab)
        assert "**Dry run.**" in report
        assert f"- **Deployment icom-capture/{lab.serial}**: to be made" in report
        assert "## Done" not in report

    def test_without_a_server_it_says_how_to_start_one(self, closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.check_linac import check_linac
        from tasks.command_line import run_from_command_line

        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port}/api"}):
            assert run_from_command_line(check_linac, ["--serial", "4299"]) == 1
        assert "Start it in another window with `python run.py serve`" in capsys.readouterr().err
