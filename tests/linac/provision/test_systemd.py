"""systemd units, checked by systemd itself, and their scripts, run by a real shell with a systemctl that records its calls."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from linac.errors import SetupError
from linac.provision.services import Listening, Services, Worker
from linac.provision.systemd import systemd_files

pytestmark = pytest.mark.skipif(os.name == "nt", reason="systemd is Linux's")

LINACS = (Listening("4299", "192.168.17.40"), Listening("9183", "192.168.17.41", 1707))
RECORDS = '/mnt/physics Größe & Maß/100% "sure" $HOME \\ (new)'


def services(**changes: Any) -> Services:
    return Services(**{"kind": "systemd", "linacs": LINACS, "records": "/mnt/nbcc", **changes})


def verified(folder: Path, what: Services | Worker) -> list[Path]:
    """The units, after systemd has found nothing wrong with them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = []
    for name, data in systemd_files(what).items():
        path = folder / name
        path.write_bytes(data)
        if name.endswith(".service"):
            units.append(path)
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=120
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return units


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A folder with a python3 in it: `verify` looks whether the program is there."""
    folder = tmp_path / "100% py"
    folder.mkdir()
    (folder / "python3").symlink_to("/bin/true")
    return str(folder)


@pytest.mark.parametrize("records", ["/mnt/nbcc", "/mnt/nbcc/iCom", RECORDS])
def test_systemd_accepts_the_listeners_units(records: str, python: str, tmp_path: Path) -> None:
    assert [unit.name for unit in verified(tmp_path, services(records=records, python=python))] == [
        "icom-listening-4299.service",
        "icom-listening-9183.service",
    ]


def test_systemd_accepts_the_workers_unit(python: str, tmp_path: Path) -> None:
    worker = Worker("systemd", str(tmp_path), pool="site nbcc", records=RECORDS, python=python)
    [unit] = verified(tmp_path, worker)
    assert unit.name == "linac-flows-worker.service"


def test_the_units_are_hardened(python: str, tmp_path: Path) -> None:
    """systemd's own measure of exposure: 9.6 for a plain unit, up to 10."""
    for unit in [
        *verified(tmp_path, services(python=python)),
        *verified(tmp_path, Worker("systemd", str(tmp_path), python=python)),
    ]:
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-600:] + done.stderr
        text = unit.read_text()
        assert "User=linac-flows\n" in text
        assert "KillMode=process\n" in text  # neither takes the listener along


def words(line: str) -> list[str]:
    """A command line as systemd reads it (systemd.service, "Command lines"), written anew: `quoted` is not its own judge."""
    found, word, inside, i = [], "", False, 0
    line = line.replace("%%", "%").replace("$$", "$")
    while i < len(line):
        letter = line[i]
        if letter == "\\":
            i += 1
            word += line[i]
        elif letter == '"':
            inside = not inside
        elif letter == " " and not inside:
            found.append(word)
            word = ""
        else:
            word += letter
        i += 1
    return [*found, word]


@pytest.mark.parametrize("records", ["/mnt/nbcc", RECORDS])
def test_the_listener_gets_the_words_that_were_meant(records: str) -> None:
    unit = systemd_files(services(records=records))["icom-listening-9183.service"].decode()
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    python, *rest = words(line.removeprefix("ExecStart="))
    assert python == "/usr/bin/python3"
    assert 'Environment="PYTHONPATH=/opt/linac-listener/program"\n' in unit  # a bundle's folder
    own = systemd_files(services(records=records, python="/opt/linac-flows/.venv/bin"))["icom-listening-9183.service"].decode()
    assert "ExecStart=/opt/linac-flows/.venv/bin/python3 " in own
    assert "PYTHONPATH" not in own
    command = [
        "listen",
        "192.168.17.41",
        f"{records}/iCom",
        "--serial",
        "9183",
        "--port",
        "1707",
        "--spool",
        "/var/lib/linac-flows/spool",
    ]
    assert rest == ["-X", "utf8", "-m", "linac.icom", *command]


def test_homes_stay_closed_unless_something_lies_in_one() -> None:
    assert b"ProtectHome=yes\n" in systemd_files(services())["icom-listening-4299.service"]
    assert b"ProtectHome=read-only\n" in systemd_files(services(spool="/home/jane/spool"))["icom-listening-4299.service"]


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$(basename "$0") $*" in
  "systemctl --quiet is-active "*) exit "${ACTIVE:-3}" ;;
  "getent passwd"*) exit "${KNOWN:-2}" ;;
  "id -u") echo "${ROOT:-0}" ;;
  "id -gn "*) echo "$2" ;;
esac
exit 0
"""


def script(folder: Path, name: str, **environment: str) -> tuple[int, list[str], str]:
    """Run a script with a folder of ours for the units: exit code, calls of the stand-ins, what it said."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("systemctl", "getent", "useradd", "id"):
        (tools / tool).write_text(STAND_IN)
        (tools / tool).chmod(0o755)
    install = tools / "install"  # to another owner only root may install; the files themselves are put by the real one
    install.write_text('#!/bin/sh\ncase "$1" in -d) echo "install $*" >>"$CALLS" ;; *) exec /usr/bin/install "$@" ;; esac\n')
    install.chmod(0o755)
    system = folder.parent / "system"
    system.mkdir(exist_ok=True)
    calls = folder.parent / "calls"
    calls.unlink(missing_ok=True)
    settings = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SYSTEMD_UNITS": str(system),
        **environment,
    }
    done = subprocess.run(["sh", str(folder / name)], cwd="/", env=settings, capture_output=True, text=True, timeout=60)
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stdout + done.stderr


def put(folder: Path, what: Services | Worker) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in systemd_files(what).items():
        (folder / name).write_bytes(data)


def test_installing_and_uninstalling_can_be_run_again(tmp_path: Path) -> None:
    files, system = tmp_path / "files of the site", tmp_path / "system"
    put(files, services())
    code, calls, said = script(files, "services-install.sh")
    both = "icom-listening-4299.service icom-listening-9183.service"
    assert code == 0, said
    assert [path.name for path in sorted(system.iterdir())] == both.split()
    assert calls[-2:] == ["systemctl daemon-reload", f"systemctl enable --now {both}"]
    assert any(call.startswith("useradd --system") for call in calls)
    assert "install -d -o linac-flows -g linac-flows -m 0750 /var/lib/linac-flows/spool" in calls
    code, calls, said = script(files, "services-install.sh", KNOWN="0")
    assert code == 0
    assert said.splitlines() == [
        *(f"{unit}: unchanged" for unit in both.split()),
        "ATTENTION: there is no folder /mnt/nbcc/iCom. Mount its share; or make it, then restart the service.",
    ]
    assert not any(call.startswith("useradd") for call in calls)
    put(files, services(records="/mnt/elsewhere"))
    code, calls, said = script(files, "services-install.sh", KNOWN="0", ACTIVE="0")
    assert "when no patient is being treated: systemctl restart icom-listening-4299.service" in said
    assert not any(call.startswith("systemctl restart") for call in calls)  # that is for people to choose
    code, calls, said = script(files, "services-uninstall.sh")
    assert code == 0
    assert not list(system.iterdir())
    assert "systemctl disable --now icom-listening-4299.service" in calls
    code, _, said = script(files, "services-uninstall.sh")
    assert code == 0
    assert "icom-listening-9183.service: is not installed" in said


def test_the_records_folder_is_looked_for_whatever_it_is_called(tmp_path: Path) -> None:
    records = tmp_path / "Größe & Maß 'neu' $(echo)"
    put(tmp_path / "files", services(records=str(records)))
    assert f"ATTENTION: there is no folder {records}/iCom." in script(tmp_path / "files", "services-install.sh")[2]
    (records / "iCom").mkdir(parents=True)
    assert "ATTENTION" not in script(tmp_path / "files", "services-install.sh")[2]


def test_scripts_want_root_and_say_so(tmp_path: Path) -> None:
    put(tmp_path / "files", services())
    for verb in ("install", "start", "stop", "uninstall"):
        code, calls, said = script(tmp_path / "files", f"services-{verb}.sh", ROOT="1000")
        assert code == 5
        assert calls == ["id -u"]
        assert "run it with sudo" in said


@pytest.mark.parametrize(
    "changes", [{"records": r"\\srv\share"}, {"records": "mnt"}, {"log_on": "Jane Doe"}, {"python": "python"}]
)
def test_what_cannot_be_right_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(SetupError):
        services(**changes)
    with pytest.raises(SetupError):
        Worker("systemd", "/opt/linac-flows", pool="a;b")
    with pytest.raises(SetupError):
        Worker("systemd", "/opt/linac-flows", api_url="http://a b")
