"""Making a file only if it is not there: the one thing that two writers on a share can agree by."""

import os

from linac.errors import SetupError, StorageError
from linac.transport import Folder, LocalFolder
from linac.transport.paths import split_name


def create(folder: Folder, name: str, data: bytes) -> bool:
    """Make the file `name` holding `data` unless there is one, and say whether it was made.

    It is exclusive, not whole: power cut in between leaves a file with less in it. Raises `StorageError` where the storage
    fails.
    """
    own = getattr(folder, "create", None)
    if own is not None:
        return bool(own(name, data))
    if not isinstance(folder, LocalFolder):
        raise SetupError(f"{folder.location} cannot make a file only if it is not there, so two runs could meet in it.")
    path = folder.path.joinpath(*split_name(name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0))
    except FileExistsError:
        return False
    except OSError as error:
        # Windows says "access denied" of a file that is just being removed: to be asked again.
        if isinstance(error, PermissionError) and os.name == "nt":
            return False
        raise StorageError(f"Could not make {path}: {error.strerror or error}. Check the right to write there.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return True
