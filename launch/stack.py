"""A Prefect server on SQLite and a worker, as child processes that are started, watched and ended in order."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linac.errors import LinacError, SetupError, UnreachableError

PROJECT = Path(__file__).resolve().parent.parent
WORK_POOL = "linac-flows"
HOST = "127.0.0.1"
SERVER_START_SECONDS = 120.0
COMMAND_SECONDS = 180.0
END_SECONDS = 15.0
RESTART_SECONDS = 3.0
"""Pause before something that ended is started again: one that cannot start must not spin."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A child process in a process group of its own, so that Ctrl-C reaches us alone and we end things in order."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=PROJECT, env=env, **own_group()
            )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, seconds: float = END_SECONDS) -> None:
        """Ask it to end; after a while, make it."""
        if self.ended():
            return
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.send_signal(signal.CTRL_BREAK_EVENT)
            else:
                self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS)

    def last_words(self, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""


def own_group() -> dict[str, Any]:
    """Popen's arguments for a child that the terminal's Ctrl-C does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def end_in_order() -> None:
    """Let Ctrl-C, Ctrl-Break and a termination all raise KeyboardInterrupt, also where a shell had Ctrl-C ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last is Windows' Ctrl-Break
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def end_undisturbed() -> None:
    """While things are ended in order, a second Ctrl-C does not cut it short. Everything that follows is bounded in time."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class Stack:
    """Server and worker with everything deployed. `data` holds the database, logs and Prefect's own files."""

    def __init__(self, data: Path, port: int, say: Callable[[str], None] = print) -> None:
        self.data, self.port, self.say = data.resolve(), port, say
        self.ui = f"http://{HOST}:{port}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(self.data / "prefect"),
            "PREFECT_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONUTF8": "1",
        }
        self.server: Child | None = None
        self.worker: Child | None = None

    def adopt_environment(self) -> None:
        """Point this process at the server. To be called before anything imports Prefect."""
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            del os.environ[name]
        os.environ.update(self.env)

    def start(self, worker: bool = True) -> None:
        """Server, blocks, deployments and, unless told otherwise, a worker.

        Raises `LinacError` with the reason where one of them does not come up.
        """
        self._refuse_used_port()
        prefect = [sys.executable, "-m", "prefect"]
        self.start_server()
        self.run("register the blocks", [*prefect, "block", "register", "-m", "blocks"])
        self.run("make the work pool", [*prefect, "work-pool", "create", WORK_POOL, "--type", "process", "--overwrite"])
        self.run("deploy the flows", [*prefect, "--no-prompt", "deploy", "--all"])
        if worker:
            self.start_worker()

    def start_server(self) -> None:
        """The server, ready to answer."""
        self.server = Child(
            "Prefect server",
            [sys.executable, "-m", "launch.server", "--host", HOST, "--port", str(self.port)],
            self.data / "logs" / "server.log",
            self.env,
        )
        self._wait_for_server(self.server)

    def start_worker(self) -> None:
        """A worker of the pool; it takes up runs a few seconds later."""
        prefect = [sys.executable, "-m", "prefect"]
        self.worker = Child(
            "Prefect worker",
            [*prefect, "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", socket.gethostname()],
            self.data / "logs" / "worker.log",
            self.env,
        )

    def run(self, what: str, arguments: Sequence[str], seconds: float = COMMAND_SECONDS) -> str:
        """A command to its end, in the project's folder; its output is the result, its failure a `SetupError`."""
        try:
            done = subprocess.run(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                env=self.env,
                timeout=seconds,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SetupError(f"Could not {what}: no end after {seconds:.0f} s.") from error
        if done.returncode:
            raise SetupError(f"Could not {what} (exit code {done.returncode}):\n{done.stdout[-3000:]}")
        return done.stdout

    def check(self) -> None:
        """Raise `LinacError` if server or worker ended by itself."""
        for child in (self.server, self.worker):
            if child is not None and child.ended():
                raise LinacError(f"The {child.name} ended by itself. The end of {child.log}:\n{child.last_words()}")

    def keep_up(self) -> None:
        """Start again what ended by itself, after a pause. Raises `LinacError` where it does not come up."""
        for child, start in ((self.server, self.start_server), (self.worker, self.start_worker)):
            if child is not None and child.ended():
                self.say(f"The {child.name} ended by itself; starting it again. Its log: {child.log}")
                time.sleep(RESTART_SECONDS)
                start()

    def stop(self) -> None:
        """Worker first, then server."""
        for child in (self.worker, self.server):
            if child is not None:
                child.end()
        self.worker = self.server = None

    def _refuse_used_port(self) -> None:
        with socket.socket() as probe:
            probe.settimeout(2)
            if probe.connect_ex((HOST, self.port)) == 0:
                raise SetupError(
                    f"Something already answers at {self.ui}, perhaps a Prefect server started earlier. "
                    "Use that one, stop it, or give another port with --port."
                )

    def _wait_for_server(self, server: Child) -> None:
        until = time.monotonic() + SERVER_START_SECONDS
        while time.monotonic() < until:
            if server.ended():
                raise SetupError(f"The Prefect server did not start. The end of {server.log}:\n{server.last_words()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                with urllib.request.urlopen(f"{self.ui}/api/health", timeout=2):  # noqa: S310 (our own loopback address)
                    return
            time.sleep(0.3)
        raise UnreachableError(f"The Prefect server did not answer within {SERVER_START_SECONDS:.0f} s. See {server.log}.")


def write_json(path: Path, value: object) -> None:
    """A small JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part-{os.getpid()}")
    aside.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(aside, path)
