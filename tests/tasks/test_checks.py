"""The checklist, line by line, without a Prefect server: what passes, what is worth a warning, what must be mended first."""

import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import Linac, Share, Site, SmbCredentials, SshGateway
from linac.capture.check import Arrival
from linac.capture.steadiness import Steadiness, Trip, Trips
from linac.errors import UnreachableError
from linac.simulator import SimulatedLinac
from linac.simulator.backup import write_backup
from linac.transport.records import mark
from tasks import check_folders, check_network, check_server
from tasks.check import Check, Outcome, Seen

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"

PASS, WARN, FAIL = Outcome.PASS, Outcome.WARN, Outcome.FAIL


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Linac]:
    """A linac in a hospital made of folders; other answers by name, those of its site with `site_`."""
    for name in ("records", "backup", "iview"):
        (tmp_path / name).mkdir()

    def made(serial: str = "4299", **other: Any) -> Linac:
        own = {name: value for name, value in other.items() if not name.startswith("site_")}
        sites = {name.removeprefix("site_"): value for name, value in other.items() if name.startswith("site_")}
        site = Site(
            **{
                "name": "Lab",
                "time_zone": "Australia/Sydney",
                "records": Share(path=str(tmp_path / "records")),
                "spool": str(tmp_path / "spool"),
                **sites,
            }
        )
        return Linac(
            **{"serial": serial, "address": "127.0.0.1", "site": site, "backup": Share(path=str(tmp_path / "backup")), **own}
        )

    return made


def only(seen: Seen) -> Check:
    (check,) = seen.checks
    return check


def listing(path: Path) -> list[str]:
    return sorted(str(item.relative_to(path)) for item in path.rglob("*"))


class TestTheLinac:
    @pytest.fixture
    def linac(self) -> Iterator[SimulatedLinac]:
        with SimulatedLinac("4299", speed=4) as linac:
            yield linac

    def look(self, linac: Linac, seconds: float = 0.7) -> dict[str, Check]:
        self.seen = check_network.look(linac, seconds)
        return {check.name.partition(",")[0]: check for check in self.seen.checks}

    def test_all_is_well(self, make: Callable[..., Linac], linac: SimulatedLinac) -> None:
        host, port = linac.address
        lines = self.look(make(address=host, port=port))
        assert list(lines) == [
            f"Address {host}",
            f"iCom port {port}",
            "iCom messages",
            "Steadiness of the network",
            "Clock of the linac",
        ]
        assert lines["iCom messages"].outcome is PASS
        assert "of machine 4299" in lines["iCom messages"].seen
        assert lines["Steadiness of the network"].outcome is PASS
        (picture,) = self.seen.pictures
        assert picture.startswith("![Linac 4299: when its messages came")
        assert "](data:image/svg+xml;base64," in picture

    def test_a_name_that_does_not_resolve_ends_it(self, make: Callable[..., Linac], monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        lines = self.look(make(address="nss-4299.hospital.invalid"))
        assert [(check.name, check.outcome) for check in lines.values()] == [("Address nss-4299.hospital.invalid", FAIL)]

    def test_a_refused_port(self, make: Callable[..., Linac]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        lines = self.look(make(port=port))
        assert lines[f"iCom port {port}"].outcome is FAIL
        assert "ask the Elekta engineer" in lines[f"iCom port {port}"].seen
        assert "iCom messages" not in lines

    def test_another_machine(self, make: Callable[..., Linac], linac: SimulatedLinac) -> None:
        linac.machine = "2619"
        lines = self.look(make(address=linac.address[0], port=linac.address[1]))
        assert lines[f"iCom port {linac.address[1]}"].outcome is PASS
        assert lines["iCom messages"].outcome is FAIL
        assert "answers machine 2619" in lines["iCom messages"].seen

    def test_our_own_listener_is_never_joined_by_a_second_connection(
        self, make: Callable[..., Linac], linac: SimulatedLinac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from linac.capture import control, follower

        host, port = linac.address
        control.start("4299", host, port, tmp_path / "spool")
        try:
            assert linac.wait_for_client(10)
            lines = self.look(make(address=host, port=port))
            self.look(make(address="localhost", port=port))
            assert len(linac.clients) == 1, "nobody else has connected, not even for a moment"
            assert check_server.listener(make(address="localhost", port=port)).outcome is PASS
            monkeypatch.setattr(follower, "GRACE_SECONDS", 0.0)
            alone = check_server.listener(make(address="localhost", port=port))
            assert alone.outcome is WARN
            assert "not archived: Nobody archives what is recorded." in alone.seen
        finally:
            assert control.stop(tmp_path / "spool", "4299")
        assert lines["iCom messages"].outcome is PASS
        assert "our listener is connected" in lines[f"iCom port {port}"].seen


class TestSteadiness:
    STEADY = Steadiness(60.0, 240, 4.0, 5.0, 0, 0.3, 0)

    def test_figures_are_told(self) -> None:
        check = check_network.steadiness(self.STEADY, Trips("nss port 445", (Trip(0, 1.0), Trip(1, 3.0))))
        assert check.outcome is PASS
        for words in ("240 messages", "4.0 a second", "longest silence 0.30 s", "2 round trips, 2.0 ms typical, 3.0 ms at worst"):
            assert words in check.seen

    def test_a_long_silence_forbids_it_and_says_why_it_matters(self) -> None:
        check = check_network.steadiness(Steadiness(60.0, 200, 4.0, 5.0, 1, 8.0, 0), Trips())
        assert check.outcome is FAIL
        assert "can stop the record-and-verify system" in check.seen

    def test_lost_round_trips_are_worth_a_warning(self) -> None:
        trips = Trips("nss", (Trip(0, None), *(Trip(i, 1.0) for i in range(59))))
        assert check_network.steadiness(self.STEADY, trips).outcome is WARN

    def test_unknown_round_trips_are_said_to_be_unknown(self) -> None:
        check = check_network.steadiness(self.STEADY, Trips("nss port 445", (Trip(0, None),)))
        assert (check.outcome, "round trips unknown, as nothing answers at nss port 445" in check.seen) == (PASS, True)


class TestClock:
    NOW = datetime(2026, 4, 4, 12, 0, tzinfo=UTC)  # 23:00 in Sydney

    def check(self, make: Callable[..., Linac], ahead: timedelta) -> Check:
        told = datetime(2026, 4, 4, 23, 0, tzinfo=UTC).replace(tzinfo=None) + ahead
        return check_network.clock(make(), [Arrival(0.0, 0, told, int(self.NOW.timestamp() * 1e9))])

    @pytest.mark.parametrize(
        ("ahead", "outcome", "words"),
        [
            (timedelta(seconds=2), PASS, "2 s ahead"),
            (timedelta(seconds=-29), PASS, "29 s behind"),
            (timedelta(seconds=60), WARN, "60 s ahead, by Australia/Sydney time. Have the clock"),
            (timedelta(minutes=-7), WARN, "beyond 4 minutes"),
            (timedelta(hours=-1, seconds=3), WARN, "That is 1 h: the Site block's time zone is probably wrong"),
            (timedelta(hours=-6, minutes=-30), WARN, "That is 6.5 h"),
            (timedelta(hours=1, minutes=4), WARN, "That is nearly 1 h: the Site block's time zone is probably wrong"),
            (timedelta(minutes=45), WARN, "beyond 4 minutes"),
        ],
    )
    def test_differences(self, make: Callable[..., Linac], ahead: timedelta, outcome: Outcome, words: str) -> None:
        check = self.check(make, ahead)
        assert check.outcome is outcome
        assert words in check.seen

    def test_the_hour_that_comes_twice_is_the_nearer_one(self) -> None:
        for utc_hour in (15, 16):  # 02:30 in Sydney, before and after the clocks go back on 5 April 2026
            now = datetime(2026, 4, 4, utc_hour, 30, tzinfo=UTC)
            arrival = Arrival(0.0, 0, datetime.fromisoformat("2026-04-05T02:30:05"), int(now.timestamp() * 1e9))
            assert check_network.clock_ahead_seconds([arrival], "Australia/Sydney") == 5.0


class TestBackups:
    def put(self, folder: Path, name: str, members: list[str], age: timedelta = timedelta(0)) -> None:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member in members:
                archive.writestr(member, b"x")
        then = (datetime.now(UTC) - age).timestamp()
        os.utime(folder / name, (then, then))

    def last(self, linac: Linac) -> Check:
        return check_folders.backups(linac).checks[-1]

    def test_logs_inside_are_counted(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        self.put(tmp_path / "backup", "SDD+1.zip", ["a.trf"], timedelta(days=2))
        self.put(tmp_path / "backup", "SDD+2.zip", ["TCS/a.trf", "TCS/b.TRF", "other.txt"])
        check = self.last(make())
        assert check.outcome is PASS
        assert "2 backups" in check.seen
        assert "with 2 TRF logs in it" in check.seen

    def test_those_of_another_machine_are_worth_a_warning(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        def said() -> list[tuple[Outcome, str]]:
            return [(c.outcome, c.seen) for c in check_folders.backups(make()).checks if c.name == "Machine of the backups"]

        self.put(tmp_path / "backup", "SDD+20261101+1.zip", ["a.trf"])
        assert said() == []
        self.put(tmp_path / "backup", "SDD+2619+1.zip", ["a.trf"])
        [(outcome, seen)] = said()
        assert (outcome, "named after machine '2619', not 4299" in seen) == (WARN, True)
        written = write_backup(tmp_path / "backup", datetime.now(UTC).date(), serial="4299")
        assert said() == [], "the logs themselves are of this machine"
        written.unlink()
        write_backup(tmp_path / "backup", datetime.now(UTC).date(), serial="2620")
        [(outcome, seen)] = said()
        assert (outcome, "logs in the newest backups are of machine '2620'" in seen) == (WARN, True)

    def test_none_yet(self, make: Callable[..., Linac]) -> None:
        assert (self.last(make()).outcome, "no SDD+*.zip yet" in self.last(make()).seen) == (WARN, True)

    def test_old_ones(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        self.put(tmp_path / "backup", "SDD+1.zip", ["a.trf"], timedelta(days=12))
        assert self.last(make()).outcome is WARN
        assert "12 days old" in self.last(make()).seen

    def test_one_without_logs(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        self.put(tmp_path / "backup", "SDD+1.zip", ["other.txt"])
        assert (self.last(make()).outcome, "include the delivery logs" in self.last(make()).seen) == (WARN, True)

    def test_one_that_is_being_written_is_passed_over(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        self.put(tmp_path / "backup", "SDD+1.zip", ["a.trf"], timedelta(hours=20))
        (tmp_path / "backup" / "SDD+2.zip").write_bytes(b"PK\x03\x04 and no more yet")
        check = self.last(make())
        assert check.outcome is PASS
        assert "before it 1 TRF logs" in check.seen

    def test_damaged_ones(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        (tmp_path / "backup" / "SDD+2.zip").write_bytes(b"no zip")
        assert (self.last(make()).outcome, "cannot be read as a zip" in self.last(make()).seen) == (WARN, True)

    def test_a_folder_that_is_not_there(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        check = only(check_folders.backups(make(backup=Share(path=str(tmp_path / "nowhere")))))
        assert (check.outcome, "not there" in check.seen) == (FAIL, True)

    def test_the_account_is_named_its_password_is_not(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        account = SmbCredentials(username="icomreader", password=SecretStr("Sicherlich-geheim-7"))
        try:
            seen = check_folders.backups(make(backup=Share(path=str(tmp_path / "backup"), credentials=account)))
        except Exception as error:
            pytest.fail(f"a check raises nothing: {error}")
        assert "geheim" not in repr(seen)


class TestRecords:
    def test_it_is_tried_and_left_as_it_was(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        check = only(check_folders.records(make()))
        assert check.outcome in (PASS, WARN)  # the test's computer may have a small disk
        assert "MB/s to write" in check.seen
        assert "not marked yet" in check.seen
        assert listing(tmp_path / "records") == []

    def test_a_marked_one_is_not_told_about(self, make: Callable[..., Linac]) -> None:
        linac = make()
        with linac.site.records.connect() as folder:
            mark(folder)
        assert "not marked" not in only(check_folders.records(linac)).seen

    def test_an_empty_folder_is_not_taken_for_the_share_of_linacs_in_service(
        self, make: Callable[..., Linac], tmp_path: Path
    ) -> None:
        check = only(check_folders.records(make(), [make("2619", address="10.0.0.1")]))
        assert (check.outcome, "the share is probably not connected" in check.seen) == (FAIL, True)
        assert listing(tmp_path / "records") == []
        (tmp_path / "records" / "iCom").mkdir()  # from before there were marks
        assert only(check_folders.records(make(), [make("2619", address="10.0.0.1")])).outcome is not FAIL

    def test_little_room(self, make: Callable[..., Linac], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(check_folders, "RECORDS_WANTED_BYTES", 1 << 62)
        check = only(check_folders.records(make()))
        assert (check.outcome, "ask for more space" in check.seen) == (WARN, True)

    def test_a_share_that_is_not_there_is_not_made(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        check = only(check_folders.records(make(site_records=Share(path=str(tmp_path / "away")))))
        assert check.outcome is FAIL
        assert not (tmp_path / "away").exists()

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this account may write everywhere")
    def test_read_only(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        (tmp_path / "records").chmod(0o500)
        assert only(check_folders.records(make())).outcome is FAIL


class TestSpool:
    def test_its_disk_is_tried_but_the_folder_is_not_made(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        assert only(check_folders.spool(make())).outcome in (PASS, WARN)
        assert not (tmp_path / "spool").exists()

    @pytest.mark.parametrize("path", [r"\\server\physics\spool", "//server/physics/spool"])
    def test_a_share_is_refused(self, make: Callable[..., Linac], path: str) -> None:
        check = only(check_folders.spool(make(site_spool=path)))
        assert (check.outcome, "must not depend on a network" in check.seen) == (FAIL, True)

    def test_a_relative_path_is_refused(self, make: Callable[..., Linac]) -> None:
        assert only(check_folders.spool(make(site_spool="spool"))).outcome is FAIL

    def test_little_room(self, make: Callable[..., Linac], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(check_folders, "SPOOL_WANTED_BYTES", 1 << 62)
        assert only(check_folders.spool(make())).outcome is WARN

    def test_one_of_another_computer_is_not_looked_at(self, make: Callable[..., Linac]) -> None:
        linac = make(capture_host="nbccc-capture")
        assert "was not looked at from here" in only(check_folders.spool(linac)).seen
        assert only(check_folders.capture_host(linac)).outcome is WARN


class TestIview:
    def test_no_iview_no_line(self, make: Callable[..., Linac]) -> None:
        assert check_folders.iview(make()) == Seen()

    def test_an_alias_without_a_database(self, make: Callable[..., Linac]) -> None:
        assert only(check_folders.iview(make(iview_alias="4299_iView"))).outcome is WARN

    def test_it_is_tried_as_the_iview_writes_and_left_as_it_was(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        (tmp_path / "iview" / "PATIMG.DBF").write_bytes(check_folders.dbase_table(["1"]))
        check = only(check_folders.iview(make(iview_alias="4299_iView", site_iview=Share(path=str(tmp_path / "iview")))))
        assert (check.outcome, "Last image" in check.seen) == (PASS, True)
        assert listing(tmp_path / "iview") == ["PATIMG.DBF"]

    def test_the_table_of_the_test_is_one_that_dbase_readers_understand(self) -> None:
        table = check_folders.dbase_table(["00000001", "00000002"])
        rows, head, width = (int.from_bytes(table[a:b], "little") for a, b in ((4, 8), (8, 10), (10, 12)))
        assert (table[0], rows, head, width) == (3, 2, 65, 9)
        assert len(table) == head + rows * width + 1
        assert table[head - 1 : head] == b"\r"
        assert table[32:43].rstrip(b"\0") == b"DBID"
        assert table[-1:] == b"\x1a"
        assert table[head : head + width] == b" 00000001"


class TestPyMedPhys:
    @pytest.mark.parametrize(
        ("text", "outcome", "words"),
        [
            ('[[site]]\nname = "x"\n', PASS, "this linac is not entered in it"),
            ('[[site]]\nname = "x"\n[[site.linac]]\nname = "4299"\n', PASS, "this linac is entered at x"),
            ("[icom]\npatient_directories = 3\n", FAIL, "not understood"),
            ("[[site\n", FAIL, "cannot be read"),
            (None, WARN, "no config.toml yet"),
        ],
    )
    def test_its_configuration(
        self, make: Callable[..., Linac], tmp_path: Path, text: str | None, outcome: Outcome, words: str
    ) -> None:
        if text is not None:
            (tmp_path / "config.toml").write_text(text)
        check = only(check_folders.pymedphys(make(site_pymedphys_config=Share(path=str(tmp_path)))))
        assert check.outcome is outcome
        assert words in check.seen


class TestGateways:
    def test_each_is_asked_once_and_its_trouble_is_told(
        self, make: Callable[..., Linac], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, int]] = []

        def check(self: SshGateway, host: str = "", port: int = 445) -> list[str]:
            asked.append((host, port))
            return ["ok: gate answers.", "trouble: it does not let us in."]

        monkeypatch.setattr(SshGateway, "check", check)
        gateway = SshGateway(host="gate", username="tunnel", host_key=HOST_KEY)
        share = Share(path=r"\\192.168.17.40\Backup\TCS", gateway=gateway)
        found = only(check_folders.gateways(make(backup=share, site_records=share)))
        assert (found.outcome, found.seen) == (FAIL, "it does not let us in.")
        assert asked == [("192.168.17.40", 445)]


class TestForwards:
    def test_each_is_tried_where_it_listens(self, make: Callable[..., Linac], monkeypatch: pytest.MonkeyPatch) -> None:
        def check(self: SshGateway, host: str = "", port: int = 445) -> list[str]:
            return ["ok: it answers."] if port == 445 else [f"trouble: {host} port {port} refused."]

        monkeypatch.setattr(SshGateway, "check", check)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            there = {"direction": "local", "listen_address": "*", "target_host": "10.0.0.1", "target_port": 445, "label": "NSS"}
            site = make(
                site_gateway=SshGateway(host="gate", username="tunnel", host_key=HOST_KEY),
                site_forwards=[{**there, "listen_port": port}, {**there, "direction": "remote", "listen_port": 44540}],
            ).site
            first, second = check_folders.forwards(site)
        assert (first.name, first.outcome) == (f"Forward NSS, port {port}", PASS)
        assert (second.outcome, "127.0.0.1 port 44540 refused. Run the deployment site-tunnel" in second.seen) == (WARN, True)
        closed = check_folders.forwards(site)[0]
        assert (closed.outcome, "Nothing answers at 127.0.0.1" in closed.seen) == (WARN, True)

    def test_no_gateway_no_forwards(self, make: Callable[..., Linac]) -> None:
        assert check_folders.forwards(make().site) == []


class TestOthers:
    def test_serials_and_addresses_are_one_linacs_only(self, make: Callable[..., Linac]) -> None:
        mine = make()
        assert check_server.unique(mine, []).outcome is PASS
        assert check_server.unique(mine, [mine]).outcome is PASS
        assert check_server.unique(mine, [make("2619", address="10.0.0.1")]).outcome is PASS
        assert "has the address" in check_server.unique(mine, [make("2619")]).seen
        assert "too much like it" in check_server.unique(make("Versa-HD"), [make("versa_hd", address="10.0.0.1")]).seen
        for written in ("localhost", "LOCALHOST"):
            assert "has the address" in check_server.unique(mine, [make("2619", address=written)]).seen
            assert check_server.unique(mine, [make(address=written)]).outcome is PASS, "only written another way"
        mine.in_service = date(2026, 11, 22)
        assert check_server.unique(mine, [mine]).seen == "None in service. It is in service itself already."
        moved = check_server.unique(mine, [mine.model_copy(update={"address": "10.0.0.1"})])
        assert (moved.outcome, "changes its address" in moved.seen) == (WARN, True)

    def test_a_linac_whose_add_linac_was_cut_off_is_not_called_in_service(self, make: Callable[..., Linac]) -> None:
        other = make("2619", address="10.0.0.1")
        cut_off = check_server.unique(make(), [make(), other])
        assert cut_off.outcome is PASS
        assert cut_off.seen.startswith("None in service. An earlier add-linac of it was not finished: add-linac finishes it")
        other.in_service = date(2026, 11, 22)
        assert check_server.unique(make(), [make(), other]).seen.startswith("1 in service, none with")
        assert "though not to the end" in check_server.unique(make(), [make(address="10.0.0.1")]).seen

    def test_iview_aliases_are_one_linacs_only_in_one_database(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        def other(**more: Any) -> Linac:
            return make("2619", address="10.0.0.1", **more)

        mine = make(iview_alias="4299_iView")
        clash = check_server.unique(mine, [other(iview_alias="4299_iview ")])
        assert (clash.outcome, "Linac 2619 has the iView alias" in clash.seen) == (FAIL, True)
        assert check_server.unique(mine, [other(iview_alias="2619_iView"), make(iview_alias="4299_iView")]).outcome is PASS
        assert check_server.unique(make(), [other()]).outcome is PASS, "no alias is nobody's"
        elsewhere = other(iview_alias="4299_iView", site_iview=Share(path=str(tmp_path / "iview")))
        assert check_server.unique(mine, [elsewhere]).outcome is PASS

    def test_another_listener_of_ours_on_this_computer_is_found(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        from linac.capture import control

        with SimulatedLinac("4299", speed=4) as linac:
            host, port = linac.address
            mine = make(address=host, port=port)
            assert check_server.listener(mine).outcome is PASS
            control.start("4299", host, port, tmp_path / "other")
            try:
                assert linac.wait_for_client(10)
                found = check_server.listener(mine)
            finally:
                assert control.stop(tmp_path / "other", "4299")
            assert (found.outcome, "Another listener" in found.seen) == (FAIL, True)

    def test_its_own_listener_does_not_keep_a_linac_from_another_host(self, make: Callable[..., Linac], tmp_path: Path) -> None:
        from linac.capture import control

        with SimulatedLinac("4299", speed=4) as linac:
            host, port = linac.address
            before = make(address=host, port=port)
            other = make(address=host, port=port, capture_host="elsewhere.example", site_spool=str(tmp_path / "later"))
            control.start("4299", host, port, before.spool)
            try:
                assert linac.wait_for_client(10)
                own, unknown = check_server.listener(other, [before]), check_server.listener(other, [])
                looked = check_network.look(other, 1.0, before)
                assert len(linac.clients) == 1
            finally:
                assert control.stop(before.spool, "4299")
            assert (own.outcome, "it is ended" in own.seen) == (PASS, True)
            assert unknown.outcome is FAIL
            assert any("our listener is connected" in check.seen for check in looked.checks)


def test_a_look_that_cannot_be_made_is_a_failed_line_and_not_the_end(make: Callable[..., Linac]) -> None:
    from prefect.logging import disable_run_logger

    from tasks.checks import look

    def away() -> Seen:
        raise UnreachableError("The share is away.")

    with disable_run_logger():
        assert look.fn("records", away).checks == [Check("records", FAIL, "The share is away.")]
