r"""One folder for a capture server: Python's embeddable zip, the listener, its service files. Nothing else is installed there.

    python\     Python as python.org packs it; its ._pth file is told where the program lies, and no more
    program\    the modules that `python -m linac.icom listen` needs (`linac.provision.closure`), standard library only
    *.bat       the services (`linac.provision.windows`)
    README.txt, SHA256SUMS.txt

The old procedure says `import site` in the ._pth file, for pip and the packages that it installs. Here there are none, so it
stays commented out: nothing of the server's own Pythons, of its users' folders or its environment gets in. The same input gives
the same bytes. It downloads nothing: the embeddable zip comes from python.org, nssm.exe from nssm.cc, by somebody who checks
them.
"""

import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from linac.errors import DamagedError, SetupError
from linac.provision.closure import ROOT, closure
from linac.provision.services import LINUX_HOME, NSSM, TOP, WINDOWS_HOME, Services
from linac.provision.systemd import systemd_files
from linac.provision.windows import windows_files
from linac.transport.paths import Folder, split_name

PROGRAMS = ("linac.icom.__main__", "linac.capture.cli", "linac.capture.listener")
"""What is run: the command, its `listen`, and the listener that it starts by name."""

OLDEST = (3, 11)
SUMS = "SHA256SUMS.txt"
_CHECK_SECONDS = 60
_LARGEST_BYTES = 200 << 20

_CHECK = """
import importlib, runpy, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    if not name.endswith("__main__"):
        importlib.import_module(name)
from linac.icom import __main__ as program
try:
    program.main(["listen", "--help"])
except SystemExit as ended:
    assert not ended.code, ended.code
ours = {name for name in sys.modules if name.partition(".")[0] == "linac"} - set(sys.argv[2:])
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"linac", "__main__"}
if ours or foreign:
    sys.exit(f"not in the bundle: {', '.join(sorted(ours | foreign))}")
"""


def bundle_files(
    what: Services, embed: bytes | None = None, nssm: bytes | None = None, *, home: str = LINUX_HOME
) -> dict[str, bytes]:
    """The bundle's files, by their names in it. `embed`: Python's embeddable zip, for Windows; `nssm`: nssm.exe, to lie beside.

    For Linux there is no `embed`: its services run with the server's own /usr/bin/python3; `home` is where the folder will lie.
    Raises `SetupError` where the zip is another kind of file or of an old Python, and where the program does not run alone.
    """
    if what.kind == NSSM:
        if embed is None:
            raise SetupError("A bundle for Windows needs Python's embeddable zip: --python-embed python-3.11.9-embed-amd64.zip.")
        python, version = _python_files(embed)
        files = program_files() | python | windows_files(replace(what, python="python"))
        if nssm is not None:
            files["nssm.exe"] = nssm
        files["README.txt"] = _readme_windows(what, version, nssm is not None)
    else:
        files = program_files() | systemd_files(replace(what, python="/usr/bin", program=f"{home}/program"))
        files["README.txt"] = _readme_linux(what, home)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()} *{name}\n" for name, data in sorted(files.items()))
    return dict(sorted({**files, SUMS: sums.encode()}.items()))


def program_files() -> dict[str, bytes]:
    """The program's modules, as files below `program/`, after they have run alone. Raises `SetupError` where they do not."""
    modules = closure(PROGRAMS)
    files = {f"program/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in modules.values()}
    with tempfile.TemporaryDirectory() as there:
        for name, data in files.items():
            path = Path(there, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        command = [sys.executable, "-I", "-S", "-B", "-c", _CHECK, str(Path(there, "program")), *modules]
        done = subprocess.run(command, capture_output=True, timeout=_CHECK_SECONDS, check=False)
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise SetupError(f"The listener does not run alone: {said}. This is a fault of this program: report it.")
    return files


def zipped(files: Mapping[str, bytes], top: str = TOP) -> bytes:
    """One zip of it, below the folder `top`: the same files give the same bytes, whenever and wherever it is made."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{top}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (0o100755 if name.endswith((".sh", ".exe")) else 0o100644) << 16
            archive.writestr(entry, data)
    return out.getvalue()


def listed(folder: Folder) -> tuple[str, ...]:
    """The files of the bundle that lies in a folder, by its list; empty if there is none. Raises `StorageError`."""
    if folder.find(SUMS) is None:
        return ()
    return (*_sums(folder), SUMS)


def damaged(folder: Folder) -> list[str]:
    """The files of a bundle that are missing or not as they were made. Raises `StorageError`, `DamagedError` without a list."""
    if folder.find(SUMS) is None:
        raise DamagedError(
            f"{folder.location}: there is no {SUMS}. This is not a listener's bundle, or it was copied in part: copy it again."
        )
    bad = []
    for name, digest in _sums(folder).items():
        if folder.find(name) is None or hashlib.sha256(folder.read(name)).hexdigest() != digest:
            bad.append(name)
    return bad


def _sums(folder: Folder) -> dict[str, str]:
    lines = folder.read(SUMS).decode("utf-8", "replace").splitlines()
    return {name: digest for digest, separator, name in (line.partition(" *") for line in lines) if separator}


def _python_files(embed: bytes) -> tuple[dict[str, bytes], str]:
    """The embeddable Python's files below `python/`, its ._pth extended, and its version."""
    wrong = "is not Python's embeddable zip. Take python-3.XX.X-embed-amd64.zip from https://www.python.org/downloads/windows/."
    try:
        with zipfile.ZipFile(io.BytesIO(embed)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_BYTES:
                raise SetupError(f"The file {wrong} It is too large.")
            files = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise SetupError(f"The file {wrong} It cannot be unpacked: {error}.") from error
    paths = [name for name in files if re.fullmatch(r"python3\d+\._pth", name)]
    if len(paths) != 1 or "python.exe" not in files or paths[0].replace("._pth", ".zip") not in files:
        raise SetupError(f"The file {wrong}")
    version = (3, int(paths[0][len("python3") : -len("._pth")]))
    if version < OLDEST:
        raise SetupError(f"That is Python {version[0]}.{version[1]}; the listener needs {OLDEST[0]}.{OLDEST[1]} or newer.")
    files[paths[0]] = _path_file(files[paths[0]])
    return {f"python/{PurePosixPath(*split_name(name))}": data for name, data in files.items()}, f"{version[0]}.{version[1]}"


def _path_file(data: bytes) -> bytes:
    """The ._pth file with the program's folder behind Python's own; everything else in it stays as it is."""
    lines = data.decode("utf-8").splitlines()
    if r"..\program" not in lines:
        last = max(
            (number for number, line in enumerate(lines) if line.strip() and not line.startswith(("#", "import"))), default=-1
        )
        lines.insert(last + 1, r"..\program")
    return "".join(f"{line}\r\n" for line in lines).encode()


def _linacs(what: Services) -> str:
    return ", ".join(f"{linac.serial} ({linac.address})" for linac in what.linacs)


def _readme_windows(what: Services, version: str, has_nssm: bool) -> bytes:
    nssm = "" if has_nssm else "put nssm.exe (folder win64 of NSSM 2.24-101, https://nssm.cc) beside this file, "
    lines = [
        f"WHAT: {_what(what)} Python {version} is inside; nothing else is installed.",
        (
            f"INSTALL: copy this folder to the server, for example to {WINDOWS_HOME}, {nssm}make the folder {what.icom}, "
            "run services-install.bat as administrator."
        ),
        "START: services-start.bat; from then on with the server. To stop: services-stop.bat, when no patient is being treated.",
        "CHECK: services-status.bat shows whether they run and what they record; their logs are in the folder logs.",
        f"UNINSTALL: services-uninstall.bat, then delete this folder. {_stays(what)}",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _readme_linux(what: Services, home: str) -> bytes:
    status = f"sudo -u {what.log_on} python3 -m linac.icom status --spool {what.spool}"
    lines = [
        f"WHAT: {_what(what)} It needs Python 3.11 or newer at /usr/bin/python3.",
        f"INSTALL: copy this folder to {home}, owned by root, make {what.icom}, sudo sh {home}/services-install.sh.",
        "START: the installation starts it, and so does the server. To stop: services-stop.sh, when no patient is being treated.",
        f"CHECK: cd {home}/program && {status}; journalctl -u 'icom-listening-*'",
        f"UNINSTALL: sudo sh services-uninstall.sh, then delete this folder. {_stays(what)}",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _what(what: Services) -> str:
    return f"records the iCom stream of linac {_linacs(what)} into {what.icom}. It reads only, it never controls a linac."


def _stays(what: Services) -> str:
    return f"What was recorded stays in {what.spool} and in the records folder."
