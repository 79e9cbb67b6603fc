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

It knows nothing of what the records are. Standard library only: recording uses it.
"""

from linac.errors import StorageError
from linac.transport.paths import AwayError, Folder

MARK = "linac-flows.toml"

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

    `folder` is the records share, or a folder got from it by `Folder.below`.
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


_ADVICE = "Connect the share again. Nothing is lost meanwhile: what is recorded stays in the spool; backups are fetched later."
