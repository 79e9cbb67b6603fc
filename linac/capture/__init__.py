"""Recording a linac's iCom stream: from the socket to files that PyMedPhys's apps read, without losing a message.

>>> import tempfile
>>> from linac.capture import control
>>> from linac.capture.archive import Archiver, sessions
>>> from linac.simulator import SimulatedLinac, make_beams
>>> from linac.transport import connect
>>> with tempfile.TemporaryDirectory() as there, connect(there) as icom, SimulatedLinac("4299", speed=40) as linac:
...     spool, (address, port) = f"{there}/spool", linac.address
...     running = control.start("4299", address, port, spool)  # a process of its own, which outlives this one
...     connected = linac.wait_for_client(10)
...     session = linac.start_session(patient_id="TEST-0001", patient_name="Nobody^At All", beams=make_beams(1, mu=20))
...     ended = linac.wait_ended(session, 30)
...     stopped = control.stop(spool, "4299")  # in order: the linac sees the connection end with FIN
...     [done] = Archiver(spool, "4299", address, icom).run_once()  # in daily use again and again, while the listener runs
...     [(line.outcome, line.mu, line.gaps) for line in sessions(spool, "4299")]
[('archived', 20.0, 0)]
>>> done.path.rpartition("/")[0]
'patients/TEST-0001_Nobody, At All'

The pieces, from the linac to the share. Each knows only those before it:

    listener, recorder   socket -> journal. Standard library only, in a process that depends on nothing else
    journal              what came, byte by byte, on the local disk; survives kills, power cuts and full disks
    sessions             journal -> patient sessions: what belongs together, what is missing, what came twice
    archive, ledger      sessions -> `patients/<id>_<name>/<stamp>.xz` and `live/<ip>/NNN.txt`; can always be done again
    control, status      start, adopt, watch and stop a listener
    follower             who sees to it: one command or flow run at a time
    check                does the service answer, and for which machine?
    cli                  `python -m linac.icom listen` and `status`
    names, log, priority what they share: safe folder names, lines for people, good manners towards the listener

What it does not do: decode more of a message than it needs to file it (`linac.icom` does), write Parquet, know Prefect, or
send anything to the linac.
"""
