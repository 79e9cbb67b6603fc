"""`python -m linac.provision`: the same answers change nothing the second time, a dry run never does, errors say what to do."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from linac.provision.__main__ import main

SITE = ["--records", r"\\NBCCC-pdc\physics\NBCC-DataExchange", "--serial", "4299", "--address", "192.168.17.40"]


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_services_are_planned_written_and_then_unchanged(tmp_path: Path, capsys: Any) -> None:
    command = ["services", "--kind", "nssm", "--out", str(tmp_path / "out"), *SITE, "--linac", "9183=192.168.17.41"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    shown = capsys.readouterr().out
    assert "new  9183_listening.bat" in shown
    assert "+rem Records the iCom stream of linac 9183" in shown
    assert "nothing was" in shown
    assert main(command) == 0
    first = written(tmp_path / "out")
    assert {"4299_listening.bat", "9183_listening.bat", "services-install.bat"} <= set(first)
    capsys.readouterr()
    assert main(command) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert main([*command, "--linac", "2619=192.168.17.42"]) == 0
    shown = capsys.readouterr().out
    assert "new        2619_listening.bat" in shown
    assert "unchanged  4299_listening.bat" in shown
    assert "changed    services-install.bat" in shown
    assert written(tmp_path / "out")["4299_listening.bat"] == first["4299_listening.bat"]


def test_a_worker_and_units(tmp_path: Path, capsys: Any) -> None:
    worker = ["services", "--for", "worker", "--out", str(tmp_path)]
    assert main([*worker, "--kind", "systemd", "--project", "/opt/linac-flows", "--pool", "nbcc", "--log-on", "prefect"]) == 0
    assert "User=prefect" in (tmp_path / "linac-flows-worker.service").read_text()
    assert main([*worker, "--kind", "nssm", "--project", r"C:\linac-flows", "--api-url", "https://hub:4200/api"]) == 0
    assert 'set "PREFECT_API_URL=https://hub:4200/api"' in (tmp_path / "worker.bat").read_text()
    assert main([*worker, "--kind", "nssm"]) == 1
    assert "--project" in capsys.readouterr().err


def test_config_is_shown_changed_and_then_unchanged(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "config.toml"
    before = '# ours\n[[site]]\nname = "nbcc"\n'
    file.write_bytes(before.encode())
    command = ["config", "--file", str(tmp_path), "--site", "nbcc", "--serial", "4299", "--address", "192.168.17.40"]
    command += ["--energies", "6, 10", "--iview-alias", "4299_iView", "--icom-live-dir", r"\\srv\iCom\live"]
    command += ["--mosaiq-host", "mosaiq", "--mosaiq-port", "1433", "--time-zone", "Australia/Sydney"]
    assert main([*command, "--dry-run"]) == 0
    assert "+    [[site.linac]]" in capsys.readouterr().out
    assert written(tmp_path) == {"config.toml": before.encode()}
    assert main(command) == 0
    assert "What it was is in config.toml.20" in capsys.readouterr().out
    [backup] = [data for name, data in written(tmp_path).items() if name.endswith(".bak")]
    assert backup == before.encode()
    [site] = tomllib.loads(file.read_text())["site"]
    assert site["linac"][0]["energies"] == ["6", "10"]
    assert site["mosaiq"] == {"hostname": "mosaiq", "port": 1433, "timezone": "Australia/Sydney"}
    after = written(tmp_path)
    assert main(command) == 0
    assert "unchanged" in capsys.readouterr().out
    assert written(tmp_path) == after
    assert main(["config", "--file", str(file), "--serial", "4299", "--remove"]) == 0
    assert "4299" not in file.read_text()
    assert main(["config", "--file", str(file), "--serial", "4299"]) == 1


def test_a_file_that_is_not_understood_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[[site]\n")
    assert main(["config", "--file", str(file), "--site", "a", "--serial", "1", "--address", "b"]) == 1
    assert "Nothing was changed" in capsys.readouterr().err
    assert written(tmp_path) == {"config.toml": b"[[site]\n"}


@pytest.mark.skipif(os.name == "nt", reason="links and modes as Linux has them")
def test_a_linked_config_is_followed_and_a_read_only_one_refused_in_a_dry_run_too(tmp_path: Path, capsys: Any) -> None:
    real = tmp_path / "real.toml"
    real.write_text("# ours\n")
    (tmp_path / "config.toml").symlink_to(real)
    command = ["config", "--file", str(tmp_path / "config.toml"), "--site", "nbcc", "--serial", "4299", "--address"]
    assert main([*command, "192.168.17.40"]) == 0
    assert f"{real}: changed." in capsys.readouterr().out
    assert (tmp_path / "config.toml").is_symlink()
    assert "4299" in real.read_text()
    real.chmod(0o444)
    assert main([*command, "192.168.17.41", "--dry-run"]) == 1
    assert "real.toml is read-only" in capsys.readouterr().err


@pytest.fixture
def embed(tmp_path: Path) -> Path:
    path = tmp_path / "python-3.12.4-embed-amd64.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("python.exe", "python312.zip", "python312.dll"):
            archive.writestr(name, b"not really")
        archive.writestr("python312._pth", b"python312.zip\r\n.\r\n#import site\r\n")
    return path


def test_a_bundle_as_a_folder_and_as_a_zip(tmp_path: Path, embed: Path, capsys: Any) -> None:
    command = ["bundle", "--python-embed", str(embed), *SITE, "--out"]
    folder = tmp_path / "linac-listener"
    assert main([*command, str(folder), "--dry-run"]) == 0
    assert not folder.exists()
    assert main([*command, str(folder), "--linac", "9183=192.168.17.41"]) == 0
    assert (folder / "9183_listening.bat").exists()
    capsys.readouterr()
    assert main([*command, str(folder)]) == 0  # the other linac's file goes, ours stays
    assert "removed    9183_listening.bat" in capsys.readouterr().out
    assert not (folder / "9183_listening.bat").exists()
    assert main([*command, str(folder)]) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert main(["bundle", "--check", str(folder)]) == 0
    assert main([*command, str(tmp_path / "out.zip")]) == 0
    assert capsys.readouterr().out.endswith(f"\n{tmp_path / 'out.zip'}: written.\n")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        packed = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
    assert packed == written(folder)
    (folder / "README.txt").write_text("another")
    assert main(["bundle", "--check", str(folder)]) == 1
    assert "missing or changed: README.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["services", "--kind", "nssm", "--out", "x", "--records", "D:\\r", "--serial", "4299"], "belong together"),
        (["services", "--kind", "nssm", "--out", "x", "--records", "D:\\r", "--linac", "4299"], "SERIAL=ADDRESS"),
        (["services", "--kind", "nssm", "--out", "x", "--serial", "4299", "--address", "a"], "--records"),
        (["services", "--kind", "nssm", "--out", "x", "--records", "D:\\r", "--linac", "4299=192.168.17.4O"], "not an address"),
        (["services", "--kind", "systemd", "--out", "x", *SITE], "not an absolute path of Linux"),
        (["bundle", *SITE, "--out", "x"], "--python-embed"),
        (["bundle", *SITE, "--out", "x", "--python-embed", "/nowhere.zip"], "cannot be read"),
        (["bundle", *SITE], "--out"),
    ],
)
def test_what_is_missing_is_said(
    command: list[str], says: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_tells_what_each_command_is_for(project: Path) -> None:
    for words in ([], ["services"], ["config"], ["bundle"]):
        done = subprocess.run(
            [sys.executable, "-m", "linac.provision", *words, "--help"],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "COLUMNS": "100"},
        )
        assert done.returncode == 0, done.stderr
        assert words == [] or "--dry-run" in done.stdout
