"""The steps that put a linac into service, each worked out from what is there: see tasks/plan.py.

Their order matters. Folders come before what writes to them, the block before the deployments that read it, and the recording
starts last, when all it needs is in place.
"""

from pathlib import Path

from prefect.client.orchestration import get_client

from blocks import Linac, Share, Site, block_name, load
from linac.capture import control
from linac.provision import config
from linac.transport import Folder, connect
from linac.transport.records import MARK, mark
from tasks import automations, pushing, recording, tunnels
from tasks.check_folders import is_recorded_here
from tasks.deployments import (
    CAPTURE,
    by_worker,
    capture_deployment,
    check_deployment,
    nightly_removed_step,
    nightly_step,
    queue_step,
    removed_steps,
)
from tasks.files import config_steps, service_steps
from tasks.plan import MADE, Step, differences, planned
from tasks.provision import find_deployment, unfinished_runs

FOLDERS = ("iCom/live", "iCom/patients", "TRF/raw")
"""What PyMedPhys's apps and people expect below the records share, from the first day on (facts-site.md, design.md)."""


def make_plan(linac: Linac, site: str) -> list[Step]:
    """Every step, in order. `site` is the name of the site's block; what cannot be worked out says why."""
    before = load(Linac, block_name(linac.serial))
    ended = planned("Recording as it was", lambda: recording.ended_step(linac))
    steps = [
        planned("Records share", lambda: records_share(linac.site.records)),
        planned("Spool folder", lambda: spool_folder(linac)),
        ended,
        *pushing.moved_steps(linac, before),
        planned("Block", lambda: block(linac, before)),
    ]
    if by_worker(linac):
        steps += [
            planned("Work queue", lambda: queue_step(linac)),
            planned("Deployment", lambda: capture_deployment(linac).step()),
            planned("Automations", lambda: automations.step(linac)),
        ]
    elif by_worker(before):
        steps += [automations.removed_step(linac.serial), *removed_steps(linac, (CAPTURE,))]
    steps += [
        planned("Deployment", lambda: check_deployment(linac).step()),
        planned("Nightly index", lambda: nightly_step(linac, site)),
        *service_steps(linac),
        *config_steps(linac, site),
    ]
    steps += pushing.pushed_steps(linac)
    if linac.site.gateway is not None and linac.site.forwards:
        steps.append(planned("Tunnels", lambda: tunnel_step(linac.site, site)))
    if by_worker(linac):
        steps.append(planned("Recording", lambda: recording.started_step(linac, ended=bool(ended.change))))
    return steps


def tunnel_step(where: Site, site: str) -> Step:
    """The forwards of the linac's site are kept open by a run of `site-tunnel/<site>`. They stay when a linac is removed."""
    name = f"{tunnels.FLOW}/{site}"
    with get_client(sync_client=True) as client:
        deployment = find_deployment(client, name)
        running = deployment is not None and unfinished_runs(client, deployment.id)

    def do() -> None:
        tunnels.make_tunnel_deployment(site)
        tunnels.ensure_tunnel(site)

    what = f"Tunnels of {where.name}"
    return Step(what) if running else Step(what, f"{name} is {'started' if deployment is not None else 'made and started'}", do)


def make_removal_plan(linac: Linac) -> list[Step]:
    """Every step of `remove-linac`, in order: the recording first, the block last, so that it can be run again half-way."""
    return [
        planned("Automations", lambda: automations.removed_step(linac.serial)),
        planned("Recording", lambda: recording.removed_step(linac)),
        *pushing.withdrawn_steps(linac),
        *removed_steps(linac),
        planned("Nightly index", lambda: nightly_removed_step(linac)),
        *service_steps(linac, removed=True),
        *config_steps(linac, removed=True),
        planned("Block", lambda: Step(f"Block {block_name(linac.serial)}", "removed", lambda: _unsaved(linac.serial))),
    ]


def kept(linac: Linac) -> list[str]:
    """What remove-linac leaves, in words."""
    site = linac.site
    left = [
        f"every iCom record and TRF log in {site.records.path}, with the index",
        f"the journals of the linac in {linac.spool} on the capture host; they may be deleted once nothing in them is unarchived",
        "the reports of its runs, on the Prefect server",
        f"the Site block {site.name}, its shares and accounts",
    ]
    if site.pymedphys_config is not None:
        left.append(
            f"in {config.NAME} in {site.pymedphys_config.path}: its site (with linac = [] if no linac of it is left), the site's "
            "export-directories and [icom] patient_directories; beside it a .bak for each change: these may be deleted"
        )
    if not by_worker(linac):
        where = linac.recorded_by or "the capture host"
        service = f"its service on {where}, which goes on recording until IT uninstalls it with the copy of the scripts there"
        program = f"the program on {where}, in the folder linac-listener, which may be deleted when no linac is recorded there"
        left.insert(0, service if linac.capture_login is None else program)
    if is_recorded_here(linac):
        status = control.status(linac.spool, linac.serial) if Path(linac.spool).is_dir() else None
        if status is not None and status.backlog_bytes:
            left.append(
                f"{status.backlog_bytes / 2**20:.1f} MiB in that spool, not archived yet: add the linac again to have that done"
            )
    return left


def _unsaved(serial: str) -> None:
    Linac.delete(block_name(serial))


def records_share(share: Share) -> Step:
    """The share carries its mark and the folders that people look for. Its root must be there already."""
    with share.connect() as folder:
        folder.check()
        missing = [name for name in FOLDERS if folder.find(name) is None]
        marked = folder.find(MARK) is not None
    what = [*([] if marked else [f"marked by the file {MARK}"]), *(f"folder {name} made" for name in missing)]

    def do() -> None:
        with share.connect() as opened:
            mark(opened)
            for name in missing:
                opened.make(name)

    return Step(f"Records share {share.path}", ", ".join(what), do)


def spool_folder(linac: Linac) -> Step:
    """The folder on the capture host's own disk."""
    path = linac.spool
    if not is_recorded_here(linac) or Path(path).is_dir():
        return Step(f"Spool folder {path}")
    return Step(f"Spool folder {path}", MADE, lambda: _made(connect(path)))


def _made(folder: Folder) -> None:
    with folder:
        folder.make_root()


def block(linac: Linac, before: Linac | None) -> Step:
    """The linac's block, with what differs from the one that is there."""
    name = block_name(linac.serial)
    changed = differences(facts(before), facts(linac)) if before is not None else []
    if before is not None and not changed and secrets(before) != secrets(linac):
        changed = ["another account or key of the same name"]
    change = MADE if before is None else f"updated: {', '.join(changed)}" if changed else ""

    def do() -> None:
        linac.save(name, overwrite=True)

    return Step(f"Block {name}", change, do)


def secrets(linac: Linac) -> list[object]:
    """What its accounts and logins hold, for comparing alone: two blocks may have one user name and two passwords."""
    accounts, logins = (linac.backup.credentials, linac.service_account), (linac.backup.gateway, linac.capture_login)
    kept: list[object] = [(item.domain, item.password) if item is not None else None for item in accounts]
    return kept + [(item.private_key, item.key_file, item.host_key) if item is not None else None for item in logins]


def facts(linac: Linac) -> dict[str, object]:
    """What a linac's block says, for comparing and telling. No secret in it."""
    account, gateway = linac.backup.credentials, linac.backup.gateway
    login, runner = linac.capture_login, linac.service_account
    return {
        "address": linac.address,
        "port": linac.port,
        "site": linac.site.name,
        "backup folder": linac.backup.path,
        "SMB port": linac.backup.port,
        "NSS account": account.username if account else "",
        "SSH gateway": f"{gateway.host} port {gateway.port}" if gateway else "",
        "service": linac.service.value,
        "SSH login": f"{login.username} at {login.host} port {login.port}" if login else "",
        "account of the service": runner.username if runner else "",
        "capture host": linac.capture_host,
        "energies": list(linac.energies),
        "iView alias": linac.iview_alias,
        "folder for service files": linac.service_folder,
    }
