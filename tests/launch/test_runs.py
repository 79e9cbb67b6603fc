"""Which linacs are owed a recording: whatever the power or a Ctrl-C cuts short, the next start records all of them, once."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from blocks.linac import Service
from launch import runs
from launch.stack import free_port, write_json
from linac.capture import control
from linac.errors import SetupError
from linac.simulator import SimulatedLinac


class PowerCut(BaseException):
    """Not an Exception, as little as KeyboardInterrupt is one."""


@dataclass
class Server:
    """What Prefect's database keeps over a power cut, and how many more steps there is power for."""

    runs: dict[int, tuple[str, StateType]] = field(default_factory=dict)
    in_service: set[str] = field(default_factory=lambda: {"A", "B", "C"})
    broken: set[str] = field(default_factory=set)
    steps_left: float = float("inf")
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    changed: dict[int, int] = field(default_factory=dict)
    """When a run's state changed, where that is not in the order in which they began."""

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """The power may go before it and after it."""
        for when in ("before", "after"):
            if self.steps_left <= 0:
                raise PowerCut
            self.steps_left -= 1
            if when == "before":
                yield

    def add(self, serial: str) -> None:
        self.runs[next(self.numbers)] = serial, StateType.RUNNING

    def under_way(self) -> list[str]:
        return sorted(serial for serial, state in self.runs.values() if state is StateType.RUNNING)

    def read_flow_runs(self, **_: object) -> list[Any]:
        """The latest first."""
        found = []
        for number, (serial, kind) in sorted(self.runs.items(), reverse=True):
            moment = datetime.fromtimestamp(self.changed.get(number, number), UTC)
            state = SimpleNamespace(type=kind, timestamp=moment)
            found.append(SimpleNamespace(id=number, parameters={"serial": serial, "site": serial}, state=state))
        return found

    def set_flow_run_state(self, run: int, _state: object, force: bool) -> None:
        with self.step():
            self.runs[run] = self.runs[run][0], StateType.CRASHED

    def ensure(self, serial: str) -> str:
        if serial in self.broken:
            raise SetupError(f"The deployment icom-capture/{serial} is not on the Prefect server.")
        with self.step():
            if serial not in self.under_way():
                self.add(serial)
        return f"icom-capture/{serial} was started."

    def cancel_all(self) -> None:
        for number, (serial, _) in self.runs.items():
            with self.step():
                self.runs[number] = serial, StateType.CANCELLED


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    def under_way(_client: object, flow: runs.Lasting, _states: object = None) -> list[Any]:
        found = [(number, serial) for number, (serial, state) in server.runs.items() if state is StateType.RUNNING]
        return [SimpleNamespace(id=number, parameters={flow.parameter: serial}) for number, serial in found]

    def write(path: Path, value: object) -> None:
        with server.step():
            write_json(path, value)

    unlink = Path.unlink

    def remove(path: Path, missing_ok: bool = False) -> None:
        with server.step():
            unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(runs, "get_client", lambda sync_client: contextlib.nullcontext(server))
    monkeypatch.setattr(runs, "under_way", under_way)
    monkeypatch.setattr(runs, "ensure_capture", server.ensure)
    monkeypatch.setattr(
        runs,
        "linacs_in_service",
        lambda: [SimpleNamespace(serial=serial, service=Service.WORKER) for serial in server.in_service],
    )
    monkeypatch.setattr(runs, "write_json", write)
    monkeypatch.setattr(Path, "unlink", remove)
    return server


def start(server: Server, path: Path) -> list[str]:
    said: list[str] = []
    runs.resume(runs.CAPTURES, path.parent, said.append)
    return said


def stop(server: Server, path: Path) -> None:
    runs.remember(runs.CAPTURES, path.parent)
    server.cancel_all()


def test_what_was_recorded_is_recorded_again_after_an_orderly_stop(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "captures.json"
    server.add("A")
    server.add("B")
    stop(server, path)
    assert server.under_way() == []
    assert start(server, path) == ["icom-capture/A was started.", "icom-capture/B was started."]
    assert server.under_way() == ["A", "B"]
    assert not path.exists(), "from now on the database knows"


def test_what_was_cancelled_by_hand_stays_cancelled(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "captures.json"
    server.add("A")
    stop(server, path)
    start(server, path)
    server.cancel_all()
    stop(server, path)
    assert start(server, path) == []


def test_a_run_that_crashed_before_the_start_is_followed_unless_a_later_one_was_cancelled(server: Server, tmp_path: Path) -> None:
    """As after a power cut, when the automation marks the silent run before `serve` gets to it."""
    server.runs = {
        1: ("A", StateType.CRASHED),
        2: ("B", StateType.CRASHED),
        3: ("B", StateType.CANCELLED),
        4: ("C", StateType.FAILED),
    }
    assert start(server, tmp_path / "captures.json") == ["icom-capture/A was started.", "icom-capture/C was started."]
    assert server.under_way() == ["A", "C"]


def test_a_run_that_was_wrongly_ended_and_could_not_start_its_successor_is_followed(server: Server, tmp_path: Path) -> None:
    """It ends as completed, as its listener goes on; but not a run too many, once the real one was cancelled after it."""
    server.runs = {
        1: ("A", StateType.CRASHED),
        2: ("A", StateType.COMPLETED),
        3: ("B", StateType.CANCELLED),
        4: ("B", StateType.COMPLETED),
    }
    server.changed = {3: 9}
    assert start(server, tmp_path / "captures.json") == ["icom-capture/A was started."]


@pytest.mark.parametrize("what", ["start", "stop", "stop then start", "start cut by Ctrl-C, then stop"])
def test_power_may_go_at_any_step_and_every_linac_is_recorded_once_afterwards(server: Server, tmp_path: Path, what: str) -> None:
    path = tmp_path / "captures.json"
    for power in range(60):
        server.runs.clear()
        server.steps_left = float("inf")
        server.add("A")
        server.add("B")
        write_json(path, ["C"])  # left by a start that was interrupted before it got to it
        server.steps_left = power
        whole = False
        with contextlib.suppress(PowerCut):
            if what == "start cut by Ctrl-C, then stop":
                with contextlib.suppress(PowerCut):
                    start(server, path)
                server.steps_left = 4  # somebody presses Ctrl-C, and an orderly stop follows, which the power cuts short, too
                stop(server, path)
            if what.startswith("stop"):
                stop(server, path)
            if what.endswith("start"):
                start(server, path)
            whole = True
        server.steps_left = float("inf")
        start(server, path)
        assert server.under_way() == ["A", "B", "C"], f"with power for {power} steps"
        assert not path.exists()
        if whole:
            break
    if what != "start cut by Ctrl-C, then stop":
        assert whole, "the power never lasted to the end"
        assert power > 3, "nothing was cut short"


def test_one_linac_that_cannot_be_started_holds_up_no_other_and_is_tried_again(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "captures.json"
    for serial in "ABC":
        server.add(serial)
    stop(server, path)
    server.broken = {"B"}
    assert "Linac B is not being recorded: The deployment icom-capture/B is not on the Prefect server." in start(server, path)
    assert server.under_way() == ["A", "C"]
    assert json.loads(path.read_text()) == ["B"]
    server.broken = set()
    stop(server, path)
    start(server, path)
    assert server.under_way() == ["A", "B", "C"]


def test_a_linac_out_of_service_is_forgotten(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "captures.json"
    server.add("A")
    stop(server, path)
    server.in_service = {"B"}
    assert start(server, path) == []
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "null", "7", '"4299'])
def test_a_spoilt_file_is_as_good_as_none(server: Server, tmp_path: Path, content: str) -> None:
    path = tmp_path / "captures.json"
    path.write_text(content)
    server.add("A")
    start(server, path)
    assert server.under_way() == ["A"]


@contextlib.contextmanager
def started_by_hand(serial: str, address: tuple[str, int], folder: Path) -> Iterator[Any]:
    """Somebody runs `python -m linac.icom listen` in a console while this lasts."""
    (folder / "records").mkdir(parents=True)
    words = [
        "listen",
        address[0],
        str(folder / "records"),
        "--port",
        str(address[1]),
        "--serial",
        serial,
        "--spool",
        str(folder / "spool"),
    ]
    process = subprocess.Popen([sys.executable, "-m", "linac.icom", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs: Any = SimpleNamespace(serial=serial, spool=str(folder / "spool"))
    try:
        until = time.monotonic() + 30
        while not control.is_running(theirs.spool, serial):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.1)
        yield theirs
    finally:
        process.terminate()
        process.wait(30)


def test_a_listener_that_is_left_is_ended_and_one_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    serial, closed = "4299", "127.0.0.1"
    left: Any = SimpleNamespace(serial=serial, spool=str(tmp_path / "spool"))
    elsewhere: Any = SimpleNamespace(serial="5000", spool=str(tmp_path / "not on this computer"))
    control.start(serial, closed, free_port(), left.spool)
    said: list[str] = []
    try:
        assert runs.end_listeners([elsewhere, left], said.append)
        assert said == ["Ending the listener of linac 4299..."]
        assert not control.is_running(left.spool, serial)
    finally:
        control.stop(left.spool, serial)
    assert not (tmp_path / "not on this computer").exists()
    with SimulatedLinac(serial) as linac, started_by_hand(serial, linac.address, tmp_path / "hand") as theirs:
        assert runs.end_listeners([theirs], said.append)
        assert control.is_running(theirs.spool, serial), "a command's listener is not for serve to end"
    unfit: Any = SimpleNamespace(serial="../x", spool=left.spool)
    assert not runs.end_listeners([unfit], said.append)
    assert "cannot name a folder" in said[-1]


def test_listeners_are_ended_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty that take their 10 s each are not to hold the computer up for minutes."""
    together = threading.Barrier(3)

    def stop(*_: object) -> bool:
        together.wait(30)
        return True

    monkeypatch.setattr(control, "is_running", lambda *_: True)
    monkeypatch.setattr(runs, "is_a_commands", lambda *_: False)
    monkeypatch.setattr(control, "stop", stop)
    left: list[Any] = [SimpleNamespace(serial=serial, spool="") for serial in "ABC"]
    assert runs.end_listeners(left, lambda _: None)
    assert runs.end_listeners([], lambda _: None)


def test_tunnels_are_taken_up_as_recordings_are(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {"nbcc": ["a forward"], "rccc": []}
    monkeypatch.setattr(runs, "named", lambda _: [(name, SimpleNamespace(forwards=found)) for name, found in sites.items()])
    monkeypatch.setattr(runs, "ensure_tunnel", server.ensure)
    for site in sites:
        server.add(site)
    runs.remember(runs.TUNNELS, tmp_path)
    server.cancel_all()
    runs.resume(runs.TUNNELS, tmp_path, lambda _: None)
    assert server.under_way() == ["nbcc"], "a site without forwards any more is forgotten"
    assert not (tmp_path / "tunnels.json").exists()


class Ending:
    """Runs that end when they are asked to, after so many looks; what was asked of them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **kinds: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self.runs = {
            name: SimpleNamespace(
                id=name,
                name=name,
                work_pool_name=None if "stranger" in kind else "pool",
                infrastructure_pid=kind.partition("pid ")[2] or None,
                state=SimpleNamespace(type=StateType.PENDING if "pending" in kind else StateType.RUNNING),
                kind=kind,
                looks=0,
            )
            for name, kind in kinds.items()
        }
        monkeypatch.setattr(runs, "get_client", lambda sync_client: contextlib.nullcontext(self))
        monkeypatch.setattr(runs, "unfinished", self.unfinished)
        for name in ("CANCEL", "TUNNELS", "STRANGER"):
            monkeypatch.setattr(runs, f"{name}_SECONDS", {"CANCEL": 6.0, "TUNNELS": 3.0, "STRANGER": 1.0}[name])

    def unfinished(self, _client: object, flow: str | None = None, states: object = None) -> list[Any]:
        assert states is runs.ACTIVE
        for run in [run for run in self.runs.values() if run.state.type is StateType.CANCELLING and flow is None]:
            run.looks += 1
            if run.looks > 2 and "dead" not in run.kind:
                del self.runs[run.id]
        return [run for run in self.runs.values() if flow is None or ("tunnel" in run.kind) == (flow == runs.TUNNELS.flow)]

    def set_flow_run_state(self, run: str, state: Any, force: bool = False) -> None:
        self.asked.append((run, state.type.name))
        if state.is_final():
            assert force
            del self.runs[run]
        else:
            self.runs[run].state = state


def test_tunnels_are_closed_once_what_works_through_them_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch, tunnel="tunnel", capture="capture")
    assert runs.cancel_running(lambda _: None)
    assert ending.asked == [("capture", "CANCELLING"), ("tunnel", "CANCELLING")]


def test_a_run_that_is_just_being_started_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker has no process yet to pass the request on to: it would stay Cancelling for ever."""
    ending = Ending(monkeypatch, capture="pending")
    began = time.monotonic()
    assert runs.cancel_running(lambda _: None)
    assert ending.asked == [("capture", "CANCELLED")]
    assert time.monotonic() - began < 3


def test_a_command_line_run_whose_process_was_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch, killed="dead stranger", tunnel="tunnel")
    said: list[str] = []
    began = time.monotonic()
    assert runs.cancel_running(said.append)
    assert ending.asked == [("killed", "CANCELLING"), ("killed", "CANCELLED"), ("tunnel", "CANCELLING")]
    assert "killed gives no sign of life" in " ".join(said)
    assert time.monotonic() - began < 5.5


def test_a_run_whose_process_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker is slow to say so."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    ending = Ending(monkeypatch, capture=f"dead pid {process.pid}", other=f"dead pid {os.getpid()}")
    assert not runs.cancel_running(lambda _: None)
    assert ending.asked[:3] == [("capture", "CANCELLING"), ("other", "CANCELLING"), ("capture", "CANCELLED")]
    assert ending.asked[3:] == [("other", "CANCELLED")], "this one's process lives: it was waited for"


def test_a_run_that_never_ends_is_told_and_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch, capture="dead", tunnel="tunnel")
    assert not runs.cancel_running(lambda _: None)
    assert ending.asked == [("capture", "CANCELLING"), ("tunnel", "CANCELLING"), ("capture", "CANCELLED")]
    assert ending.runs == {}
