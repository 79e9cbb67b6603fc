"""Recorded iCom sessions in Parquet files that pandas, DuckDB and Polars read by themselves.

>>> import lzma, tempfile
>>> from datetime import datetime, timedelta
>>> from linac.simulator import Session, make_beams
>>> from linac.simulator.messages import make_message
>>> from linac.simulator.session import moments
>>> from linac.transport import connect
>>> start = datetime(2026, 1, 5, 9, 30)
>>> messages = [
...     make_message(moment, start + n * timedelta(seconds=0.25), n, "4299")
...     for n, moment in enumerate(moments(Session(beams=make_beams(2, mu=50)), 4.0))
... ]
>>> data = lzma.compress(b"".join(messages))
>>> with tempfile.TemporaryDirectory() as there, connect(there) as records:
...     name = "iCom/patients/TEST-0001_Simulated, Patient/20260105_093000.xz"
...     records.write(name, data)
...     print(len(missing(records, "4299")), add_session(records, "4299", name, data, "20260105_093000"), missing(records, "4299"))
...     import pandas
...     print(pandas.read_parquet(f"{there}/iCom/deliveries")[["field_id", "delivered_mu", "interruptions"]].to_string())
1 2 []
  field_id  delivered_mu  interruptions
0      1-1          50.0              0
1      1-2          50.0              1

`iCom/deliveries` has a row per beam and `iCom/samples` a row per message, both by linac and month; what the columns mean is in
docs/data-dictionary-icom.md. Both hold what is in the archive under `iCom/patients`, and can be made from it again.

The order is: samples, then deliveries. A session counts as added once it is in the deliveries; what a crash interrupts, `missing`
finds and `repair` does again. Files are written in `iCom/pending` and moved to their place, so a reader never meets a part.

It does not record, archive, or change the archive (`linac.capture` does), and needs no lock: two who add the same session at
once write the same files.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linac.errors import DamagedError, LinacError, SetupError, StorageError
from linac.icom import split
from linac.index import icom_rows
from linac.index.icom_rows import Arrival
from linac.index.icom_schema import PATIENTS, PENDING, check_version, file_name, read_stamp
from linac.transport import Entry, Folder

LOOK_BYTES = 1 << 18
"""So much of a session is unpacked to see whose linac it is: some 30 messages. If none of them says it, all of it."""


@dataclass
class Added:
    """What `repair` or `rebuild` came to: sessions and beams written, and why others were not (without the patient)."""

    sessions: int = 0
    beams: int = 0
    failed: list[str] = field(default_factory=list)


def add_session(
    records: Folder,
    serial: str,
    archive_name: str,
    data: bytes,
    stamp: str,
    gaps: int = 0,
    arrived: tuple[datetime, datetime] | None = None,
) -> int:
    """Write the beams and messages of an archived session; how many beams it has.

    `archive_name`: the archived file below the records root; `data`: its content; `stamp`: its name without `.xz`. `gaps` and
    `arrived` (first and last message, aware) are what the recorder knows; where they are left out, what the files have from an
    earlier time stays. Doing it again writes the same files.

    Raises `DamagedError` for a session that no beams can be made of (it names linac, time and hash, not the patient),
    `StorageError` where the storage fails, `SetupError` for a bad serial or stamp, or where newer software wrote the files.
    """
    if arrived is not None and (arrived[0].tzinfo is None or arrived[1].tzinfo is None):
        raise ValueError("arrived needs aware datetimes, such as datetime.now(UTC)")
    sha256 = _hash(data)
    target = file_name("deliveries", serial, stamp, sha256)
    session = icom_rows.read(data, f"Linac {serial}: the archived session of {stamp} (SHA-256 {sha256[:16]})")
    samples_file = file_name("samples", serial, stamp, sha256)
    old = _known(records, target)
    first, last = arrived or (old.first, old.last)
    table = icom_rows.deliveries(
        session,
        linac=serial,
        stamp=stamp,
        archive_file=archive_name,
        samples_file=samples_file,
        arrival=Arrival(first, last, max(gaps, old.gaps)),
    )
    _put(records, samples_file, _encode(icom_rows.samples(session)))
    _put(records, target, _encode(table))
    return len(session.beams)


def missing(records: Folder, serial: str, machine_ids: Iterable[str] | None = None) -> list[str]:
    """Archived sessions of this linac that are not in the deliveries, oldest first: names below the records root.

    They hold the patient: never log them. A session that is in no linac's deliveries is opened to see whether it is this one's:
    its messages must say one of `machine_ids` (the serial, unless given). One that cannot be read may be this one's.

    It costs a listing per patient and month, and nothing is opened unless it is missing. Raises `StorageError`.
    """
    ours = {serial} if machine_ids is None else set(machine_ids)
    found = _archived(records)
    archived = Counter(stamp for _, stamp in found)
    added = _added(records)
    names = []
    for name, stamp in sorted(found, key=lambda pair: (pair[1], pair[0])):
        begins = added.get(stamp, set())
        if len(begins) >= archived[stamp] == 1:
            continue
        data = _read(records, serial, name, stamp)
        if _hash(data)[:16] not in begins and _is_of(data, ours):
            names.append(name)
    return names


def repair(
    records: Folder, serial: str, machine_ids: Iterable[str] | None = None, progress: Callable[[Added], None] | None = None
) -> Added:
    """Add what is `missing`. One session that fails does not hold up the others. `progress` is called after each.

    Raises `StorageError` if the archive cannot be listed.
    """
    return _add_all(records, serial, missing(records, serial, machine_ids), progress)


def rebuild(
    records: Folder, serial: str, machine_ids: Iterable[str] | None = None, progress: Callable[[Added], None] | None = None
) -> Added:
    """Add all archived sessions of this linac again, as after an update that knows more columns; otherwise like `repair`."""
    ours = {serial} if machine_ids is None else set(machine_ids)
    there = {stamp for stamp, _ in _added_of(records, serial)}
    found = sorted(_archived(records), key=lambda pair: (pair[1], pair[0]))
    names = (name for name, stamp in found if stamp in there or _is_of(_read(records, serial, name, stamp), ours))
    return _add_all(records, serial, names, progress)


def _add_all(records: Folder, serial: str, names: Iterable[str], progress: Callable[[Added], None] | None) -> Added:
    done = Added()
    for name in names:
        stamp = _stem(name)
        try:
            done.beams += add_session(records, serial, name, _read(records, serial, name, stamp), stamp)
            done.sessions += 1
        except (DamagedError, StorageError) as error:
            done.failed.append(str(error))
        if progress is not None:
            progress(done)
    return done
