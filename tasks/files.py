"""Files that add-linac keeps for others: the services that IT installs, and PyMedPhys's config.toml."""

from datetime import datetime
from zoneinfo import ZoneInfo

from blocks import Linac, SmbCredentials, block_name, load
from blocks.linac import Service
from linac.provision import Listening, Services, config, service_files
from linac.provision import plan as compared
from linac.transport import Folder, connect
from tasks.check_folders import smb_target
from tasks.plan import MADE, Step, planned
from tasks.provision import linacs_in_service

SERVICES = "services"
"""Where service files lie on the records share, unless another folder is given; below it one folder for each capture host."""


def service_steps(linac: Linac, removed: bool = False) -> list[Step]:
    """The files that make services of one capture host's recordings are as they should be, this linac's among them or not.

    One set of scripts serves all linacs of a host, so one more or less changes them for all. Nothing where a worker records it.
    """
    before = load(Linac, block_name(linac.serial))
    steps = []
    if before is not None and before.service is not Service.WORKER and (removed or _host(before) != _host(linac)):
        steps.append(planned("Service files", lambda: _step(before, with_it=False)))
    if linac.service is not Service.WORKER and not removed:
        steps.append(planned("Service files", lambda: _step(linac, with_it=True)))
    return steps


def _host(linac: Linac) -> tuple[object, ...]:
    """Linacs that are alike in this share their service files."""
    return linac.service, linac.site.name, linac.recorded_by.lower(), linac.service_folder


def others_of(linac: Linac) -> list[Linac]:
    """The other linacs in service whose services run on the same host."""
    return [other for other in linacs_in_service() if other.serial != linac.serial and _host(other) == _host(linac)]


def same_host(one: Linac, other: Linac) -> bool:
    """Whether their services run on one host, by the same files."""
    return _host(one) == _host(other)


def _step(linac: Linac, *, with_it: bool) -> Step:
    others = others_of(linac)
    wanted = rendered([*others, linac] if with_it else others)
    gone = tuple(sorted(set(rendered([*others, linac])) - set(wanted)))
    with folder_for(linac) as folder:
        found = compared(folder, wanted, gone)
        name = f"Service files in {folder.location}"

    def do() -> None:
        with folder_for(linac) as opened:
            if linac.service_folder:
                opened.make_root()
            compared(opened, wanted, gone).apply()

    change = ", ".join(f"{item.name} {item.outcome}" for item in found.changed)
    return Step(name, change, do, "\n".join(item.diff for item in found.changed))


def rendered(linacs: list[Linac]) -> dict[str, bytes]:
    """The service files of one host's linacs, as in a bundle's folder there. Raises `SetupError` where a path cannot be right."""
    return service_files(services_of(linacs)) if linacs else {}


def services_of(linacs: list[Linac]) -> Services:
    """What shall run on one host, for these linacs. Its account is the last one's: that is the one somebody has just chosen."""
    first, account = linacs[0], linacs[-1].service_account
    return Services(
        kind=first.service.value,
        linacs=tuple(Listening(item.serial, item.address, item.port) for item in sorted(linacs, key=lambda item: item.serial)),
        records=first.site.records.path,
        spool=first.spool,
        log_on=_log_on(account) if account is not None and first.service is Service.NSSM else "",
    )


def _log_on(account: SmbCredentials) -> str:
    """An account as Windows' services name it."""
    name, domain = account.username.strip(), account.domain.strip()
    return name if "\\" in name or "@" in name else f"{domain or '.'}\\{name}"


def folder_for(linac: Linac) -> Folder:
    """Where a linac's service files lie."""
    if linac.service_folder:
        return connect(linac.service_folder)
    host = linac.recorded_by or linac.site.name
    return linac.site.records.connect(
        f"{SERVICES}/{''.join(letter if letter.isalnum() or letter in '-_.' else '-' for letter in host)}"
    )


def config_steps(linac: Linac, site: str = "", removed: bool = False) -> list[Step]:
    """The linac's entry in PyMedPhys's config.toml is as it should be, or gone; nothing where the site has no such file.

    `site` is the name of the site's block: the `[[site]]` may have that name or the site's own.
    """
    if linac.site.pymedphys_config is None:
        return []
    return [planned("PyMedPhys configuration", lambda: _config_step(linac, site, removed))]


def _config_step(linac: Linac, site: str, removed: bool) -> Step:
    share = linac.site.pymedphys_config
    assert share is not None  # noqa: S101 (see config_steps)

    def made(text: str) -> config.Change:
        return config.remove(text, linac.serial) if removed else config.update(text, config_entry(linac, site, text))

    with share.connect() as folder:
        folder.check()
        text = config.read(folder)
        change = made(text)
        if change.changed:
            config.writable(folder)

    def do() -> None:
        with share.connect() as opened:
            config.write(opened, change, datetime.now(ZoneInfo(linac.site.time_zone)), again=made)

    kind = "" if not change.changed else MADE if not text else "updated, with a dated backup beside it"
    return Step(f"PyMedPhys configuration, {config.NAME} in {share.path}", kind, do, change.diff)


def config_entry(linac: Linac, site: str, text: str) -> config.Entry:
    """What the file shall say of a linac. Folders that it names for the site already stay: people may have chosen others."""
    data = config.check(text)
    sites = {str(item["name"]): item for item in data.get("site", [])}
    name = config.site_name(data, site, linac.site.name) or site or linac.site.name
    known = sites.get(name, {}).get("export-directories", {})
    records, iview = linac.site.records.path, linac.site.iview
    patients, live = _below(records, "iCom", "patients"), _below(records, "iCom", "live")
    return config.Entry(
        site=name,
        serial=linac.serial,
        address=linac.address,
        samba_address=smb_target(linac.backup)[0],
        energies=tuple(linac.energies),
        iview_alias=linac.iview_alias,
        icom="" if "icom" in known else patients,
        icom_live="" if "icom_live" in known else live,
        iview="" if iview is None or "iviewdb" in known else iview.path,
        patients="" if "icom" in known else patients,
    )


def _below(path: str, *names: str) -> str:
    """A path below another, in that one's own way of writing."""
    separator = "\\" if "\\" in path else "/"
    return separator.join([path.rstrip("/\\"), *names])
