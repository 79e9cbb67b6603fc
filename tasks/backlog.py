"""Years of backups or logs from a folder, taken into the index on all cores: one coarse task for each batch of files."""

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from blocks import Linac, Share
from blocks.loading import load
from linac.errors import LinacError, SetupError
from linac.index import Index, Log
from linac.transport import Entry, Folder, connect
from linac.transport.connecting import split_unc
from tasks.reports import BackupResult, DamagedBackup, artifact_key
from tasks.trf import (
    MAX_LOG_BYTES,
    RETRIES,
    RETRY_SECONDS,
    add_backup,
    in_words,
    nameless,
    present_records,
    shown,
    still_damaged,
    worth_another_try,
)

_BLOCK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

BATCH_BYTES = 256 << 20
BATCH_FILES = 500
"""A task is to take seconds to minutes: long beside its own cost, short enough to be cancelled and to show progress."""

MAX_PROCESSES = 61
"""Windows can wait for no more at once, and Python refuses more there."""


@dataclass(frozen=True)
class Batch:
    """Some files of the backlog, by their names below its folder."""

    files: tuple[tuple[str, Entry], ...]
    size: int


@dataclass(frozen=True)
class Todo:
    """What a backlog comes to: batches to take in, how many zips are taken in already, and the damaged ones among these that
    somebody was told of."""

    batches: list[Batch]
    known: int
    damaged: list[DamagedBackup]
    refused: list[str]
    """Why a folder in it was not looked into."""

    @property
    def size(self) -> int:
        """Bytes to take in."""
        return sum(batch.size for batch in self.batches)


def look(folder: Folder, serial: str, records: Share) -> Todo:
    """What there is to do in a folder: every zip that the index has not taken in, and every loose log, in batches."""
    made: list[Batch] = []
    files: list[tuple[str, Entry]] = []
    damaged: list[DamagedBackup] = []
    refused: list[str] = []
    size = known = 0
    with present_records(records) as share:
        index = Index(share)
        for where, entries in _walk(folder, refused):
            zips = [entry for entry in entries if entry.name.lower().endswith(".zip")]
            logs = [entry for entry in entries if entry.name.lower().endswith(".trf")]
            new = index.new_backups(serial, zips)
            if len(new) < len(zips):
                known += len(zips) - len(new)
                damaged += still_damaged(index, serial, zips)
            for entry in [*new, *logs]:
                if files and (size + entry.size > BATCH_BYTES or len(files) >= BATCH_FILES):
                    made.append(Batch(tuple(files), size))
                    files, size = [], 0
                files.append((f"{where}{entry.name}", entry))
                size += entry.size
    return Todo([*made, Batch(tuple(files), size)] if files else made, known, damaged, refused)


def _walk(folder: Folder, refused: list[str], where: str = "") -> Iterator[tuple[str, list[Entry]]]:
    """Folder after folder with what is in it. One whose name cannot be is told in `refused`; the others go on."""
    try:
        with nameless(where):
            entries = folder.list(f"{where}*")
    except SetupError as error:
        if not where:
            raise
        refused.append(str(error))
        return
    yield where, [entry for entry in entries if not entry.is_folder]
    for entry in entries:
        if entry.is_folder:
            yield from _walk(folder, refused, f"{where}{entry.name}/")


class Done(NamedTuple):
    """What became of a backlog: per backup or batch, what failed and why, and damaged zips that were told of before."""

    results: list[BackupResult]
    failures: list[tuple[str, str]]
    damaged: list[DamagedBackup]


@task(
    name="index a batch",
    task_run_name="batch-{number}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def index_batch(pool: Executor, number: int, serial: str, records: Share, source: Share, batch: Batch) -> list[BackupResult]:
    """Take one batch in, in a process of the pool. Running it again does no harm."""
    return pool.submit(take_in, number, serial, records, source, batch).result()


def end_with_the_run() -> None:
    """For each process of the pool: end when the run's own process is gone. One that is killed tells its pool nothing, and that
    would wait for more work for ever. Ending amid a batch does no harm: the next run completes it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def take_in(number: int, serial: str, records: Share, source: Share, batch: Batch) -> list[BackupResult]:
    """What a process of the pool does: each zip like a new backup, then the loose logs together.

    A zip that cannot be fetched or indexed is a problem of its own, unless nothing at all can be: then the share is away.
    """
    results = []
    failed: list[tuple[Entry, LinacError]] = []
    problems: list[str] = []
    loose = [(name, entry.size) for name, entry in batch.files if name.lower().endswith(".trf")]
    with source.connect() as folder, present_records(records) as share:
        index = Index(share)
        for name, entry in batch.files:
            if name.lower().endswith(".zip"):
                try:
                    results.append(add_backup(index, serial, folder, name, entry))
                except LinacError as error:
                    failed.append((entry, error))
        if loose:
            added = index.add(serial, _loose_logs(folder, loose, problems))
            results.append(
                BackupResult(
                    serial,
                    f"loose logs of batch {number}",
                    added.indexed,
                    added.rows,
                    added.duplicates,
                    [reason for _, reason in added.newly_quarantined],
                    in_words(problems),
                    added.quarantined_before,
                    doubt=added.doubt(serial),
                )
            )
        if failed and not results:
            raise failed[0][1]
    return results + [BackupResult(serial, shown(entry), problem=str(error)) for entry, error in failed]


def _loose_logs(folder: Folder, logs: list[tuple[str, int]], problems: list[str]) -> Iterator[Log]:
    """One that cannot be read is a problem of its own. That the share is away is raised: the batch is tried again."""
    small = [name for name, size in logs if size <= MAX_LOG_BYTES]
    problems += [
        f"A log of {size >> 20} MB is larger than any delivery. Look at it by hand." for _, size in logs if size > MAX_LOG_BYTES
    ]
    for name, data in folder.read_many(small):
        if isinstance(data, bytes):
            yield Log(name=name, data=data, source="backlog")
            continue
        try:
            with nameless(name):
                raise data
        except LinacError as error:
            problems.append(str(error))


def share_of(linac: Linac, source: str) -> Share:
    r"""The folder of a backlog, with what it takes to open it.

    `source` is the name of a Share block; or a path, for which the account and the gateway of the linac's backup share are used,
    or of its site's records, where it lies on that share. Raises `SetupError` where neither fits.
    """
    source = source.strip().strip('"').strip()
    if _BLOCK_NAME.fullmatch(source):
        saved = load(Share, source)
        if saved is None:
            raise SetupError(
                f"There is no Share block named {source!r}. Make it in Prefect's UI under Blocks, or give a whole path."
            )
        return saved
    here = _share_name(source)
    for known in (linac.backup, linac.site.records):
        if here is not None and here == _share_name(known.path):
            return Share(path=source, port=known.port, credentials=known.credentials, gateway=known.gateway)
    if here is not None and os.name != "nt":
        raise SetupError(
            f"{source} lies on a share that neither the linac nor its site has. Make a Share block for it in Prefect's UI under "
            "Blocks, with the account that opens it, and give the name of that block as the backlog."
        )
    connect(source).close()  # refuses what is no whole path
    return Share(path=source)


def _share_name(path: str) -> tuple[str, str] | None:
    found = split_unc(path)
    return None if found is None else (found[0].lower(), found[1].lower())


def index_backlog(linac: Linac, source: str) -> Done:
    """All of a folder, on all cores, with progress and the time left; what was done, and what failed."""
    log = get_run_logger()
    share = share_of(linac, source)
    with share.connect() as folder:
        folder.check()
        todo = look(folder, linac.serial, linac.site.records)
    if not todo.batches and not todo.known and not todo.refused:
        raise SetupError(f"{source} holds no zip and no TRF file. Give the folder that holds them, or one above it.")
    total = sum(len(batch.files) for batch in todo.batches)
    log.info(
        "%s files, %.0f MB, in %s batches; %s zips are taken in already.", total, todo.size / 1e6, len(todo.batches), todo.known
    )
    shown_as = Progress(linac.serial, todo)
    results: list[BackupResult] = []
    failures = [("A folder of the backlog", why) for why in todo.refused]
    pool = ProcessPoolExecutor(
        min(os.cpu_count() or 1, MAX_PROCESSES), multiprocessing.get_context("spawn"), initializer=end_with_the_run
    )
    try:
        futures = {
            index_batch.submit(pool, number, linac.serial, linac.site.records, share, batch): (number, batch)
            for number, batch in enumerate(todo.batches, start=1)
        }
        for future in as_completed(list(futures)):
            number, batch = futures[future]
            try:
                results += future.result()
            except LinacError as error:
                failures.append((f"Batch {number} of the backlog", str(error)))
            log.info(shown_as.done(batch))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a cancelled run does not wait for the batches that it began
    return Done(results, failures, todo.damaged)


class Progress:
    """How far a backlog is: a line for the log, and a bar with the time left in the artifact `trf-backlog-<serial>`."""

    def __init__(self, serial: str, todo: Todo) -> None:
        self._serial, self._todo = serial, todo
        self._began, self._bytes, self._count = time.monotonic(), 0, 0
        key = artifact_key("trf-backlog", serial)
        share = 0.0 if todo.batches else 100.0
        self._artifact = UUID(str(create_progress_artifact(share, key=key, description=f"Backlog of linac {serial}")))

    def done(self, batch: Batch) -> str:
        """One more batch is done or has failed; how far it is, in words."""
        self._bytes, self._count = self._bytes + batch.size, self._count + 1
        left = (time.monotonic() - self._began) / max(self._bytes, 1) * (self._todo.size - self._bytes)
        percent = 100 * self._bytes / max(self._todo.size, 1)
        text = (
            f"{self._count} of {len(self._todo.batches)} batches, {percent:.0f} %, about {timedelta(seconds=round(left))} left."
        )
        update_progress_artifact(self._artifact, percent, description=f"Backlog of linac {self._serial}: {text}")
        return text
