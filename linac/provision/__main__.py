"""`python -m linac.provision`: service files, PyMedPhys's config.toml and the listener's bundle, for IT to read and to install.

Each command shows what it changes, file by file; `--dry-run` stops there. Run again with the same answers it changes nothing.
"""

import argparse
import getpass
import io
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from linac.capture.connection import ICOM_PORT
from linac.errors import LinacError, SetupError
from linac.provision import Plan, bundle, config, plan, service_files
from linac.provision.services import DEFAULTS, KINDS, NSSM, SYSTEMD, Listening, Services, Worker
from linac.transport.paths import Folder, LocalFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 not done and told why, 2 the command line is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m linac.provision", description="Files that IT needs for a linac. Only push installs anything."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_services(commands)
    _add_config(commands)
    _add_bundle(commands)
    _add_push(commands)
    chosen = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a console may lack letters that a path has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(chosen.run(chosen))
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1


def _add_linacs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--serial", help="the linac's serial, or another unique name that never changes, for example 4299")
    command.add_argument("--address", help="the Hospital DNS IP address of its NSS, for example 192.168.17.40")
    command.add_argument("--port", type=int, default=ICOM_PORT, help="the iCom port (%(default)s on every real linac)")
    command.add_argument(
        "--linac", action="append", default=[], metavar="SERIAL=ADDRESS", help="one more linac of this server; may be repeated"
    )
    command.add_argument("--records", metavar="PATH", help="the records folder: live/ and patients/ appear in its folder iCom")
    command.add_argument(
        "--spool", default="", metavar="DIR", help=f"folder on a local disk of that server ({_default('spool')})"
    )
    command.add_argument(
        "--log-on",
        default="",
        metavar="ACCOUNT",
        help="the account that runs the services. Windows: services-install.bat then asks for its password only, else for its "
        "name as well; Linux: linac-flows, unless another is given",
    )


def _default(name: str) -> str:
    return f"Windows: {DEFAULTS[NSSM][name]}; Linux: {DEFAULTS[SYSTEMD][name]}"


def _linacs(chosen: argparse.Namespace) -> tuple[Listening, ...]:
    found = []
    if (chosen.serial is None) != (chosen.address is None):
        raise SetupError("--serial and --address belong together: give both, or --linac SERIAL=ADDRESS.")
    if chosen.serial is not None:
        found.append(Listening(chosen.serial, chosen.address, chosen.port))
    for text in chosen.linac:
        serial, separator, address = text.partition("=")
        if not separator:
            raise SetupError(f"--linac {text} is not understood. Write SERIAL=ADDRESS, for example --linac 4299=192.168.17.40.")
        found.append(Listening(serial.strip(), address.strip(), chosen.port))
    return tuple(found)


def _listeners(chosen: argparse.Namespace, python: str = "") -> Services:
    if not chosen.records:
        raise SetupError(r"Say where the records are kept, for example --records \\server\physics\DataExchange.")
    return Services(chosen.kind, _linacs(chosen), chosen.records, chosen.spool, python, chosen.log_on)


def _folder(path: str) -> LocalFolder:
    return LocalFolder(Path(path).absolute())


def _add_services(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("services", help="service files for the listeners of a server, or for a Prefect worker")
    command.add_argument("--kind", required=True, choices=KINDS, help="nssm: Windows services by NSSM; systemd: Linux")
    command.add_argument(
        "--out", required=True, metavar="DIR", help="folder to write the files to; on the server they lie in the bundle's folder"
    )
    command.add_argument("--for", dest="purpose", choices=("listener", "worker"), default="listener", help="(%(default)s)")
    _add_linacs(command)
    command.add_argument(
        "--python",
        default="",
        metavar="DIR",
        help=f"folder of the Python to use, there (as in a bundle, whose folder the files then go into: {_default('python')}; "
        "a worker: the project's .venv)",
    )
    command.add_argument("--project", metavar="DIR", help="worker: this project's folder there, for example C:\\linac-flows")
    command.add_argument("--api-url", default="http://127.0.0.1:4200/api", help="worker: the Prefect server (%(default)s)")
    command.add_argument("--pool", default="linac-flows", help="worker: its work pool (%(default)s)")
    _add_dry_run(command)
    command.set_defaults(run=_services)


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="show what would be changed, and change nothing")


def _services(chosen: argparse.Namespace) -> int:
    what: Services | Worker
    if chosen.purpose == "worker":
        if not chosen.project:
            raise SetupError("A worker needs this project's folder on its computer: --project C:\\linac-flows.")
        what = Worker(
            chosen.kind,
            chosen.project,
            chosen.api_url,
            chosen.pool,
            chosen.records or "",
            chosen.spool,
            chosen.python,
            chosen.log_on,
        )
    else:
        what = _listeners(chosen, chosen.python)
    return _carry_out(plan(_folder(chosen.out), service_files(what)), chosen.dry_run)


def _carry_out(made: Plan, dry_run: bool, *, diffs: bool = True, file: str = "") -> int:
    """Show the plan; write it unless it is only to be shown. `file`: the one file that it is about, if it is one."""
    place = str(Path(made.folder.location, file))
    print(made.text(diffs=diffs), end="")
    if not made.changed:
        return 0
    if dry_run:
        print(f"\n{place}: this is what would be changed; nothing was.")
        return 0
    made.folder.make_root()
    made.apply()
    print(f"\n{place}: written.")
    return 0


def _add_config(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("config", help="enter a linac in PyMedPhys's config.toml, or remove it")
    command.add_argument("--file", required=True, metavar="PATH", help="the config.toml, or the folder that it is in")
    command.add_argument("--site", help="the site's name in that file, for example nbcc")
    command.add_argument("--serial", required=True, help="the linac's serial, for example 4299")
    command.add_argument("--address", help="the Hospital DNS IP address of its NSS, for example 192.168.17.40")
    command.add_argument("--samba-address", default="", help="address where the NSS's share is reached, if it is another one")
    command.add_argument(
        "--energies",
        nargs="*",
        default=[],
        metavar="ENERGY",
        help='its energies, as in --energies 6,10,15 or --energies 6 "10 FFF"',
    )
    command.add_argument("--iview-alias", default="", help="what iView calls the linac, for example 4299_iView")
    command.add_argument("--icom-dir", default="", metavar="DIR", help="the site's folder of recorded patients (iCom/patients)")
    command.add_argument("--icom-live-dir", default="", metavar="DIR", help="the site's folder of live messages (iCom/live)")
    command.add_argument("--iview-dir", default="", metavar="DIR", help="the site's iView database folder")
    command.add_argument("--patients-dir", default="", metavar="DIR", help="a folder to add to [icom] patient_directories")
    command.add_argument("--trf-dir", default="", metavar="DIR", help="[trf_logfiles] root_directory, the same for all sites")
    command.add_argument("--mosaiq-host", default="", help="the site's Mosaiq server")
    command.add_argument("--mosaiq-port", type=int, default=0, help="its port")
    command.add_argument("--mosaiq-alias", default="", help="what the apps call it")
    command.add_argument("--time-zone", default="", help="the site's time zone, for example Australia/Sydney")
    command.add_argument("--remove", action="store_true", help="remove the linac instead; its site stays")
    _add_dry_run(command)
    command.set_defaults(run=_config)


def _config(chosen: argparse.Namespace) -> int:
    path = Path(chosen.file).absolute()
    path = path / config.NAME if path.is_dir() else path
    folder: Folder = LocalFolder(path.parent)
    if chosen.remove:

        def made(text: str) -> config.Change:
            return config.remove(text, chosen.serial)

    else:
        if not chosen.site or not chosen.address:
            raise SetupError("Give the linac's --site and its --address (or --remove).")
        mosaiq = {
            "hostname": chosen.mosaiq_host,
            "port": chosen.mosaiq_port,
            "timezone": chosen.time_zone,
            "alias": chosen.mosaiq_alias,
        }
        entry = config.Entry(
            site=chosen.site,
            serial=chosen.serial,
            address=chosen.address,
            samba_address=chosen.samba_address,
            energies=tuple(part.strip() for part in ",".join(chosen.energies).split(",") if part.strip()),
            iview_alias=chosen.iview_alias,
            icom=chosen.icom_dir,
            icom_live=chosen.icom_live_dir,
            iview=chosen.iview_dir,
            patients=chosen.patients_dir,
            trf=chosen.trf_dir,
            mosaiq={key: value for key, value in mosaiq.items() if value},
        )

        def made(text: str) -> config.Change:
            return config.update(text, entry)

    change = made(config.read(folder, path.name))
    if not change.changed:
        print(f"{path}: unchanged.")
        return 0
    folder, name = config.writable(folder, path.name)
    path = Path(folder.location, name)  # where a link leads
    print(change.diff)
    if chosen.dry_run:
        print(f"\n{path}: this is what would be changed; nothing was.")
        return 0
    backup = config.write(folder, change, datetime.now().astimezone(), name, made)
    print(f"\n{path}: changed." + (f" What it was is in {backup} beside it." if backup else ""))
    return 0


def _add_bundle(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "bundle", help="one folder or zip with Python, the listener and its service files, for a server"
    )
    command.add_argument("--kind", choices=KINDS, default=NSSM, help="(%(default)s)")
    command.add_argument("--out", metavar="DIR|ZIP", help="the folder, or a file that ends in .zip, to write it to")
    command.add_argument("--python-embed", metavar="ZIP", help="Python's embeddable zip from python.org, 3.11 or newer")
    command.add_argument("--nssm", metavar="EXE", help="nssm.exe, to be put in as well")
    command.add_argument("--check", metavar="DIR", help="instead: is this folder a bundle with every file as it was made?")
    _add_linacs(command)
    _add_dry_run(command)
    command.set_defaults(run=_bundle)


def _bundle(chosen: argparse.Namespace) -> int:
    if chosen.check:
        bad = bundle.damaged(_folder(chosen.check))
        print("\n".join(f"missing or changed: {name}" for name in bad) or f"{chosen.check}: every file is as it was made.")
        return 1 if bad else 0
    if not chosen.out:
        raise SetupError("Say where to write the bundle: --out C:\\linac-listener, or --out linac-listener.zip.")
    files = bundle.bundle_files(_listeners(chosen), _bytes(chosen.python_embed), _bytes(chosen.nssm))
    path = Path(chosen.out).absolute()
    if path.suffix.lower() == ".zip":
        return _carry_out(plan(LocalFolder(path.parent), {path.name: bundle.zipped(files)}), chosen.dry_run, file=path.name)
    folder = LocalFolder(path)
    gone = tuple(name for name in bundle.listed(folder) if name not in files)
    return _carry_out(plan(folder, files, gone), chosen.dry_run, diffs=False)


def _add_push(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("push", help="copy the bundle to a capture host by SSH, install it, see it record")
    command.add_argument("--kind", choices=KINDS, default=SYSTEMD, help="nssm: a Windows host; systemd: Linux (%(default)s)")
    command.add_argument("--host", required=True, help="the capture host's name or address")
    command.add_argument("--ssh-port", type=int, default=22, help="(%(default)s)")
    command.add_argument(
        "--user",
        required=True,
        help="the account there: an administrator of Windows; root, or one that may use sudo without a password",
    )
    command.add_argument(
        "--host-key",
        required=True,
        metavar="KEY",
        help="its public host key, as `.venv/bin/python -m linac.transport key HOST` shows it",
    )
    command.add_argument("--key-file", metavar="FILE", help="the private key to log in with; else the SSH agent is asked")
    command.add_argument("--python-embed", metavar="ZIP", help="Windows: Python's embeddable zip from python.org, 3.11 or newer")
    command.add_argument("--nssm", metavar="EXE", help="Windows: nssm.exe, unless the host has it on its PATH")
    command.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="for the first message (%(default).0f)")
    _add_linacs(command)
    _add_dry_run(command)
    command.set_defaults(run=_push)


PASSWORD_VARIABLE = "LINAC_FLOWS_SERVICE_PASSWORD"  # noqa: S105


def _push(chosen: argparse.Namespace) -> int:
    from linac.provision import push  # here, so that the other commands do without
    from linac.transport.ssh import Gateway

    key = Path(chosen.key_file) if chosen.key_file else None
    host = Gateway(chosen.host, chosen.ssh_port, chosen.user, chosen.host_key, key=key)
    what = _listeners(chosen)
    programs = push.Programs(_bytes(chosen.python_embed), _bytes(chosen.nssm))
    if chosen.dry_run:
        pending = push.look(host, what, programs)
        lines = [f"to be copied: {name}" for name in pending.changed]
        lines += [f"to be removed: {name}" for name in pending.gone]
        lines += [f"to be started: the service of linac {serial}" for serial in pending.stopped]
        lines += [f"{pending.home} on {chosen.host}: this is what would be changed; nothing was." if pending else pending.told]
        print(*lines, sep="\n")
        return 0
    push.push(host, what, print, programs, password=_password(what), wait_seconds=chosen.wait)
    return 0


def _password(what: Services) -> str | None:
    """The password of the services' account on Windows: never from the command line."""
    if what.kind != NSSM or not what.log_on:
        return None
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if not sys.stdin.isatty():
        raise SetupError(f"The account {what.log_on} needs its password: set {PASSWORD_VARIABLE}, or run this at a keyboard.")
    return getpass.getpass(f"Password of {what.log_on}: ")


def _bytes(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error


if __name__ == "__main__":
    sys.exit(main())
