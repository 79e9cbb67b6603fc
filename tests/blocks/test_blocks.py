"""The forms: every field explained, secrets hidden, wrong answers refused in words."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from pydantic import SecretStr, ValidationError

from blocks import Linac, Share, Site, SmbCredentials, SshGateway, block_name, load
from linac.errors import SetupError

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"

ALL = [SmbCredentials, SshGateway, Share, Site, Linac]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(name="Lab", time_zone="Europe/London", records=Share(path=str(tmp_path)), spool=str(tmp_path / "spool"))


@pytest.mark.parametrize("kind", ALL)
class TestForms:
    def test_every_field_has_a_full_sentence_for_the_operator(self, kind: type[Block]) -> None:
        for name, field in kind.model_fields.items():
            assert field.description, name
            assert field.description[0].isupper(), name
            assert field.description.endswith("."), name

    def test_the_form_has_a_description_and_a_code_example(self, kind: type[Block]) -> None:
        assert kind.get_description()
        assert f'{kind.__name__}.load("BLOCK_NAME")' in (kind.get_code_example() or "")

    def test_no_picture_is_fetched_from_an_outside_host(self, kind: type[Block]) -> None:
        assert kind._to_block_type().logo_url is None


class TestSecrets:
    def test_a_password_never_shows(self) -> None:
        credentials = SmbCredentials(username="icomreader", password=SecretStr("geheim"))
        for shown in (repr(credentials), str(credentials), credentials.model_dump_json()):
            assert "geheim" not in shown

    @pytest.mark.usefixtures("prefect_server")
    def test_a_saved_block_that_does_not_fit_is_told_without_what_is_in_it(self) -> None:
        """Made through the API, where nobody looks at the form."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import BlockDocumentCreate

        SmbCredentials.register_type_and_schema()
        with get_client(sync_client=True) as client:
            kind = client.read_block_type_by_slug(SmbCredentials.get_block_type_slug())
            schema = client.read_block_schema_by_checksum(SmbCredentials._calculate_schema_checksum())
            client.create_block_document(
                BlockDocumentCreate(name="half", data={"password": "geheim"}, block_type_id=kind.id, block_schema_id=schema.id)
            )
        with pytest.raises(SetupError, match=r"block 'half' does not fit its form \(username: it is missing\)") as caught:
            load(SmbCredentials, "half")
        assert "geheim" not in "".join(traceback.format_exception(caught.value))

    def test_a_private_key_and_a_key_file_exclude_each_other(self) -> None:
        both: dict[str, Any] = {"private_key": "K", "key_file": "/k"}
        with pytest.raises(ValidationError, match="not both"):
            SshGateway(host="gate", username="tunnel", host_key=HOST_KEY, **both)


class TestLinac:
    @pytest.mark.parametrize("serial", ["", "42 99", "../4299", "a/b", "x" * 41, "-1", "Müller"])
    def test_a_serial_that_cannot_be_part_of_a_file_name_is_refused(self, serial: str, site: Site) -> None:
        with pytest.raises(ValidationError, match="letters, digits"):
            Linac(serial=serial, address="192.168.17.40", site=site, backup=site.records)

    @pytest.mark.parametrize("address", ["", "192.168.17", "192.168.17.400", "nss 1", "http://nss", "-nss", "a..b"])
    def test_an_address_that_is_neither_ip_nor_name_is_refused(self, address: str, site: Site) -> None:
        with pytest.raises(ValidationError, match="is not an address"):
            Linac(serial="4299", address=address, site=site, backup=site.records)

    @pytest.mark.parametrize("address", ["192.168.17.40", " 10.0.0.1 ", "nss-4299", "nss-4299.hospital.example", "::1"])
    def test_addresses_and_names_are_taken(self, address: str, site: Site) -> None:
        linac = Linac(serial=" 4299 ", address=address, site=site, backup=site.records)
        assert (linac.serial, linac.address, linac.port) == ("4299", address.strip(), 1706)

    @pytest.mark.parametrize("host", ["bad host!", "192.168.17", "-"])
    def test_a_capture_host_is_refused_in_words_of_its_own(self, host: str, site: Site) -> None:
        with pytest.raises(ValidationError, match="A capture host is a computer's name"):
            Linac(serial="4299", address="10.0.0.1", site=site, backup=site.records, capture_host=host)

    def test_its_block_is_named_by_its_serial(self) -> None:
        assert block_name("4299") == "linac-4299"


class TestSite:
    def test_a_time_zone_that_does_not_exist_is_refused_with_an_example(self, tmp_path: Path) -> None:
        with pytest.raises(ValidationError, match="Europe/London"):
            Site(name="Lab", time_zone="Sydney", records=Share(path=str(tmp_path)), spool="x")


class TestShare:
    def test_a_local_folder_and_one_below_it_open(self, tmp_path: Path) -> None:
        share = Share(path=f' "{tmp_path}" ')
        with share.connect("iCom") as folder:
            folder.write("a", b"1")
        assert (tmp_path / "iCom" / "a").read_bytes() == b"1"
