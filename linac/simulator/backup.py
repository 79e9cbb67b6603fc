"""The pretend NSS: diagnostic backups (`SDD+*.zip`) with the TRF logs of the last 8 days.

A night's backup holds what the linac still has, so that the same log, byte for byte, is in several of them, as in real ones.
"""

import os
import random
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path

from linac.simulator.logs import Log, day_start, make_log
from linac.simulator.plan import make_beams

DAYS_KEPT = 8
"""A linac keeps the TRFs of so many days."""

ODD_FIELDS = (
    ("", "Service QA 10x10"),
    ("2-1", "Schädel/Boost rechts außen"),
    ("3-1", "A field name that is longer than the fifty characters which others expect"),
)
"""Labels and names of one more log a day: a service beam without a label, umlauts and a slash, a long one."""

VERSIONS = (1, 3, 4)
"""The TRF versions in a backup, in turn from log to log. A real linac writes one version; this makes all of them pass by."""


def write_backup(
    folder: str | os.PathLike[str],
    night: date,
    *,
    serial: str = "4299",
    seed: int = 1,
    per_day: int = 2,
    mu: float | None = None,
    trf_folder: str | os.PathLike[str] | None = None,
    damaged: int = 0,
    days: int = DAYS_KEPT,
) -> Path:
    """Write the backup of one night into `folder`; the zip's path. The same arguments make the same logs.

    `per_day` logs a day of the last `days` days, each of `mu` MU (drawn if None). `trf_folder`: the real TRFs in this folder are
    in it, too, unchanged. `damaged`: so many files that are no TRF, though named so. The zip appears whole or not at all; an
    older one of the same night is replaced.
    """
    two_o_clock = datetime.combine(night, time(2))  # when the backup is made, by the site's wall clock
    members = [
        (f"{log.start:%Y-%m-%d}/{log.name}", log.data, log.start)
        for log in logs_until(night, serial, seed=seed, per_day=per_day, mu=mu, days=days)
    ]
    if trf_folder is not None:
        real = [path for path in sorted(Path(trf_folder).rglob("*")) if path.suffix.lower() == ".trf"]
        members += [(f"real/{path.name}", path.read_bytes(), two_o_clock) for path in real]
    members += [(f"damaged {number}.trf", b"This is no TRF. " * number, two_o_clock) for number in range(1, damaged + 1)]
    members.append(("readme.txt", b"A simulated diagnostic backup: nobody was treated.\n", two_o_clock))

    target = Path(folder) / f"SDD+{serial}+{night:%Y%m%d}_020000.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data, written in members:
                info = zipfile.ZipInfo(f"TCS/TRF/{name}", written.timetuple()[:6])
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def logs_until(
    night: date, serial: str = "4299", *, seed: int = 1, per_day: int = 2, mu: float | None = None, days: int = DAYS_KEPT
) -> Iterator[Log]:
    """The logs that the linac still has on this night, oldest first: those of the `days` days before it."""
    for back in range(days, 0, -1):
        yield from _logs_of(night - timedelta(days=back), serial, seed, per_day, mu)


@lru_cache(maxsize=64)
def _logs_of(day: date, serial: str, seed: int, per_day: int, mu: float | None) -> tuple[Log, ...]:
    """A day's logs. Kept, because the next nights' backups hold them again."""
    rng = random.Random(f"{seed} {serial} {day}")  # noqa: S311 (an invented day)
    beams = make_beams(per_day, f"{seed} {serial} {day}", mu)
    label, name = ODD_FIELDS[day.toordinal() % len(ODD_FIELDS)]
    if beams:
        beams[-1] = replace(beams[-1], label=label, name=name)
    logs, start = [], day_start(day)
    for number, beam in enumerate(beams):
        start += timedelta(seconds=rng.randint(120, 1800) + int(beam.seconds))
        version = VERSIONS[(day.toordinal() * per_day + number) % len(VERSIONS)]
        logs.append(make_log(beam, start, serial, version=version, seed=rng.randrange(1 << 30)))
    return tuple(logs)
