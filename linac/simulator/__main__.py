"""`python -m linac.simulator`: a pretend linac, run by hand.

It writes backups into a folder (`--backup`), listens for iCom clients, and treats invented patients once one has stayed for a
while: who only looks in, to check that a linac answers, does not count. It ends with Ctrl-C, or when it is told to (SIGTERM).
It prints `ready: iCom on HOST:PORT` once it listens.
"""

import argparse
import io
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from linac.errors import LinacError
from linac.simulator import PATIENTS, SimulatedLinac, make_beams, write_backup

STATUS_SECONDS = 0.5


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m linac.simulator", description="A pretend linac, for the demo and training.")
    parser.add_argument("--serial", default="4299", help="the linac's serial (4299)")
    parser.add_argument("--machine-id", help="the machine ID in its messages, if it shall not be the serial")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this computer only)")
    parser.add_argument("--port", type=int, default=1706, help="port to listen on (1706; 0 takes a free one)")
    parser.add_argument("--speed", type=_speed, default=1.0, help="how many times faster than real time (1)")
    parser.add_argument("--sessions", type=int, default=1, help="how many patients to treat (1)")
    parser.add_argument("--beams", type=int, default=2, help="beams per patient (2)")
    parser.add_argument("--mu", type=float, help="MU per beam (drawn unless given)")
    parser.add_argument("--delay", type=float, default=5.0, help="treat once a client has stayed for so many seconds (5)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for a client")
    parser.add_argument("--backup", type=Path, metavar="DIR", help="write diagnostic backups (SDD+*.zip) into this folder")
    parser.add_argument("--nights", type=int, default=2, help="so many nights' backups, up to last night's (2)")
    parser.add_argument("--logs-per-day", type=int, default=2, help="TRF logs per day in the backups (2)")
    parser.add_argument("--damaged", type=int, default=0, help="so many files in each backup that are no TRF (0)")
    parser.add_argument("--trf", type=Path, metavar="DIR", help="put the real TRFs of this folder into the backups, too")
    parser.add_argument("--seed", type=int, default=1, help="another number makes other treatments (1)")
    parser.add_argument("--status", type=Path, metavar="FILE", help="keep counts in this JSON file, for a program that watches")
    chosen = parser.parse_args(arguments)
    if chosen.trf is not None and chosen.backup is None:
        parser.error("--trf puts logs into a backup: say with --backup DIR which folder that is")
    return chosen


def _speed(text: str) -> float:
    """More than nothing: a linac at no speed never says anything."""
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0, for example 1, or 20 for twenty times as fast")
    return speed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end; the exit code."""
    chosen = parse(arguments)
    for stream in (sys.stdout, sys.stderr):  # a console may lack letters that a path has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stop = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # the last is Windows' Ctrl-Break
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    try:
        _backups(chosen)
        linac = SimulatedLinac(
            chosen.machine_id or chosen.serial, host=chosen.host, port=chosen.port, speed=chosen.speed, keep=False
        )
        with linac:
            _say(f"ready: iCom on {linac.address[0]}:{linac.address[1]}")
            _say("Ctrl-C ends it.")
            _treat(chosen, linac, stop)
            _write_status(chosen.status, linac, "ended")
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'A file'} could not be read or written: {error.strerror}. Check the path.", file=sys.stderr)
        return 1
    _say(f"ended after {linac.messages_sent} messages")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _backups(chosen: argparse.Namespace) -> None:
    if chosen.backup is None:
        return
    for back in range(chosen.nights - 1, -1, -1):
        path = write_backup(
            chosen.backup,
            date.today() - timedelta(days=back),  # noqa: DTZ011 (the site's own night)
            serial=chosen.serial,
            seed=chosen.seed,
            per_day=chosen.logs_per_day,
            trf_folder=chosen.trf,
            damaged=chosen.damaged,
        )
        _say(f"backup written: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _treat(chosen: argparse.Namespace, linac: SimulatedLinac, stop: threading.Event) -> None:
    """Treat the patients one after the other, and say so; then wait for the end, sending idle messages."""
    said: set[tuple[int, str]] = set()
    written, begun = 0.0, False
    while not stop.wait(0.05):
        now = time.monotonic()
        if not begun and (chosen.no_wait or linac.client_stays(chosen.delay)):
            begun = True
            _say("not waiting for a client" if chosen.no_wait else "a client is connected")
            for number in range(chosen.sessions):
                patient_id, patient_name = PATIENTS[number % len(PATIENTS)]
                beams = make_beams(chosen.beams, f"{chosen.seed} {number}", chosen.mu)
                linac.start_session(patient_id=patient_id, patient_name=patient_name, beams=beams)
        for number, session in enumerate(linac.sessions, start=1):
            for event, happened in (("begins", session.started), ("has ended", session.ended)):
                if happened.is_set() and (number, event) not in said:
                    said.add((number, event))
                    _say(f"patient session {number} {event}: {session.delivered_mu} of {session.planned_mu} MU")
        if now >= written + STATUS_SECONDS:
            written = now
            _write_status(chosen.status, linac, "running")


def _write_status(path: Path | None, linac: SimulatedLinac, state: str) -> None:
    """Replace the status file. A reader sees the old or the new one, never a part."""
    if path is None:
        return
    aside = path.with_name(f"{path.name}.part-{uuid.uuid4().hex[:8]}")
    status = {"state": state, "written": datetime.now(UTC).isoformat(), **linac.status()}
    try:
        aside.write_text(json.dumps(status, indent=1), encoding="utf-8")
        os.replace(aside, path)
    except PermissionError:
        pass  # somebody reads it just now (Windows): the next one will do
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
