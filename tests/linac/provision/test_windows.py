"""Batch files, run in a real cmd.exe: each program gets exactly the words that were meant, whatever the folders are called."""

import re
from pathlib import Path
from typing import Any

import pytest

from linac.errors import SetupError
from linac.provision.services import Listening, Services, Worker
from linac.provision.windows import ARGUMENTS_CODE, NSSM_SETTINGS, windows_files

SHARE = r"\\NBCCC-pdc\physics\NBCC-DataExchange"
FOLDER = "Größe (x86) & Maß! ^caret;, a=b"  # no %: wine's cmd.exe loses it from a variable's value, Windows's does not
LINACS = (Listening("4299", "192.168.17.40"), Listening("9183", "192.168.17.41"))


def services(**changes: Any) -> Services:
    return Services(**{"kind": "nssm", "linacs": LINACS[:1], "records": SHARE, "spool": r"C:\linac spool (1)", **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all that is awkward in a name; the files do not know of it before they lie there."""
    return tmp_path / FOLDER


def put(folder: Path, what: Services | Worker) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    files = windows_files(what)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def dos(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


def settings(calls: list[list[str]], service: str) -> dict[str, list[str]]:
    """What NSSM was told about one service."""
    return {call[3]: call[4:] for call in calls if call[:3] == ["nssm", "set", service]}


def test_installing_tells_nssm_the_settings_of_the_procedure(windows: Any, folder: Path) -> None:
    put(folder, services(linacs=LINACS))
    done = windows.batch(folder / "services-install.bat", "quiet")
    assert done.returncode == 0, done.stdout
    calls = windows.calls()
    here = dos(folder)
    assert [call[1:] for call in calls if call[1] == "install"] == [
        ["install", "icom_listening_4299", f"{here}\\4299_listening.bat"],
        ["install", "icom_listening_9183", f"{here}\\9183_listening.bat"],
    ]
    for serial, address in (("4299", "192.168.17.40"), ("9183", "192.168.17.41")):
        assert settings(calls, f"icom_listening_{serial}") == {
            "Application": [f"{here}\\{serial}_listening.bat"],
            "AppDirectory": [here],
            "AppStdin": ["NUL"],
            "AppStdout": [f"{here}\\logs\\{serial}_listening_log.txt"],
            "AppStderr": [f"{here}\\logs\\{serial}_listening_log.txt"],
            "AppRotateFiles": ["1"],
            "AppRotateOnline": ["1"],
            "AppRotateBytes": ["10000000"],
            "AppRestartDelay": ["300000"],
            "AppStopMethodConsole": ["40000"],
            "DisplayName": [f"iCom listening {serial}"],
            "Description": [
                f"Records the iCom stream of linac {serial} at {address}. It reads only; it never controls the linac."
            ],
            "Start": ["SERVICE_AUTO_START"],
            "AppKillProcessTree": ["0"],
        }
    assert "ATTENTION: this account sees no folder" in done.stdout
    assert (folder / "logs").is_dir()
    assert (windows.prefix / "drive_c" / "linac spool (1)").is_dir()


def test_the_listener_is_run_with_the_words_that_were_meant(windows: Any, folder: Path, arguments_of: Any) -> None:
    put(folder, services())
    (folder / "python").mkdir()
    windows.put("python", folder / "python")
    done = windows.batch(folder / "4299_listening.bat")
    assert done.returncode == 0, done.stdout
    words = ["listen", "192.168.17.40", SHARE + r"\iCom", "--serial", "4299", "--spool", r"C:\linac spool (1)"]
    assert windows.calls() == [["python", "-X", "utf8", "-m", "linac.icom", *words]]


@pytest.mark.parametrize(
    "records",
    [
        "D:\\",
        r"\\srv\share\Größe & Maß (neu)",
        r"\\srv\100% sure\%TEMP% %~dp0 %1 wow! ^caret\icom",
    ],
)
def test_any_records_folder_reaches_the_listener(records: str, windows: Any, tmp_path: Path, arguments_of: Any) -> None:
    put(tmp_path, services(records=records))
    (tmp_path / "python").mkdir()
    windows.put("python", tmp_path / "python")
    assert windows.batch(tmp_path / "4299_listening.bat").returncode == 0
    [call] = windows.calls()
    if "-c" in call:  # a file of arguments: Python reads it
        assert call[:5] == ["python", "-X", "utf8", "-c", ARGUMENTS_CODE]
        assert call[5:] == [dos(tmp_path / "4299_listening.args")]
        words = arguments_of(ARGUMENTS_CODE, str(tmp_path / "4299_listening.args"))
    else:
        words = call[5:]
    icom = records if records.endswith("icom") else records.rstrip("\\") + "\\iCom"
    assert words == ["listen", "192.168.17.40", icom, "--serial", "4299", "--spool", r"C:\linac spool (1)"]


def test_the_listeners_exit_code_is_the_services(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    (tmp_path / "python").mkdir()
    windows.put("python", tmp_path / "python")
    (windows.tools / "refuse-python").touch()
    assert windows.batch(tmp_path / "4299_listening.bat").returncode == 1


def test_the_status_ends_with_the_exit_code_of_what_it_shows(windows: Any, folder: Path) -> None:
    put(folder, services(linacs=LINACS))
    (folder / "python").mkdir()
    windows.put("python", folder / "python")
    assert windows.batch(folder / "services-install.bat", "quiet").returncode == 0
    assert windows.batch(folder / "services-status.bat", "quiet").returncode == 0
    (windows.tools / "refuse-python").touch()
    assert windows.batch(folder / "services-status.bat", "quiet").returncode == 1


def test_a_batch_file_started_as_a_service_starts_it(windows: Any, folder: Path) -> None:
    """NSSM makes a process of the file itself, from another folder."""
    put(folder, services())
    (folder / "python").mkdir()
    windows.put("python", folder / "python")
    windows.run(dos(folder / "4299_listening.bat"), cwd=Path("/"))
    assert [call[:5] for call in windows.calls()] == [["python", "-X", "utf8", "-m", "linac.icom"]]


def test_installing_again_updates_and_installs_only_what_is_new(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services(linacs=LINACS))
    (windows.tools / "service-icom_listening_4299").touch()
    done = windows.batch(tmp_path / "services-install.bat", "quiet")
    assert done.returncode == 0
    calls = windows.calls()
    assert [call[2] for call in calls if call[1] == "install"] == ["icom_listening_9183"]
    old, new = (settings(calls, f"icom_listening_{linac.serial}") for linac in LINACS)
    assert old.keys() == new.keys()
    assert old["Application"] == [dos(tmp_path / "4299_listening.bat")]
    assert "icom_listening_4299: is installed; its settings are brought up to date." in done.stdout
    assert "icom_listening_9183: is being installed." in done.stdout


def test_a_refused_setting_fails_the_install_but_not_the_other_services(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services(linacs=LINACS))
    (windows.tools / "refuse-AppDirectory").touch()
    done = windows.batch(tmp_path / "services-install.bat", "quiet")
    assert done.returncode == 1
    assert "icom_listening_4299: NSSM refused: AppDirectory." in done.stdout
    assert "icom_listening_9183: NSSM refused: AppDirectory." in done.stdout
    assert "Mend it, then run this again" in done.stdout


def test_a_worker_wants_an_nssm_that_leaves_the_listeners_alone(windows: Any, tmp_path: Path) -> None:
    (windows.tools / "refuse-AppKillProcessTree").touch()
    put(tmp_path, Worker("nssm", r"C:\linac-flows"))
    done = windows.batch(tmp_path / "services-install.bat", "quiet")
    assert done.returncode == 1
    assert "this NSSM is too old" in done.stdout


PASSWORD = "pa!s^s&w(o)r d|<>;=,~"


def test_the_account_is_asked_for_and_its_password_is_in_no_file(windows: Any, folder: Path) -> None:
    put(folder, services())
    (windows.tools / "password").write_text(PASSWORD)
    done = windows.batch(folder / "services-install.bat", answers="HOSPITAL\\icom-recorder\n")
    assert done.returncode == 0, done.stdout
    calls = windows.calls()
    assert settings(calls, "icom_listening_4299")["ObjectName"] == ["HOSPITAL\\icom-recorder", PASSWORD]
    granted = [call[1:] for call in calls if call[0] == "icacls"]
    assert granted == [
        [f"{dos(folder)}\\logs", "/grant", "HOSPITAL\\icom-recorder:(OI)(CI)M"],
        [r"C:\linac spool (1)", "/grant", "HOSPITAL\\icom-recorder:(OI)(CI)M"],
    ]
    [asked] = [call for call in calls if call[0] == "powershell"]
    assert asked[1:3] == ["-NoProfile", "-Command"]
    assert "-AsSecureString" in asked[3]
    assert PASSWORD not in done.stdout
    for path in folder.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


@pytest.mark.parametrize("checked", [True, False], ids=["PowerShell looks", "cmd.exe alone"])
@pytest.mark.parametrize("password", ['p"s & echo PWNED > pwn.txt & rem ', '^"" | echo PWNED>pwn.txt'])
def test_a_password_that_ends_its_quotation_marks_is_refused_and_never_run(
    password: str, checked: bool, windows: Any, tmp_path: Path
) -> None:
    put(tmp_path, services())
    (windows.tools / "password").write_text(password)
    if not checked:
        (windows.tools / "refuse-unsafe").touch()
    done = windows.batch(tmp_path / "services-install.bat", answers="HOSPITAL\\icom-recorder\n")
    assert done.returncode == 1, done.stdout
    assert "services.msc" in done.stdout
    assert "Installed." not in done.stdout
    told = settings(windows.calls(), "icom_listening_4299")
    assert "ObjectName" not in told
    assert told["Start"] == ["SERVICE_AUTO_START"]
    assert not (tmp_path / "pwn.txt").exists()
    assert "PWNED" not in done.stdout


@pytest.mark.parametrize("password", ["ends in \\", "Größe"])
def test_a_password_that_would_not_arrive_as_it_is_is_refused(password: str, windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    (windows.tools / "password").write_text(password, encoding="cp1252")
    done = windows.batch(tmp_path / "services-install.bat", answers="HOSPITAL\\icom-recorder\n")
    assert done.returncode == 1, done.stdout
    assert "services.msc" in done.stdout
    assert "ObjectName" not in settings(windows.calls(), "icom_listening_4299")


def test_an_accounts_name_with_a_quotation_mark_is_refused_and_never_run(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    (windows.tools / "password").write_text(PASSWORD)
    done = windows.batch(tmp_path / "services-install.bat", answers='x" & echo PWNED > pwn.txt & rem \n')
    assert done.returncode == 1, done.stdout
    assert "no quotation mark" in done.stdout
    calls = windows.calls()
    assert {call[0] for call in calls} == {"nssm"}
    assert "ObjectName" not in settings(calls, "icom_listening_4299")
    assert not (tmp_path / "pwn.txt").exists()


def test_of_an_account_that_is_known_only_the_password_is_asked_for(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services(log_on="HOSPITAL\\icom recorder$"))
    (windows.tools / "password").write_text(PASSWORD)
    assert windows.batch(tmp_path / "services-install.bat").returncode == 0
    assert settings(windows.calls(), "icom_listening_4299")["ObjectName"] == ["HOSPITAL\\icom recorder$", PASSWORD]
    (windows.tools / "refuse-get").touch()  # that is enough to see what is asked
    (windows.tools / "refuse-install").touch()
    windows.batch(tmp_path / "services-install.bat", "quiet")
    assert [call[:2] for call in windows.calls()] == [["nssm", "get"], ["nssm", "install"]]


def test_enter_alone_leaves_the_account_and_an_empty_password_is_none(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services(linacs=LINACS[:1]))
    assert (
        windows.batch(tmp_path / "services-install.bat").returncode == 0
    )  # wine takes an empty line for a name, no line for none
    calls = windows.calls()
    assert "ObjectName" not in settings(calls, "icom_listening_4299")
    assert {call[0] for call in calls} == {"nssm"}
    (windows.tools / "password").write_text("")
    assert windows.batch(tmp_path / "services-install.bat", answers="NT AUTHORITY\\NetworkService\n").returncode == 0
    assert settings(windows.calls(), "icom_listening_4299")["ObjectName"] == ["NT AUTHORITY\\NetworkService"]


def test_start_stop_and_uninstall_can_be_run_again(windows: Any, folder: Path) -> None:
    put(folder, services())
    name = "icom_listening_4299"
    (windows.tools / f"service-{name}").touch()

    def run(verb: str) -> tuple[int, list[list[str]], str]:
        done = windows.batch(folder / f"services-{verb}.bat", "quiet")
        acted = [call[1:] for call in windows.calls() if call[0] == "nssm" and call[1] != "get"]
        return done.returncode, acted, done.stdout

    assert run("start")[:2] == (0, [["start", name]])
    code, acted, said = run("start")
    assert (code, acted) == (0, [])
    assert "icom_listening_4299: runs already" in said
    assert run("stop")[:2] == (0, [["stop", name]])
    assert run("stop")[:2] == (0, [])
    assert run("start")[0] == 0
    assert run("uninstall")[:2] == (0, [["stop", name], ["remove", name, "confirm"]])
    code, acted, said = run("uninstall")
    assert (code, acted) == (0, [])
    assert "icom_listening_4299: is not installed." in said


def test_a_service_that_does_not_start_or_stop_is_told_by_the_exit_code(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    done = windows.batch(tmp_path / "services-start.bat", "quiet")
    assert done.returncode == 1
    assert "icom_listening_4299: did not start." in done.stdout
    for name in ("service-icom_listening_4299", "running-icom_listening_4299", "refuse-stop", "refuse-remove"):
        (windows.tools / name).touch()
    assert windows.batch(tmp_path / "services-stop.bat", "quiet").returncode == 1
    assert windows.batch(tmp_path / "services-uninstall.bat", "quiet").returncode == 1


@pytest.mark.parametrize("verb", ["start", "stop", "uninstall"])
def test_where_the_state_of_a_service_is_not_told_nothing_is_done_and_that_is_said(
    verb: str, windows: Any, tmp_path: Path
) -> None:
    put(tmp_path, services())
    for name in ("service-icom_listening_4299", "running-icom_listening_4299", "refuse-sc"):
        (windows.tools / name).touch()
    done = windows.batch(tmp_path / f"services-{verb}.bat", "quiet")
    assert done.returncode == 1
    assert "icom_listening_4299: Windows does not tell whether it runs." in done.stdout
    assert [call for call in windows.calls() if call[0] == "nssm" and call[1] != "get"] == []


def test_without_nssm_or_rights_nothing_is_done_and_it_says_what_to_do(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    done = windows.batch(tmp_path / "services-install.bat", "quiet", WINEPATH="")
    assert done.returncode == 2
    assert "put nssm.exe" in done.stdout
    windows.put("nssm", tmp_path)  # beside the files it is found first
    assert windows.batch(tmp_path / "services-uninstall.bat", "quiet", WINEPATH="").returncode == 0
    assert windows.calls() == [["nssm", "get", "icom_listening_4299", "Application"]] * 2
    system = windows.prefix / "drive_c" / "windows" / "system32"
    windows.put("fltmc", system)
    try:
        (windows.tools / "service-icom_listening_4299").touch()
        assert windows.batch(tmp_path / "services-start.bat", "quiet").returncode == 0
        (windows.tools / "refuse-fltmc").touch()
        windows.calls()
        done = windows.batch(tmp_path / "services-install.bat", "quiet")
        assert done.returncode == 5
        assert "Run as administrator" in done.stdout
        assert windows.calls() == [["fltmc"]]
    finally:
        (system / "fltmc.exe").unlink()


def test_a_path_variable_with_quotation_marks_and_an_older_nssm_do_no_harm(windows: Any, tmp_path: Path) -> None:
    put(tmp_path, services())
    (windows.tools / "refuse-AppKillProcessTree").touch()  # which 2.24 does not know; a listener's service goes without
    path = f'"C:\\Program Files (x86)\\A & B";{windows.environment["WINEPATH"]};"C:\\x'
    done = windows.batch(tmp_path / "services-install.bat", "quiet", WINEPATH=path)
    assert done.returncode == 0, done.stdout
    assert settings(windows.calls(), "icom_listening_4299")["AppDirectory"] == [dos(tmp_path)]


def test_the_worker_runs_in_its_project_and_keeps_the_listeners(windows: Any, tmp_path: Path) -> None:
    project = tmp_path / "linac flows (1) & co"
    scripts = project / ".venv" / "Scripts"
    scripts.mkdir(parents=True)
    windows.put("python", scripts)
    put(tmp_path, Worker("nssm", dos(project), api_url="http://hub:4200/api", pool="site nbcc"))
    assert windows.batch(tmp_path / "worker.bat").returncode == 0
    words = ["-m", "prefect", "worker", "start", "--type", "process", "--pool", "site nbcc"]
    assert windows.calls() == [["python", *words]]
    assert windows.batch(tmp_path / "services-install.bat", "quiet").returncode == 0
    told = settings(windows.calls(), "linac_flows_worker")
    assert told["AppKillProcessTree"] == ["0"]
    assert told["AppRestartDelay"] == ["10000"]
    assert set(told) == {name for name, _ in NSSM_SETTINGS} | {"AppKillProcessTree"}


@pytest.mark.parametrize("what", [services(), services(records=r"D:\Größe"), Worker("nssm", r"C:\linac-flows")])
def test_batch_files_are_ascii_with_windows_line_ends(what: Services | Worker) -> None:
    for name, data in windows_files(what).items():
        if name.endswith(".bat"):
            assert data.isascii()
            assert not re.search(rb"(?<!\r)\n", data)
            assert max(len(line) for line in data.splitlines()) < 8000  # cmd.exe's longest line is 8191
            assert b"password" not in data.lower() or name == "services-install.bat"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"records": "relative/path"}, "not an absolute path of Windows"),
        ({"records": "/mnt/records"}, "not an absolute path of Windows"),
        ({"records": 'D:\\a"b'}, "cannot be a records folder"),
        ({"records": "D:\\a\nb"}, "cannot be a records folder"),
        ({"records": " "}, "cannot be a records folder"),
        ({"spool": r"\\server\share\spool"}, "is on a share"),
        ({"spool": r"C:\Größe"}, "plain letters"),
        ({"python": r"..\python"}, "not an absolute path"),
        ({"log_on": 'a"b'}, "not an account's name"),
        ({"log_on": "a&b"}, "not an account's name"),
        ({"linacs": ()}, "No linac was named"),
        ({"linacs": (LINACS[0], Listening("4299", "192.0.2.1"))}, "the serial 4299"),
        ({"linacs": (LINACS[0], Listening("1", "192.168.17.40"))}, "the address 192.168.17.40"),
        ({"kind": "upstart"}, "no service kind"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SetupError, match=re.escape(says)):
        services(**changes)


def test_tunnels_to_several_linacs_may_end_at_one_computer() -> None:
    both = (Listening("4299", "127.0.0.1", 17061), Listening("9183", "127.0.0.1", 17062))
    assert "--port 17062" in windows_files(services(linacs=both))["9183_listening.bat"].decode()


@pytest.mark.parametrize(
    ("serial", "address"), [("42 99", "a"), ("..", "a"), ("4299", "a b"), ("4299", "a&b"), ("4299", "a%b"), ("", "a")]
)
def test_serials_and_addresses_hold_nothing_that_a_batch_file_could_mistake(serial: str, address: str) -> None:
    with pytest.raises(SetupError):
        Listening(serial, address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "192.168.17.4O",
            "192.168.17.400",
            "192.168.17",
            "4299",
            "192.168.17.40.1",
            "192.168..40",
            "192.168.17.O4",
            "192.168.1O.4O",
        ),
        *(
            "192.168.l7.40",
            "192.168.17.40:1706",
            "192.168.17,40",
            "192.168.17.40.",
            "nss..nbcc",
            "-nss",
            "fe80::g",
            "fe80::1%a&b",
            " ",
        ),
    ],
)
def test_a_mistyped_address_is_refused(address: str) -> None:
    with pytest.raises(SetupError, match="is not an address"):
        Listening("4299", address)


@pytest.mark.parametrize("address", ["192.168.17.40", "::1", "fe80::1", "nss-4299", "nss_4299.nbcc.example", "4299-nss.4th.nbcc"])
def test_addresses_and_names_are_accepted(address: str) -> None:
    assert Listening("4299", address).address == address
