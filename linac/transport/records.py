"""Telling a site's records share from the empty folder where it should have been mounted.

A share that is not connected can look like an empty folder on the local disk. Whoever wrote there would fill the wrong disk, and
the records would fall into two halves. So the root of a records share holds a small file, the mark, written once by whoever sets
the site up; everything that writes records looks for it first.

>>> import tempfile
>>> from linac.transport import connect
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     mark(folder), mark(folder)
...     require(folder)
(True, False)

`sweep` tidies up after writers that were cut short. It knows nothing of what the records are. Standard library only:
recording uses it.
"""

import contextlib
import random
import time
from collections.abc import Iterable

from linac.errors import SetupError, StorageError, UnreachableError
from linac.transport.paths import AwayError, Folder

MARK = "linac-flows.toml"

SWEEP_SECONDS = 60.0

_TEXT = b"""# The root of a site's records, kept by linac-flows. Leave this file here: what writes records looks for it first,
# to tell this folder from an empty one that stands where a share is not connected. Nothing else is read from it.
"""


def mark(folder: Folder) -> bool:
    """Put the mark into the root of a records share unless it is there; whether it was put there now.

    Raises `StorageError` where the root is missing or cannot be written to.
    """
    root = folder.root
    if root.find(MARK) is not None:
        return False
    root.write(MARK, _TEXT)
    return True


def require(folder: Folder) -> None:
    """Return if the records share is there. Raises `UnreachableError` where its root or its mark is missing (one that is a
    `StorageError` as well, for those who look after writing alone).

    `folder` is the records share, or a folder got from it by `Folder.below`. Should the share go away later, no folder is made in
    what is left in its place.
    """
    root = folder.root
    try:
        found = root.find(MARK)
        if found is None:
            root.check()
    except StorageError as error:
        raise AwayError(f"The records share {root.location} is away. {error} {_ADVICE}") from error
    if found is None:
        raise AwayError(
            f"The records share {root.location} is away: a folder is there, but not the file {MARK} that marks the records, so "
            f"this is probably the empty folder where the share should be connected. {_ADVICE} If it is a new or a moved records "
            "share, add-linac marks it."
        )
    root.mark = MARK


def sweep(folder: Folder, names: Iterable[str], seconds: float = SWEEP_SECONDS) -> int:
    """Remove what writers left half-written in these folders and all below them: a power cut, or a share that went away amid a
    file. How many files that were. Only what nobody has touched for a day goes (`Folder.sweep`).

    After so many seconds the rest is left to another call: the order is drawn anew each time, so that all get their turn.
    Raises `UnreachableError` where the share is away.
    """
    removed, waiting, until = 0, list(names), time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        name = waiting.pop(random.randrange(len(waiting)))  # noqa: S311 (no secret)
        with contextlib.suppress(SetupError):  # another's folder, of a name that we could not make
            try:
                removed += folder.sweep(name)
                waiting += [f"{name}/{entry.name}" for entry in folder.list(f"{name}/*") if entry.is_folder]
            except UnreachableError:
                raise
            except StorageError:  # a folder that this account may not open
                continue
    return removed


_ADVICE = "Connect the share again. Nothing is lost meanwhile: what is recorded stays in the spool; backups are fetched later."
