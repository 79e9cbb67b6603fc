"""TRF logs: what is new in a linac's backup folder, brought into the index of its site's records share."""

from dataclasses import dataclass, field

BACKUPS = "SDD+*.zip"
"""Names of the NSS's diagnostic backups (facts-trf.md)."""


@dataclass(frozen=True)
class BackupResult:
    """What one backup brought: logs indexed, their rows, logs known before, files set aside with the reason, a problem."""

    serial: str
    backup: str
    indexed: int = 0
    rows: int = 0
    duplicates: int = 0
    aside: list[tuple[str, str]] = field(default_factory=list)
    problem: str = ""
