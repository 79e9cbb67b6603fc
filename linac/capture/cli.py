"""Commands for capture without Prefect, mounted in `python -m linac.icom`: `listen` and `status`.

`listen ADDRESS DIR` takes the place of `pymedphys icom listen ADDRESS DIR`: the same folders appear below DIR. It is two
processes: the listener, which depends on nothing, and this one, which archives and may fail, hang or be killed without a message
being lost. Ending this one ends both; the listener alone goes on only if this one is killed, and is adopted the next time.

One command or flow run at a time sees to a listener (`linac.capture.follower`): a second one is refused. A listener that somebody
runs by itself (`--no-archive`) is archived from, and left running.
"""

import argparse
import contextlib
import re
import signal
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linac.capture import control, listener
from linac.capture.connection import ICOM_PORT
from linac.capture.follower import COMMAND, Follower, follower_of
from linac.capture.listener import ENDPOINT_SECONDS, where_raised
from linac.capture.lock import EndpointLock
from linac.capture.log import Log
from linac.capture.names import address_folder
from linac.capture.priority import lower_priority
from linac.capture.spool import DEFAULT_SPOOL, Spool
from linac.capture.status import Status, told_interruptions
from linac.errors import AlreadyRunningError, LinacError, UnreachableError

if TYPE_CHECKING:
    from linac.capture.archive import Archiver
    from linac.transport.paths import LocalFolder

ARCHIVE_SECONDS = 0.25
WATCH_SECONDS = 5.0
REPEAT_SECONDS, REPEAT_KIND_SECONDS = 600.0, 60.0
STALLED_SECONDS = 10.0
FOLLOW_SECONDS, TELL_SECONDS = 0.5, 10.0
CLAIM_SECONDS, END_SECONDS, PATIENCE_SECONDS = 1.0, 10.0, 1.0


def add_commands(subparsers: Any) -> None:
    """Add `listen` and `status` to an argparse sub-parser collection. Each sets `run`, a function of the options that returns the
    exit code."""
    command = subparsers.add_parser("listen", help="record a linac's iCom stream, as `pymedphys icom listen` does")
    command.add_argument("address", help="the NSS's hospital address, for example 192.168.17.40")
    command.add_argument(
        "directory",
        help="the iCom folder, on a disk or share; it has to exist (it is never made); live/ and patients/ appear in it",
    )
    _add_where(command)
    command.add_argument("--port", type=int, default=ICOM_PORT, help="the iCom port (%(default)s)")
    command.add_argument("--no-archive", action="store_true", help="only record into the spool; archive from there later")
    command.set_defaults(run=listen)
    command = subparsers.add_parser("status", help="what the listeners on this computer do")
    _add_where(command)
    command.add_argument("--watch", action="store_true", help="go on: print their log lines as they come, until Ctrl-C")
    command.set_defaults(run=show_status)


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument("--serial", help="the linac's serial number, for example 4299")
    command.add_argument("--spool", default=str(DEFAULT_SPOOL), help="folder on a local disk for journals (%(default)s)")


def listen(options: argparse.Namespace) -> int:
    """Listen and archive until told to end."""
    serial = options.serial or address_folder(options.address).replace("%", "-")
    try:
        _require_free(options, serial)
    except LinacError as error:
        return _refused(error)
    if options.no_archive:
        where = ["--serial", serial, "--address", options.address, "--port", str(options.port), "--spool", options.spool]
        return listener.main(where)
    from linac.capture.archive import Archiver  # here, so that a listener alone does without
    from linac.transport.paths import LocalFolder

    ending = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: ending.set())
    log, folder = Log(), LocalFolder(Path(options.directory).absolute())
    follower = Follower(options.spool, serial, COMMAND, folder.location)
    try:
        if not follower.acquire(CLAIM_SECONDS):
            raise _recorded_already(options, serial)
        archiver = Archiver(options.spool, serial, options.address, folder, ready=lambda: _require(folder))
        archiving = _Archiving(archiver, log)
        words = _Words(Spool(Path(options.spool), serial).log, log)
        running = control.start(serial, options.address, options.port, options.spool)
        log.line(
            f"{'adopted the listener' if running.adopted else 'started a listener'} for linac {serial}, process {running.pid}; "
            f"its log is {running.log}"
        )
        if follower.of_run:
            log.line(
                f"it is the listener of icom-capture/{serial}, which archives to the same folder; this command archives in its "
                "place, and leaves the listener running at its end"
            )
        archiving.start()
        _watch(options, serial, ending, archiving, words, follower)
        log.line("ending")
        ended = _stop(options, serial, log, follower)
        words.repeat()
        archiving.end(END_SECONDS)
    except LinacError as error:
        return _refused(error)
    finally:
        follower.release()
        log.close()
    return listener.EXIT_STOPPED if ended else listener.EXIT_FAILED


def _refused(error: LinacError) -> int:
    sys.stderr.write(f"{error}\n")
    return listener.EXIT_ALREADY if isinstance(error, AlreadyRunningError) else listener.EXIT_SETUP


def _require_free(options: argparse.Namespace, serial: str) -> None:
    """Raises `AlreadyRunningError` where somebody else sees to the linac; asked before anything is made in the spool."""
    if follower_of(options.spool, serial) is not None:
        raise _recorded_already(options, serial)
    claim = EndpointLock(options.address, options.port)
    if not control.is_running(options.spool, serial) and not claim.acquire(ENDPOINT_SECONDS):
        if follower_of(options.spool, serial) is not None:
            raise _recorded_already(options, serial)
        if not control.is_running(options.spool, serial):
            raise AlreadyRunningError(
                f"Another listener on this computer, with another spool or serial, already listens to {options.address} port "
                f"{options.port}. A linac must have one connection only: stop that one first, or give its serial number."
            )
    claim.release()


def _recorded_already(options: argparse.Namespace, serial: str) -> AlreadyRunningError:
    holder = follower_of(options.spool, serial) or "another process"
    return AlreadyRunningError(
        f"Linac {serial} is already recorded with the spool {options.spool}, by {holder}. One is enough; to replace it, end that "
        "one first."
    )


def _stop(options: argparse.Namespace, serial: str, log: Log, follower: Follower) -> bool:
    """Stop the listener, unless somebody runs it by itself or it is a flow run's. Whether it has ended with everything written,
    or need not end."""
    status = control.status(options.spool, serial)
    if follower.of_run and status is not None and status.running:
        log.line(f"the listener, process {status.pid}, is that of icom-capture/{serial} and records on; cancel that to end it")
        return True
    if status is not None and status.running and status.standalone:
        log.line(f"the listener, process {status.pid}, was started by itself and records on; end it where it was started")
        return True
    ended = control.stop(options.spool, serial)
    said = control.last_status(options.spool, serial)
    if not ended or said is None:
        return ended
    if said.state != "stopped":
        log.line(
            "ATTENTION, the listener has not written how it ended: it was killed, or the spool's disk is full or broken. What "
            f"has come since {_when(said.written)} may be lost."
        )
    elif said.unwritten_bytes:
        log.line(f"ATTENTION, the last {said.unwritten_bytes} bytes from the linac could not be written and are lost")
    return said.state == "stopped" and not said.unwritten_bytes


def _require(folder: "LocalFolder") -> None:
    """Raises `LinacError` unless the iCom folder is there. It is never made here: nothing shall land on the disk under a share's
    mount point."""
    if folder.path.is_file():
        raise UnreachableError(
            f"The iCom folder {folder.location} is a file. Move that away, then connect the share or make the folder; or give "
            "another folder."
        )
    if not folder.path.is_dir():
        raise UnreachableError(
            f"The iCom folder {folder.location} is not there. If it is on a share, connect that; if it is a new folder, make it."
        )
    folder.check()


def _watch(
    options: argparse.Namespace,
    serial: str,
    ending: threading.Event,
    archiving: "_Archiving",
    words: "_Words",
    follower: Follower,
) -> None:
    """See to it that the listener runs, and pass on what it says, until it is time to end. Short waits: on Windows a signal waits
    for them."""
    due = time.monotonic() + WATCH_SECONDS
    while not ending.wait(ARCHIVE_SECONDS):
        words.repeat()
        if time.monotonic() < due:
            continue
        due = time.monotonic() + WATCH_SECONDS
        follower.seen()
        archiving.look()
        try:
            said = control.last_status(options.spool, serial)
            if said is not None and said.age_seconds > STALLED_SECONDS and control.is_running(options.spool, serial):
                archiving.say(f"ATTENTION, {_stalled(said)}")
            if not control.is_running(options.spool, serial):
                archiving.say("the listener has ended; it is started again")
                control.start(serial, options.address, options.port, options.spool)
        except LinacError as error:
            archiving.say(str(error))


class _Words:
    """Passes on the lines of a listener that writes them to a file, from now on."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log, self._end = path, log, _size(path)

    def repeat(self) -> None:
        lines, self._end = _new_lines(self._path, self._end)
        for line in lines:
            self._log.line(f"listener: {line.partition(' ')[2]}")


class _Archiving:
    """Archives in a thread of its own: a share that hangs must not keep the command from ending."""

    def __init__(self, archiver: "Archiver", log: Log) -> None:
        self._archiver, self._log = archiver, log
        self._ending = threading.Event()
        self._said: dict[str, float] = {}
        self._saying = threading.Lock()
        self._trouble = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="archive")

    def start(self) -> None:
        self._thread.start()

    def end(self, timeout: float) -> None:
        """Archive once more what the listener recorded at last."""
        self._ending.set()
        self._thread.join(min(PATIENCE_SECONDS, timeout))
        if self._thread.is_alive():
            self.say(f"recording has ended; waiting for the iCom folder to take what came last, for at most {timeout:.0f} s")
            self._thread.join(timeout - PATIENCE_SECONDS)
        if self._thread.is_alive():
            self.say("the iCom folder does not answer; what is not archived waits in the journal")

    def look(self) -> None:
        """Say so if a round does not get on: a share that hangs makes system calls that never return."""
        hanging = self._archiver.hanging()
        if hanging:
            self._trouble = True
            self.say(f"ATTENTION, not archived: {hanging} Recording goes on; what is recorded waits in the spool.")

    def say(self, text: str) -> None:
        """Print a line, the same one again only after ten minutes, and one that differs in its numbers only after one."""
        now, kind = time.monotonic(), re.sub(r"\d+", "#", text)
        with self._saying:
            self._said = {known: at for known, at in self._said.items() if now - at < REPEAT_SECONDS}
            if text not in self._said and now - self._said.get(kind, float("-inf")) >= REPEAT_KIND_SECONDS:
                self._said[text] = self._said[kind] = now
                self._log.line(text)

    def _run(self) -> None:
        lower_priority()
        while not self._ending.wait(ARCHIVE_SECONDS):
            self._once()
        self._once()
        self._archiver.close()

    def _once(self) -> None:
        try:
            for session in self._archiver.run_once():
                self._log.line(f"{session.outcome.replace('_', ' ')}: {session}")
            if self._trouble:
                self._trouble = False
                with self._saying:
                    self._said = {}
                self.say("archiving works again; what waited is being archived")
        except LinacError as error:
            self._trouble = True
            self.say(f"ATTENTION, not archived: {error} Recording goes on; what is recorded waits in the spool.")
        except Exception as error:  # a fault of ours: the journal keeps everything, and others can be archived
            self.say(f"unexpected {type(error).__name__} while archiving ({where_raised(error)})")
        for warning in self._archiver.warnings:
            self.say(warning)


def show_status(options: argparse.Namespace) -> int:
    """Print what the listeners do. Exit code 0 if all run, are connected, write what comes, and it is archived; else 1."""
    root = Path(options.spool)
    serials = [options.serial] if options.serial else sorted(path.parent.name for path in root.glob("*/status.json"))
    code = _show(root, serials)
    if options.watch and serials and code != listener.EXIT_SETUP:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(root, serials)
    return code


def _follow(root: Path, serials: list[str]) -> None:
    """Print the listeners' log lines as they come, and now and then how things stand."""
    ends = {serial: _size(Spool(root, serial).log) for serial in serials}
    due = time.monotonic() + TELL_SECONDS
    while True:
        for serial, end in ends.items():
            lines, ends[serial] = _new_lines(Spool(root, serial).log, end)
            sys.stdout.writelines(f"linac {serial}: {line}\n" for line in lines)
        if time.monotonic() >= due:
            due = time.monotonic() + TELL_SECONDS
            for serial in serials:
                status = control.status(root, serial)
                if status is not None:
                    sys.stdout.write(
                        f"linac {serial}: {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {status.state}, {status.messages} messages, "
                        f"{_losses(status)}, {status.backlog_bytes / 1e6:.1f} MB not yet archived"
                        f"{', ATTENTION: not archived, ' + status.archive_trouble if status.archive_trouble else ''}\n"
                    )
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _new_lines(path: Path, start: int) -> tuple[list[str], int]:
    """Whole lines of a log from a byte on, and where to go on; a log that was put aside is read from its beginning."""
    if _size(path) < start:
        start = 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(1 << 20)
    except OSError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="backslashreplace").splitlines(), start + len(whole)


def _show(root: Path, serials: list[str]) -> int:
    good = bool(serials)
    if not serials:
        sys.stdout.write(f"no listener has run with the spool {root}\n")
    try:
        for serial in serials:
            status = control.status(root, serial)
            if status is None:
                sys.stdout.write(f"linac {serial}: no listener has run with the spool {root}\n")
                good = False
                continue
            good = good and status.running and status.connected and not _loses(status)
            sys.stdout.write("\n".join([*_lines(status), _sessions(root, serial)]) + "\n")
    except LinacError as error:
        sys.stderr.write(f"{error}\n")
        return listener.EXIT_SETUP
    return 0 if good else 1


def _sessions(root: Path, serial: str) -> str:
    """What was archived of late, and the gaps in it."""
    from linac.capture.archive import sessions
    from linac.capture.ledger import ARCHIVED, SET_ASIDE
    from linac.capture.sessions import told_gaps

    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    lately = [line for line in sessions(root, serial) if line.recorded >= since and line.outcome in (ARCHIVED, SET_ASIDE)]
    aside = sum(line.outcome == SET_ASIDE for line in lately)
    gaps, missing = sum(line.gaps for line in lately), sum(line.missing for line in lately)
    told = told_gaps(gaps, missing, at_least=any(line.at_least for line in lately))
    text = f"  sessions         {len(lately)} archived in the last 24 h"
    return text + (f", {aside} of them set aside" if aside else "") + f", in them {told}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _losses(status: Status) -> str:
    return f"{status.gaps} {'loss' if status.gaps == 1 else 'losses'}"


def _loses(status: Status) -> bool:
    """Whether something is being lost now or will be, if nobody does anything."""
    return bool(status.losing or status.archive_trouble or status.age_seconds > STALLED_SECONDS)


def _stalled(status: Status) -> str:
    return (
        f"the listener has said nothing for {status.age_seconds:.0f} s: its spool's disk may be full, stalled or gone, or its "
        "computer overloaded; what is shown here is as old as that"
    )


def _when(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "never"


def _lines(status: Status) -> list[str]:
    doing = status.state if status.running else "not running"
    reconnects = _counted(status.reconnects, "reconnect")
    lines = [
        f"linac {status.serial} at {status.address} port {status.port}: {doing}",
        f"  connected since  {_when(status.connected_since) if status.connected else 'not connected'}",
        f"  messages         {status.messages}, the last {_when(status.last_message)}",
        f"  losses           {status.gaps} since this listener took over ({reconnects}, {status.dropped_bytes} bytes dropped)",
        f"  interruptions    {told_interruptions(status.lately())}",
        f"  journal          {status.journal_bytes / 1e6:.1f} MB, {status.backlog_bytes / 1e6:.1f} MB of it not yet archived",
        f"  last said        {_when(status.written)}",
    ]
    if status.losing:
        waits, lost = status.waiting_bytes / 1e6, status.dropped_bytes / 1e6
        lines.append(f"  not written      {waits:.2f} MB wait in memory, {lost:.2f} MB are lost")
    if status.running and status.age_seconds > STALLED_SECONDS:
        lines.append(f"  ATTENTION        {_stalled(status)}")
    if status.last_error and not status.connected:
        lines.append(f"  reason           {status.last_error}")
    if status.archive_trouble:
        lines.append(f"  ATTENTION        not archived since {_when(status.archive_trouble_since)}: {status.archive_trouble}")
    lines += [f"  ATTENTION        {finding}" for finding in status.findings]
    return lines
