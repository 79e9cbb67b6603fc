"""The listener's bundle put on a Linux capture host over SSH: copied, installed, and seen to record.

    push(Gateway("capture.nbcc.example", 22, "physics", host_key="ssh-ed25519 AAAA...", key=Path("id_ed25519")), services, print)

The account there is root or may use sudo without a password. Every step looks first at what is there: with the same bundle in
place nothing is copied, and what broke off half-way is finished by pushing again. A service that runs is never restarted here,
since that ends a recording; the host's own message says when to. It does not push to Windows, where the files of programs that
run cannot be replaced: there the bundle is copied and installed by hand, as its README says.
"""

import re
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from linac.errors import SetupError, UnreachableError
from linac.provision.bundle import SUMS, bundle_files, zipped
from linac.provision.services import LINUX_HOME, SYSTEMD, TOP, Services

COMMAND_SECONDS = 60.0
INSTALL_SECONDS = 180.0
WAIT_SECONDS = 60.0
_PAUSE_SECONDS = 1.0

Say = Callable[[str], object]


class Host(Protocol):
    """What `linac.transport.ssh.Gateway` offers: a command line's exit status and output, and a file copied whole."""

    def run(self, command: str, timeout: float = ...) -> tuple[int, str]: ...

    def put(self, local: Path, remote: str, timeout: float = ...) -> None: ...


def push(host: Host, what: Services, say: Say, *, home: str = LINUX_HOME, wait_seconds: float = WAIT_SECONDS) -> None:
    """Install the listeners of `what` on `host`, below the folder `home` there, and wait until each has got messages.

    `say` is told each step, and what the host says. Raises `SetupError` where the host is not fit for it or refuses a step,
    `UnreachableError` where no message comes within `wait_seconds`, and the errors of `host`.
    """
    if what.kind != SYSTEMD:
        raise SetupError("Only a Linux host can be pushed to. On Windows copy the bundle's zip and do what its README says.")
    files = bundle_files(what, home=home)
    become = _look(host)
    status, there = host.run(f"cat {shlex.quote(home)}/{SUMS}", COMMAND_SECONDS)
    if status == 0 and there.split() == files[SUMS].decode().split():
        say(f"{home}: unchanged.")
    else:
        _unpack(host, files, home, become)
        say(f"{home}: {'updated' if status == 0 else 'copied'}, {len(files)} files.")
    say(_done(host, f"{become}sh {shlex.quote(home)}/services-install.sh", "The installation", INSTALL_SECONDS).rstrip())
    for linac in what.linacs:
        unit = f"icom-listening-{linac.serial}.service"
        _done(host, f"systemctl is-active {unit}", f"The service {unit} does not run: it")
        say(f"{unit}: runs.")
        say(f"Linac {linac.serial}: {_messages(host, what, linac.serial, home, become, wait_seconds)} messages have arrived.")


def _look(host: Host) -> str:
    """What commands that need root begin with. Raises `SetupError` where this is no Linux with Python and systemd."""
    wants = "command -v systemctl >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'"
    status, said = host.run(f"uname -s && id -u && {wants} && echo fit", COMMAND_SECONDS)
    words = said.split()
    if status or words[:1] != ["Linux"] or words[-1:] != ["fit"]:
        needs = "it needs Linux with systemd and Python 3.11 or newer"
        raise SetupError(f"The host is not fit for the listener: {needs}. It says: {said.strip()[-300:]}")
    if words[1] == "0":
        return ""
    status, said = host.run("sudo -n true", COMMAND_SECONDS)
    if status:
        raise SetupError(
            f"The account there may not install services: {said.strip()[-300:]} Allow it sudo without a password, or log in as "
            "root."
        )
    return "sudo -n "


def _unpack(host: Host, files: dict[str, bytes], home: str, become: str) -> None:
    """Copy the bundle and put it in place: unpacked beside, then renamed, so that `home` is the old one or the new one, whole."""
    where = _done(host, "mktemp -d", "A temporary folder").strip()
    if not re.fullmatch(r"/[\w./-]+", where):
        raise SetupError(
            f"The host's temporary folder {where!r} is not understood. Log in by hand and see what `mktemp -d` says."
        )
    with tempfile.TemporaryDirectory() as here:
        local = Path(here, "bundle.zip")
        local.write_bytes(zipped(files))
        host.put(local, f"{where}/bundle.zip")
    new, old, place = (shlex.quote(home + suffix) for suffix in (".new", ".old", ""))
    steps = [
        f"rm -rf {new} {old}",
        f"mkdir -p {new}",
        f"python3 -m zipfile -e {where}/bundle.zip {new}",
        f"if [ -e {place} ]; then mv {place} {old}; fi",
        f"mv {new}/{TOP} {place}",
        f"chmod -R u=rwX,go=rX {place}",
        f"rm -rf {new} {old}",
    ]
    try:
        _done(host, f"{become}sh -c {shlex.quote('set -e; ' + '; '.join(steps))}", "Unpacking the bundle")
    finally:
        host.run(f"rm -rf {where}", COMMAND_SECONDS)


def _messages(host: Host, what: Services, serial: str, home: str, become: str, wait_seconds: float) -> int:
    """How many messages the listener there has got, once it has got some."""
    command = (
        f"cd {shlex.quote(home)}/program && python3 -B -m linac.icom status --serial {serial} --spool {shlex.quote(what.spool)}"
    )
    until = time.monotonic() + wait_seconds
    while True:
        _, said = host.run(f"{become}sh -c {shlex.quote(command)}", COMMAND_SECONDS)
        found = re.search(r"^\s*messages\s+(\d+)", said, re.M)
        if found and int(found[1]):
            return int(found[1])
        if time.monotonic() >= until:
            raise UnreachableError(
                f"Linac {serial}: its listener is installed, but no message has come within {wait_seconds:.0f} s. It says: "
                f"{said.strip()[-600:]}"
            )
        time.sleep(_PAUSE_SECONDS)


def _done(host: Host, command: str, what: str, timeout: float = COMMAND_SECONDS) -> str:
    """The output of a command that must succeed. Raises `SetupError` with what it said."""
    status, said = host.run(command, timeout)
    if status:
        raise SetupError(f"{what} failed on the host (exit code {status}): {said.strip()[-600:]} Mend that, then push again.")
    return said
