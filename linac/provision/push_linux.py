"""A Linux capture host over SSH: needs systemd, Python 3.11 or newer, and root, or sudo without a password."""

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from linac.errors import SetupError
from linac.provision.bundle import SUMS, zipped
from linac.provision.pushing import COMMAND_SECONDS, INSTALL_SECONDS, RUNNING, STARTING, STOPPED, Host, done, sums
from linac.provision.services import TOP, Services


class Linux:
    """Such a host. Raises `SetupError` where it is not fit for the listener."""

    def __init__(self, host: Host, what: Services, home: str) -> None:
        self.host, self.what, self.home = host, what, home
        self.become = self._look()

    def _look(self) -> str:
        """What commands that need root begin with."""
        wants = "command -v systemctl >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'"
        status, said = self.host.run(f"uname -s && id -u && {wants} && echo fit", COMMAND_SECONDS)
        words = said.split()
        if status or words[:1] != ["Linux"] or words[-1:] != ["fit"]:
            needs = "it needs Linux with systemd and Python 3.11 or newer"
            raise SetupError(f"The host is not fit for the listener: {needs}. It says: {said.strip()[-300:]}")
        if words[1] == "0":
            return ""
        status, said = self.host.run("sudo -n true", COMMAND_SECONDS)
        if status:
            raise SetupError(
                f"The account there may not install services: {said.strip()[-300:]} Allow it sudo without a password, or log in "
                "as root."
            )
        return "sudo -n "

    def service(self, serial: str) -> str:
        return f"icom-listening-{serial}.service"

    def found(self, files: Mapping[str, bytes]) -> dict[str, str]:  # noqa: ARG002
        status, said = self.host.run(f"cat {shlex.quote(self.home)}/{SUMS}", COMMAND_SECONDS)
        listed = sums(said) if status == 0 else {}
        if not listed:
            return {}
        check = f"cd {shlex.quote(self.home)} && LC_ALL=C sha256sum -c {SUMS} 2>/dev/null"
        status, said = self.host.run(check, COMMAND_SECONDS)
        if status not in (0, 1):  # no such program: its list is all there is
            return listed
        right = {line.removesuffix(": OK") for line in said.splitlines() if line.endswith(": OK")}
        return {name: digest if name in right else "" for name, digest in listed.items()}

    def in_use(self, name: str, running: Sequence[str]) -> bool:  # noqa: ARG002
        """No file is: the folder is replaced as a whole, and what runs keeps the old one."""
        return False

    def place(self, files: Mapping[str, bytes], changed: Sequence[str], gone: Sequence[str]) -> None:  # noqa: ARG002
        """Unpacked beside, then renamed, so that `home` is the old one or the new one, whole."""
        where = done(self.host, "mktemp -d", "A temporary folder").strip()
        if not re.fullmatch(r"/[\w./-]+", where):
            raise SetupError(
                f"The host's temporary folder {where!r} is not understood. Log in by hand and see what `mktemp -d` says."
            )
        with tempfile.TemporaryDirectory() as here:
            local = Path(here, "bundle.zip")
            local.write_bytes(zipped(files))
            self.host.put(local, f"{where}/bundle.zip")
        new, old, place = (shlex.quote(self.home + suffix) for suffix in (".new", ".old", ""))
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
            done(self.host, f"{self.become}sh -c {shlex.quote('set -e; ' + '; '.join(steps))}", "Unpacking the bundle")
        finally:
            self.host.run(f"rm -rf {where}", COMMAND_SECONDS)

    def install(self, password: str | None) -> str:  # noqa: ARG002
        return done(self.host, self._script("install"), "The installation", INSTALL_SECONDS)

    def state(self, serial: str) -> tuple[str, str]:
        status, said = self.host.run(f"systemctl is-active {self.service(serial)}", COMMAND_SECONDS)
        return (RUNNING if status == 0 else STARTING if said.split()[:1] == ["activating"] else STOPPED), said

    def status(self, serial: str) -> str:
        command = (
            f"cd {shlex.quote(self.home)}/program && python3 -B -m linac.icom status --serial {serial} --spool "
            f"{shlex.quote(self.what.spool)}"
        )
        return self.host.run(f"{self.become}sh -c {shlex.quote(command)}", COMMAND_SECONDS)[1]

    def uninstall(self, serial: str) -> str:
        return done(self.host, f"{self._script('uninstall')} {self.service(serial)}", "Removing the service", INSTALL_SECONDS)

    def _script(self, verb: str) -> str:
        return f"{self.become}sh {shlex.quote(self.home)}/services-{verb}.sh"
