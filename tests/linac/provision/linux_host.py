"""A Linux capture host for tests: a real sshd. Stood in: systemctl, and what makes accounts."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from linac.capture import control
from linac.simulator.sshd import SshServer
from linac.transport.ssh import Gateway

# `enable --now` starts what the unit says, as systemd would; `is-active` looks whether it still runs.
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$LAB/calls"
case "$1 $2" in
  "enable --now") shift 2
    for unit in "$@"; do
      [ -e "$LAB/$unit.pid" ] && kill -0 "$(cat "$LAB/$unit.pid")" 2>/dev/null && continue
      path="$(sed -n 's/^Environment="*PYTHONPATH=\\([^"]*\\)"*$/\\1/p' "$SYSTEMD_UNITS/$unit")"
      line="$(sed -n 's/^ExecStart=//p' "$SYSTEMD_UNITS/$unit")"
      PYTHONPATH="$path" sh -c "exec $line" >"$LAB/$unit.log" 2>&1 </dev/null &
      echo $! >"$LAB/$unit.pid"
    done ;;
  "disable --now") [ -e "$LAB/$3.pid" ] && kill "$(cat "$LAB/$3.pid")" && rm "$LAB/$3.pid" || true ;;
  "is-active "*) kill -0 "$(cat "$LAB/$2.pid")" 2>/dev/null && echo active || { echo failed; exit 3; } ;;
  "--quiet is-active") [ -e "$LAB/$3.pid" ] && kill -0 "$(cat "$LAB/$3.pid")" 2>/dev/null ;;
esac
"""
INSTALL = '#!/bin/sh\ncase "$1" in -d) mkdir -p "$7" ;; *) exec /usr/bin/install "$@" ;; esac\n'


@contextlib.contextmanager
def linux_host(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """An sshd whose sessions see our stand-ins, with places of its own for units, spool and records."""
    tools, units, icom = tmp_path / "tools", tmp_path / "units", tmp_path / "records" / "iCom"
    for folder in (tools, units, icom):
        folder.mkdir(parents=True)
    quiet = "#!/bin/sh\nexit 0\n"
    for name, text in {"systemctl": SYSTEMCTL, "install": INSTALL, "useradd": quiet, "getent": quiet}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tools / "id").write_text('#!/bin/sh\n[ "$1" = -u ] && echo 0 || echo staff\n')
    (tools / "id").chmod(0o755)
    (tools / "python3").symlink_to(sys.executable)
    where = f"PATH={tools}:/usr/bin:/bin LAB={tmp_path} SYSTEMD_UNITS={units}"
    with SshServer(tmp_path / "sshd", {"SetEnv": where}) as server:
        gateway = Gateway(server.host, server.port, server.user, server.host_key, key=server.key_file)
        yield SimpleNamespace(
            top=tmp_path, server=server, gateway=gateway, home=str(tmp_path / "opt"), spool=tmp_path / "spool", units=units
        )
    for path in tmp_path.glob("*.pid"):
        end(int(path.read_text()))
    for path in (tmp_path / "spool").glob("*"):
        control.stop(tmp_path / "spool", path.name, 30)


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
