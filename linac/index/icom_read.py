"""An archived session's bytes into what its messages say. No files.

It is read piece by piece, and of each message only what the tables need is kept (some 3 of its 8 kB): a patient may stay
loaded for a whole day, which is 100 000 messages.

Leaves and jaws are turned by `linac.icom.delivery` alone, so that there is one place for it.
"""

import hashlib
import io
import lzma
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linac.errors import DamagedError
from linac.icom import VALUES, Delivery, Message, MessageStream
from linac.icom.message import Reading
from linac.icom.show import MAX_BYTES
from linac.index.icom_beams import Beam, Mark, Said, beams
from linac.index.icom_schema import LEAVES

PIECE_BYTES = 1 << 21
"""So much is unpacked at a time: 250 messages."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Session:
    """An archived session, read. The repr shows nothing of the patient.

    For each message: `marks`, `said`, the two ASYMX values in cm (`asymx_cm`; None where there are not two), and whether a
    control point can be made of it (`complete`). For each that is complete: leaves (`mlc_mm`, n x 80 x 2) and jaws (`jaws_mm`,
    n x 2) in mm, in PyMedPhys's orientation.
    """

    sha256: str
    marks: list[Mark] = field(repr=False)
    said: list[Said] = field(repr=False)
    asymx_cm: list[tuple[float, float] | None] = field(repr=False)
    complete: npt.NDArray[np.bool_] = field(repr=False)
    mlc_mm: Doubles = field(repr=False)
    jaws_mm: Doubles = field(repr=False)
    beams: list[Beam] = field(repr=False)


def messages(data: bytes, what: str) -> Iterator[list[Message]]:
    """The messages in an `.xz`, in lists. Raises `DamagedError`, which calls the file `what`."""
    stream, size = MessageStream(), 0
    try:
        with lzma.open(io.BytesIO(data)) as file:
            while piece := file.read(PIECE_BYTES):
                size += len(piece)
                if size > MAX_BYTES:
                    raise DamagedError(f"{what} holds more than {MAX_BYTES} bytes: this is no recording of iCom. Move it away.")
                yield stream.feed(piece)
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedError(f"{what} is no .xz file, or damaged ({error}). Restore it from a backup of the records.") from error
    yield stream.close()


def read(data: bytes, what: str) -> Session:
    """An archived session. `what` names it in errors, without the patient. Raises `DamagedError` if there is no beam in it."""
    marks: list[Mark] = []
    said: list[Said] = []
    asymx: list[tuple[float, float] | None] = []
    complete: list[bool] = []
    mlc: list[Doubles] = []
    jaws: list[Doubles] = []
    for some in messages(data, what):
        points = Delivery.from_messages(some, only_moving_mu=False)
        whole = {id(message) for message in points.messages}
        marks += [Mark(message.timestamp, message.counter) for message in some]
        said += [{row.name: _kept(message.get(row.name)) for row in VALUES} for message in some]
        asymx += [message.jaws_cm.x for message in some]
        complete += [id(message) in whole for message in some]
        mlc.append(np.array(points.mlc_mm, np.float64).reshape(-1, LEAVES, 2))
        jaws.append(np.array(points.jaws_mm, np.float64).reshape(-1, 2))
    if not marks:
        raise DamagedError(f"{what} holds no iCom message. Restore it from a backup of the records.")
    found = beams(marks, said)
    if not found:
        raise DamagedError(
            f"{what} holds {len(marks)} messages but no beam: none says a Field ID, and no MU were delivered. Nothing is to be "
            "done unless a patient was treated then; if so, keep the file and report it."
        )
    digest = hashlib.sha256(data).hexdigest()
    return Session(digest, marks, said, asymx, np.array(complete, bool), np.concatenate(mlc), np.concatenate(jaws), found)


def _kept(reading: Reading) -> Any:
    """Texts are the same in message after message: each is kept once."""
    return sys.intern(reading) if isinstance(reading, str) else reading
