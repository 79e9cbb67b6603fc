"""The index as its users see it: add logs, find deliveries, read their rows, look after it."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from linac.index import backups, names, quarantine
from linac.index.adding import BATCH_BYTES, Added, Adding, Log
from linac.index.backups import Backup, Damaged
from linac.index.lease import STALE_SECONDS, WAIT_SECONDS, Lease
from linac.index.quarantine import Quarantined
from linac.index.reader import Reader
from linac.index.upkeep import REPACK_SECONDS, Compacted, Repacked, Upkeep
from linac.index.verify import Report, verify
from linac.transport import Entry, Folder


class Index(Reader):
    """The index of TRF logs below a records root.

    Everything lies in `TRF/` of `folder` and is read and written through it alone, so it can be a local disk or a share. Many
    may read while one writes; a second writer waits, `wait_seconds` at most. A crashed writer's lease ends after
    `stale_seconds`. Raises `StorageError` where the storage fails, `DamagedError` where a file of the index cannot be read,
    `SetupError` where newer software wrote it, `AlreadyRunningError` where another writer does not end.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        batch_bytes: int = BATCH_BYTES,
        stale_seconds: float = STALE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        super().__init__(folder)
        self._batch_bytes = batch_bytes
        self._stale, self._wait = stale_seconds, wait_seconds

    def lease(self) -> Lease:
        """The right to write, to be used with `with`."""
        return Lease(self.folder, names.LEASE, stale_seconds=self._stale, wait_seconds=self._wait)

    # Adding

    def add(self, serial: str, logs: Iterable[Log], progress: Callable[[Added], None] | None = None) -> Added:
        """Bring logs of one linac into the index, each distinct content once.

        `logs` may be endless: it is read one by one, and every 64 MB are brought in. If it raises, what came before is brought
        in, then the error goes on. What cannot be read goes to the quarantine. `progress` is called after each log and batch.
        Running it again, twice at once, or after a crash does no harm.
        """
        return Adding(self.folder, names.check_serial(serial), self.lease, self._batch_bytes, progress).run(logs)

    def retry(self, serial: str, progress: Callable[[Added], None] | None = None) -> Added:
        """Try what is in quarantine again, as after an update of this software. What can be read now leaves it."""
        return self.add(serial, self._quarantined_logs(serial), progress)

    def _quarantined_logs(self, serial: str) -> Iterator[Log]:
        for item in quarantine.listed(self.folder, names.check_serial(serial)):
            yield Log(item.name, self.folder.read(item.file), quarantine.reason_of(self.folder, item)[1])

    def quarantined(self, serial: str) -> list[Quarantined]:
        """What is set aside for a linac, with the reasons."""
        found = quarantine.listed(self.folder, names.check_serial(serial))
        return [
            Quarantined(item.file, item.name, item.sha256_begin, item.size, quarantine.reason_of(self.folder, item)[0])
            for item in found
        ]

    # Backups

    def new_backups(self, serial: str, entries: Iterable[Entry]) -> list[Entry]:
        """Those of a listing of backups that are not taken in yet, or have changed since. It costs one listing, nothing else."""
        return backups.new(self.folder, names.check_serial(serial), entries)

    def is_done(self, serial: str, entry: Entry) -> bool:
        """Whether a backup, by its name, size and time of change, is taken in."""
        return backups.is_done(self.folder, names.check_serial(serial), entry)

    def mark_done(self, serial: str, entry: Entry, counts: Mapping[str, int] | None = None) -> None:
        """Note that a backup is taken in completely. `counts` is what `Added.counts` says."""
        backups.mark(self.folder, names.check_serial(serial), entry, counts or {})

    def backups(self, serial: str) -> list[Backup]:
        """The backups taken in for a linac, the oldest first, with what each brought."""
        return backups.read(self.folder, names.check_serial(serial))

    def mark_damaged(self, serial: str, entry: Entry, problem: str) -> None:
        """Note that somebody was told of a damaged backup, of which all was taken in that can be read. It is then no new one
        any more, until it changes."""
        backups.mark_damaged(self.folder, names.check_serial(serial), entry, problem)

    def damaged_backups(self, serial: str) -> list[Damaged]:
        """The damaged backups of a linac that somebody was told of, the oldest first."""
        return backups.damaged(self.folder, names.check_serial(serial))

    def dismiss(self, serial: str, name: str) -> bool:
        """Say no more of the damaged backups of this file name, unless they change. Whether there was one."""
        return backups.dismiss(self.folder, names.check_serial(serial), name)

    # Keeping

    def verify(self, progress: Callable[[str], None] | None = None, *, values: bool = False) -> Report:
        """Read everything again and tell what is wrong; with `values`, compare every value with the log it came from."""
        return verify(self.folder, progress, values=values)

    def compact(self, *, smaller: bool = False) -> Compacted:
        """Finish what crashed runs left, bring files of older software up to date, and make the catalogue anew.

        With `smaller`, all samples that are not yet are packed harder as well, however long it takes. Small files need no
        joining: they never come to be, see `linac.index.writer`.
        """
        return Upkeep(self.folder, self.lease).run(smaller=smaller)

    def repack(self, seconds: float | None = REPACK_SECONDS, progress: Callable[[Repacked], None] | None = None) -> Repacked:
        """Pack the samples harder that came in since the last time, for about so long; see `linac.index.repack`.

        To be called after `add`, when nobody waits: some 5 MB of TRF a second. Readers and other writers are not disturbed, and
        the rows stay the same. With nothing to do it costs two listings. `progress` is called after each month.
        """
        return Upkeep(self.folder, self.lease).repack(seconds, progress=progress)
