"""`python run.py demo`: a pretend linac is added, recorded and indexed by the real flows, on this computer alone.

A Prefect server, a worker and a simulated linac are started on free ports of the loopback interface. Then `add-linac` is run as
a user would run it, one patient's session is recorded over TCP, and `trf-index` is run twice. At the end stands what was
recorded, and where; everything started is stopped again, and nothing outside the output folder was touched.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

from launch.stack import HOST, Child, Stack, free_port
from linac.errors import LinacError

SERIAL = "4299"
NIGHTS = 3
"""Simulated nightly backups; a linac keeps eight days of logs, so each overlaps with the one before."""

SESSION_SECONDS = 180.0
FLOW_SECONDS = 240.0


class DemoError(LinacError):
    """Something that the demo must show did not come about."""


class Demo:
    """One run of the demo, with everything that it started."""

    def __init__(self, out: Path, trf: Path | None) -> None:
        self.out, self.trf = out, trf
        self.started = time.monotonic()
        self.stack = Stack(out / "prefect", free_port())
        self.simulator: Child | None = None
        self.backup = out / "nss" / "Backup" / "TCS"
        self.records = out / "records"
        self.spool = out / "spool"
        self.simulator_status = out / "nss" / "simulator.json"

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}", flush=True)

    def run(self) -> None:
        self.say("Starting a Prefect server and a worker...")
        self.stack.adopt_environment()
        self.stack.start()
        self.say(f"Prefect's UI is at {self.stack.ui}")
        port = self.start_simulator()
        self.say(f"A simulated linac {SERIAL} speaks iCom on {HOST}:{port} and writes backups to {self.backup}")
        self.make_site()
        self.add_linac(port)
        session = self.wait_for_session()
        self.say(f"One session was recorded: {session['messages']} messages, {session['mu']:.1f} MU.")
        first = self.index("first")
        second = self.index("second")
        self.show(session, first, second)

    def start_simulator(self) -> int:
        arguments = [sys.executable, "-m", "linac.simulator", "--serial", SERIAL, "--port", "0", "--backup", str(self.backup)]
        arguments += ["--nights", str(NIGHTS), "--sessions", "1", "--speed", "10", "--status", str(self.simulator_status)]
        if self.trf is not None:
            arguments += ["--trf", str(self.trf)]
        self.simulator = Child("simulator", arguments, self.out / "logs" / "simulator.log", self.stack.env)
        until = time.monotonic() + 60
        while time.monotonic() < until and not self.simulator.ended():
            for line in self.simulator.last_words(100).splitlines():
                if line.startswith("ready: iCom on "):
                    return int(line.rpartition(":")[2])
            time.sleep(0.2)
        raise DemoError(f"The simulator did not get ready:\n{self.simulator.last_words()}")

    def make_site(self) -> None:
        from blocks import Share, Site

        self.records.mkdir(parents=True, exist_ok=True)
        records = Share(path=str(self.records))
        records.save("demo-records", overwrite=True)
        site = Site(name="Demo hospital", time_zone="Australia/Sydney", records=records, spool=str(self.spool))
        site.save("demo", overwrite=True)

    def add_linac(self, port: int) -> None:
        answers = {"serial": SERIAL, "address": HOST, "icom_port": port, "site": "demo", "backup_folder": str(self.backup)}
        parameters = [part for name, value in answers.items() for part in ("-p", f"{name}={value}")]
        self.say("prefect deployment run add-linac " + " ".join(parameters))
        command = [sys.executable, "-m", "prefect", "deployment", "run", "add-linac", *parameters, "--watch"]
        self.stack.run("add the linac", command, FLOW_SECONDS)
        self.say(f"add-linac has put linac {SERIAL} into service; its stream is being recorded.")

    def wait_for_session(self) -> dict[str, float]:
        """Figures of the one archived session, once the simulator has sent it and the archive has it."""
        from linac.capture.archive import archived_sessions

        until = time.monotonic() + SESSION_SECONDS
        told = 0.0
        while time.monotonic() < until:
            self.stack.check()
            sent = self.sent()
            archived = archived_sessions(self.spool, SERIAL)
            if archived and sent.get("sessions_ended", 0) >= 1:
                return compared(sent, archived)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                self.say(f"   the linac has sent {sent.get('messages', 0)} messages, {sent.get('mu', 0):.0f} MU...")
            time.sleep(0.5)
        raise DemoError(
            f"No session reached the archive within {SESSION_SECONDS:.0f} s. See icom-capture's log at {self.stack.ui}."
        )

    def sent(self) -> dict[str, float]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self.simulator_status.read_text(encoding="utf-8")))
        return {}
