"""A pretend linac: an iCom service and an NSS backup folder, for the demo, the tests and training.

>>> import socket
>>> from linac.icom import MessageStream
>>> from linac.simulator import SimulatedLinac, make_beams
>>> with SimulatedLinac("4299", speed=100) as linac:
...     session = linac.start_session(patient_id="TEST-0001", beams=make_beams(1, mu=20))
...     with socket.create_connection(linac.address) as connection:
...         stream = MessageStream()
...         while not (found := [m for m in stream.feed(connection.recv(4096)) if m.get("Delivery MU") == 20]):
...             pass
>>> found[0].get("Patient ID"), found[0].get("Machine ID"), session.planned_mu
('TEST-0001', '4299', 20)

`python -m linac.simulator` runs it by hand. What it sends follows `linac.icom.items` and `linac.trf.item_parts`: what is assumed
there is only assumed here. Its patients are invented. It does not simulate dose, and a real linac's reaction to a slow or silent
client is not known.
"""

from linac.simulator.backup import logs_until, write_backup
from linac.simulator.client import FIN, RESET, Client
from linac.simulator.logs import Log, make_log
from linac.simulator.plan import PATIENTS, Beam, make_beams
from linac.simulator.server import AS_FAST_AS_POSSIBLE, SimulatedLinac
from linac.simulator.session import Session

__all__ = [
    "AS_FAST_AS_POSSIBLE",
    "FIN",
    "PATIENTS",
    "RESET",
    "Beam",
    "Client",
    "Log",
    "Session",
    "SimulatedLinac",
    "logs_until",
    "make_beams",
    "make_log",
    "write_backup",
]
