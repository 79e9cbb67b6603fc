"""A site's blocks from a file: what is refused, what is made, and that no secret comes from or gets into the file."""

import re
from pathlib import Path

import pytest

from launch import site_file
from linac.errors import SetupError

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"

SITE = """
[smb_credentials.lab-nss]
username = "icomreader"

[share.lab-records]
path = '{records}'

[share.lab-backup]
path = '{records}'
credentials = "lab-nss"

[site.lab]
name = "Lab"
time_zone = "{zone}"
records = "lab-records"
spool = '{records}'
"""


def written(tmp_path: Path, zone: str = "Australia/Sydney") -> list[site_file.Entry]:
    return site_file.parse(SITE.format(records=tmp_path, zone=zone))


class TestParsing:
    def test_the_example_file_is_read(self, project: Path) -> None:
        entries = site_file.parse((project / "site.example.toml").read_text(encoding="utf-8"))
        assert [(entry.kind, entry.name) for entry in entries] == [
            ("smb_credentials", "nss-4299"),
            ("share", "nbcc-records"),
            ("site", "nbcc"),
        ]
        assert entries[1].fields["path"] == r"\\NBCCC-pdc\physics\NBCC-DataExchange"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[site.a", "not valid TOML"),
            ('[share.a]\npath = "\\\\server\\share"', "single quotes"),
            ("[linac.a]\nserial = '1'", "section 'linac'"),
            ("[site]\nname = 'x'", "outside a block"),
            ("[site.NBCC]\nname = 'x'", "lower case"),
            ("[smb_credentials.nss]\nusername = 'u'\npassword = 'geheim'", "LINAC_FLOWS_NSS_PASSWORD"),
            ("[ssh_gateway.gw]\nhost = 'h'\npassphrase = 'geheim'", "LINAC_FLOWS_GW_PASSPHRASE"),
            ("# nothing", "no block at all"),
            ("[share.a]\npath = 'records'", r"\[share.a\] path: 'records' does not say where it begins"),
            ("[share.a]\npath = 'D:records'", "Give the whole path"),
            ("[site.a]\nspool = '../spool'", r"\[site.a\] spool"),
        ],
    )
    def test_what_cannot_be_right_is_refused_with_advice(self, text: str, reason: str) -> None:
        with pytest.raises(SetupError, match=reason) as caught:
            site_file.parse(text)
        assert "geheim" not in str(caught.value)


@pytest.mark.usefixtures("prefect_server")
class TestMaking:
    def test_blocks_are_made_then_updated_with_the_secret_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from blocks import Share, Site, load
        from tasks.provision import NIGHTLY

        monkeypatch.setenv("LINAC_FLOWS_LAB_NSS_PASSWORD", "geheim")
        assert "made: site lab" in site_file.make(written(tmp_path), ask=False)
        site, backup = load(Site, "lab"), load(Share, "lab-backup")
        assert site is not None
        assert site.records.path == str(tmp_path)
        assert backup is not None
        assert backup.credentials is not None
        assert backup.credentials.password.get_secret_value() == "geheim"
        assert "geheim" not in repr(backup)

        monkeypatch.delenv("LINAC_FLOWS_LAB_NSS_PASSWORD")  # the saved one is kept
        assert all("unchanged" in line for line in site_file.make(written(tmp_path), ask=False)[:-1])
        lines = site_file.make(written(tmp_path, "Europe/London"), ask=False)
        assert lines[:-1] == [
            "unchanged: smb_credentials lab-nss",
            "unchanged: share lab-records",
            "unchanged: share lab-backup",
            "updated: site lab",
        ]
        backup = load(Share, "lab-backup")
        assert backup is not None
        assert backup.credentials is not None
        assert backup.credentials.password.get_secret_value() == "geheim"

        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            schedules = [item for item in client.read_deployment_by_name(NIGHTLY).schedules if item.slug == "site-lab"]
        assert [(item.schedule.cron, item.schedule.timezone) for item in schedules] == [("30 2 * * *", "Europe/London")]

    def test_a_password_changed_in_its_own_block_holds_in_every_share(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from blocks import Share, SmbCredentials, load

        monkeypatch.setenv("LINAC_FLOWS_LAB_NSS_PASSWORD", "alt")
        site_file.make(written(tmp_path), ask=False)
        monkeypatch.setenv("LINAC_FLOWS_LAB_NSS_PASSWORD", "neu")
        assert "updated: smb_credentials lab-nss" in site_file.make(written(tmp_path), ask=False)
        monkeypatch.delenv("LINAC_FLOWS_LAB_NSS_PASSWORD")
        SmbCredentials(username="icomreader", password="neu").save("lab-nss", overwrite=True)
        backup = load(Share, "lab-backup")
        assert backup is not None
        assert backup.credentials is not None
        assert backup.credentials.password.get_secret_value() == "neu"

    def test_nothing_is_saved_unless_everything_is_right(self, tmp_path: Path) -> None:
        from blocks import Share, load

        first = f"[share.first]\npath = '{tmp_path}'\n"
        text = first + "[site.second]\nname = 'x'\ntime_zone = 'Mars/Base'\nrecords = 'first'\nspool = '/x'"
        with pytest.raises(SetupError, match=r"\[site.second\] time_zone: .*Europe/London"):
            site_file.make(site_file.parse(text), ask=False)
        assert load(Share, "first") is None

    def test_a_dry_run_says_what_it_would_do_and_does_not(self, tmp_path: Path) -> None:
        from blocks import Share, load

        entries = site_file.parse(f"[share.dry]\npath = '{tmp_path}'")
        assert site_file.make(entries, ask=False, dry_run=True) == ["would be made: share dry"]
        assert load(Share, "dry") is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[smb_credentials.nobody]\nusername = 'u'", "LINAC_FLOWS_NOBODY_PASSWORD"),
            ("[share.x]\npath = '/x'\ncredentials = 'who'", "neither in the file nor"),
            ("[share.x]\npaht = '/x'", "field 'paht'"),
            ("[share.x]\npath = ''", "path"),
            ("[site.x]\nname = 'X'\ngateway = 'gw'", "refers to ssh_gateway 'gw'"),
            ("[[site.x.forwards]]\nlisten_adress = '*'", r"\[site.x\] forwards.0.listen_adress: there is no such field"),
            (
                "[ssh_gateway.x]\nhost = 'h'\nusername = 'u'\nhost_key = 'bla'",
                r"host_key: The host key cannot be read.* key HOST",
            ),
        ],
    )
    def test_what_is_missing_or_misspelt_is_named(self, text: str, reason: str) -> None:
        with pytest.raises(SetupError, match=reason):
            site_file.make(site_file.parse(text), ask=False)

    def test_a_word_that_is_none_of_those_to_choose_from_is_told_with_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LINAC_FLOWS_LAB_NSS_PASSWORD", "geheim")
        text = SITE.format(records=tmp_path, zone="Europe/London") + "\n[[site.lab.forwards]]\ndirection = 'there'"
        with pytest.raises(SetupError, match=r"\[site.lab\] forwards.0.direction: give 'local' or 'remote'"):
            site_file.make(site_file.parse(text), ask=False)


def test_the_example_with_all_that_is_commented_out_can_be_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it is out of date: a field that a block no longer has would be refused."""
    text = (project / "site.example.toml").read_text(encoding="utf-8")
    whole = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    whole = (
        whole.replace("some-smb-credentials", "nss-4299")
        .replace("nbcc-iview", "nbcc-records")
        .replace("nbcc-pymedphys", "nbcc-records")
        .replace("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA...", HOST_KEY)
    )
    monkeypatch.setattr("blocks.load", lambda _kind, _name: None)
    monkeypatch.setenv("LINAC_FLOWS_NSS_4299_PASSWORD", "geheim")
    lines = site_file.make(site_file.parse(whole), ask=False, dry_run=True)
    assert lines == [
        f"would be made: {name}"
        for name in ("smb_credentials nss-4299", "ssh_gateway nbcc-gateway", "share nbcc-records", "site nbcc")
    ]
