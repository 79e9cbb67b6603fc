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
...     print(len(missing(records, "4299")))
...     print(add_session(records, "4299", name, data, "20260105_093000"), missing(records, "4299"))
...     import pandas
...     print(pandas.read_parquet(f"{there}/iCom/deliveries")[["field_id", "delivered_mu", "interruptions"]].to_string())
1
2 []
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
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linac.errors import DamagedError, SetupError, StorageError
from linac.index import icom_read, icom_rows
from linac.index.icom_read import Session
from linac.index.icom_rows import Arrival
from linac.index.icom_schema import (
    DELIVERIES_SCHEMA,
    PATIENTS,
    PENDING,
    SAMPLES_SCHEMA,
    SHORT_HASH,
    check_version,
    file_name,
    read_stamp,
)
from linac.transport import Folder

SET_ASIDE = "unknown_error_in_record"
"""Folder of sessions that could not be understood when they were archived: no delivery can be made of them."""

FAILURES_IN_A_ROW = 3
"""So many files that cannot be read or written, one after the other, mean that the share is away."""

ARRIVAL = ("session_arrived_first_utc", "session_arrived_last_utc", "session_gaps")
"""Columns that the archive does not tell."""

ZSTD_LEVEL = 3

GROUP_ROWS = 1 << 13
"""Rows of a row group: half an hour."""


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
    session = icom_read.read(data, f"Linac {serial}: the archived session of {stamp} (SHA-256 {sha256[:16]})")
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
    _put(records, samples_file, _encode_samples(session))
    _put(records, target, _encode_deliveries(table))
    return len(session.beams)


def missing(records: Folder, serial: str, machine_ids: Iterable[str] | None = None) -> list[str]:
    """Archived sessions of this linac that are not in the deliveries, oldest first: names below the records root.

    They hold the patient: never log them. A session that is in no linac's deliveries is opened to see whether it is this one's:
    its messages must say one of `machine_ids` (the serial, unless given). One that cannot be read may be this one's.

    It costs a listing per patient and month, and opens nothing but what is in no deliveries. Raises `StorageError` where the
    archive cannot be listed.
    """
    ours = {serial} if machine_ids is None else set(machine_ids)
    found = _archived(records)
    alike, added = Counter(stamp for _, stamp in found), _added(records)
    names = []
    for name, stamp in found:
        if alike[stamp] == 1 and added.get(stamp):
            continue  # the only session that began in this second
        try:
            data = _read(records, serial, name, stamp)
        except StorageError:
            names.append(name)
            continue
        if _hash(data)[:SHORT_HASH] not in added.get(stamp, ()) and _is_of(data, ours):
            names.append(name)
    return names


def repair(
    records: Folder, serial: str, machine_ids: Iterable[str] | None = None, progress: Callable[[Added], None] | None = None
) -> Added:
    """Add what is `missing`. One session that fails does not hold up the others. `progress` is called after each.

    Raises `StorageError` if the archive cannot be listed, or files fail one after the other: then the share is away.
    """
    return _add_all(records, serial, missing(records, serial, machine_ids), None, progress)


def rebuild(
    records: Folder, serial: str, machine_ids: Iterable[str] | None = None, progress: Callable[[Added], None] | None = None
) -> Added:
    """Add all archived sessions of this linac again, as after an update that knows more columns; otherwise like `repair`.

    It reads the whole archive, to see which sessions are this linac's.
    """
    ours, added = {serial} if machine_ids is None else set(machine_ids), _added(records, serial)

    def is_ours(data: bytes, stamp: str) -> bool:
        return _hash(data)[:SHORT_HASH] in added.get(stamp, ()) or _is_of(data, ours)

    return _add_all(records, serial, [name for name, _ in _archived(records)], is_ours, progress)


def _add_all(
    records: Folder,
    serial: str,
    names: Iterable[str],
    wanted: Callable[[bytes, str], bool] | None,
    progress: Callable[[Added], None] | None,
) -> Added:
    done, failing = Added(), 0
    for name in names:
        stamp = _stamp_of(name)
        try:
            data = _read(records, serial, name, stamp)
            if wanted is not None and not wanted(data, stamp):
                continue
            done.beams += add_session(records, serial, name, data, stamp)
            done.sessions, failing = done.sessions + 1, 0
        except DamagedError as error:
            done.failed.append(str(error))
        except StorageError as error:
            done.failed.append(str(error))
            failing += 1
            if failing == FAILURES_IN_A_ROW:
                raise
        if progress is not None:
            progress(done)
    return done


def _archived(records: Folder) -> list[tuple[str, str]]:
    """The archived sessions of all linacs by time: name below the records root, and stamp."""
    found = []
    for patient in records.list(f"{PATIENTS}/*"):
        if not patient.is_folder or patient.name == SET_ASIDE:
            continue
        where = f"{PATIENTS}/{patient.name}"
        with _nameless(patient.name, "Listing the archive"):
            entries = records.list(f"{where}/*.xz")
        found += [(f"{where}/{entry.name}", stamp) for entry in entries if read_stamp(stamp := _stamp_of(entry.name))]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _added(records: Folder, serial: str | None = None) -> dict[str, set[str]]:
    """What the deliveries have, of one linac or all: by stamp, how the hashes begin."""
    found: dict[str, set[str]] = {}
    for machine in records.list(f"iCom/deliveries/machine={serial or '*'}"):
        for month in records.list(f"iCom/deliveries/{machine.name}/month=*"):
            for entry in records.list(f"iCom/deliveries/{machine.name}/{month.name}/*.parquet"):
                stamp, _, begin = entry.name.removesuffix(".parquet").rpartition("_")
                found.setdefault(stamp, set()).add(begin)
    return found


def _stamp_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".xz")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_of(data: bytes, machine_ids: set[str]) -> bool:
    """Whether a session's messages name one of these machines. One that cannot be read may well be of it."""
    try:
        for messages in icom_read.messages(data, "the session"):
            said = {found for message in messages if (found := message.text("Machine ID"))}
            if said:
                return bool(said & machine_ids)
    except DamagedError:
        return True
    return False


def _read(records: Folder, serial: str, name: str, stamp: str) -> bytes:
    with _nameless(name.split("/")[-2], f"Linac {serial}, session of {stamp}"):
        return records.read(name)


@contextlib.contextmanager
def _nameless(patient: str, what: str) -> Iterator[None]:
    """A storage's errors name the path, and so the patient: neither that text nor the error it came from may travel on."""
    try:
        yield
    except (StorageError, SetupError) as error:
        raise StorageError(f"{what}: {str(error).replace(patient, '(patient)')}") from None


def _known(records: Folder, target: str) -> Arrival:
    """What an older deliveries file of the same session knows of its arrival. Raises `SetupError` for newer software's."""
    if records.find(target) is None:
        return Arrival()
    try:
        file = pq.ParquetFile(io.BytesIO(records.read(target)))
        check_version(file.metadata.metadata, target)
        first, last, gaps = (file.read(columns=[name]).column(0)[0].as_py() for name in ARRIVAL)
    except (pa.ArrowException, OSError, IndexError, KeyError):  # damaged: made anew
        return Arrival()
    return Arrival(first, last, gaps or 0)


def _encode_samples(session: Session) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SAMPLES_SCHEMA, compression="zstd", compression_level=ZSTD_LEVEL) as file:
        for start in range(0, len(session.said), GROUP_ROWS):
            file.write_table(icom_rows.samples(session, slice(start, start + GROUP_ROWS)), row_group_size=GROUP_ROWS)
    return sink.getvalue()


def _encode_deliveries(table: Any) -> bytes:
    """Of few rows and many columns: statistics of all of them and Arrow's own schema would be most of the file."""
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=False,
        write_statistics=["start_local", "start_utc"],
        store_schema=False,
    ) as file:
        file.write_table(table)
        file.add_key_value_metadata(DELIVERIES_SCHEMA.metadata)
    return sink.getvalue()


def _put(records: Folder, name: str, data: bytes) -> None:
    """Put a file in its place, all at once, unless it is there already: readers may have it open, and Windows minds."""
    entry = records.find(name)
    if entry is not None and entry.size == len(data) and records.read(name) == data:
        return
    tree, machine, _, last = name.split("/")[-4:]
    staged = f"{PENDING}/{tree}_{machine}_{last}.new"
    records.write(staged, data)
    try:
        records.replace(staged, name)
    except StorageError:
        # Another who adds the same session may have moved the file that both had written.
        if records.find(name) is None or records.read(name) != data:
            raise
