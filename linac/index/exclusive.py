"""Making a file only if it is not there: the one thing that two writers on a share can agree by."""

import os
import time

from linac.errors import SetupError, StorageError
from linac.transport import Folder, LocalFolder
from linac.transport.paths import split_name

REMOVAL_TRIES, REMOVAL_PAUSE_SECONDS = 20, 0.05
"""How long to wait for Windows to finish the removal of a file."""


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
    for last_try in (*[False] * REMOVAL_TRIES, True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            # Windows denies access to the name of a file that is just being removed.
            if last_try or not isinstance(error, PermissionError) or os.name != "nt":
                raise StorageError(
                    f"Could not make {path}: {error.strerror or error}. Check the right to write there."
                ) from error
            time.sleep(REMOVAL_PAUSE_SECONDS)
    return False
