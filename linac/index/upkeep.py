"""What is done now and then, not every night: old files brought up to date, the catalogue made anew."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from linac import trf
from linac.errors import LinacError
from linac.index import catalogue, deliveries, names
from linac.index.lease import Lease
from linac.index.samples import LEVEL_KEY, Encoded, SamplesFile
from linac.index.schema import VERSION
from linac.index.writer import Leasing, Writer, files, partitions
from linac.transport import Folder

SMALLER_LEVEL = 15
"""zstd's level for months that are over: a sixth smaller, less than a tenth of the speed."""

CLOSED_AFTER = timedelta(days=40)
"""After so long nothing comes any more for a month: linacs keep 8 days, backups are made weekly or when asked for."""


@dataclass(frozen=True)
class Compacted:
    """What upkeep did: deliveries that crashed runs had left half-done, files brought up to date, deliveries in the catalogue;
    samples files made smaller, and the bytes that this saved."""

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
        """All of it; with `smaller`, the samples of closed months are compressed harder as well, some 8 MB of TRF a second."""
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
        pressed, saved = self._press() if smaller else ([], 0)
        with self._lease() as lease:
            return Compacted(recovered, renewed, self._renew_catalogue(lease), pressed, saved)

    def _press(self) -> tuple[list[str], int]:
        """Compress the samples of months that are over harder: which files, and the bytes saved.

        Each file is made anew from its raw logs, with the same row groups, and replaced whole. One whose logs are not all there
        as they were, or that would not get smaller, is left as it is.
        """
        pressed, saved = [], 0
        last = names.month_of(datetime.now(UTC) - CLOSED_AFTER)
        for machine, month in list(partitions(self._folder, names.SAMPLES)):
            for name in files(self._folder, "samples", machine, month) if month < last else ():
                with self._lease() as lease:
                    old = self._folder.read(name)
                    new = self._pressed(lease, SamplesFile(old, name), machine, month)
                    if new is not None and len(new) < len(old) and self._put(lease, name, new, replaces=True):
                        pressed.append(name)
                        saved += len(old) - len(new)
        return pressed, saved

    def _pressed(self, lease: Lease, file: SamplesFile, machine: str, month: str) -> bytes | None:
        if file.version != VERSION or LEVEL_KEY in (file.metadata.metadata or {}):
            return None
        raw: dict[str, str] = {}
        for name in files(self._folder, "deliveries", machine, month):
            table = deliveries.decode(self._folder.read(name), name, ["sha256", "raw_file"])
            raw.update(zip(*(table.column(column).to_pylist() for column in ("sha256", "raw_file")), strict=True))
        encoded = Encoded(SMALLER_LEVEL)
        for sha256 in file.hashes:
            lease.keep()
            if sha256 not in raw or self._folder.find(raw[sha256]) is None:
                return None
            data = self._folder.read(raw[sha256])
            if hashlib.sha256(data).hexdigest() != sha256:
                return None
            encoded.add(trf.decode(data), sha256)
        return encoded.file()

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
