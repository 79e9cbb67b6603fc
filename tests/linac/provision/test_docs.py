"""docs/adding-a-linac.md: its commands are taken as they stand, its difference is what comes out, its files exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from linac.provision import windows_files
from linac.provision.__main__ import main
from linac.provision.services import NSSM, Listening, Services


@pytest.fixture
def page(project: Path) -> str:
    return (project / "docs" / "adding-a-linac.md").read_text(encoding="utf-8")


def commands(page: str, which: str) -> list[list[str]]:
    blocks = [" ".join(block.split()) for block in re.findall(r"^```\n(.*?)^```", page, re.M | re.S)]
    words = [shlex.split(block.replace("\\", "\\\\")) for block in blocks]
    return [line[4:] for line in words if line[:4] == ["python", "-m", "linac.provision", which]]


def test_its_commands_are_understood(page: str, tmp_path: Path, capsys: Any) -> None:
    [services] = commands(page, "services")
    assert main(["services", *[str(tmp_path) if word == "DIR" else word for word in services]]) == 0
    assert (tmp_path / "9183_listening.bat").exists()
    [bundle] = commands(page, "bundle")
    capsys.readouterr()
    assert main(["bundle", *bundle, "--dry-run"]) == 1  # there is no such zip here: so far it was understood
    assert "python-3.11.9-embed-amd64.zip cannot be read" in capsys.readouterr().err


def test_its_difference_is_what_comes_out(page: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.toml").write_text('[[site]]\nname = "nbcc"\n')
    [config] = commands(page, "config")
    assert main(["config", *[str(tmp_path / "config.toml") if word.startswith("S:") else word for word in config]]) == 0
    [shown] = re.findall(r"^```diff\n(.*?)^```", page, re.M | re.S)
    assert shown in capsys.readouterr().out


def test_the_chapters_of_the_old_page_are_all_there(page: str, project: Path) -> None:
    titles = re.findall(r"^#+ (.*)$", page, re.M)
    old = project.parent / "shared" / "docs" / "adding-a-linac.txt"
    if not old.exists():
        pytest.skip("the old page is not beside the repository (../shared/docs)")
    chapters = [line.rstrip("#") for line in old.read_text(encoding="utf-8").splitlines() if line.endswith("#")][1:]
    assert len(chapters) == 9
    assert [title for title in titles if title in chapters] == chapters


def test_the_files_and_settings_that_it_names_exist(page: str, project: Path) -> None:
    files = windows_files(Services(NSSM, (Listening("4299", "192.168.17.40"),), r"\\NBCCC-pdc\Größe"))
    for name in ("4299_listening.bat", "4299_listening.args", "services-install.bat", "services-start.bat"):
        assert name in page
        assert name in files
    install = files["services-install.bat"].decode()
    for setting in ("AppStopMethodConsole 40000", "Start SERVICE_AUTO_START", "AppStdin NUL"):
        assert setting in page
        assert setting in install
    for link in re.findall(r"\]\(([^)]*\.md)\)", page):
        assert (project / "docs" / link).exists()
