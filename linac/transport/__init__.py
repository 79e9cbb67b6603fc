"""Folders on local disks and hospital shares, all behind one small interface.

>>> import tempfile
>>> from linac.transport import connect
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     folder.write("TRF/raw/4299/a.trf", b"log")
...     [(entry.name, entry.size) for entry in folder.list("TRF/raw/4299/*.trf")]
[('a.trf', 3)]

`connect` takes a local folder, a mapped drive or a UNC path, which the operating system opens (Windows) or, with credentials,
a port or a gateway, `linac.transport.smb`. Names inside a folder are relative, with `/` or `\\` alike, and may not leave it.
Files appear whole or not at all. `records` tells a connected records share from an empty folder. It does not watch, lock or
synchronise folders.
"""

from linac.transport.connecting import connect
from linac.transport.credentials import Credentials
from linac.transport.paths import AwayError, Entry, Folder, LocalFolder

__all__ = ["AwayError", "Credentials", "Entry", "Folder", "LocalFolder", "connect"]
