"""Files kept for others: PyMedPhys's entry and IT's services, planned with their differences, written once, taken away again."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blocks import Linac, Share, Site
from blocks.linac import Service
from linac.provision import Listening, Services
from linac.provision.bundle import bundle_files
from tasks import files, steps
from tasks.plan import Step

CONFIG = """# Ask Jane before you change this.
[[site]]
name = "NBCC"    # by its long name

    [site.export-directories]
    icom = '\\\\NBCCC-pdc\\physics\\NBCC-DataExchange\\iCom\\patients'

    [[site.linac]]
    name = "2619"
    ip = "192.168.17.39"
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Linac]:
    for name in ("records", "pymedphys"):
        (tmp_path / name).mkdir()

    def made(serial: str = "4299", **other: Any) -> Linac:
        site = Site(
            name="NBCC",
            time_zone="Australia/Sydney",
            records=Share(path=str(tmp_path / "records")),
            spool=str(tmp_path / "spool"),
            pymedphys_config=Share(path=str(tmp_path / "pymedphys")),
        )
        answers = {"serial": serial, "address": "192.168.17.40", "site": site, "backup": Share(path=r"\\nss-4299\Backup\TCS")}
        return Linac(**{**answers, **other})

    return made


def only(found: list[Step]) -> Step:
    (step,) = found
    assert not step.problem, step.problem
    return step


def do(step: Step) -> None:
    assert step.change
    assert step.do is not None
    step.do()


class TestPyMedPhysConfiguration:
    def test_an_entry_is_planned_made_kept_and_removed(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        path = tmp_path / "pymedphys" / "config.toml"
        path.write_text(CONFIG)
        linac = make(energies=["6", "10 FFF"], iview_alias="4299_iView")
        step = only(files.config_steps(linac, "nbcc"))
        assert path.read_text() == CONFIG, "a plan changes nothing"
        assert '+    name = "4299"' in step.diff
        assert '+    samba_ip = "nss-4299"' in step.diff
        do(step)
        written = path.read_text()
        assert "# Ask Jane" in written
        assert written.count("NBCC-DataExchange") == CONFIG.count("NBCC-DataExchange"), "the folders that people chose stay"
        assert [item.read_text() for item in path.parent.glob("config.toml.*.bak")] == [CONFIG]
        assert not only(files.config_steps(linac, "nbcc")).change, "the second time there is nothing to do"

        do(only(files.config_steps(linac, removed=True)))
        assert "4299" not in path.read_text()
        assert "2619" in path.read_text()
        assert not only(files.config_steps(linac, removed=True)).change

    def test_what_somebody_else_changed_since_the_plan_stays(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        path = tmp_path / "pymedphys" / "config.toml"
        path.write_text(CONFIG)
        step = only(files.config_steps(make(), "nbcc"))
        path.write_text(CONFIG + "# and Joe\n")
        do(step)
        assert 'name = "4299"' in path.read_text()
        assert "# and Joe" in path.read_text()

    def test_a_new_file_names_the_folders(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        import tomllib

        do(only(files.config_steps(make(), "nbcc")))
        data = tomllib.loads((tmp_path / "pymedphys" / "config.toml").read_text())
        (site,) = data["site"]
        assert site["name"] == "nbcc"
        assert site["export-directories"]["icom"] == str(tmp_path / "records" / "iCom" / "patients")
        assert site["export-directories"]["icom_live"] == str(tmp_path / "records" / "iCom" / "live")
        assert [linac["name"] for linac in site["linac"]] == ["4299"]

    def test_a_file_that_is_not_understood_stands_in_the_way(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        (tmp_path / "pymedphys" / "config.toml").write_text("[[site\n")
        (step,) = files.config_steps(make(), "nbcc")
        assert "cannot be read" in step.problem

    def test_a_site_without_pymedphys_has_no_step(self, make: Callable[..., Linac]) -> None:
        linac = make()
        linac.site.pymedphys_config = None
        assert files.config_steps(linac, "nbcc") == []
        assert "config.toml" not in " ".join(steps.kept(linac))

    def test_what_a_removal_leaves_in_it_is_named(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        left = next(line for line in steps.kept(make()) if f"config.toml in {tmp_path / 'pymedphys'}" in line)
        for words in ("linac = []", "export-directories", "[icom] patient_directories", ".bak"):
            assert words in left


class TestServices:
    @pytest.fixture
    def in_service(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Linac]:
        """The linacs in service, by their block names, in the place of a server."""
        present: dict[str, Linac] = {}
        monkeypatch.setattr(files, "load", lambda kind, name: present.get(name))
        monkeypatch.setattr(files, "linacs_in_service", lambda: list(present.values()))
        return present

    def test_a_worker_needs_none(self, make: Callable[..., Linac], in_service: dict[str, Linac]) -> None:
        assert files.service_steps(make()) == []

    def test_linacs_of_one_host_share_their_scripts(
        self, make: Callable[..., Linac], in_service: dict[str, Linac], tmp_path: Path
    ) -> None:
        first = make(service=Service.SYSTEMD, capture_host="nbccc-capture")
        step = only(files.service_steps(first))
        folder = tmp_path / "records" / "services" / "nbccc-capture"
        assert not folder.exists(), "a plan changes nothing"
        assert "icom-listening-4299.service" in step.diff
        do(step)
        in_service["linac-4299"] = first
        assert not only(files.service_steps(first)).change
        assert (folder / "icom-listening-4299.service").is_file()

        second = make("2619", address="192.168.17.41", service=Service.SYSTEMD, capture_host="nbccc-capture")
        step = only(files.service_steps(second))
        assert "icom-listening-2619.service new" in step.change
        assert "services-install.sh changed" in step.change
        do(step)
        in_service["linac-2619"] = second

        do(only(files.service_steps(first, removed=True)))
        del in_service["linac-4299"]
        assert sorted(path.name for path in folder.glob("*.service")) == ["icom-listening-2619.service"]
        assert "4299" not in (folder / "services-install.sh").read_text()

        do(only(files.service_steps(second, removed=True)))
        assert list(folder.iterdir()) == []

    def test_a_linac_that_a_worker_now_records_leaves_no_service_file(
        self, make: Callable[..., Linac], in_service: dict[str, Linac], tmp_path: Path
    ) -> None:
        before = make(service=Service.SYSTEMD, service_folder=str(tmp_path / "for IT"))
        do(only(files.service_steps(before)))
        assert (tmp_path / "for IT" / "icom-listening-4299.service").is_file()
        in_service["linac-4299"] = before
        do(only(files.service_steps(make())))
        assert list((tmp_path / "for IT").iterdir()) == []

    @pytest.mark.parametrize("service", [Service.SYSTEMD, Service.NSSM])
    def test_they_are_those_of_the_bundle_that_they_are_copied_into(
        self, make: Callable[..., Linac], service: Service, tmp_path: Path
    ) -> None:
        linac = make(service=service)
        if service is Service.NSSM:
            linac.site.records, linac.site.spool = Share(path=r"D:\records"), r"D:\spool"
        written = files.rendered([linac])
        listening = (Listening("4299", "192.168.17.40"),)
        what = Services(service.value, listening, linac.site.records.path, linac.site.spool)
        embed = io.BytesIO()
        with zipfile.ZipFile(embed, "w") as archive:
            for name in ("python.exe", "python312.zip", "python312._pth"):
                archive.writestr(name, b"")
        bundle = bundle_files(what, embed.getvalue() if service is Service.NSSM else None)
        assert len(written) == (5 if service is Service.SYSTEMD else 6)
        assert written == {name: bundle[name] for name in written}

    def test_a_capture_host_of_the_other_system_has_a_spool_of_its_own(self, make: Callable[..., Linac]) -> None:
        linac = make(service=Service.NSSM, capture_host="nbccc-capture")
        linac.site.records, linac.site.spool = Share(path=r"\\srv\records"), "/var/spool/linac-flows"
        assert b'set "SPOOL=C:\\ProgramData\\linac-flows\\spool"' in files.rendered([linac])["services-install.bat"]
        linac.site.capture_spool = r"D:\spool"
        assert b'set "SPOOL=D:\\spool"' in files.rendered([linac])["services-install.bat"]
        assert make().spool == make().site.spool, "a worker's own stays"

    def test_a_path_of_the_wrong_system_stands_in_the_way(self, make: Callable[..., Linac], in_service: dict[str, Linac]) -> None:
        (step,) = files.service_steps(make(service=Service.NSSM))
        assert "not an absolute path of Windows" in step.problem
