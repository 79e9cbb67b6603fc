r"""PyMedPhys's `config.toml`: the entries of a site and its linacs added, updated and removed, all else left as people wrote it.

>>> before = '''# Ask Jane before you change this.
... [[site]]
... name = "nbcc"
...
...     # the old one
...     [[site.linac]]
...     name = "2619"
...     ip = "192.168.17.39"  # since March
... '''
>>> change = update(before, Entry("nbcc", "4299", "192.168.17.40", iview_alias="4299_iView"))
>>> print(change.diff)
--- config.toml (is)
+++ config.toml (shall be)
@@ -6,3 +6,11 @@
     [[site.linac]]
     name = "2619"
     ip = "192.168.17.39"  # since March
+
+    [[site.linac]]
+    name = "4299"
+    ip = "192.168.17.40"
+    samba_ip = "192.168.17.40"
+
+        [site.linac.aliases]
+        iview = "4299_iView"
>>> update(change.after, Entry("nbcc", "4299", "192.168.17.40")).changed
False

How. Values in place are replaced by tomlkit, which keeps comments and layout. New lines are put in as text, where a person
would put them and indented as their neighbours are (tomlkit's own tables would land behind the next table's comments). Then the
whole is read again and must mean what it meant before, plus the change: a file written in a way that this does not foresee is
refused, not bent.
"""

import contextlib
import os
import re
import shutil
import stat
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from linac.errors import LinacError, SetupError
from linac.provision.plan import difference
from linac.provision.services import checked_address
from linac.transport.paths import ASIDE, Folder, LocalFolder, explain, replace_local

NAME = "config.toml"

WAIT_SECONDS, PAUSE_SECONDS = 10.0, 0.1
"""How long to wait for another who writes the file."""

STALE_SECONDS = 600.0
"""A writer's lock of this age was left by a crash or a power cut: writing takes a moment."""

UNSAFE = "it is written in a way that this program cannot change safely"

Data = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    r"""One linac and its site as PyMedPhys's apps want to know them. An empty field leaves what the file says.

    `site`: the `[[site]]`'s name; `serial`: the linac's name. `address`: the NSS (`ip`); `samba_address`: where its share
    `Backup` is reached (`samba_ip`), by default the same. `energies`: as the file lists them. `iview_alias`: what iView calls
    the linac. `icom`, `icom_live`, `iview`: folders of the site (`[site.export-directories]`: `icom` is the folder of
    patients). `patients`: a folder for `[icom] patient_directories`. `trf`: `[trf_logfiles] root_directory`. `mosaiq`: keys of
    `[site.mosaiq]`.
    """

    site: str
    serial: str
    address: str
    samba_address: str = ""
    energies: tuple[str, ...] = ()
    iview_alias: str = ""
    icom: str = ""
    icom_live: str = ""
    iview: str = ""
    patients: str = ""
    trf: str = ""
    mosaiq: Mapping[str, str | int] | None = None


@dataclass(frozen=True)
class Change:
    """A file's text before and after."""

    before: str
    after: str

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def diff(self) -> str:
        """As `diff -u` shows it; empty where nothing changes."""
        return difference(NAME, self.before.encode() if self.before else None, self.after.encode())


def update(text: str, entry: Entry) -> Change:
    """`text` with the linac's and its site's entries as `entry` says.

    Raises `SetupError` where it is not understood or contradicts.
    """
    for what, value in (("site", entry.site), ("serial", entry.serial), ("address", entry.address)):
        if not value.strip() or not value.isprintable():
            raise SetupError(f"The {what} {value!r} cannot stand in PyMedPhys's config.toml. Give a name of printable letters.")
    for address in (entry.address, entry.samba_address or entry.address):
        checked_address(address)
    data = check(text)
    entry = replace(entry, site=site_name(data, entry.site) or entry.site)
    _contradictions(data, entry)
    wanted = _meaning(data, entry)
    if wanted == data:
        return Change(text, text)
    newline, plain = _unified(text)
    plain = _replaced(plain, data, wanted)
    try:
        while (now := tomllib.loads(plain)) != wanted:  # one new table or key at a time: line numbers move
            before, plain = plain, _one_more(plain, now, wanted)
            if plain == before:
                break
    except tomllib.TOMLDecodeError as error:
        raise _strange(UNSAFE) from error
    return _finished(text, plain, newline, wanted)


def site_name(data: Data, *wanted: str) -> str:
    """What the file calls a site of one of these names, which may differ in capitals; empty where there is none."""
    known = [str(site["name"]) for site in data.get("site", [])]
    exact = (name for name in wanted if name in known)
    alike = (name for name in known if name.casefold() in [one.casefold() for one in wanted])
    return next(chain(exact, alike), "")


def remove(text: str, serial: str) -> Change:
    """`text` without that linac, and without the comment that stands right above it; its site stays. Raises `SetupError`."""
    wanted = deepcopy(check(text))
    newline, plain = _unified(text)
    for number, site in enumerate(wanted.get("site", [])):
        for place, linac in enumerate(site.get("linac", [])):
            if linac.get("name") != serial:
                continue
            lines = _lines(plain)
            sections = _sections(lines)
            own = _nth(sections, ("site", "linac"), number, place)
            begin, end = own.start, _block_end(lines, sections, own)
            while begin and lines[begin - 1].strip().startswith("#"):
                begin -= 1
            if begin and not lines[begin - 1].strip() and (end == len(lines) or not lines[end].strip()):
                begin -= 1
            del lines[begin:end]
            del site["linac"][place]
            if not site["linac"]:  # PyMedPhys's apps want the key
                _insert_key(lines, _nth(_sections(lines), ("site",), number), "linac", [])
            return _finished(text, "\n".join(lines) + "\n" * plain.endswith("\n"), newline, wanted)
    return Change(text, text)


def check(text: str) -> Data:
    """What the file says, as plain values. Raises `SetupError` unless it is a configuration of PyMedPhys as we know them."""
    if text.startswith("\ufeff"):
        raise SetupError(
            "This config.toml begins with a BOM (a byte order mark, as Windows's Notepad writes it), which TOML and PyMedPhys do "
            "not allow. Save it as UTF-8 without a BOM. Nothing was changed."
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(
            f"The config.toml cannot be read: {error}. PyMedPhys cannot read it either: mend that place. Nothing was changed."
        ) from error
    if "redirect" in data:
        raise SetupError(f"This config.toml only points to another one: {data['redirect']}. Give that file. Nothing was changed.")
    if data.get("version", 1) != 1:
        raise _strange(f"it has version {data['version']}, and only version 1 is known")
    sites = data.get("site", [])
    if not _tables(sites):
        raise _strange("its `site` is not a list of [[site]] tables")
    names = [site.get("name") for site in sites]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise _strange("its [[site]] tables do not each have a name of their own")
    for site in sites:
        if not _tables(site.get("linac", [])):
            raise _strange(f"site {site['name']}: its `linac` is not a list of [[site.linac]] tables")
        for key in ("export-directories", "mosaiq"):
            if not isinstance(site.get(key, {}), dict):
                raise _strange(f"site {site['name']}: its `{key}` is not a table")
    linacs = [linac for site in sites for linac in site.get("linac", [])]
    serials = [linac.get("name") for linac in linacs]
    if not all(isinstance(serial, str) for serial in serials) or len(set(serials)) != len(serials):
        raise _strange("its [[site.linac]] tables do not each have a name of their own")
    if not all(isinstance(linac.get("aliases", {}), dict) for linac in linacs):
        raise _strange("an `aliases` of a linac is not a table")
    for table, key in (("icom", "patient_directories"), ("trf_logfiles", "root_directory")):
        kind = list if key == "patient_directories" else str
        if not isinstance(data.get(table, {}), dict) or not isinstance(data.get(table, {}).get(key, kind()), kind):
            raise _strange(f"its [{table}] {key} is not what PyMedPhys wants there")
    return data


def read(folder: Folder, name: str = NAME) -> str:
    """The file's text; empty if there is none. Raises `StorageError`, and `SetupError` where it is not text."""
    if folder.find(name) is None:
        return ""
    try:
        return folder.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(
            f"{folder.location}: {name} is not UTF-8 text. Save it as UTF-8 in an editor. Nothing was changed."
        ) from error


def write(folder: Folder, change: Change, now: datetime, name: str = NAME, again: Callable[[str], Change] | None = None) -> str:
    """Replace the file by what `change` says, whole; the name of the backup beside it, or nothing if there is none.

    `now` dates the backup. Of a file on this computer the mode stays, and a link to it too: the file that it leads to is
    replaced. Of several who write at the same time one waits for the other. `again` makes the change to a text that somebody
    has changed since it was read.

    Raises `StorageError`, and `SetupError` if the file was changed without `again`, is not understood any more, is read-only, or
    another writes it for longer than `WAIT_SECONDS`.
    """
    if not change.changed:
        return ""
    folder, name = writable(folder, name)
    with _alone(folder, name):
        text = read(folder, name)
        if text != change.before:
            if again is None:
                raise SetupError(
                    f"{folder.location}: somebody has just changed {name}. Run this again, it then starts from what is there now."
                )
            change = again(text)
        return _exchange(folder, name, change, now) if change.changed else ""


@contextlib.contextmanager
def _alone(folder: Folder, name: str) -> Iterator[None]:
    """Only one at a time is in here, of all computers: it has made the file `<name>.lock`, which goes at the end.

    One that a power cut left is taken away by its age, for which clocks need to agree only roughly.
    """
    lock, own, until = f"{name}.lock", uuid.uuid4().hex.encode(), time.monotonic() + WAIT_SECONDS
    while not folder.create(lock, own):
        found = folder.find(lock)
        if found is not None and (datetime.now(UTC) - found.modified).total_seconds() > STALE_SECONDS:
            folder.remove(lock)
        elif time.monotonic() >= until:
            raise SetupError(
                f"{folder.location}: another run is just changing {name}. Run this again in a moment. If nobody changes it, "
                f"remove {lock} there. Nothing was changed."
            )
        else:
            time.sleep(PAUSE_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(LinacError):  # what was done is done; the next one waits, or takes it away
            if folder.read(lock) == own:
                folder.remove(lock)


def _exchange(folder: Folder, name: str, change: Change, now: datetime) -> str:
    """Backup, then replace; the backup's name."""
    backup = ""
    if change.before:
        backup = f"{name}.{now:%Y%m%d-%H%M%S}.bak"
        number = 1
        while folder.find(backup) is not None:
            backup, number = f"{name}.{now:%Y%m%d-%H%M%S}-{number}.bak", number + 1
        _write(folder, backup, change.before.encode(), like=name)
    try:
        _write(folder, name, change.after.encode(), like=name)
    except BaseException:
        with contextlib.suppress(LinacError):
            if backup and read(folder, name) == change.before:  # else it did arrive, and the backup has a meaning
                folder.remove(backup)
        raise
    return backup


def writable(folder: Folder, name: str = NAME) -> tuple[Folder, str]:
    """The folder and the name that the file has, where a link of this computer leads to it; themselves where there is none.

    Raises `SetupError` where it may not be changed.
    """
    if not isinstance(folder, LocalFolder):
        return folder, name
    path = folder.path / name
    if path.is_symlink():
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as error:
            raise SetupError(f"{path} is a link that leads nowhere. Give the file itself.") from error
        folder, name = LocalFolder(path.parent), path.name
    with explain("look at", "", lambda: path):
        found = path.stat() if path.exists() else None
    if found and (not found.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(path, os.W_OK)):
        raise SetupError(
            f"{path} is read-only: somebody does not want it changed, or this account may not. Ask them, or give the right to "
            "write it. Nothing was changed."
        )
    return folder, name


def _write(folder: Folder, name: str, data: bytes, like: str) -> None:
    """Write a file whole, with the mode (and owner, where this account may) of the file `like` beside it if there is one."""
    if not isinstance(folder, LocalFolder) or os.name == "nt" or not (old := folder.path / like).exists():
        folder.write(name, data)
        return
    path = folder.path / name
    part = path.with_name(f"{name}{ASIDE}{uuid.uuid4().hex[:8]}")
    with explain("write", "", lambda: path):
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                was = old.stat()
                with contextlib.suppress(OSError):
                    os.chown(part, was.st_uid, was.st_gid)
                shutil.copymode(old, part)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            replace_local(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def _strange(why: str) -> SetupError:
    return SetupError(
        f"This config.toml is not understood: {why}. Nothing was changed. Enter the linac by hand, as its neighbours are entered."
    )


def _tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _contradictions(data: Data, entry: Entry) -> None:
    for site in data.get("site", []):
        for linac in site.get("linac", []):
            if linac["name"] == entry.serial and site["name"] != entry.site:
                raise SetupError(
                    f"Linac {entry.serial} is at site {site['name']} in config.toml. Give that site, or remove it there first."
                )
            if linac["name"] != entry.serial and linac.get("ip") == entry.address and not _is_here(entry.address):
                raise SetupError(
                    f"Linac {linac['name']} has the address {entry.address} in config.toml. One of the two is wrong."
                )
            alias = linac.get("aliases", {}).get("iview")
            if linac["name"] != entry.serial and entry.iview_alias and _same(alias, entry.iview_alias):
                raise SetupError(
                    f"Linac {linac['name']} of site {site['name']} has the iView alias {alias} in config.toml. Each linac has an "
                    "alias of its own there: its images would be taken for the other's. One of the two is wrong."
                )


def _same(alias: object, other: str) -> bool:
    return isinstance(alias, str) and alias.strip().casefold() == other.strip().casefold()


def _is_here(address: str) -> bool:
    """Several tunnels may end on this computer itself, each at a port of its own."""
    return address.startswith("127.") or address in ("::1", "localhost")


def _meaning(data: Data, entry: Entry) -> Data:
    """What the file shall say, as plain values."""
    wanted = deepcopy(data)
    sites = wanted.setdefault("site", [])
    site = next((one for one in sites if one["name"] == entry.site), None)
    if site is None:
        site = {"name": entry.site}
        sites.append(site)
    folders = {"icom": entry.icom, "icom_live": entry.icom_live, "iviewdb": entry.iview}
    _put(site, "export-directories", {key: value for key, value in folders.items() if value})
    _put(site, "mosaiq", dict(entry.mosaiq or {}))
    linacs = site.setdefault("linac", [])
    linac = next((one for one in linacs if one["name"] == entry.serial), None)
    samba = entry.samba_address
    if linac is None:
        linac = {"name": entry.serial}
        linacs.append(linac)
        samba = samba or entry.address
    elif linac.get("samba_ip") == linac.get("ip") is not None:
        samba = samba or entry.address  # it was the same, it stays so
    linac["ip"] = entry.address
    if samba:
        linac["samba_ip"] = samba
    if entry.energies:
        linac["energies"] = list(entry.energies)
    _put(linac, "aliases", {"iview": entry.iview_alias} if entry.iview_alias else {})
    if entry.patients:
        folder = wanted.setdefault("icom", {}).setdefault("patient_directories", [])
        if entry.patients not in folder:
            folder.append(entry.patients)
    _put(wanted, "trf_logfiles", {"root_directory": entry.trf} if entry.trf else {})
    return wanted


def _put(table: Data, key: str, values: Data) -> None:
    if values:
        table.setdefault(key, {}).update(values)


def _unified(text: str) -> tuple[str, str]:
    """How the file ends its lines, and its text with plain line ends if they are all of one kind."""
    if "\r\n" in text and text.count("\r\n") == text.count("\n"):
        return "\r\n", text.replace("\r\n", "\n")
    return "\n", text


def _lines(text: str) -> list[str]:
    """The text's lines, joined again by newlines; a file whose lines end in both ways keeps each line's own."""
    return text.removesuffix("\n").split("\n") if text else []


def _finished(before: str, plain: str, newline: str, wanted: Data) -> Change:
    """The change, if it means what it should."""
    after = plain.replace("\n", newline) if newline != "\n" else plain
    try:
        right = tomllib.loads(after) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise _strange(UNSAFE)
    return Change(before, after)


def _replaced(text: str, data: Data, wanted: Data) -> str:
    """Replace the values that are there and differ; the text itself where none does."""
    if not _differs(data, wanted):
        return text
    try:
        document = tomlkit.parse(text)
        if tomlkit.dumps(document) != text:  # it would move tables, and leave their comments behind
            raise SetupError(
                "In this config.toml other tables stand between those of one list or one site, so that a value there cannot be "
                "changed without moving them. Move each site's tables behind its [[site]], its [[site.linac]] one behind the "
                "other, or change the value by hand. Nothing was changed."
            )
        _replace(document, data, wanted)
        return tomlkit.dumps(document)
    except (TOMLKitError, AttributeError, TypeError, LookupError) as error:
        raise _strange(f"{type(error).__name__} in a value") from error


def _differs(old: Any, new: Any) -> bool:
    """Whether a value that is there in both differs, new keys and tables aside."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(_differs(old[key], new[key]) for key in old.keys() & new.keys())
    if _tables(old) and _tables(new):
        return any(_differs(before, after) for before, after in zip(old, new, strict=False))
    return bool(old != new)


def _replace(table: Any, old: Data, new: Data) -> None:
    for key in old.keys() & new.keys():
        before, after = old[key], new[key]
        if before == after:
            continue
        if isinstance(before, dict):
            _replace(table[key], before, after)
        elif _tables(before) and before:
            for place, item in enumerate(before):
                _replace(table[key][place], item, after[place])
        elif isinstance(before, list) and (key == "patient_directories" or "\n" in table[key].as_string()):
            _edit(table[key], after)
        elif not (key == "linac" and not before):
            table[key] = tomlkit.value(_written(after))


def _edit(items: Any, wanted: list[Any]) -> None:
    """Bring a list, whose items may each have a comment, to `wanted`: what stays is not touched."""
    for place in reversed(range(len(items))):
        if items[place] not in wanted:
            del items[place]
    for place, value in enumerate(wanted):
        if place == len(items):
            items.append(tomlkit.value(_written(value)))
        elif items[place] != value:
            items.insert(place, tomlkit.value(_written(value)))
    for place in reversed(range(len(wanted), len(items))):
        del items[place]


def _written(value: object) -> str:
    """A value as TOML, plain ASCII: PyMedPhys reads the file in whatever code page its computer has."""
    if isinstance(value, list):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str):
        if "\\" in value and "'" not in value and value.isascii() and value.isprintable():
            return f"'{value}'"
        letters = (letter if letter.isascii() and letter.isprintable() else _escape(letter) for letter in value)
        return '"' + "".join({"\\": "\\\\", '"': '\\"'}.get(letter, letter) for letter in letters) + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escape(letter: str) -> str:
    return f"\\u{ord(letter):04X}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08X}"


# New tables and keys, as lines of text.


@dataclass(frozen=True)
class _Section:
    """A header's line, what it opens, and the line where the next header or the file's end comes."""

    start: int
    end: int
    key: tuple[str, ...]
    many: bool
    indent: str


_HEADER = re.compile(r"(\s*)\[(\[?)\s*([^\[\]#]+?)\s*\](\]?)\s*(#.*)?")


def _sections(lines: list[str]) -> list[_Section]:
    found = [(number, match) for number, line in enumerate(lines) if (match := _HEADER.fullmatch(line))]
    ends = [*(number for number, _ in found), len(lines)][1:]
    return [
        _Section(number, end, tuple(part.strip().strip("\"'") for part in match[3].split(".")), bool(match[2]), match[1])
        for (number, match), end in zip(found, ends, strict=True)
    ]


def _nth(sections: list[_Section], key: tuple[str, ...], site: int = 0, linac: int = 0) -> _Section:
    """The section with that key, of the nth site and its nth linac.

    Raises `SetupError` where there is none: it was written inline, or outside its site.
    """
    at_site = at_linac = -1
    for section in sections:
        if section.key == ("site",) and section.many:
            at_site, at_linac = at_site + 1, -1
        if section.key == ("site", "linac") and section.many:
            at_linac += 1
        inside = key[:1] != ("site",) or (at_site == site and (key[:2] != ("site", "linac") or at_linac == linac))
        if section.key == key and inside:
            return section
    if key in (("site",), ("site", "linac")):
        raise _listed(key)
    raise _strange(f"there is no [{'.'.join(key)}] of its own where one was expected")


def _listed(key: tuple[str, ...]) -> SetupError:
    return SetupError(
        f"The {key[-1]}s of this config.toml are written as a list, {key[-1]} = [{{...}}], which this program cannot change. "
        f"Write them as [[{'.'.join(key)}]] tables, then run this again, or enter the linac by hand. Nothing was changed."
    )


def _content_end(lines: list[str], begin: int, end: int) -> int:
    """Behind the last line of a stretch that is neither blank nor a comment; a comment right below it belongs to it, if a gap
    follows."""
    last = end
    while last > begin + 1 and (not lines[last - 1].strip() or lines[last - 1].strip().startswith("#")):
        last -= 1
    below = last
    while below < end and lines[below].strip().startswith("#"):
        below += 1
    return below if below == len(lines) or (below < end and not lines[below].strip()) else last


def _block_end(lines: list[str], sections: list[_Section], own: _Section) -> int:
    """Behind the content of a section and the sections inside it."""
    end = own.end
    for section in sections[sections.index(own) + 1 :]:
        if len(section.key) <= len(own.key) or section.key[: len(own.key)] != own.key:
            break
        end = section.end
    return _content_end(lines, own.start, end)


def _insert_key(lines: list[str], section: _Section, key: str, value: object) -> None:
    at = _content_end(lines, section.start, section.end)
    own = [line for line in lines[section.start + 1 : at] if re.match(r"\s*[\w\"'-]+\s*=", line)]
    indent = re.match(r"\s*", own[-1])[0] if own else section.indent  # type: ignore[index]
    lines.insert(at, f"{indent}{key} = {_written(value)}")


def _one_more(text: str, now: Data, wanted: Data) -> str:
    """The text with one of the keys or tables that it lacks."""
    lines = _lines(text)
    sections = _sections(lines)
    for table, key in (("icom", "patient_directories"), ("trf_logfiles", "root_directory")):
        value = wanted.get(table, {}).get(key)
        if value is not None and key not in now.get(table, {}):
            if table in now:
                _insert_key(lines, _nth(sections, (table,)), key, value)
            else:
                _insert_block(lines, len(lines), [f"[{table}]", f"{key} = {_written(value)}"])
            return "\n".join(lines) + "\n"
    for number, site in enumerate(wanted["site"]):
        old = now.get("site", [])[number] if number < len(now.get("site", [])) else None
        if old is None:
            ours = [section for section in sections if section.key[0] == "site"]
            if now.get("site") and not ours:
                raise _listed(("site",))
            at = _content_end(lines, ours[-1].start, ours[-1].end) if ours else len(lines)
            _insert_block(lines, at, ["[[site]]", f"name = {_written(site['name'])}"])
            return "\n".join(lines) + "\n"
        if _site_lacks(lines, sections, number, old, site):
            return "\n".join(lines) + "\n"
    raise _strange(UNSAFE)


def _site_lacks(lines: list[str], sections: list[_Section], number: int, old: Data, site: Data) -> bool:
    own = _nth(sections, ("site",), number)
    inner = _inner_indent(sections, own)
    for table in ("export-directories", "mosaiq"):
        if table not in site:
            continue
        if table not in old:
            header = [f"{inner}[site.{table}]", *(f"{inner}{key} = {_written(value)}" for key, value in site[table].items())]
            _insert_block(lines, _content_end(lines, own.start, own.end), header)
            return True
        for key in site[table].keys() - old[table].keys():
            _insert_key(lines, _nth(sections, ("site", table), number), key, site[table][key])
            return True
    for place, linac in enumerate(site.get("linac", [])):
        if place >= len(old.get("linac", [])):
            if "linac" in old and not old["linac"]:  # `linac = []`, left when the last one was removed
                empty = [line for line in range(own.start, own.end) if re.match(r"\s*linac\s*=\s*\[\s*\]", lines[line])]
                if len(empty) != 1:
                    raise _strange(f"site {site['name']}: an empty list of linacs")
                del lines[empty[0]]
                return True
            new = [f"{inner}[[site.linac]]"]
            new += [f"{inner}{key} = {_written(value)}" for key, value in linac.items() if not isinstance(value, dict)]
            behind = _nth(sections, ("site", "linac"), number, place - 1) if place else own
            _insert_block(lines, _block_end(lines, sections, behind), new)
            return True
        if _linac_lacks(lines, sections, (number, place), old["linac"][place], linac):
            return True
    return False


def _linac_lacks(lines: list[str], sections: list[_Section], which: tuple[int, int], old: Data, linac: Data) -> bool:
    own = _nth(sections, ("site", "linac"), *which)
    for key in linac:
        if key not in old and not isinstance(linac[key], dict):
            _insert_key(lines, own, key, linac[key])
            return True
    aliases = linac.get("aliases", {})
    if aliases and "aliases" not in old:
        indent = own.indent + ("    " if own.indent else "")
        new = [f"{indent}[site.linac.aliases]", *(f"{indent}{key} = {_written(value)}" for key, value in aliases.items())]
        _insert_block(lines, _content_end(lines, own.start, own.end), new)
        return True
    for key in aliases.keys() - old.get("aliases", {}).keys():
        _insert_key(lines, _nth(sections, ("site", "linac", "aliases"), *which), key, aliases[key])
        return True
    return False


def _inner_indent(sections: list[_Section], own: _Section) -> str:
    """How far the tables inside a site are indented: as in this site, else as in another one, else as PyMedPhys's own example."""
    at = sections.index(own)
    for section in [*sections[at + 1 :], *sections[:at]]:
        if len(section.key) == 2 and section.key[0] == "site":
            return section.indent
    return own.indent + "    "


def _insert_block(lines: list[str], at: int, new: list[str]) -> None:
    """Put a table in, with a blank line before it, and one behind it where something follows."""
    while at == len(lines) and lines and not lines[-1].strip():
        del lines[-1]
        at -= 1
    before = [""] if at else []
    after = [""] if at < len(lines) and lines[at].strip() else []
    lines[at:at] = [*before, *new, *after]
