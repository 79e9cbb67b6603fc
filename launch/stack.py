"""A Prefect server on SQLite and a worker, as child processes that are started, watched and ended in order."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.processes import PROJECT, Child, end_stranger, own_group, start_of
from linac.capture.lock import FileLock
from linac.errors import LinacError, SetupError, UnreachableError

__all__ = ["HOST", "PROJECT", "Child", "Stack", "free_port", "own_group", "write_json"]

WORK_POOL = "linac-flows"
HOST = "127.0.0.1"
SERVER_START_SECONDS = 240.0
COMMAND_SECONDS = 240.0
RESTART_SECONDS = 3.0
"""Pause before something that ended is started again: one that cannot start must not spin."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now.

    It is taken from below those that the operating system hands out by itself, as nobody is to get it before we use it.
    """
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


class Stack:
    """Server and worker with everything deployed. `data` holds the database, logs and Prefect's own files.

    One process at a time serves a data folder: an operating system's lock says so, which a crash or a power cut frees. Beside
    it, `serve.json` tells who, where, and with which children, so that a later start finds what a killed one left behind.
    """

    def __init__(self, data: Path, port: int, say: Callable[[str], None] = print) -> None:
        self.data, self.port, self.say = data.resolve(), port, say
        self.ui = f"http://{HOST}:{port}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(self.data / "prefect"),
            "PREFECT_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "5",  # a run begins, and a cancel arrives, in half the time that is usual
            "DO_NOT_TRACK": "1",
            "PYTHONUTF8": "1",
        }
        self.server: Child | None = None
        self.worker: Child | None = None
        self.lock = FileLock(self.data / "serve.lock")
        self.locked = False
        self.record = self.data / "serve.json"

    def adopt_environment(self) -> None:
        """Point this process at the server. To be called before anything imports Prefect."""
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            del os.environ[name]
        os.environ.update(self.env)

    def start(self, worker: bool = True) -> None:
        """Server, blocks, deployments and, unless told otherwise, a worker.

        Raises `LinacError` with the reason where one of them does not come up.
        """
        self._take_data_folder()
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
            ["launch.server", "--host", HOST, "--port", str(self.port)],
            self.data / "logs" / "server.log",
            self.env,
        )
        self._write_record()
        self._wait_for_server(self.server)

    def start_worker(self) -> None:
        """A worker of the pool; it takes up runs a few seconds later. Its name is the same at each start, and no other's."""
        name = f"{socket.gethostname()}-{self.port}"
        self.worker = Child(
            "Prefect worker",
            ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", name],
            self.data / "logs" / "worker.log",
            self.env,
        )
        self._write_record()

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
        if self.locked:
            with contextlib.suppress(OSError):
                self.record.unlink(missing_ok=True)
            self.lock.release()
            self.locked = False

    def _take_data_folder(self) -> None:
        """Make the data folder ours: lock it, and end what a start that was killed has left running with it.

        Raises `SetupError` where it is no folder, where another process serves it, or where something left behind does not end.
        """
        try:
            for folder in (self.data, self.data / "prefect"):  # blocks' secrets and their key: for this account alone
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.data / "prefect").chmod(0o700)
        except OSError as error:
            raise SetupError(
                f"The data folder {self.data} cannot be used: {_why(self.data, error)}. Give a folder that this account may "
                "write to, or that does not exist yet."
            ) from error
        self.locked = self._lock()
        if not self.locked:
            other = self._read_record()
            where = f" at {other['url']} by process {other['pid']}" if other else ", by another process"
            raise SetupError(
                f"The data folder {self.data} is already served{where}. Use that one, or end it with Ctrl-C in its window. "
                "For another server beside it, give another folder and another port (serve --data FOLDER --port PORT)."
            )
        for name, pid, started in self._read_record().get("children", []):
            if start_of(pid) == started:
                self.say(f"The {name} of an earlier start still runs (process {pid}); ending it...")
                if not end_stranger(pid, started):
                    raise SetupError(f"The {name} of an earlier start (process {pid}) does not end. End it, then start again.")
        self._write_record()

    def _lock(self) -> bool:
        try:
            return self.lock.acquire(wait_seconds=1.0)
        except SetupError as error:
            raise SetupError(
                f"The data folder {self.data} cannot be locked: {error.__cause__}. Start this with the account that made it."
            ) from error

    def _write_record(self) -> None:
        """Who serves this folder, where, and with which children. A help for the next start: a full disk does not stop this."""
        if self.locked:
            known = [child for child in (self.server, self.worker) if child is not None]
            children = [(child.name, child.process.pid, child.started) for child in known]
            with contextlib.suppress(OSError):
                write_json(self.record, {"pid": os.getpid(), "url": self.ui, "children": children})

    def _read_record(self) -> dict[str, Any]:
        """The same, as the last start left it; empty where there is none or it is not what we write."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            children = [(str(name), int(pid), str(started)) for name, pid, started in record["children"]]
            return {"pid": int(record["pid"]), "url": str(record["url"]), "children": children}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

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


def _why(folder: Path, error: OSError) -> str:
    return "it is a file" if folder.is_file() else error.strerror or str(error)


def write_json(path: Path, value: object) -> None:
    """A small JSON file, whole or not at all, and on the disk when this returns: power may go at any line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part-{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    if sys.platform != "win32":  # where a folder's entries are synced with the folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
