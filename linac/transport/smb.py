r"""A folder on an SMB share, reached from here, without the operating system's help.

It is what `linac.transport.connect` gives for `\\server\share\folder` with an account, another port or a gateway. Each thread
that uses a folder has a connection of its own, which lives until the folder is closed; a connection that failed is made anew at
the next use. Messages are signed always, and encrypted where the server can.

It does not follow DFS to other servers, has no locks and no change notices, and speaks no SMB 1.
"""

import contextlib
import fnmatch
import io
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Self, TypeVar

from linac.errors import LinacError, StorageError, UnreachableError
from linac.transport import fetching, smb_ahead, smb_errors, smb_file
from linac.transport import smb_messages as messages
from linac.transport.connecting import SMB_PORT, TIMEOUT_SECONDS, Gateway, Line, Way
from linac.transport.credentials import Credentials
from linac.transport.dialing import dial
from linac.transport.fetching import Source
from linac.transport.paths import (
    ASIDE,
    LEFT,
    REPLACE_FIRST_PAUSE_SECONDS,
    REPLACE_TRIES,
    STALE_SECONDS,
    AwayError,
    Entry,
    Folder,
    closed,
    explain,
    replace_local,
    split_file_name,
    split_name,
    split_pattern,
    tried,
)
from linac.transport.smb_ahead import Begin
from linac.transport.smb_errors import Where
from linac.transport.smb_link import Link
from linac.transport.smb_wire import StatusError

GATEWAY_SECONDS = 5.0
"""How long a gateway is waited for to give a sign of life, once what lies behind it has failed."""

T = TypeVar("T")


class _Links:
    """The connections of a folder and of those below it, one for each thread that uses them."""

    def __init__(self, where: Where, credentials: Credentials | None, gateway: Gateway | None, timeout: float) -> None:
        self.where, self.timeout = where, timeout
        self._credentials, self._gateway = credentials, gateway
        self._lock = threading.Lock()
        self._by_thread: dict[int, Link] = {}
        self._way: Way | None = None
        self._closed = False
        self._left: list[str] = []

    def leave(self, path: str) -> None:
        """A part whose connection broke off, to be removed over the next one."""
        with self._lock:
            self._left.append(path)

    def _tidy(self, link: Link) -> None:
        """Remove what was left. One that the server still has open from before may yet get its name: it is left alone."""
        with self._lock:
            left, self._left = self._left, []
        for path in left:
            try:
                _remove_alone(link, path)
            except StatusError as error:
                if error.status == smb_errors.SHARING_VIOLATION:
                    self.leave(path)
            except LinacError:
                self.leave(path)

    def get(self) -> Link:
        """This thread's connection, made if need be; one of a thread that has ended is taken over."""
        me = threading.get_ident()
        with self._lock:
            if self._closed:
                raise closed(self.where.location)
            link = self._by_thread.get(me)
            if link is None:
                alive = {thread.ident for thread in threading.enumerate()}
                orphan = next((ident for ident in self._by_thread if ident not in alive), None)
                if orphan is not None:
                    link = self._by_thread[me] = self._by_thread.pop(orphan)
        if link is not None and link.is_alive():
            return link
        link = self._make()
        with self._lock:
            self._by_thread[me] = link
            usable = not self._closed
        if usable:
            self._tidy(link)
            return link
        link.tear_down()
        raise closed(self.where.location)

    def _make(self) -> Link:
        return Link(self._dial, self.where, self._credentials, self.timeout, self._lost)

    def _dial(self) -> Line:
        """A connection to the server."""
        if self._gateway is None:
            return dial(self.where.server, self.where.port, self.timeout)
        with self._lock:
            if self._closed:
                raise closed(self.where.location)
            if self._way is None:
                self._way = self._gateway.route(self.where.server, self.where.port)
            way = self._way
        try:
            return way.dial()
        except UnreachableError as trouble:  # whoever wants the share sees that it is away, whatever stands before it
            if self._closed:
                raise closed(self.where.location) from trouble
            raise AwayError(str(trouble)) from trouble

    def _lost(self, error: AwayError) -> LinacError:
        """What to say of a connection that failed: where the gateway failed, or we closed it, the server is not to blame."""
        if self._closed:
            return closed(self.where.location)
        way = self._way
        trouble = way.failure(GATEWAY_SECONDS) if way is not None else None
        if trouble is None:
            return error
        return smb_errors.gateway(self.where, trouble) if isinstance(trouble, UnreachableError) else trouble

    def close(self) -> None:
        with self._lock:
            self._closed = True
            links, way = list(self._by_thread.values()), self._way
            self._by_thread.clear()
        if way is not None:
            way.close()  # first: where a gateway hangs, that wakes who waits for it
        for link in links:
            link.tear_down()


class SmbFolder(Folder):
    """A folder on an SMB share. Opened by the first use; every method may be called by any thread."""

    def __init__(
        self,
        server: str,
        share: str,
        below: str = "",
        credentials: Credentials | None = None,
        *,
        port: int = SMB_PORT,
        gateway: Gateway | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        account = "this account" if credentials is None else credentials.login or "an account without a name"
        where = Where(server, port, share, account, gateway is not None)
        self._links = _Links(where, credentials, gateway, timeout)
        self._base = "\\".join(split_name(below))
        self._root = self
        self._set_location()

    def _set_location(self) -> None:
        where = self._links.where
        self.location = "\\\\" + "\\".join(part for part in (where.server, where.share, self._base) if part)

    @property
    def root(self) -> "SmbFolder":
        return self._root

    def below(self, name: str) -> "SmbFolder":
        other = SmbFolder.__new__(SmbFolder)
        other._links, other._root, other._base = self._links, self._root, self._at(name)
        other._set_location()
        return other

    def close(self) -> None:
        self._links.close()

    # Names

    def _at(self, name: str) -> str:
        """A name's path on the share, with backslashes."""
        return "\\".join([*([self._base] if self._base else []), *split_name(name)])

    def _file(self, name: str) -> str:
        """A file's path, which has a name of its own."""
        split_file_name(name)
        return self._at(name)

    def _shown(self, name: str) -> str:
        return "\\".join([self.location, *split_name(name)])

    @contextlib.contextmanager
    def _link(self, action: str, name: str) -> Iterator[Link]:
        """This thread's connection; what the server refuses meanwhile is told as an error about `name`."""
        split_name(name)  # before a server is asked
        link = self._links.get()
        with link.lock:
            try:
                yield link
            except StatusError as error:
                raise self._failed(action, name, error.status) from error

    def _failed(self, action: str, name: str, status: int) -> LinacError:
        return smb_errors.file(status, action, self._shown(name), self._links.where)

    # Reading

    def check(self) -> None:
        with self._link("list", "") as link:
            root = messages.open_file(self._root._base, messages.LIST_FOLDER, options=messages.A_FOLDER)
            _answers(link.chain(root, messages.close()))
        if self._root is not self:
            self.list()

    def list(self, pattern: str = "*") -> "list[Entry]":
        above, last = split_pattern(pattern)
        where = "/".join(above)
        # `[...]` is not for the server: it gets what stands before. Case counts as little as it does there.
        asked = last.partition("[")[0] + "*" if "[" in last else last
        with self._link("list", where) as link:
            found = _listed(link, self._at(where), asked)
        return sorted(
            (
                Entry(item.name, 0 if item.is_folder else item.size, messages.as_datetime(item.time_100ns), item.is_folder)
                for item in found
                if ASIDE not in item.name and fnmatch.fnmatchcase(item.name.lower(), last.lower())
            ),
            key=lambda entry: entry.name,
        )

    def find(self, name: str) -> Entry | None:
        parts = split_file_name(name)
        if ASIDE in parts[-1]:
            return None
        with self._link("look for", name) as link:
            try:
                look = messages.open_file(self._at(name), messages.READ_ATTRIBUTES)
                opened = messages.opened(_twice(lambda: _answers(link.chain(look, messages.close())))[0])
            except StatusError as error:
                if error.status in smb_errors.NOT_FOUND or error.status == smb_errors.NOT_A_FOLDER:
                    return None
                raise
        size = 0 if opened.is_folder else opened.size
        return Entry(parts[-1], size, messages.as_datetime(opened.time_100ns), opened.is_folder)

    def open(self, name: str, mode: str = "rb") -> IO[bytes]:
        if mode != "rb":
            raise ValueError("files are opened for reading only; write them with write() or store(), which never leave a part")

        def failed(status: int) -> LinacError:
            return self._failed("read", name, status)

        with self._link("open", name) as link:
            opened = self._open_to_read(link, name)
            return smb_file.reader(link, opened, self._shown(name), failed)

    def _open_to_read(self, link: Link, name: str) -> messages.Opened:
        """Others may read, write and remove the file meanwhile: it is theirs."""
        rights = messages.READ_DATA | messages.READ_ATTRIBUTES
        open_it = messages.open_file(self._file(name), rights)
        return _twice(lambda: _patiently(lambda: messages.opened(link.call(open_it))))

    def read(self, name: str) -> bytes:
        with self._link("read", name) as link:
            rights = messages.READ_DATA | messages.READ_ATTRIBUTES
            first = link.read_chunk
            open_it = messages.open_file(self._file(name), rights, options=messages.A_FILE)

            def begin() -> "tuple[messages.Opened, list[memoryview | StatusError]]":
                answers = link.chain(open_it, messages.read(0, first), messages.close())
                return messages.opened(_answers(answers[:1])[0]), answers

            opened, answers = _twice(lambda: _patiently(begin))
            if opened.size <= first:
                if opened.size == 0:
                    return b""
                data = bytes(messages.data_read(_answers(answers[1:2])[0]))
                if len(data) == opened.size:
                    return data
        with self.open(name) as file:
            return file.read()

    def fetch(self, name: str, local: Path, verify: Callable[[Path], None] | None = None) -> bool:
        with self._link("fetch", name) as link:
            # What is here already may make the content needless; else its begin comes with the opening, and of a small file all.
            begin = None
            if not fetching.is_begun(local) and smb_ahead.has_room(link):
                ask = partial(smb_ahead.ask, link, self._file(name), link.read_chunk)
                begin = _twice(lambda: _patiently(lambda: smb_ahead.answer(link, ask())))
            return self._fetch(link, name, local, verify, begin)

    def _fetch(self, link: Link, name: str, local: Path, verify: Callable[[Path], None] | None, begin: Begin | None) -> bool:
        """Fetch a file of which perhaps the begin is here, of a small one all."""
        if begin is not None and fetching.is_known(self._source(name, begin.file), local) and not begin.file.is_folder:
            return False
        closed = begin is not None and begin.is_whole
        opened = begin.file if begin is not None and closed else self._open_to_read(link, name)
        try:
            if opened.is_folder:
                raise StatusError(smb_errors.IS_A_FOLDER)
            source = self._source(name, opened)
            if not closed and fetching.is_known(source, local):
                return False
            same = begin is not None and begin.file[1:] == opened[1:]
            first = begin.data if begin is not None and same else memoryview(b"")

            def copy(offset: int, take: Callable[[memoryview | bytes], object]) -> Callable[[], Source]:
                nonlocal closed
                begun = len(first) if offset == 0 else 0
                if begun:
                    take(first)
                if closed:
                    return lambda: source  # open, read and closed again at one go
                link.read_range(opened.handle, offset + begun, opened.size - offset - begun, take)
                closing, closed = link.begin(messages.close(opened.handle, tell=True)), True

                def after() -> Source:
                    size, time_100ns = messages.closed(link.end(closing))
                    return Source(source.location, size, messages.as_ns(time_100ns))

                return after

            with explain("fetch", f"{self._shown(name)} to {local}"):
                fetching.fetch(source, copy, local, verify, replace_local)
        finally:
            if not closed:
                link.close_soon(opened.handle)
        return True

    def _source(self, name: str, opened: messages.Opened) -> Source:
        return Source(self._shown(name), opened.size, messages.as_ns(opened.time_100ns))

    def fetch_many(
        self, pairs: Iterable[tuple[str, Path]], verify: Callable[[Path], None] | None = None
    ) -> Iterator[tuple[str, bool | LinacError]]:
        def fetch(name: str, local: Path, begin: Begin) -> bool:
            with self._link("fetch", name) as link:
                return self._fetch(link, name, local, verify, begin)

        wanted = (((name, local), self._path_of(name), not fetching.is_begun(local)) for name, local in pairs)
        for (name, local), begin in smb_ahead.begins(self._links.get, wanted):
            plain = partial(self.fetch, name, local, verify)
            yield name, self._tried(plain, plain if begin is None else partial(fetch, name, local, begin))

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | LinacError]]:
        wanted = ((name, self._path_of(name), True) for name in names)
        for name, begin in smb_ahead.begins(self._links.get, wanted):
            plain = partial(self.read, name)
            yield name, bytes(begin.data) if begin is not None and begin.is_whole else self._tried(plain, plain)

    def _path_of(self, name: str) -> str | None:
        """A name's path on the share, or None for a name that leads out of it."""
        found = tried(lambda: self._file(name))
        return found if isinstance(found, str) else None

    def _tried(self, plain: Callable[[], T], first: Callable[[], T]) -> T | LinacError:
        """What comes of one file, or its error. Where the connection breaks off it is tried once more, over another one.

        Raises what is in the way of all files.
        """
        self._links.get()
        try:
            return tried(first)
        except UnreachableError:
            self._links.get()
            return tried(plain)

    # Writing

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._write_whole(name, lambda chunk: _pieces(io.BytesIO(data), chunk), len(data), None, durable)

    def store(self, local: Path, name: str) -> None:
        with explain("store", f"{local} as {self._shown(name)}"), local.open("rb") as file:
            stat = os.fstat(file.fileno())

            def pieces(chunk: int) -> Iterator[bytes]:
                file.seek(0)
                return _pieces(file, chunk)

            self._write_whole(name, pieces, stat.st_size, stat.st_mtime_ns)

    def _write_whole(
        self, name: str, pieces: Callable[[int], Iterator[bytes]], size: int, time_ns: int | None, durable: bool = True
    ) -> None:
        """Write beside the place, bring it to the disk, rename. What fails leaves nothing if the server still answers."""
        target = self._file(name)
        part = f"{target}{ASIDE}{uuid.uuid4().hex[:8]}"
        with self._link("write", name) as link:
            try:
                opened = self._with_folders(link, name, lambda: self._new_file(link, part, name, pieces, size, durable))
                try:
                    if time_ns is not None:
                        link.call(messages.set_time(messages.from_ns(time_ns), opened.handle))
                    self._rename(link, opened.handle, target)
                except BaseException:
                    _throw_away(link, opened.handle)
                    raise
            except BaseException:
                if link.is_broken:
                    self._links.leave(part)
                raise
            link.close_soon(opened.handle)

    def _new_file(
        self, link: Link, path: str, name: str, pieces: Callable[[int], Iterator[bytes]], size: int, durable: bool = True
    ) -> messages.Opened:
        """Make a file with its content, and leave it open. What fails leaves nothing if the server still answers."""
        at_once = size <= link.portion
        opened = self._begin_file(link, path, pieces if at_once else None, size, durable)
        if not at_once:
            try:
                if link.write_from(opened.handle, pieces(link.write_chunk)) != size:
                    raise StorageError(f"{self._shown(name)} was not stored: its source changed meanwhile. Try again.")
                if durable:
                    link.call(messages.flush(opened.handle))
            except BaseException:
                _throw_away(link, opened.handle)
                raise
        return opened

    def _begin_file(
        self, link: Link, path: str, pieces: Callable[[int], Iterator[bytes]] | None, size: int, durable: bool
    ) -> messages.Opened:
        """Make the file to write to; a small one gets its content, `pieces`, in the same go."""
        rights = messages.READ_ATTRIBUTES | messages.WRITE_DATA | messages.WRITE_ATTRIBUTES | messages.DELETE
        make = messages.open_file(path, rights, if_there=messages.CREATE, options=messages.A_FILE)
        if pieces is None:
            return messages.opened(link.call(make))
        chained = [make]
        offset = 0
        for piece in pieces(link.write_chunk):
            chained.append(messages.write(offset, piece))
            offset += len(piece)
        answers = link.chain(*chained, *([messages.flush()] if durable else []))
        opened = messages.opened(_answers(answers[:1])[0])
        try:
            _answers(answers)
            if offset != size:
                raise StatusError(0xC000007F)
        except StatusError:
            _throw_away(link, opened.handle)
            raise
        return opened

    def _rename(self, link: Link, handle: bytes, target: str) -> None:
        """Replace `target` by the open file; tried again while somebody has it open."""
        _patiently(lambda: link.call(messages.rename(target, handle)), smb_errors.IN_USE)

    def replace(self, old: str, new: str) -> None:
        source, target = self._file(old), self._file(new)
        rights = messages.DELETE | messages.READ_ATTRIBUTES
        with self._link(f"rename {self._shown(old)} to", new) as link:
            handle = _patiently(lambda: messages.opened(link.call(messages.open_file(source, rights)))).handle
            try:
                self._with_folders(link, new, lambda: self._rename(link, handle, target))
            finally:
                link.close_soon(handle)

    def remove(self, name: str) -> None:
        path = self._file(name)
        with self._link("remove", name) as link:
            try:
                try:
                    _remove_alone(link, path)
                except StatusError as error:
                    if error.status != smb_errors.SHARING_VIOLATION:
                        raise
                    _patiently(lambda: _remove_from_others(link, path))
            except StatusError as error:
                if error.status not in smb_errors.NOT_FOUND:
                    raise

    def create(self, name: str, data: bytes) -> bool:
        path = self._file(name)

        def pieces(chunk: int) -> Iterator[bytes]:
            return _pieces(io.BytesIO(data), chunk)

        with self._link("make", name) as link:
            try:
                opened = self._with_folders(link, name, lambda: self._new_file(link, path, name, pieces, len(data)))
            except StatusError as error:
                if error.status in smb_errors.EXISTS:
                    return False
                raise
            link.close_soon(opened.handle)
        return True

    def make(self, name: str = "") -> None:
        with self._link("make", name) as link:
            self._make(link, self._at(name))

    def make_root(self) -> Self:
        with self._link("make", "") as link:
            parts = self._base.split("\\") if self._base else []
            for count in range(1, len(parts) + 1):
                _make_folder(link, "\\".join(parts[:count]))
            if not parts:
                _open_folder(link, "")
        return self

    def _with_folders(self, link: Link, name: str, work: Callable[[], T]) -> T:
        """Do what needs the folder of `name`; make it if that fails for want of it."""
        for last_try in (False, True):
            try:
                return work()
            except StatusError as error:
                if last_try or error.status not in smb_errors.NOT_FOUND:
                    raise
            self._make(link, "\\".join(self._at(name).split("\\")[:-1]))
        raise AssertionError

    def _make(self, link: Link, path: str) -> None:
        """Make a folder and those between it and the root, not the root."""
        root = self._root._base
        try:
            _open_folder(link, path)
            return
        except StatusError as error:
            if error.status not in smb_errors.NOT_FOUND:
                raise
        try:
            _open_folder(link, root)
        except StatusError as error:
            if error.status not in smb_errors.NOT_FOUND:
                raise
            raise StorageError(
                f"The folder {self._root.location} is not there. If it is a new folder, make it first; else look whether the "
                "right share is given. It is not made by itself, so that nothing is written to a wrong place."
            ) from error
        parts = path[len(root) :].strip("\\").split("\\")
        for count in range(1, len(parts) + 1):
            _make_folder(link, "\\".join(part for part in (root, *parts[:count]) if part))

    # The rest

    def free(self) -> int:
        with self._link("measure free space of", "") as link:
            open_it = messages.open_file(self._root._base, messages.READ_ATTRIBUTES, options=messages.A_FOLDER)
            return messages.free_space(_answers(link.chain(open_it, messages.ask_free_space(), messages.close()))[1])

    def sweep(self, name: str = "", older_seconds: float = STALE_SECONDS) -> int:
        before = datetime.fromtimestamp(time.time() - older_seconds, UTC)
        removed = 0
        with self._link("tidy", name) as link:
            for item in _listed(link, self._at(name), f"*{ASIDE}*"):
                if LEFT.fullmatch(item.name[-14:]) and not item.is_folder and messages.as_datetime(item.time_100ns) < before:
                    path = "\\".join(part for part in (self._at(name), item.name) if part)
                    with contextlib.suppress(StatusError):  # another sweeps too, or still writes it
                        _remove_alone(link, path)
                        removed += 1
        return removed


def _patiently(action: Callable[[], T], held: Collection[int] = frozenset({smb_errors.SHARING_VIOLATION})) -> T:
    """Its result; tried again for some seconds while somebody holds the file, as a virus scanner does for a moment."""
    pause = REPLACE_FIRST_PAUSE_SECONDS
    for _ in range(REPLACE_TRIES - 1):
        try:
            return action()
        except StatusError as error:
            if error.status not in held:
                raise
        time.sleep(pause)
        pause *= 2
    return action()


def _twice(action: Callable[[], T]) -> T:
    """Its result. What is not there is looked for again: Samba says so in the moment in which a file is replaced, too (measured:
    once in some thousand replacements)."""
    try:
        return action()
    except StatusError as error:
        if error.status not in smb_errors.NOT_FOUND:
            raise
    return action()


def _answers(answers: "list[memoryview | StatusError]") -> "list[memoryview]":
    """The answers of a chain; raises the first error in it."""
    for answer in answers:
        if isinstance(answer, StatusError):
            raise answer
    return [answer for answer in answers if not isinstance(answer, StatusError)]


def _listed(link: Link, path: str, pattern: str) -> "list[messages.Listed]":
    """What is in a folder, without `.` and `..`; nothing if it is not there."""
    length = min(link.list_chunk, link.room(link.list_chunk) or 65536)
    open_it = messages.open_file(path, messages.LIST_FOLDER, options=messages.A_FOLDER)
    opening, first = link.chain(open_it, messages.list_folder(pattern, length))
    if isinstance(opening, StatusError):
        if opening.status in smb_errors.NOT_FOUND:
            return []
        raise opening
    handle = messages.opened(opening).handle
    found: list[messages.Listed] = []
    answer: memoryview | StatusError = first
    try:
        while True:
            if isinstance(answer, StatusError):
                if answer.status in smb_errors.NO_MORE_FILES:
                    return [item for item in found if item.name not in (".", "..")]
                raise answer
            found += messages.listed(answer)
            try:
                answer = link.call(messages.list_folder(pattern, length, handle))
            except StatusError as error:
                answer = error.with_traceback(None)  # it would hold this very frame
    finally:
        link.close_soon(handle)


def _open_folder(link: Link, path: str) -> None:
    _answers(link.chain(messages.open_file(path, messages.READ_ATTRIBUTES, options=messages.A_FOLDER), messages.close()))


def _make_folder(link: Link, path: str) -> None:
    open_it = messages.open_file(path, messages.READ_ATTRIBUTES, if_there=messages.OPEN_OR_CREATE, options=messages.A_FOLDER)
    _answers(link.chain(open_it, messages.close()))


def _remove_alone(link: Link, path: str) -> None:
    """Remove a file or empty folder that nobody else has open."""
    open_it = messages.open_file(path, messages.DELETE, share=messages.SHARE_NONE)
    _answers(link.chain(open_it, messages.delete(), messages.close()))


def _remove_from_others(link: Link, path: str) -> None:
    """Remove a file or empty folder that others have open, too.

    It stays until the last of them closes it, and until then nobody could make another of that name (Samba would even remove that
    one in its place, measured). So it leaves its name first; what a power cut leaves of it is swept.
    """
    opened = messages.opened(link.call(messages.open_file(path, messages.DELETE | messages.READ_ATTRIBUTES)))
    try:
        if not opened.is_folder:
            aside = "\\".join([*path.split("\\")[:-1], f"{ASIDE}{uuid.uuid4().hex[:8]}"])  # short, however long its name is
            link.call(messages.rename(aside, opened.handle, replace=False))
        try:
            link.call(messages.delete(opened.handle))
        except StatusError:
            if not opened.is_folder:
                link.call(messages.rename(path, opened.handle, replace=False))
            raise
    except BaseException:
        link.close_soon(opened.handle)
        raise
    link.call(messages.close(opened.handle))


def _throw_away(link: Link, handle: bytes) -> None:
    """Delete an open file, as far as the server still answers."""
    if not link.is_broken:
        with contextlib.suppress(LinacError, StatusError):
            link.call(messages.delete(handle))
        with contextlib.suppress(LinacError, StatusError):
            link.call(messages.close(handle))


def _pieces(file: IO[bytes], length: int) -> Iterator[bytes]:
    while piece := file.read(length):
        yield piece
