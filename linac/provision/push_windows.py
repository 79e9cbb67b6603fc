r"""A Windows capture host over SSH: OpenSSH Server, a feature of Windows, and an account that is an administrator there.

Its login shell is cmd.exe, or PowerShell where somebody configured that; each command line here is one that cmd.exe gets as it
stands: no pipe and no `&&` in it, which PowerShell would take for its own, and nothing to quote but the bundle's folder. So what
is done there is done by batch files: those of the bundle, and one that puts its files in their places.

Files are uploaded into a folder of the account's own, by paths that begin at its profile, as sessions and file transfers both
do. From there they are copied, not moved: a moved file would keep that folder's rights, and the service's account could not read
it. Each is copied beside its place, then renamed. `SHA256SUMS.next.txt` tells meanwhile what is on its way: a file is known to be
right only where both lists agree, so that what breaks off is finished the next time. What is there is told by its size, not by
its checksum: certutil, Windows's own program for that, is one that virus scanners take for a burglar's tool.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath

from linac.errors import SetupError
from linac.provision.bundle import SUMS
from linac.provision.pushing import COMMAND_SECONDS, INSTALL_SECONDS, RUNNING, STARTING, STOPPED, Host, done, sums
from linac.provision.windows import check_password, place_files, service_name

STAGING = "linac-listener-push"
NEXT = "SHA256SUMS.next.txt"
UPLOAD_SECONDS = 900.0

_SHELL = "echo %OS%-$PSHOME"
"""cmd.exe says `Windows_NT-$PSHOME`, PowerShell `%OS%-C:\\Windows\\...`, a shell of Linux neither."""

_STATE = re.compile(r":\s*[245]\s+(START_PENDING|RUNNING|CONTINUE_PENDING)\b")
"""A state as `sc query` says it, in every language of Windows; the numbers are those of its winsvc.h."""

_FOLDER = re.compile(r"[a-z]:\\.*")
_FILE = re.compile(r"\d.*\s(\d+)\s+([a-z0-9._+-]+)\s*")
"""Lines of `dir`: ` Directory of C:\\x` and `11/29/2026  11:39 PM     6 b.py`, with words, date and time as in the host's
language."""


class Windows:
    """Such a host. Raises `SetupError` where it is none, or `home` a folder that no command line can name safely."""

    def __init__(self, host: Host, home: str) -> None:
        path = PureWindowsPath(home)
        if not path.is_absolute() or path.drive.startswith("\\") or re.search(r'["%<>|?*\x00-\x1f]', home):
            raise SetupError(f"{home!r} cannot be the bundle's folder: give one on a disk of that host, without \" and %.")
        self.host, self.home = host, str(path)
        _, said = host.run(_SHELL, COMMAND_SECONDS)
        self.powershell = "%OS%-" in said and ":\\" in said
        if not self.powershell and "Windows_NT" not in said:
            raise SetupError(
                f"The host is not fit for the listener: it needs Windows with OpenSSH Server. It says: {said.strip()[-300:]}"
            )

    def _line(self, command: str) -> str:
        """A command line of cmd.exe, for the shell that takes it."""
        return f'cmd.exe --% /d /s /c "{command}"' if self.powershell else command

    def _batch(self, name: str, *words: str) -> str:
        return self._line(" ".join([f'"{self.home}\\{name}"', "quiet", *words]))

    def service(self, serial: str) -> str:
        return service_name(serial)

    def found(self, files: Mapping[str, bytes]) -> dict[str, str]:
        (_, there), (status, coming) = (
            self.host.run(self._line(f'type "{self.home}\\{name}"'), COMMAND_SECONDS) for name in (SUMS, NEXT)
        )
        known = sums(there)
        if status == 0:
            known = dict(known.items() & sums(coming).items())
        if not known:
            return {}
        _, said = self.host.run(self._line(f'dir /s /-c /a:-d "{self.home}"'), COMMAND_SECONDS)
        sizes = self._sizes(said)
        if SUMS.lower() not in sizes:  # a listing that is not understood: the list is all there is
            return known

        def whole(name: str) -> bool:
            size = sizes.get(name.lower())
            return size is not None and (name not in files or size == len(files[name]))

        return {name: digest if whole(name) else "" for name, digest in known.items()}

    def _sizes(self, said: str) -> dict[str, int]:
        """The files of a listing of `home` and their bytes, as the bundle names them, in small letters.

        What stands before a folder below `home` is told by its depth alone: the host says it in its code page.
        """
        depth, sizes, below = len(PureWindowsPath(self.home).parts), dict[str, int](), ""
        for line in said.lower().splitlines():
            if folder := _FOLDER.search(line):
                below = "".join(f"{part}/" for part in folder[0].strip().split("\\")[depth:])
            elif file := _FILE.fullmatch(line):
                sizes[below + file[2]] = int(file[1])
        return sizes

    def in_use(self, name: str, running: Sequence[str]) -> bool:
        """Programs that run cannot be replaced on Windows, and modules that are still to be loaded must be those of the start."""
        own = tuple(f"{serial}_listening." for serial in running)
        return bool(running) and name.startswith(("python/", "program/", "nssm.exe", *own))

    def place(self, files: Mapping[str, bytes], changed: Sequence[str], gone: Sequence[str]) -> None:
        uploaded = {f"files/{name}": files[name] for name in (*changed, SUMS)}
        script = place_files([name for name in changed if name != SUMS], gone, SUMS, NEXT)
        self.host.put_all({**uploaded, "place.bat": script}, STAGING, UPLOAD_SECONDS)
        done(self.host, self._line(f'{STAGING}\\place.bat "{self.home}"'), "Putting the files in their places", INSTALL_SECONDS)
        self.host.run(self._line(f"rmdir /s /q {STAGING}"), COMMAND_SECONDS)

    def install(self, password: str | None) -> str:
        """The password goes by the session's input: it is on no command line of ours, and in no file."""
        words, given = ((), b"") if password is None else (("password",), f".{check_password(password)}\r\n".encode("ascii"))
        said = done(self.host, self._batch("services-install.bat", *words), "The installation", INSTALL_SECONDS, given)
        return said + done(self.host, self._batch("services-start.bat"), "Starting the services", INSTALL_SECONDS)

    def state(self, serial: str) -> tuple[str, str]:
        status, said = self.host.run(self._line(f"sc query {self.service(serial)}"), COMMAND_SECONDS)
        found = _STATE.search(said) if status == 0 else None
        return (STOPPED if found is None else RUNNING if found[1] == "RUNNING" else STARTING), said

    def status(self, serial: str) -> str:
        return self.host.run(self._batch("services-status.bat", self.service(serial)), COMMAND_SECONDS)[1]

    def uninstall(self, serial: str) -> str:
        return done(
            self.host, self._batch("services-uninstall.bat", self.service(serial)), "Removing the service", INSTALL_SECONDS
        )
