"""`python run.py demo`: a pretend linac is added, recorded and indexed by the real flows, on this computer alone.

A Prefect server, a worker and a simulated linac are started on free ports of the loopback interface. Then `add-linac` is run as
a user would run it, one patient's session is recorded over TCP, and `trf-index` is run twice. At the end stands what was
recorded, and where; everything started is stopped again, and nothing outside the output folder was touched.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch import ending
from launch.ending import complain, say
from launch.stack import HOST, PROJECT, Child, Stack, free_port
from linac.errors import LinacError

if TYPE_CHECKING:
    from linac.capture.ledger import Line

SERIAL = "4299"
NIGHTS = 3
"""Simulated nightly backups; a linac keeps eight days of logs, so each overlaps with the one before."""

SESSION_SECONDS = 180.0
FLOW_SECONDS = 240.0
SHARES_SECONDS = 60.0
STEADINESS_SECONDS = 5
"""For so long add-linac watches the network before it changes anything; a real linac is watched for longer."""

DELAY_SECONDS = 12
"""The linac treats once somebody has listened for so long: longer than add-linac watches, so that all of it is recorded."""

ACCOUNT = "demo-nss"


class DemoError(LinacError):
    """Something that the demo must show did not come about."""


class Night(NamedTuple):
    """What one trf-index run said of itself."""

    indexed: int
    rows: int
    duplicates: int
    aside: int
    failed: int
    backups: int


class Demo:
    """One run of the demo, with everything that it started."""

    def __init__(self, out: Path, trf: Path | None) -> None:
        self.out, self.trf = out, trf
        self.started = time.monotonic()
        self.stack = Stack(out / "prefect", free_port(), self.say)
        self.simulator: Child | None = None
        self.shares: Child | None = None
        self.backup, self.records = out / "Backup" / "TCS", out / "records"
        self.spool = out / "spool"
        self.simulator_status = out / "simulator.json"
        self.smb: dict[str, Any] = {}

    def say(self, text: str) -> None:
        say(f"[{time.monotonic() - self.started:5.1f} s] {text}")

    def run(self) -> None:
        self.say("Starting a Prefect server and a worker...")
        self.stack.adopt_environment()
        self.stack.start()
        self.say(f"Prefect's UI is at {self.stack.ui}")
        port = self.start_simulator()
        self.say(f"A simulated linac {SERIAL} speaks iCom on {HOST}:{port} and writes backups to {self.backup}")
        self.start_shares()
        self.make_site()
        self.add_linac(port)
        session = self.wait_for_session()
        self.say(f"One patient's session was recorded: {session.messages} messages, {session.mu:.1f} MU.")
        self.show(session, first=self.index(), second=self.index())

    def start_simulator(self) -> int:
        arguments = ["linac.simulator", "--serial", SERIAL, "--port", "0", "--backup", str(self.backup)]
        arguments += ["--nights", str(NIGHTS), "--sessions", "1", "--speed", "10", "--delay", str(DELAY_SECONDS)]
        arguments += ["--status", str(self.simulator_status)]
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

    def start_shares(self) -> None:
        """A real SMB server for the linac's backups and for the records, where Samba is installed; else they are folders."""
        from launch.demo_shares import place

        self.backup.mkdir(parents=True, exist_ok=True)
        self.records.mkdir(parents=True, exist_ok=True)
        module = ["launch.demo_shares", str(self.out), str(self.spool), SERIAL]
        self.shares = Child("SMB server", module, self.out / "logs" / "shares.log", self.stack.env)
        until = time.monotonic() + SHARES_SECONDS
        while not place(self.out).exists():
            if self.shares.ended() or time.monotonic() > until:
                raise DemoError(f"The shares did not get ready:\n{self.shares.last_words()}")
            time.sleep(0.1)
        answer = json.loads(place(self.out).read_text(encoding="utf-8"))
        place(self.out).unlink()
        if "reason" in answer:
            self.say(f"{answer['reason']}: the NSS's share and the records share are folders on this computer.")
            return
        self.smb = answer
        self.say(
            f"A real SMB server (Samba) on port {answer['port']} serves them as {self.shared('Backup', 'TCS')}, and the records "
            f"share {self.shared('records')}."
        )

    def shared(self, *names: str) -> str:
        """The path that flows use: on the SMB server, or the folder itself."""
        return "\\\\" + "\\".join([HOST, *names]) if self.smb else str(self.out.joinpath(*names))

    def make_site(self) -> None:
        from blocks import Share, Site, SmbCredentials

        access: dict[str, Any] = {}
        if self.smb:
            account = SmbCredentials(username=self.smb["user"], password=self.smb["password"])
            account.save(ACCOUNT, overwrite=True)
            access = {"credentials": account, "port": self.smb["port"]}
        records = Share(path=self.shared("records"), **access)
        records.save("demo-records", overwrite=True)
        site = Site(name="Demo hospital", time_zone="Australia/Sydney", records=records, spool=str(self.spool))
        site.save("demo", overwrite=True)

    def add_linac(self, port: int) -> None:
        answers = {"serial": SERIAL, "address": HOST, "icom_port": port, "site": "demo"}
        answers |= {"backup_folder": self.shared("Backup", "TCS"), "steadiness_seconds": STEADINESS_SECONDS}
        if self.smb:
            answers |= {"nss_credentials": ACCOUNT, "nss_port": self.smb["port"]}
        parameters = [part for name, value in answers.items() for part in ("-p", f"{name}={value}")]
        self.say("prefect deployment run add-linac " + _typed(parameters))
        command = [sys.executable, "-m", "prefect", "deployment", "run", "add-linac", *parameters, "--watch"]
        self.stack.run("add the linac", command, FLOW_SECONDS)
        self.say(f"add-linac has put linac {SERIAL} into service; its stream is being recorded.")

    def wait_for_session(self) -> "Line":
        """The one session in the archive's ledger, once the simulator has sent it; checked against what was sent."""
        from linac.capture.archive import sessions

        until = time.monotonic() + SESSION_SECONDS
        told = time.monotonic()
        while time.monotonic() < until:
            self.stack.check()
            sent = self.sent()
            archived = sessions(self.spool, SERIAL)
            if archived and all(session["state"] == "ended" for session in sent):
                self.compare(archived, sent)
                return archived[0]
            if time.monotonic() - told > 5:
                told = time.monotonic()
                mu = sum(session["delivered_mu"] for session in sent)
                self.say(f"  the linac has delivered {mu:.0f} MU so far...")
            time.sleep(0.5)
        raise DemoError(f"No session reached the archive within {SESSION_SECONDS:.0f} s. See icom-capture's log.")

    def sent(self) -> list[dict[str, Any]]:
        """The sessions that the simulator says it has begun."""
        with contextlib.suppress(OSError, ValueError):
            return list(json.loads(self.simulator_status.read_text(encoding="utf-8"))["sessions"])
        return []

    def compare(self, archived: "list[Line]", sent: list[dict[str, Any]]) -> None:
        """Raise `DemoError` unless every message and every MU that was sent is in the archive."""
        have = [(line.outcome, line.messages, round(line.mu, 1), line.gaps) for line in archived]
        want = [("archived", session["messages_sent"], round(session["delivered_mu"], 1), 0) for session in sent]
        if have != want:
            raise DemoError(f"The linac sent (outcome, messages, MU, gaps) {want}, but the archive has {have}.")

    def index(self) -> Night:
        """Run trf-index as the nightly schedule would; its figures, as its last state tells them."""
        from prefect.client.orchestration import get_client

        from launch.runs import wait_for_run

        self.say("prefect deployment run trf-index")
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("trf-index/nightly")
            run = client.create_flow_run_from_deployment(deployment.id)
        try:
            state = wait_for_run(run.id, FLOW_SECONDS).state
        except TimeoutError as error:
            raise DemoError(str(error)) from error
        message = (state.message if state else "") or ""
        if state is None or not state.is_completed():
            raise DemoError(f"trf-index ended as {state.name if state else 'unknown'}: {message}")
        self.say(f"trf-index: {message}")
        return Night(*(int(number) for number in re.findall(r"\d+", message)[:6]))

    def show(self, session: "Line", first: Night, second: Night) -> None:
        """The short table of what was recorded, and where it is."""
        from linac.index import Index
        from linac.transport import connect

        with connect(self.records) as folder:
            deliveries = Index(folder).deliveries()
        if not first.indexed or len(deliveries) != first.indexed:
            raise DemoError(f"trf-index said that it indexed {first.indexed} TRFs, but the index has {len(deliveries)}.")
        if second.indexed or second.backups:
            raise DemoError(f"The second trf-index found {second.indexed} TRFs in {second.backups} backups, but nothing was new.")
        archive = sorted(path.relative_to(self.records) for path in (self.records / "iCom" / "patients").rglob("*.xz"))
        rows = [
            ("iCom session", f"{session.started} to {session.ended[11:]}, linac's local time"),
            ("  messages", f"{session.messages} sent by the linac, {session.messages} archived"),
            ("  delivered", f"{session.mu:.1f} MU"),
            ("  gaps", str(session.gaps)),
            ("TRF logs", f"{first.indexed} indexed from {first.backups} backups, {first.rows} rows of 40 ms"),
            ("  duplicates", f"{first.duplicates} skipped: the backups overlap"),
            ("  set aside", str(first.aside)),
            ("  second run", f"{second.indexed} indexed, {second.backups} new backups"),
            ("Files in", self.shared("records") + (f", on this computer {self.records}" if self.smb else "")),
            *(("  session", str(path)) for path in archive),
            ("  index", str(Path("TRF") / "deliveries")),
            ("  samples", str(Path("TRF") / "samples")),
            ("  raw logs", str(Path("TRF") / "raw")),
        ]
        say("\nWhat was recorded\n" + "\n".join(f"  {title:<14}{text}" for title, text in rows))

    def stop(self) -> None:
        """Recording first, so that the linac sees an orderly end; then worker, server, simulator."""
        if self.stack.server is not None and not self.stack.server.ended():
            from launch.runs import cancel_running

            try:
                if not cancel_running(lambda _: None):
                    self.say("A run had not ended in time.")
            except Exception as error:
                self.say(f"The runs could not be ended in order: {type(error).__name__}.")
        self.stack.stop()
        from linac.capture import control

        if not control.stop(self.spool, SERIAL):
            self.say("The listener has not ended yet; it was asked to.")
        for child in (self.simulator, self.shares):
            if child is not None:
                child.end()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python run.py demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave Prefect's UI up until Ctrl-C")
    parser.add_argument("--trf", type=_path, metavar="DIR", help="a folder with TRF files, to put into the simulated backup")
    parser.add_argument("--out", type=_path, metavar="DIR", help="folder for the files (default: a new one below demo-out)")
    options = parser.parse_args(arguments)
    out: Path = options.out or Path.cwd() / "demo-out" / f"{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 (a name for people)
    problem = _unfit(out, options.trf)
    if problem:
        complain(problem)
        return 1
    ending.end_in_order()
    os.chdir(PROJECT)
    demo = Demo(out, options.trf)
    code = 1
    try:
        demo.run()
        code = 0
        if options.keep:
            say(f"\nPrefect's UI stays at {demo.stack.ui} until Ctrl-C.")
            while not ending.asked():
                time.sleep(1)
                demo.stack.check()
    except KeyboardInterrupt:
        say("\nStopping...")
    except LinacError as error:
        complain(f"\nThe demo did not get through: {error}\nLogs are in {out}.")
        code = 1
    finally:
        ending.end_undisturbed()
        demo.stop()
    demo.say("Everything was stopped." if code == 0 else "Everything was stopped; the demo failed.")
    return code


def _unfit(out: Path, trf: Path | None) -> str:
    """What is wrong with the folders that were given; empty where nothing is. Makes the folder for the files."""
    try:
        if trf is not None and not any(path.suffix.lower() == ".trf" for path in trf.iterdir()):
            return f"{trf} holds no TRF files. Give a folder with files named *.trf."
    except OSError as error:
        return f"--trf {trf}: {error.strerror or error}. Give a folder with files named *.trf."
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            return f"{out} is not empty. Give another folder with --out, so that nothing of yours is mixed up."
    except OSError as error:
        why = "it is a file" if out.is_file() else error.strerror or error
        return f"The demo's files cannot be put into {out}: {why}. Give another folder with --out."
    return ""


def _typed(words: list[str]) -> str:
    """The words as they are to be typed at a prompt."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _path(text: str) -> Path:
    return Path(text).resolve()


if __name__ == "__main__":
    sys.exit(main())
