"""systemd units for listeners or a Prefect worker, with a script that installs them.

>>> from linac.provision.services import Listening, Services
>>> files = systemd_files(Services("systemd", (Listening("4299", "192.168.17.40"),), "/mnt/nbcc-records"))
>>> sorted(files)
['icom-listening-4299.service', 'services-install.sh', 'services-start.sh', 'services-stop.sh', 'services-uninstall.sh']
>>> print(*[line for line in files["icom-listening-4299.service"].decode().splitlines() if "Paths" in line], sep=chr(10))
ReadWritePaths=-/mnt/nbcc-records/iCom
ReadWritePaths=/var/lib/linac-flows/spool

`KillMode=process`: a stop tells the program itself, which ends its listener's connection in order; the other processes of the
unit are left alone. So a worker's unit does not take the listeners along that its flows started, and a listener goes on when
the program that watches it is killed; the next start adopts it. The records folder may be away at the start (`-`): a share
mounted later is seen.
"""

import ipaddress
import shlex
from pathlib import PurePosixPath

from linac.provision.services import RESTART_SECONDS, RESTART_WORKER_SECONDS, STOP_SECONDS, Services, Worker

SANDBOX: tuple[tuple[str, str], ...] = (
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    ("ProtectSystem", "strict"),
    ("ProtectProc", "invisible"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("PrivateDevices", "yes"),
    ("PrivateTmp", "yes"),
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),  # AF_UNIX: the lock on a linac's address is a name there
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("LockPersonality", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("UMask", "0027"),
)
"""What neither program needs. `RemoveIPC` is not among them: it would follow the account, not the unit."""

_HOMES = ("/home", "/root", "/run/user")


def systemd_files(what: Services | Worker) -> dict[str, bytes]:
    """The units and the scripts, by name."""
    units: dict[str, str] = {}
    if isinstance(what, Services):
        for linac in what.linacs:
            units[f"icom-listening-{linac.serial}.service"] = _listener(what, linac.serial, linac.address, what.listen(linac))
    else:
        units["linac-flows-worker.service"] = _worker(what)
    files = {name: text.encode() for name, text in units.items()}
    return files | {name: text.encode() for name, text in _scripts(sorted(units), what).items()}


def quoted(text: str) -> str:
    r"""A word of a unit's command line: systemd gives the program `text` back.

    >>> quoted("4299"), quoted('/mnt/100% "new" $records')
    ('4299', '"/mnt/100%% \\"new\\" $$records"')
    """
    special = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = text.replace("/", "").replace(".", "").replace("-", "").replace("_", "").replace(":", "")
    return special if plain.isascii() and plain.isalnum() else f'"{special}"'


def _path(text: str) -> str:
    """A path in a list of paths: `$` means nothing there. `-` before it says that it need not be there."""
    return quoted(text).replace("$$", "$")


def _unit(about: str, wants: list[str], service: list[str], what: Services | Worker, writable: list[str], used: list[str]) -> str:
    inside = any(PurePosixPath(path).is_relative_to(home) for path in used for home in _HOMES)
    lines = [
        '# Made by "python -m linac.provision services"; run that again rather than change it. `systemctl edit` adds your own.',
        "[Unit]",
        f"Description={about}",
        *wants,
        "",
        "[Service]",
        *service,
        f"User={what.log_on}",
        "Restart=always",
        "KillMode=process",
        "",
        *(f"{name}={value}" for name, value in SANDBOX),
        f"ProtectHome={'read-only' if inside else 'yes'}",
        *(f"ReadWritePaths={_path(path)}" for path in writable),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _listener(what: Services, serial: str, address: str, arguments: list[str]) -> str:
    command = [f"{what.python}/python3", "-X", "utf8", "-m", "linac.icom", *arguments]
    service = [
        "Type=exec",
        f"ExecStart={' '.join(quoted(word) for word in command)}",
        *([f"Environment={_path('PYTHONPATH=' + what.program)}"] if what.program else []),
        "WorkingDirectory=/",
        f"RestartSec={RESTART_SECONDS}",
        f"TimeoutStopSec={STOP_SECONDS}",
        "Nice=-5",  # before the rest of the computer: it needs next to nothing, but then at once
        "OOMScoreAdjust=-500",
        "MemoryDenyWriteExecute=yes",
        *_only(address),
    ]
    wants = ["Wants=network-online.target", "After=network-online.target remote-fs.target"]
    about = f"Records the iCom stream of linac {serial} at {address}"
    return _unit(
        about, wants, service, what, ["-" + what.icom, what.spool], [what.python, what.program or "/", what.icom, what.spool]
    )


def _only(address: str) -> list[str]:
    """It speaks to the linac alone (a mounted share is the kernel's matter). A name would need the name server, too."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return []
    return ["IPAddressDeny=any", f"IPAddressAllow={address}"]


def _worker(what: Worker) -> str:
    home = "/var/lib/linac-flows"
    command = [f"{what.python}/python3", "-m", "prefect", "worker", "start", "--type", "process", "--pool", what.pool]
    service = [
        "Type=exec",
        f"ExecStart={' '.join(quoted(word) for word in command)}",
        f"WorkingDirectory={what.project.replace('%', '%%')}",
        f"Environment=PREFECT_API_URL={what.api_url} PREFECT_HOME={home}/prefect PYTHONUTF8=1",
        "# A server with a login wants PREFECT_API_AUTH_STRING=...: root writes it there, readable by root alone.",
        "EnvironmentFile=-/etc/linac-flows/worker.env",
        "StateDirectory=linac-flows",
        f"RestartSec={RESTART_WORKER_SECONDS}",
        f"TimeoutStopSec={STOP_SECONDS}",
    ]
    wants = ["Wants=network-online.target", "After=network-online.target remote-fs.target"]
    records = ["-" + what.records] if what.records else []
    used = [what.python, what.project, what.spool, *([what.records] if what.records else [])]
    about = f"Prefect worker of linac-flows for the work pool {what.pool}".replace("%", "%%")
    return _unit(about, wants, service, what, [*records, what.spool, home], used)


def _seen(what: Services) -> str:
    """The records folder must be there, and is not made: an empty folder where a share should be mounted would fill instead."""
    told = f"ATTENTION: there is no folder {what.icom}. Mount its share; or make it, then restart the service."
    return f"if [ ! -d {shlex.quote(what.icom)} ]; then echo {shlex.quote(told)}; fi"


def _scripts(units: list[str], what: Services | Worker) -> dict[str, str]:
    """Shell scripts beside the units, for root. Each can be run again."""
    names = " ".join(units)
    user, spool = shlex.quote(what.log_on), shlex.quote(what.spool)
    owned = f'install -d -o {user} -g "$(id -gn {user})" -m 0750'
    state = [] if isinstance(what, Services) else [f"{owned} /var/lib/linac-flows /var/lib/linac-flows/prefect"]
    begin = ["#!/bin/sh", "set -eu", 'cd "$(dirname "$0")"', 'units="${SYSTEMD_UNITS:-/etc/systemd/system}"']
    root = ['if [ "$(id -u)" != 0 ]; then echo "This needs root: run it with sudo." >&2; exit 5; fi']
    install = [
        *begin,
        "# Installs these units, or brings installed ones up to date, and starts what does not run yet. Can be run again.",
        *root,
        f"if ! getent passwd {user} >/dev/null; then",
        f"  useradd --system --user-group --home-dir / --no-create-home --shell /usr/sbin/nologin {user}",
        "fi",
        f"{owned} {spool}",
        *state,
        f"for unit in {names}; do",
        '  if cmp -s "$unit" "$units/$unit"; then echo "$unit: unchanged"; continue; fi',
        '  install -m 0644 "$unit" "$units/.$unit.new"',
        '  mv -f "$units/.$unit.new" "$units/$unit"',
        '  if systemctl --quiet is-active "$unit"; then',
        '    echo "$unit: updated. What runs goes on as before; when no patient is being treated: systemctl restart $unit"',
        '  else echo "$unit: installed"; fi',
        "done",
        "systemctl daemon-reload",
        f"systemctl enable --now {names}",
        *([_seen(what)] if isinstance(what, Services) else []),
    ]
    uninstall = [
        *begin,
        "# Stops and removes these units, or those named behind it. What they recorded stays, in spool and records folder.",
        *root,
        f"[ $# -gt 0 ] || set -- {names}",
        'for unit in "$@"; do',
        '  if [ ! -e "$units/$unit" ]; then echo "$unit: is not installed"; continue; fi',
        '  systemctl disable --now "$unit"',
        '  rm -f "$units/$unit"',
        '  echo "$unit: removed"',
        "done",
        "systemctl daemon-reload",
    ]
    short = {verb: "\n".join([*begin, *root, f"systemctl {verb} {names}"]) + "\n" for verb in ("start", "stop")}
    return {
        "services-install.sh": "\n".join(install) + "\n",
        "services-uninstall.sh": "\n".join(uninstall) + "\n",
        **{f"services-{verb}.sh": text for verb, text in short.items()},
    }
