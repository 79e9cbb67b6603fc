"""TRF logs: what is new in a linac's backup folder, brought into the index of its site's records share."""

import contextlib
import hashlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks import Linac, Share
from linac.errors import BackupError, DamagedError, LinacError, SetupError, StorageError, TrfError, UnreachableError
from linac.index import Index, Log
from linac.index.backups import Damaged
from linac.transport import Entry, Folder
from linac.transport.records import require, sweep
from linac.trf.backup import check_zip, read_trfs
from tasks.reports import BackupResult, DamagedBackup

BACKUPS = "SDD+*.zip"
"""Names of the NSS's diagnostic backups (facts-trf.md)."""

MAX_LOG_BYTES = 96 << 20
"""A larger log is told and not read: it would be an hour and a half of rows (half of that in version 4), and reading one takes
more than three times its size, of which a process may have 500 MB in all."""

ARRIVING = ".backups"
"""Folder in the spool where backups arrive; its name is no linac's."""

ARRIVING_SECONDS = 8 * 86400.0
"""What has lain there so long is of a backup that the NSS has dropped."""

WRITTEN_TO = ("TRF", "iCom")
"""Folders in the records share that this project writes to."""

RETRIES = 2
RETRY_SECONDS = 20


class Backups(NamedTuple):
    """What a listing of a linac's backups shows: those not taken in yet, oldest first, and damaged ones told of before."""

    new: list[Entry]
    damaged: list[DamagedBackup]


def worth_another_try(_task: object, _run: object, state: Any) -> bool:
    """Worth another try: storage or a network that failed. A damaged file or a wrong set-up stays as it is."""
    return isinstance(state.result(raise_on_failure=False), StorageError | UnreachableError)


@task(
    name="list new backups",
    task_run_name="list-{linac.serial}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def list_new_backups(linac: Linac) -> Backups:
    """The backups in the linac's folder that the index has not taken in completely. Nothing is done unless the records share is
    there: an empty folder in its place would make all of them new."""
    with linac.backup.connect() as folder, present_records(linac.site.records) as records:
        folder.check()
        present = folder.list(BACKUPS)
        index = Index(records)
        new = index.new_backups(linac.serial, present)
        damaged = still_damaged(index, linac.serial, present)
    get_run_logger().info("Linac %s: %s backups, %s of them new.", linac.serial, len(present), len(new))
    return Backups(sorted(new, key=lambda entry: entry.modified), damaged)


def still_damaged(index: Index, serial: str, present: list[Entry]) -> list[DamagedBackup]:
    """The damaged backups that somebody was told of and that are still there, unchanged."""
    there = {(entry.name, entry.size, entry.modified.replace(microsecond=0)) for entry in present}
    return [
        DamagedBackup(serial, shown(backup), backup.told, backup.problem)
        for backup in index.damaged_backups(serial)
        if (backup.name, backup.size, backup.modified.replace(microsecond=0)) in there
    ]


@task(
    name="index a backup",
    task_run_name="index-{linac.serial}-{entry.name}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def index_backup(linac: Linac, entry: Entry) -> BackupResult:
    """Take every log of one backup into the index. A damaged backup gives what can be read of it."""
    with linac.backup.connect() as folder, present_records(linac.site.records) as records:
        result = add_backup(Index(records), linac.serial, folder, entry.name, entry, Path(linac.site.spool))
    log = get_run_logger()
    log.info(
        "%s: %s TRFs indexed (%s rows), %s known, %s set aside.",
        entry.name,
        result.indexed,
        result.rows,
        result.duplicates,
        len(result.aside),
    )
    for reason in result.aside:
        log.warning("Set aside in TRF/quarantine: %s", reason)
    if result.problem:
        log.error("%s: %s", entry.name, result.problem)
    return result


@contextlib.contextmanager
def present_records(share: Share) -> Iterator[Folder]:
    """The records share, for as long as the block lasts; no log's name is in errors of it.

    Raises `UnreachableError` unless the share itself is there, not just the folder that it is mounted to.
    """
    with share.connect() as records, nameless():
        require(records)
        yield records


def add_backup(index: Index, serial: str, folder: Folder, name: str, entry: Entry, spool: Path | None = None) -> BackupResult:
    """Fetch one backup, index its logs, and note it as done unless something was wrong with it.

    `spool`: where what has arrived outlasts a broken fetch, so that the next goes on from there; without one it does not.
    """
    problems: list[str] = []
    with _arriving(spool) as here:
        local = here / f"{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}.zip"  # names can be patients'
        with nameless() if shown(entry) == entry.name else nameless(name):
            _fetch(folder, name, local)
        added = index.add(serial, _logs(local, entry.name, problems))
        with contextlib.suppress(OSError):  # a virus scanner may hold it open; it is swept away later
            local.unlink()
    if not problems:
        index.mark_done(serial, entry, added.counts)
    return BackupResult(
        serial=serial,
        backup=shown(entry),
        indexed=added.indexed,
        rows=added.rows,
        duplicates=added.duplicates,
        aside=[reason for _, reason in added.newly_quarantined],  # the files' names hold fields' names
        aside_before=added.quarantined_before,
        problem=in_words(problems),
        entry=entry,
        doubt=added.doubt(serial),
    )


def in_words(problems: Iterable[str]) -> str:
    """Problems in one line, each once: a backup may hold the same one a thousand times.

    >>> in_words(["A TRF is cut short.", "A TRF is cut short.", "A TRF is encrypted."])
    'A TRF is cut short. (2 times.) A TRF is encrypted.'
    """
    return " ".join(text if count == 1 else f"{text} ({count} times.)" for text, count in Counter(problems).items())


def _fetch(folder: Folder, name: str, local: Path) -> None:
    """Have the backup here, of the right size and a zip with its directory; reading it checks each log.

    One that is no such zip is fetched anew, from its begin. If it comes the same again, so it lies there: it is taken as it is,
    for the logs that can be read of it.
    """
    try:
        folder.fetch(name, local, check_zip)
    except BackupError:
        folder.fetch(name, local)


@contextlib.contextmanager
def _arriving(spool: Path | None) -> Iterator[Path]:
    """A folder of this computer, closed to other accounts, to fetch backups to: in the spool, where it lasts; else for now."""
    here = spool / ARRIVING if spool is not None and spool.is_dir() else None  # the index may run elsewhere than the recording
    try:
        if here is not None:
            here.mkdir(mode=0o700, exist_ok=True)
            _sweep(here)
    except OSError:
        here = None
    if here is not None:
        yield here
    else:
        with tempfile.TemporaryDirectory(prefix="linac-flows-") as short:
            yield Path(short)


def _sweep(here: Path) -> None:
    """Remove what nobody came back for: by then the NSS has dropped the backup."""
    for path in here.iterdir():
        with contextlib.suppress(OSError):
            stat = path.stat()
            if time.time() - max(stat.st_mtime, stat.st_ctime) > ARRIVING_SECONDS:  # mtime is the backup's own
                path.unlink()


def _logs(local: Path, backup: str, problems: list[str]) -> Iterator[Log]:
    """The logs of a zip one after the other; what is wrong with the zip or a member goes to `problems`, the rest goes on."""
    try:
        for member in read_trfs(local, max_bytes=MAX_LOG_BYTES):
            if member.data is None:
                problems.append(str(member.error))
            else:
                yield Log(name=member.name, data=member.data, source=backup)
    except BackupError as error:
        problems.append(str(error))


@task(name="note a damaged backup", cache_policy=NO_CACHE, retries=RETRIES, retry_delay_seconds=RETRY_SECONDS)
def note_damaged(linac: Linac, results: list[BackupResult]) -> None:
    """Note the damaged ones among these backups, now that they are in the report: they are not read again every night."""
    with present_records(linac.site.records) as records:
        for result in results:
            if result.problem and result.entry is not None:
                Index(records).mark_damaged(linac.serial, result.entry, result.problem)


@task(name="pack samples harder", cache_policy=NO_CACHE, retries=RETRIES, retry_delay_seconds=RETRY_SECONDS)
def repack_samples(linac: Linac, *, tidy: bool = True) -> list[str]:
    """Pack what came into a site's index since the last time harder, half an hour at most: to a sixth of the logs' size and less.
    It disturbs no reader; with nothing new it costs two listings. With `tidy`, what was left half-written is swept away first,
    for which all folders are listed. Returns what is damaged, which is told once."""
    with present_records(linac.site.records) as records:
        left = sweep(records, WRITTEN_TO) if tidy else 0
        done = Index(records).repack()
    if left:
        get_run_logger().info("%s files that a power cut or a lost share had left half-written were removed.", left)
    if done.files or done.months_left:
        get_run_logger().info(
            "Samples: %s files packed harder, %.1f MB to %.1f MB; %s months are left for the next run.",
            len(done.files),
            done.bytes_before / 1e6,
            done.bytes_after / 1e6,
            done.months_left,
        )
    return done.problems


def dismiss(linac: Linac, name: str) -> None:
    """Report a damaged backup of this file name no more. Raises `SetupError` where no such backup was reported."""
    with present_records(linac.site.records) as records:
        known = Index(records).damaged_backups(linac.serial)
        wanted = {backup.name for backup in known if name.strip() in (backup.name, shown(backup))}
        if not wanted:
            names = ", ".join(sorted({shown(backup) for backup in known})) or "none"
            raise SetupError(
                f"Linac {linac.serial} has no damaged backup of that name to dismiss. There are: {names}. Give the name as the "
                "report has it."
            )
        for each in wanted:
            Index(records).dismiss(linac.serial, each)
    get_run_logger().info("Linac %s: a damaged backup is not reported any more, unless it changes.", linac.serial)


# Logs, reports and run states are read by many; the names of files are for those who may open the records. The name of a log
# holds its field's, which may be a patient's; an old archive's folders and zips can be called after patients, as PyMedPhys's are.
# So errors that quote a path are told without it, and without the error that they come from.

_LOG = re.compile(r"(TRF[\\/]+(?:raw|quarantine)[\\/]).*?\.trf[^\s:']*", re.DOTALL | re.IGNORECASE)


def shown(entry: Entry | Damaged) -> str:
    """What a backup is called in reports: by its name, if that is one of the NSS's own."""
    if re.fullmatch(r"SDD\+[0-9A-Za-z+_.-]*\.zip", entry.name, re.IGNORECASE):
        return entry.name
    return f"zip of {entry.size} bytes of {entry.modified:%Y-%m-%d %H:%M:%S} UTC"


@contextlib.contextmanager
def nameless(*names: str) -> Iterator[None]:
    """Within it, errors quote neither the path of a log in the records nor the parts of these names."""
    try:
        yield
    except LinacError as error:
        text = _LOG.sub(r"\1(a log)", str(error))
        parts = {part for name in names for part in re.split(r"[\\/]", name) if part}
        for part in sorted({*parts, *(repr(part)[1:-1] for part in parts)}, key=len, reverse=True):  # as errors quote them
            text = text.replace(part, "(...)")
        kind = DamagedError if isinstance(error, TrfError) else type(error)
        raise kind(text) from None
