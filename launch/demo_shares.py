"""The demo's SMB server, if Samba is installed: `python -m launch.demo_shares OUT SPOOL SERIAL`. The demo starts and ends it.

It is a process of its own so that nothing of a killed demo runs on: it ends when the demo has gone, with smbd, and has the demo's
listener end, too, which outlives all else on purpose.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from launch import ending
from launch.stack import write_json
from linac.capture import control
from linac.errors import LinacError, SetupError
from linac.simulator.samba import Samba, is_installed

SHARES = {"Backup": False, "records": True}
"""As on an NSS and on a hospital's server: the linac's backups can be read only, the records written."""


def main(arguments: list[str]) -> int:
    out, spool, serial = Path(arguments[0]), Path(arguments[1]), arguments[2]
    ending.end_in_order()
    with contextlib.ExitStack() as running:
        with contextlib.suppress(KeyboardInterrupt):
            write_json(place(out), _start(out, running))
            while not ending.asked():
                time.sleep(0.5)
        ending.end_undisturbed()
        with contextlib.suppress(LinacError):
            control.stop(spool, serial)
    return 0


def place(out: Path) -> Path:
    """The file that says how to reach the shares, for as long as it takes the demo to read it."""
    return out / "shares.json"


def _start(out: Path, running: contextlib.ExitStack) -> dict[str, str | int]:
    if not is_installed():
        return {"reason": "Samba is not installed"}
    os.umask(0o077)  # the password of the moment is in the file
    try:
        server = running.enter_context(Samba(out, SHARES))
    except SetupError as error:
        return {"reason": str(error).rstrip(".")}
    return {"port": server.port, "user": server.user, "password": server.password}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
