"""Invented messages for the iCom tests. The patients are nobody."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from linac.icom import Item, device, encode, named

START = datetime.fromisoformat("2024-05-06 12:13:14")


def _message(counter: int, mu: float = 0.0, *more: Item, length: int | None = None) -> bytes:
    """A message as a treating linac sends it: about 370 items, 6 kB."""
    time = START + timedelta(seconds=counter // 4)
    leaves = [-5.0 + 0.01 * counter + 0.02 * i if i % 2 == 0 else 5.0 - 0.03 * i for i in range(160)]
    items = [
        named("Patient ID", "TEST-0001"),
        named("Patient Name", "Simulated^Patient"),
        named("Machine ID", "4299"),
        named("Delivery MU", mu),
        named("Gantry", -180 + 0.5 * counter),
        named("Collimator", 5.0),
        *device("MLCX", leaves, "P"),
        *device("MLCX", leaves),
        *device("ASYMX", [10.0, 10.0]),
        *device("ASYMY", [7.5, 6.25 + 0.01 * counter]),
        *more,
    ]
    return encode(time, counter, items, length=length)


@pytest.fixture(scope="session")
def treating() -> Callable[..., bytes]:
    """`treating(counter, mu, *more_items, length=...)`: the bytes of one message of a treatment."""
    return _message
