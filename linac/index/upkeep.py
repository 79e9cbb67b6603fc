"""What is done now and then, not every night: old files brought up to date, the catalogue made anew."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from linac import trf
from linac.errors import LinacError
from linac.index import catalogue, deliveries, names
from linac.index.lease import Lease
from linac.index.repack import is_repacked, repacked
from linac.index.writer import Leasing, Writer, files, partitions, repack_mark
from linac.transport import Folder

REPACK_SECONDS = 1800.0
"""How long one call packs harder, at most: some 8 GB of TRF. What is left is done by the next."""


@dataclass
class Repacked:
    """What packing harder came to: the files, the bytes they took before and take now, what could not be done and why, and how
    many months are left for the next time."""

    files: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    problems: list[str] = field(default_factory=list)
    months_left: int = 0

    @property
    def saved_bytes(self) -> int:
        """What it saved."""
        return self.bytes_before - self.bytes_after


@dataclass(frozen=True)
class Compacted:
    """What upkeep did: deliveries that crashed runs had left half-done, files brought up to date, deliveries in the catalogue;
    samples files packed harder, and the bytes that this saved."""

    recovered: int
    renewed: list[str]
    deliveries: int
    smaller: list[str] = field(default_factory=list)
    saved_bytes: int = 0


class Upkeep(Writer):
    """Everything is done in steps that can be interrupted and done again. Readers are not disturbed: files are replaced whole."""

    def __init__(self, folder: Folder, lease: Leasing) -> None:
        super().__init__(folder, "", lease)

    def run(self, *, smaller: bool = False) -> Compacted:
        """All of it; with `smaller`, all samples that are not yet are packed harder as well, some 5 MB of TRF a second."""
        recovered = self.recover()
        renewed = []
        for machine, month in list(partitions(self._folder)):
            for name in files(self._folder, "deliveries", machine, month):
                if deliveries.is_current(self._folder.read(name), name):
                    continue
                with self._lease() as lease:
                    table = self._renewed(lease, deliveries.decode(self._folder.read(name), name))
                    if self._put(lease, name, deliveries.encode(table), replaces=True):
                        renewed.append(name)
        packed = self.repack(None, everything=True) if smaller else Repacked()
        with self._lease() as lease:
            self._folder.sweep(names.PENDING, older_seconds=0)  # nobody else writes there now
            return Compacted(recovered, renewed, self._renew_catalogue(lease), packed.files, packed.saved_bytes)

    def repack(
        self,
        seconds: float | None = REPACK_SECONDS,
        *,
        everything: bool = False,
        progress: Callable[[Repacked], None] | None = None,
    ) -> Repacked:
        """Pack the samples harder that came in since the last time; where there are none it costs two listings.

        `TRF/repack` says which months have such; with `everything`, all months are looked at. It begins no other file after
        `seconds`. A file is made without keeping other writers out, and put in its place only if none of them changed it in the
        meantime. What cannot be done now, as on Windows while a reader has the file open, is left for the next time.
        """
        self.recover()
        end = None if seconds is None else time.monotonic() + seconds
        marked = [tuple(entry.name.rsplit("_", 1)) for entry in self._folder.list(f"{names.REPACK}/*") if "_" in entry.name]
        months = list(partitions(self._folder, names.SAMPLES)) if everything else [mark for mark in marked if len(mark) == 2]
        result = Repacked(months_left=len(months))
        for machine, month in months:
            if not self._repack_month(machine, month, end, result):
                break
            result.months_left -= 1
            if progress is not None:
                progress(result)
        return result

    def _repack_month(self, machine: str, month: str, end: float | None, result: Repacked) -> bool:
        """One month; whether there was time for all of it.

        Its mark goes once every file is as it was left here. One that is damaged is told now, and by `verify`; it does not keep
        the mark, or every later run would tell of it again.
        """
        sizes: dict[str, int] = {}
        for name, entry in files(self._folder, "samples", machine, month).items():
            if end is not None and time.monotonic() > end:
                return False
            sizes[name] = entry.size
            with self._folder.open(name) as stream:
                if is_repacked(stream):
                    continue
            old = self._folder.read(name)
            sizes[name] = len(old)
            try:
                new = repacked(old, name)
            except LinacError as error:
                result.problems.append(str(error))
                continue
            if new is None:
                continue
            with self._lease() as lease:
                if self._folder.read(name) != old or not self._put(lease, name, new, replaces=True):
                    sizes[name] = -1
                    continue
            sizes[name] = len(new)
            result.files.append(name)
            result.bytes_before += len(old)
            result.bytes_after += len(new)
        with self._lease():
            there = {name: entry.size for name, entry in files(self._folder, "samples", machine, month).items()}
            if there == sizes and self._folder.find(repack_mark(machine, month)) is not None:
                self._folder.remove(repack_mark(machine, month))
        return True

    def _renewed(self, lease: Lease, table: Any) -> Any:
        """Rows as this version of the software makes them from the raw logs, so that columns that are new have values.

        What is not in a log stays as it is: where it came from, where its files lie, columns of newer software. A row whose log
        is gone or damaged stays as it is, with nulls for what it lacks; `verify` tells of it.
        """
        rows = table.to_pylist()
        for row in rows:
            lease.keep()
            try:
                log = trf.read(self._folder.read(row["raw_file"]))
            except LinacError:
                continue
            made = deliveries.make_row(
                log,
                row["sha256"],
                linac=row["linac"],
                name=row["original_name"],
                source=row["backup"],
                size=row["size_bytes"],
                indexed=row["indexed_utc"],
            )
            row.update({name: value for name, value in made.items() if name not in deliveries.PLACES})
        return pa.Table.from_pylist(rows, schema=table.schema)

    def _renew_catalogue(self, lease: Lease) -> int:
        """Make the catalogue anew, year by year. How many deliveries it lists."""
        count = 0
        for year in sorted({month[:4] for _, month in partitions(self._folder)}):
            table = self.year(year)
            self._put(lease, catalogue.file_name(year), catalogue.encode(table), replaces=False)
            count += table.num_rows
        return count
