"""What is done now and then, not every night: old files brought up to date, the catalogue made anew."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from linac import trf
from linac.errors import LinacError
from linac.index import catalogue, deliveries
from linac.index.lease import Lease
from linac.index.writer import Leasing, Writer, files, partitions
from linac.transport import Folder


@dataclass(frozen=True)
class Compacted:
    """What upkeep did: deliveries that crashed runs had left half-done, files brought up to date, deliveries in the catalogue."""

    recovered: int
    renewed: list[str]
    deliveries: int


class Upkeep(Writer):
    """Everything is done in steps that can be interrupted and done again. Readers are not disturbed: files are replaced whole."""

    def __init__(self, folder: Folder, lease: Leasing) -> None:
        super().__init__(folder, "", lease)

    def run(self) -> Compacted:
        """All of it."""
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
        with self._lease() as lease:
            return Compacted(recovered, renewed, self._renew_catalogue(lease))

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
