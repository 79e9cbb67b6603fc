"""Every TRF log of a site in Parquet files that pandas, DuckDB and Polars read by themselves, and what keeps them.

>>> import tempfile
>>> from datetime import datetime, timezone
>>> from linac.transport import connect
>>> from linac.trf.writer import encode
>>> log = encode([[42] * 350] * 50, start=datetime(2026, 1, 5, 9, 30, tzinfo=timezone.utc), utc_offset="+01:00",
...              field="1-1/Prostate", machine="4299", prescribed_mu=100)
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     index = Index(folder)
...     added = index.add("4299", [Log("26_01_05 09_30_00 Z 1-1_Prostate.trf", log), Log("the same again.trf", log)])
...     print(added.indexed, added.duplicates, added.rows)
...     print(index.find(field="prostate")[["linac", "start_utc", "rows"]].to_string())
...     print(index.samples(index.deliveries()["sha256"][0])[["timestamp", "gantry_deg"]].tail(1).to_string())
1 1 50
  linac                 start_utc  rows
0  4299 2026-01-05 09:30:00+00:00    50
                          timestamp  gantry_deg
49 2026-01-05 09:30:01.960000+00:00         4.2

Below a records root it keeps `TRF/deliveries` (a row per log: the index), `TRF/samples` (the rows of the logs, 25 a second, in
physical units), both by linac and month, `TRF/raw` (each distinct log once, as it came), `TRF/quarantine` (what could not be
read, with the reason), `TRF/backups` (which backups are taken in), and for itself `TRF/catalogue` and `TRF/pending`. What the
columns mean is in docs/data-dictionary.md, how to ask in docs/find-a-delivery.md.

It does not fetch backups, unpack them or know patients, and has no server: many may read while one writes. It never deletes
a log. `python -m linac.index` does the same by hand.
"""

from linac.index.adding import Added, Log
from linac.index.backups import Backup
from linac.index.quarantine import Quarantined
from linac.index.schema import DELIVERIES, SAMPLES
from linac.index.store import Index
from linac.index.upkeep import Compacted
from linac.index.verify import Report

__all__ = ["DELIVERIES", "SAMPLES", "Added", "Backup", "Compacted", "Index", "Log", "Quarantined", "Report"]
