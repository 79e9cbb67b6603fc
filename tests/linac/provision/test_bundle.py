"""The listener's bundle: what is in it, that it is enough, and that nothing else is."""

import hashlib
import io
import lzma
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from linac.errors import DamagedError, SetupError
from linac.provision import Listening, Services, bundle, plan
from linac.provision.closure import closure
from linac.provision.services import NSSM, SYSTEMD
from linac.simulator import SimulatedLinac, make_beams
from linac.transport import connect

SERVICES = Services(NSSM, (Listening("4299", "192.168.17.40"),), r"\\NBCCC-pdc\physics\NBCC-DataExchange")

# As python-3.11.9-embed-amd64.zip is laid out; the programs themselves are not needed here.
PTH = "python311.zip\r\n.\r\n\r\n# Uncomment to run site.main() automatically\r\n#import site\r\n"
LAYOUT = {
    "LICENSE.txt": b"A licence.",
    "_ssl.pyd": b"\x4d\x5a not really",
    "python.cat": b"\x30\x82 not really",
    "python.exe": b"\x4d\x5a not really",
    "python3.dll": b"\x4d\x5a not really",
    "python311._pth": PTH.encode(),
    "python311.dll": b"\x4d\x5a not really",
    "python311.zip": b"PK not really",
    "pythonw.exe": b"\x4d\x5a not really",
    "vcruntime140.dll": b"\x4d\x5a not really",
}


def embed(changes: dict[str, bytes | None] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {**LAYOUT, **(changes or {})}.items():
            if data is not None:
                archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return bundle.bundle_files(SERVICES, embed())


def test_it_holds_python_the_program_the_services_and_what_to_do(files: dict[str, bytes]) -> None:
    assert {name.removeprefix("python/") for name in files if name.startswith("python/")} == set(LAYOUT)
    assert {name for name in files if "/" not in name} == {
        *("4299_listening.bat", "services-install.bat", "services-start.bat", "services-stop.bat", "services-uninstall.bat"),
        *("services-status.bat", "README.txt", "SHA256SUMS.txt"),
    }
    program = {name for name in files if name.startswith("program/")}
    assert {"program/linac/icom/__main__.py", "program/linac/capture/listener.py", "program/linac/errors.py"} <= program
    assert not [name for name in program if re.search(r"linac/(trf|index|simulator|provision)/|smb|ssh", name)]
    readme = files["README.txt"].decode().splitlines()
    assert [line.partition(":")[0] for line in readme] == ["WHAT", "INSTALL", "START", "CHECK", "UNINSTALL"]
    assert "nssm.exe" in readme[1]
    with_nssm = bundle.bundle_files(SERVICES, embed(), b"MZ nssm")
    assert with_nssm["nssm.exe"] == b"MZ nssm"
    assert b"nssm.cc" not in with_nssm["README.txt"]


def test_pythons_path_file_is_told_where_the_program_lies_and_no_more(files: dict[str, bytes]) -> None:
    assert files["python/python311._pth"].decode().splitlines() == [
        *("python311.zip", ".", r"..\program", ""),
        *("# Uncomment to run site.main() automatically", "#import site"),
    ]
    again = bundle.bundle_files(SERVICES, embed({"python311._pth": files["python/python311._pth"]}))
    assert again["python/python311._pth"] == files["python/python311._pth"]


def test_every_file_is_in_the_list_with_its_sum(files: dict[str, bytes], tmp_path: Path) -> None:
    listed = dict(reversed(line.split(" *")) for line in files["SHA256SUMS.txt"].decode().splitlines())
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "SHA256SUMS.txt"}
    with connect(tmp_path) as folder:
        plan(folder, files).apply()
        assert bundle.damaged(folder) == []
        assert set(bundle.listed(folder)) == set(files)
        (tmp_path / "python" / "python.exe").write_bytes(b"another")
        (tmp_path / "README.txt").unlink()
        assert sorted(bundle.damaged(folder)) == ["README.txt", "python/python.exe"]
    with connect(tmp_path / "python") as folder, pytest.raises(DamagedError, match="not a listener's bundle"):
        bundle.damaged(folder)


def test_the_same_input_gives_the_same_zip(files: dict[str, bytes]) -> None:
    one = bundle.zipped(files)
    assert one == bundle.zipped(dict(reversed(bundle.bundle_files(SERVICES, embed()).items())))
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert {entry.filename: archive.read(entry) for entry in archive.infolist()} == {
            f"linac-listener/{name}": data for name, data in files.items()
        }
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no zip", "is not Python's embeddable zip"),
        (embed({"python.exe": None}), "is not Python's embeddable zip"),
        (embed({"python311.zip": None}), "is not Python's embeddable zip"),
        (embed({"python312._pth": b""}), "is not Python's embeddable zip"),
        (embed({"python311._pth": None, "python311.zip": None, "python39._pth": b"", "python39.zip": b""}), "That is Python 3.9"),
        (embed({"../out.exe": b"x"}), "leads out of its folder"),
        (embed()[:-40], "cannot be unpacked"),
        (None, "needs Python's embeddable zip"),
    ],
    ids=["text", "no program", "no library", "two versions", "old", "leads out", "cut short", "none"],
)
def test_what_is_no_embeddable_python_is_refused(data: bytes | None, says: str) -> None:
    with pytest.raises(SetupError, match=says):
        bundle.bundle_files(SERVICES, data)


def test_the_bundled_listener_records_a_session_with_python_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    """`python -I -S` sees Python's own modules and, as the ._pth file has it, the bundle's program: nothing of this place."""
    there = tmp_path / "a server's folder"
    there.mkdir()
    with connect(there) as folder:
        plan(folder, files).apply()
    pth = (there / "python" / "python311._pth").read_text().splitlines()
    [program] = [there / "python" / line.replace("\\", "/") for line in pth if line.startswith("..")]
    boot = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('linac.icom', {}, '__main__', True)"
    python = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", boot, str(program.resolve())]
    icom, spool = tmp_path / "Größe & Maß", tmp_path / "spool"
    icom.mkdir()
    with SimulatedLinac("4299", speed=40) as linac:
        host, port = linac.address
        listen = ["listen", host, str(icom), "--serial", "4299", "--port", str(port), "--spool", str(spool)]
        with subprocess.Popen(
            [*python, *listen], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            try:
                assert linac.wait_for_client(60)
                session = linac.start_session(patient_id="TEST-0001", patient_name="Nobody^At All", beams=make_beams(1, mu=20))
                assert linac.wait_ended(session, 60)
                deadline = time.monotonic() + 60
                while not list(icom.glob("patients/*/*.xz")) and time.monotonic() < deadline:
                    time.sleep(0.1)
                told = subprocess.run([*python, "status", "--spool", str(spool)], capture_output=True, text=True, timeout=60)
            finally:
                running.send_signal(signal.SIGINT)
                said, _ = running.communicate(timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr
    assert running.returncode == 0, said
    [path] = icom.glob("patients/*/*.xz")
    assert path.parent.name == "TEST-0001_Nobody, At All"
    assert lzma.decompress(path.read_bytes()).count(b"TEST-0001") > 10
    with connect(there) as folder:
        assert bundle.damaged(folder) == []  # running it leaves it as it was


def test_for_linux_the_units_use_the_servers_python_and_the_bundles_program() -> None:
    files = bundle.bundle_files(Services(SYSTEMD, (Listening("4299", "192.168.17.40"),), "/mnt/nbcc"))
    unit = files["icom-listening-4299.service"].decode()
    assert "ExecStart=/usr/bin/python3 -X utf8 -m linac.icom listen 192.168.17.40 /mnt/nbcc/iCom " in unit
    assert "Environment=" in unit
    assert "PYTHONPATH=/opt/linac-listener/program" in unit
    assert len(files["README.txt"].decode().splitlines()) == 5
    assert not [name for name in files if name.startswith("python/")]


def write(root: Path, **modules: str) -> Path:
    for name, text in modules.items():
        path = root.joinpath("linac", *name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    return root


def test_modules_are_found_by_their_imports_however_written(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        a__start="import linac.b.plain\nfrom linac.b import taken, VALUE\nfrom . import beside\nfrom ..c import up\n"
        "try:\n  import linac.d\nexcept OSError: pass",
        a__beside="def f():\n  from linac.b.late import x",
        a__unused="",
        b__plain="",
        b__taken="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import linac.b.types",
        b__late="import json, os.path",
        b__types="",
        c__up="",
        d="",
    )
    assert set(closure(["linac.a.start"], root)) == {
        *("linac", "linac.a", "linac.a.start", "linac.a.beside", "linac.b", "linac.b.plain", "linac.b.taken", "linac.b.late"),
        *("linac.c", "linac.c.up", "linac.d"),
    }


def test_a_foreign_package_is_refused_at_the_top_and_left_out_where_it_is_only_a_way_not_gone(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        start="def f():\n  from linac import smb",
        smb="import linac.deep",
        deep="import smbprotocol",
        bad="import linac.smb",
    )
    assert set(closure(["linac.start"], root)) == {"linac", "linac.start"}
    with pytest.raises(SetupError, match=r"linac\.bad needs the package smbprotocol"):
        closure(["linac.bad"], root)
