"""The pinned Prefect server as `serve` starts it: it schedules, it answers to bare names, it calls nobody outside."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launch.processes import own_group, start_of
from launch.stack import Stack, free_port, write_json
from linac.errors import SetupError


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_scheduled_run_really_gets_created(prefect_server: str) -> None:
    """SQLAlchemy 2.1 makes Prefect's scheduler fail on every pass without a word: only a run that exists proves the pins."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.schedules import CronSchedule

    with get_client(sync_client=True) as client:
        assert str(client.api_url).rstrip("/") == prefect_server
        nightly = client.read_deployment_by_name("trf-index/nightly")
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="30 2 * * *", timezone="Australia/Sydney"), active=True)
        (made,) = client.create_deployment_schedules(nightly.id, [schedule])
        until = time.monotonic() + 90
        runs = []
        while not runs and time.monotonic() < until:
            time.sleep(1)
            runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[nightly.id])))
        client.delete_deployment_schedule(nightly.id, made.id)
        assert runs, "the scheduler made no run within 90 s"
        due = min(run.expected_start_time for run in runs if run.expected_start_time is not None)
        assert (due.minute, due.second) == (30, 0)
        assert timedelta(0) < due - datetime.now(UTC) < timedelta(hours=25)


def test_the_ui_names_no_outside_host_and_analytics_are_off(prefect_server: str) -> None:
    ui = prefect_server.removesuffix("/api")
    page = get(ui)
    assert '<div id="app">' in page
    hosts = set(re.findall(r"""(?:src|href)=["']https?://([^/"']+)""", page))
    assert hosts <= {ui.removeprefix("http://")}
    settings = json.loads(get(f"{prefect_server}/admin/settings"))
    assert settings["server"]["analytics_enabled"] is False
    assert settings["server"]["ui"]["v2_enabled"] is False
    assert "filesystem" in settings["server"]["concurrency"]["lease_storage"]
    assert settings["flows"]["heartbeat_frequency"] == 30


@pytest.mark.parametrize("name", ["add-linac", "add-linac/add-linac"])
def test_add_linac_can_be_run_by_its_bare_name(prefect_server: str, project: Path, name: str) -> None:
    from prefect.client.orchestration import get_client

    answers = ["-p", "serial=4299", "-p", "address=192.168.17.40", "-p", "site=nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", name, *answers],
        cwd=project,
        env={**_bare_environment(), "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"UUID: ([0-9a-f-]{36})", done.stdout)
    assert found is not None
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(found.group(1))
        assert run.parameters["serial"] == "4299"
        client.delete_flow_run(run.id)


def test_a_port_in_use_is_refused_before_anything_starts(prefect_server: str, tmp_path: Path) -> None:
    port = int(prefect_server.removesuffix("/api").rpartition(":")[2])
    stack = Stack(tmp_path, port)
    with pytest.raises(SetupError, match="another port with --port"):
        stack.start()
    assert stack.server is None


def test_a_data_folder_that_is_served_is_refused_with_address_and_process(prefect_stack: Stack) -> None:
    second = Stack(prefect_stack.data, free_port())
    with pytest.raises(SetupError, match=rf"already served at {re.escape(prefect_stack.ui)} by process {os.getpid()}\."):
        second.start()
    second.stop()
    assert json.loads((prefect_stack.data / "serve.json").read_text())["pid"] == os.getpid(), "the first one's record stays"
    assert prefect_stack.server is not None
    assert not prefect_stack.server.ended()


def test_what_a_killed_start_left_behind_is_named_and_ended_and_nothing_else(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    left, stranger = (subprocess.Popen(sleep, **own_group()) for _ in range(2))
    children = [["Prefect server", left.pid, start_of(left.pid)], ["Prefect worker", stranger.pid, "another time"]]
    write_json(tmp_path / "serve.json", {"pid": 1, "url": "http://127.0.0.1:4200", "children": children})
    told: list[str] = []
    stack = Stack(tmp_path, free_port(), told.append)
    try:
        stack._take_data_folder()
        assert told == [f"The Prefect server of an earlier start still runs (process {left.pid}); ending it..."]
        assert left.wait(10) != 0
        assert stranger.poll() is None
    finally:
        stack.stop()
        stranger.kill()
        stranger.wait(10)
    assert not (tmp_path / "serve.json").exists(), "an orderly stop leaves no record"


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"pid": "x", "url": 1, "children": 7}', '{"children": [[1]]}'])
def test_a_spoilt_record_is_as_good_as_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "serve.json").write_text(record)
    stack = Stack(tmp_path, free_port())
    stack._take_data_folder()
    assert json.loads(stack.record.read_text()) == {"pid": os.getpid(), "url": stack.ui, "children": []}
    stack.stop()


def test_a_data_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SetupError, match=r"data folder .* cannot be used"):
            Stack(path, free_port()).start()


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists instead")
def test_the_database_is_for_this_account_alone(prefect_stack: Stack) -> None:
    assert (prefect_stack.data / "prefect").stat().st_mode & 0o077 == 0


def test_a_server_that_does_not_come_up_is_explained_by_its_own_words(tmp_path: Path) -> None:
    stack = Stack(tmp_path, free_port())
    stack.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = "nonsense://x"
    with pytest.raises(SetupError, match="did not start"):
        stack.start()
    stack.stop()


def test_a_command_that_fails_shows_what_it_said(tmp_path: Path) -> None:
    stack = Stack(tmp_path, free_port())
    with pytest.raises(SetupError, match=r"(?s)fold the napkins .*exit code 3.*no napkin"):
        stack.run("fold the napkins", [sys.executable, "-c", "print('no napkin'); raise SystemExit(3)"])
    with pytest.raises(SetupError, match="no end after 1 s"):
        stack.run("sleep", [sys.executable, "-c", "import time; time.sleep(30)"], seconds=1)


def test_json_appears_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", ["4299"])
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == ["4299"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def _bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
