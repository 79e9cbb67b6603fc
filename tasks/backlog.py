"""Years of backups or logs from a folder, taken into the index on all cores: one coarse task for each batch of files."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from blocks import Linac, Share
from linac.errors import LinacError, SetupError
from linac.index import Index, Log
from linac.transport import Entry, Folder, connect
from tasks.reports import BackupResult, artifact_key
from tasks.trf import RETRIES, RETRY_SECONDS, add_backup, worth_another_try

BATCH_BYTES = 256 << 20
BATCH_FILES = 500
"""A task is to take seconds to minutes: long beside its own cost, short enough to be cancelled and to show progress."""


@dataclass(frozen=True)
class Batch:
    """Some files of the backlog, by their names below its folder."""

    files: tuple[tuple[str, Entry], ...]
    size: int


def batches(folder: Folder, serial: str, records: Share) -> list[Batch]:
    """What there is to do: every zip that the index has not taken in, and every loose log, in batches."""
    with records.connect() as share:
        index = Index(share)
        made: list[Batch] = []
        files: list[tuple[str, Entry]] = []
        size = 0
        for where, entries in _walk(folder):
            zips = [entry for entry in entries if entry.name.lower().endswith(".zip")]
            logs = [entry for entry in entries if entry.name.lower().endswith(".trf")]
            for entry in [*index.new_backups(serial, zips), *logs]:
                if files and (size + entry.size > BATCH_BYTES or len(files) >= BATCH_FILES):
                    made.append(Batch(tuple(files), size))
                    files, size = [], 0
                files.append((f"{where}{entry.name}", entry))
                size += entry.size
    return [*made, Batch(tuple(files), size)] if files else made


def _walk(folder: Folder, where: str = "") -> Iterator[tuple[str, list[Entry]]]:
    entries = folder.list(f"{where}*")
    yield where, [entry for entry in entries if not entry.is_folder]
    for entry in entries:
        if entry.is_folder:
            yield from _walk(folder, f"{where}{entry.name}/")


@task(
    name="index a batch",
    task_run_name="batch-{number}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
)
def index_batch(pool: Executor, number: int, serial: str, records: Share, source: str, batch: Batch) -> list[BackupResult]:
    """Take one batch in, in a process of the pool. Running it again does no harm."""
    return pool.submit(take_in, number, serial, records, source, batch).result()


def take_in(number: int, serial: str, records: Share, source: str, batch: Batch) -> list[BackupResult]:
    """What a process of the pool does: each zip like a new backup, then the loose logs together."""
    results = []
    problems: list[str] = []
    loose = [name for name, _ in batch.files if name.lower().endswith(".trf")]
    with connect(source) as folder, records.connect() as share:
        index = Index(share)
        for name, entry in batch.files:
            if name.lower().endswith(".zip"):
                results.append(add_backup(index, serial, folder, name, entry))
        if loose:
            added = index.add(serial, _loose_logs(folder, loose, problems))
            aside = [reason for _, reason in added.quarantined]
            what = f"loose logs of batch {number}"
            results.append(BackupResult(serial, what, added.indexed, added.rows, added.duplicates, aside, " ".join(problems)))
    return results


def _loose_logs(folder: Folder, names: list[str], problems: list[str]) -> Iterator[Log]:
    for name in names:
        try:
            yield Log(name=name, data=folder.read(name), source="backlog")
        except LinacError as error:
            problems.append(str(error))


def index_backlog(linac: Linac, source: str) -> tuple[list[BackupResult], list[tuple[str, str]]]:
    """All of a folder, on all cores, with progress and the time left; what was done, and what failed."""
    log = get_run_logger()
    with connect(source) as folder:
        folder.check()
        todo = batches(folder, linac.serial, linac.site.records)
    total = sum(batch.size for batch in todo)
    if not todo:
        raise SetupError(
            f"{source} holds no zip that is not indexed yet and no TRF file. Give the folder that holds them, or one above it."
        )
    log.info("%s files, %.0f MB, in %s batches.", sum(len(batch.files) for batch in todo), total / 1e6, len(todo))
    key = artifact_key("trf-backlog", linac.serial)
    shown = UUID(str(create_progress_artifact(0.0, key=key, description=f"Backlog of linac {linac.serial}")))
    results: list[BackupResult] = []
    failures: list[tuple[str, str]] = []
    began, done = time.monotonic(), 0
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {
            index_batch.submit(pool, number, linac.serial, linac.site.records, source, batch): (number, batch)
            for number, batch in enumerate(todo, start=1)
        }
        for count, future in enumerate(as_completed(list(futures)), start=1):
            number, batch = futures[future]
            try:
                results += future.result()
            except LinacError as error:
                failures.append((f"Batch {number} of the backlog", str(error)))
            done += batch.size
            left = (time.monotonic() - began) / max(done, 1) * (total - done)
            percent = 100 * done / max(total, 1)
            log.info("%s of %s batches, %.0f %%, about %s left.", count, len(todo), percent, timedelta(seconds=round(left)))
            update_progress_artifact(shown, progress=percent)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a cancelled run does not wait for the batches that it began
    return results, failures
