"""Whatever a backup holds, taking it in stays below 500 MB. Each in a process of its own, which tells its highest use."""

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from linac.index.adding import BATCH_BYTES

LIMIT_MB = 500

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its own peak (VmHWM)")

ADD = """
import sys
from linac.index.__main__ import main
main(["add", sys.argv[1], "--machine", "4299", sys.argv[2]])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak", int(peak.split()[1]) >> 10)
"""
# Not getrusage: its peak begins at that of the process that started this one.


def peak_mb(project: Path, root: Path, source: Path) -> tuple[int, str]:
    """The peak, and what was printed."""
    root.mkdir()
    command = [sys.executable, "-c", ADD, str(root), str(source)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600, check=True)
    return int(done.stdout.rpartition("peak ")[2]), done.stdout + done.stderr


def test_a_member_of_a_gigabyte_is_told_and_the_rest_goes_on(
    project: Path, tmp_path: Path, make_log: Callable[..., bytes]
) -> None:
    source = tmp_path / "SDD+1.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        with packed.open("TCS/huge.trf", "w") as member:
            for _ in range(64):
                member.write(bytes(16 << 20))
        packed.writestr("TCS/sound.trf", make_log(1))
    assert source.stat().st_size < 10 << 20, "as a bomb is: small until it is unpacked"
    peak, said = peak_mb(project, tmp_path / "records", source)
    assert "1 logs indexed" in said
    assert "larger than" in said
    assert peak < LIMIT_MB / 2


def test_hundreds_of_logs_take_no_more_than_some_of_them(project: Path, tmp_path: Path, make_log: Callable[..., bytes]) -> None:
    """By hand, 3000 logs of 844 MB took 331 MB; these are enough for three batches and more."""
    log = make_log(1, rows=450)
    source = tmp_path / "SDD+1.zip"
    with zipfile.ZipFile(source, "w") as packed:
        for number in range(700):
            packed.writestr(f"{number}.trf", log[:-8] + number.to_bytes(8, "little"))
    assert source.stat().st_size > 3 * BATCH_BYTES
    peak, said = peak_mb(project, tmp_path / "records", source)
    assert "700 logs indexed" in said
    assert peak < LIMIT_MB * 0.8, "a flow's process needs the rest for itself"


def test_a_million_empty_members_take_no_memory_and_the_rest_goes_on(
    project: Path, tmp_path: Path, make_log: Callable[..., bytes]
) -> None:
    log = tmp_path / "log.zip"
    with zipfile.ZipFile(log, "w") as packed:
        packed.writestr("sound.trf", make_log(1))
    small = log.read_bytes()
    (at,) = struct.unpack_from("<I", small, len(small) - 6)
    source, number = tmp_path / "SDD+1.zip", 1_000_000
    with source.open("wb") as file:
        file.write(small[:at])
        for part in range(0, number, 10_000):
            names = [b"%07d.txt" % name for name in range(part, part + 10_000)]
            file.write(b"".join(b"PK\x03\x04" + bytes(22) + struct.pack("<HH", len(name), 0) + name for name in names))
        begin = file.tell()
        file.write(small[at:-22])
        for part in range(0, number, 10_000):
            names = [b"%07d.txt" % name for name in range(part, part + 10_000)]
            places = range(at + 41 * part, at + 41 * (part + 10_000), 41)
            file.write(
                b"".join(
                    b"PK\x01\x02" + bytes(24) + struct.pack("<H", len(name)) + bytes(12) + struct.pack("<I", place) + name
                    for name, place in zip(names, places, strict=True)
                )
            )
        end = file.tell()
        file.write(b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 0xFFFF, 0xFFFF, end - begin, begin, 0))
    peak, said = peak_mb(project, tmp_path / "records", source)
    assert "1 logs indexed" in said
    assert "very many" not in said
    assert peak < LIMIT_MB / 2
