"""`python run.py blocks FILE`: makes a site's blocks from a TOML file, as site.example.toml shows it.

Passwords and keys come from the environment or are asked for, never from the file. Running it again updates what differs.
"""

import argparse
import getpass
import logging
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from launch.stack import PROJECT
from linac.errors import LinacError, SetupError

BLOCK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SECRET_FIELDS = {"smb_credentials": ("password",), "ssh_gateway": ("private_key", "passphrase")}
NEEDED_SECRETS = {("smb_credentials", "password")}
REFERENCES = {
    "share": {"credentials": "smb_credentials", "gateway": "ssh_gateway"},
    "site": {"records": "share", "iview": "share", "pymedphys_config": "share", "gateway": "ssh_gateway"},
}
"""Fields that name another block, by kind; the kinds are in the order in which their blocks are made."""

PATHS = {("share", "path"), ("site", "spool"), ("site", "capture_spool"), ("ssh_gateway", "key_file")}
"""Fields that are read on a worker's computer, in whatever folder it runs: a path must be a whole one."""

KINDS = ("smb_credentials", "ssh_gateway", "share", "site")


@dataclass(frozen=True)
class Entry:
    """One block as the file wants it: its kind, its name, its fields as written."""

    kind: str
    name: str
    fields: dict[str, Any]


def parse(text: str) -> list[Entry]:
    """What a site file asks for, in the order in which it can be made.

    Raises `SetupError` for what is no TOML, unknown sections, unfit names, and secrets, which do not belong into a file.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        advice = r"Write paths between single quotes, as in '\\server\share'."
        raise SetupError(f"The site file is not valid TOML: {error}. {advice}") from error
    unknown = sorted(set(content) - set(KINDS))
    if unknown:
        raise SetupError(f"The site file has a section {unknown[0]!r}. Sections are {', '.join(KINDS)}, as in [site.nbcc].")
    entries = []
    for kind in KINDS:
        section = content.get(kind, {})
        for name, fields in section.items():
            if not isinstance(fields, dict):
                raise SetupError(f"[{kind}] has {name!r} outside a block. Give every block a name, as in [{kind}.nbcc].")
            if not BLOCK_NAME.fullmatch(name):
                raise SetupError(f"[{kind}.{name}]: a block's name has lower case letters, digits and dashes only.")
            for secret in SECRET_FIELDS.get(kind, ()):
                if secret in fields:
                    variable = secret_variable(name, secret)
                    raise SetupError(
                        f"[{kind}.{name}]: take {secret} out of the file; put it into {variable} or enter it when asked."
                    )
            for field, value in fields.items():
                if (kind, field) in PATHS and isinstance(value, str) and value and not _is_whole(value):
                    raise SetupError(
                        f"[{kind}.{name}] {field}: {value!r} does not say where it begins. Give the whole path, as in "
                        r"'D:\physics\records', '\\server\share\records' or '/srv/records'."
                    )
            entries.append(Entry(kind, name, fields))
    if not entries:
        raise SetupError("The site file asks for no block at all. site.example.toml shows how it is written.")
    return entries


def _is_whole(path: str) -> bool:
    """Whether a path begins at a drive, a server or the root: Windows' or Linux's, as the worker may have the other system.

    >>> [_is_whole(path) for path in ("D:/physics", "//server/share", "/srv", "records", "D:records", "~/records")]
    [True, True, True, False, False, False]
    """
    path = path.strip().strip('"')
    return PureWindowsPath(path).is_absolute() or PurePosixPath(path).is_absolute()


def secret_variable(name: str, field: str) -> str:
    """The environment variable that may hold a secret.

    >>> secret_variable("nss-4299", "password")
    'LINAC_FLOWS_NSS_4299_PASSWORD'
    """
    return f"LINAC_FLOWS_{name}_{field}".upper().replace("-", "_")


def make(entries: list[Entry], ask: bool, dry_run: bool = False) -> list[str]:
    """Make or update the blocks on the Prefect server; one line about each. Raises `SetupError` where one cannot be made.

    Nothing is saved unless all of them are right.
    """
    from pydantic import ValidationError

    import blocks

    classes: dict[str, Any] = {
        "smb_credentials": blocks.SmbCredentials,
        "ssh_gateway": blocks.SshGateway,
        "share": blocks.Share,
        "site": blocks.Site,
    }
    built: dict[tuple[str, str], Any] = {}
    present: dict[tuple[str, str], Any] = {}
    for entry in entries:
        cls, key = classes[entry.kind], (entry.kind, entry.name)
        present[key] = blocks.load(cls, entry.name)
        values = dict(entry.fields)
        for field, kind in REFERENCES.get(entry.kind, {}).items():
            if isinstance(values.get(field), str):
                values[field] = built.get((kind, values[field])) or _referred(classes[kind], kind, values[field], entry)
        for field in SECRET_FIELDS.get(entry.kind, ()):
            secret = _secret(entry, field, present[key], ask)
            if secret is not None:
                values[field] = secret
        strangers = sorted(set(values) - set(cls.model_fields))
        if strangers:
            fields = ", ".join(name for name in cls.model_fields if name not in SECRET_FIELDS.get(entry.kind, ()))
            raise SetupError(f"[{entry.kind}.{entry.name}] has a field {strangers[0]!r}. Its fields are: {fields}.")
        try:
            wanted = cls(**values)
        except ValidationError as error:
            wrong = blocks.what_is_wrong(error)  # without the text of the error, which may hold a secret
            raise SetupError(f"[{entry.kind}.{entry.name}] {wrong}") from None
        # what is as it should be stays the saved block, to which others refer
        built[key] = present[key] if present[key] is not None and _says(present[key]) == _says(wanted) else wanted
    lines = []
    for (kind, name), block in built.items():
        before = present[kind, name]
        if block is before:
            lines.append(f"unchanged: {kind} {name}")
            continue
        if not dry_run:
            block.save(name, overwrite=True)
        lines.append(f"{'would be ' if dry_run else ''}{'made' if before is None else 'updated'}: {kind} {name}")
    if not dry_run:
        lines += _schedules(built)
    return lines


def _says(value: Any) -> Any:
    """What is in a block, and in the blocks within it, secrets included: for comparing alone."""
    if isinstance(value, list | tuple):
        return [_says(item) for item in value]
    fields = getattr(type(value), "model_fields", None)
    return value if fields is None else {name: _says(getattr(value, name)) for name in fields}


def _schedules(built: dict[tuple[str, str], Any]) -> list[str]:
    from tasks.provision import ensure_nightly
    from tasks.tunnels import make_tunnel_deployment

    lines = []
    for (kind, name), block in built.items():
        if kind == "site":
            lines.append(ensure_nightly(block, name))
            if block.forwards:
                lines.append(make_tunnel_deployment(name))
    return lines


def _referred(cls: Any, kind: str, name: str, entry: Entry) -> Any:
    from blocks import load

    block = load(cls, name)
    if block is None:
        raise SetupError(
            f"[{entry.kind}.{entry.name}] refers to {kind} {name!r}, which is neither in the file nor on the Prefect server."
        )
    return block


def _secret(entry: Entry, field: str, present: Any, ask: bool) -> str | None:
    """A secret from the environment, from the keyboard, or as the block has it already."""
    variable = secret_variable(entry.name, field)
    if os.environ.get(variable):
        return os.environ[variable]
    needed = (entry.kind, field) in NEEDED_SECRETS
    before = getattr(present, field, None)
    if ask and needed:
        keep = " (empty: keep the present one)" if before else ""
        typed = getpass.getpass(f"{field} of {entry.kind} {entry.name}{keep}: ")
        if typed:
            return typed
    if before is not None and not (field == "private_key" and entry.fields.get("key_file")):  # the file has taken its place
        return str(before.get_secret_value())
    if needed:
        raise SetupError(f"[{entry.kind}.{entry.name}] needs its {field}: set {variable}, or run this at a keyboard.")
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python run.py blocks", description=__doc__)
    parser.add_argument("file", type=lambda text: Path(text).resolve(), help="the site's file, for example site.toml")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be made, but save nothing")
    options = parser.parse_args(arguments)
    os.chdir(PROJECT)
    for service in ("EventsWorker", "APILogWorker"):  # at the end they tell of what they still send to a slow server
        logging.getLogger(service).setLevel(logging.ERROR)
    try:
        entries = parse(options.file.read_text(encoding="utf-8"))
        from tasks.command_line import need_server

        need_server()
        for line in make(entries, ask=sys.stdin.isatty(), dry_run=options.dry_run):
            print(line)
    except OSError as error:
        print(f"Could not read {options.file}: {error.strerror}.", file=sys.stderr)
        return 1
    except LinacError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
