"""The listener's bundle put on a capture host over SSH: copied, installed, and seen to record; and taken away again.

    host = Gateway("capture.nbcc.example", 22, "physics", host_key="ssh-ed25519 AAAA...", key=Path("id_ed25519"))
    push(host, services, print)

Linux or Windows, as `services` says. Every step looks first at what is there: with the same bundle in place nothing is copied,
and what broke off half-way is finished by pushing again. A service that runs is never restarted here, since that ends a
recording: on Linux the host's own message says when to. On Windows, where the files of programs that run cannot be replaced,
those wait until somebody has stopped the services; what tells a running service its orders is not changed under it, but refused.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from linac.errors import SetupError, UnreachableError
from linac.provision.bundle import SUMS, bundle_files
from linac.provision.push_linux import Linux
from linac.provision.push_windows import Windows
from linac.provision.pushing import RUNNING, STARTING, Host, System
from linac.provision.services import LINUX_HOME, NSSM, WINDOWS_HOME, Services

WAIT_SECONDS = 60.0

START_SECONDS = 30.0
"""How long a service that was started may take until it runs, as the host tells it; Windows itself gives it as much."""

_PAUSE_SECONDS = 1.0

Say = Callable[[str], object]


@dataclass(frozen=True)
class Programs:
    """What a bundle for Windows holds of others: Python's embeddable zip and, unless the host has one already, nssm.exe."""

    embed: bytes | None = field(default=None, repr=False)
    nssm: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Pending:
    """What a push to a host would do, after a look at it: files by name, services by the serials of their linacs.

    `postponed`: files that cannot be replaced yet, with the checksums of what is there in their places.
    """

    home: str
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    stopped: tuple[str, ...]
    is_new: bool
    postponed: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.stopped)

    @property
    def told(self) -> str:
        """What happens to the files, in one line."""
        if not self.changed and not self.gone:
            return f"{self.home}: unchanged."
        removed = f", {len(self.gone)} removed" if self.gone else ""
        return f"{'copied' if self.is_new else 'updated'}, {len(self.changed)} files{removed}, in {self.home}"


def look(host: Host, what: Services, programs: Programs | None = None, *, home: str = "") -> Pending:
    """What `push` would do. It changes nothing. Raises as `push` does."""
    system, files = _prepared(host, what, programs, home)
    return _pending(system, files, what)


def push(
    host: Host,
    what: Services,
    say: Say,
    programs: Programs | None = None,
    *,
    home: str = "",
    password: str | None = None,
    wait_seconds: float | None = WAIT_SECONDS,
) -> None:
    """Install the listeners of `what` on `host`, below the folder `home` there, and wait until each has got messages.

    `say` is told each step, and what the host says. `password`: of the account `what.log_on`, on Windows; without one the account
    of the services stays as it is. `wait_seconds`: None to wait for nothing.

    Raises `SetupError` where the host is not fit for it or refuses a step, `UnreachableError` where no message comes within
    `wait_seconds`, and the errors of `host`.
    """
    system, files = _prepared(host, what, programs, home)
    say(_placed(system, files, _pending(system, files, what)))
    say(system.install(password if what.log_on else None).rstrip())
    for linac in what.linacs:
        _started(system, linac.serial)
        say(f"{system.service(linac.serial)}: runs.")
        if wait_seconds is not None:
            say(f"Linac {linac.serial}: {_messages(system, linac.serial, wait_seconds)} messages have arrived.")


def is_there(host: Host, what: Services, serial: str, *, home: str = "") -> bool:
    """Whether there is something of this linac to take away with `withdraw`."""
    system = _system(host, what, home)
    return _is_up(system, serial) or _holds(system, serial)


def withdraw(
    host: Host,
    what: Services,
    serial: str,
    say: Say,
    others: Services | None = None,
    programs: Programs | None = None,
    *,
    home: str = "",
) -> None:
    """Stop and remove the service of one linac. `what`: the services as pushed, `others`: those that stay there, if any.

    What was recorded stays, and so does the bundle's folder. Raises as `push` does.
    """
    system = _system(host, what, home)
    if _holds(system, serial):
        say(system.uninstall(serial).rstrip())
    elif _is_up(system, serial):
        raise SetupError(
            f"{system.service(serial)} runs on the host, but not from {system.home}: somebody else installed it. Have it "
            "uninstalled with the scripts that it was installed with."
        )
    if others is not None:
        files = _files(others, programs, system.home)
        say(_placed(system, files, _pending(system, files, others)))


def _holds(system: System, serial: str) -> bool:
    """Whether the bundle there has this linac's service in it."""
    own = (f"{serial}_listening.", f"icom-listening-{serial}.")
    return any(name.startswith(own) for name in system.found({}))


def _system(host: Host, what: Services, home: str) -> System:
    return Windows(host, home or WINDOWS_HOME) if what.kind == NSSM else Linux(host, what, home or LINUX_HOME)


def _prepared(host: Host, what: Services, programs: Programs | None, home: str) -> tuple[System, dict[str, bytes]]:
    files = _files(what, programs, home or LINUX_HOME)  # first: without its parts nobody need be asked
    return _system(host, what, home), files


def _files(what: Services, programs: Programs | None, home: str) -> dict[str, bytes]:
    programs = programs or Programs()
    return bundle_files(what, programs.embed, programs.nssm, home=home)


def _pending(system: System, files: Mapping[str, bytes], what: Services) -> Pending:
    """Compares. Raises `SetupError` where the orders of a service that runs shall change."""
    there = system.found(files)
    differ = (name for name, data in files.items() if there.get(name) != hashlib.sha256(data).hexdigest())
    changed = tuple(name for name in differ if name != SUMS)
    gone = tuple(sorted(set(there) - set(files)))
    states = {linac.serial: system.state(linac.serial)[0] for linac in what.linacs}
    running = [serial for serial, state in states.items() if state in (RUNNING, STARTING)]
    held = [name for name in (*changed, *gone) if system.in_use(name, running)]
    orders = next((name for name in held if "_listening." in name), None)
    if orders is not None:
        raise SetupError(
            f"{system.home} on the host: {orders} changes, but the service of linac {orders.partition('_listening.')[0]} runs, "
            "and uses it. Run services-stop.bat there when no patient is being treated, then push again."
        )
    stopped = tuple(serial for serial, state in states.items() if state != RUNNING)
    now, going = (tuple(name for name in names if name not in held) for names in (changed, gone))
    return Pending(system.home, now, going, stopped, not there, {name: there.get(name, "") for name in held})


def _placed(system: System, files: Mapping[str, bytes], pending: Pending) -> str:
    """Bring the folder to `files`, as far as nothing is in use; what was done. Its list tells what lies there then."""
    if pending.changed or pending.gone:
        new = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != SUMS}
        there = {**new, **pending.postponed}
        listed = "".join(f"{digest} *{name}\n" for name, digest in sorted(there.items()) if digest)
        system.place({**files, SUMS: listed.encode()}, pending.changed, pending.gone)
    if not pending.postponed:
        return pending.told
    return (
        f"{pending.told}. {len(pending.postponed)} files of the program wait, as services that run use them: when no patient is "
        "being treated run services-stop.bat there, then push again."
    )


def _is_up(system: System, serial: str) -> bool:
    return system.state(serial)[0] in (RUNNING, STARTING)


def _started(system: System, serial: str) -> None:
    """Wait until its service runs: one that has just been started may still be on its way."""
    until = time.monotonic() + START_SECONDS
    while True:
        state, said = system.state(serial)
        if state == RUNNING:
            return
        if time.monotonic() >= until:
            raise SetupError(
                f"The service {system.service(serial)} is installed, but does not run after {START_SECONDS:.0f} s. The host "
                f"says: {' '.join(said.split())[-300:] or 'nothing'}. Look at its log on the host, then push again."
            )
        time.sleep(_PAUSE_SECONDS)


def _messages(system: System, serial: str, wait_seconds: float) -> int:
    """How many messages the listener there has got, once it has got some."""
    until = time.monotonic() + wait_seconds
    while True:
        said = system.status(serial)
        found = re.search(r"^\s*messages\s+(\d+)", said, re.M)
        if found and int(found[1]):
            return int(found[1])
        if time.monotonic() >= until:
            raise UnreachableError(
                f"Linac {serial}: its listener is installed, but no message has come within {wait_seconds:.0f} s. It says: "
                f"{said.strip()[-600:]}"
            )
        time.sleep(_PAUSE_SECONDS)
