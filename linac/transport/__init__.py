"""Folders on local disks and hospital shares, all behind one small interface.

>>> import tempfile
>>> from linac.transport import connect
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     folder.write("TRF/raw/4299/a.trf", b"log")
...     [(entry.name, entry.size) for entry in folder.list("TRF/raw/4299/*.trf")]
[('a.trf', 3)]

`connect` takes a local folder, a mapped drive, or on Windows a UNC path, which the operating system opens. Names inside a
folder are relative, with `/` or `\\` alike, and may not leave it. Files appear whole or not at all. It does not watch, lock
or synchronise folders.
"""

from linac.transport.paths import Entry, Folder, LocalFolder, connect

__all__ = ["Entry", "Folder", "LocalFolder", "connect"]
