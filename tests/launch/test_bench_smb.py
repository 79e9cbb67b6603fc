"""`run.py bench smb` in small: the figures are of work that was done, and a long line is as long as it is said to be."""

import shutil
import socket
import time
from pathlib import Path

import pytest

from launch import bench, bench_smb
from launch.bench_smb import Delay, Sizes
from linac.errors import SetupError
from linac.simulator.samba import is_installed

TINY = Sizes(big=2, many=2, far=1, rounds=1, far_rounds=1)


@pytest.fixture
def setting(tmp_path: Path) -> bench.Setting:
    return bench.Setting(tmp_path, [], None)


@pytest.mark.skipif(
    not is_installed() or shutil.which("smbclient") is None,
    reason="Samba is not installed (apt-get install --no-install-recommends samba smbclient)",
)
def test_both_sides_are_measured_and_what_was_made_is_removed(setting: bench.Setting) -> None:
    rows = {row.name: row for row in bench_smb.measure(setting, TINY)}
    for how in ("encrypted", "signed"):
        for what in ("2 MiB file", "2 files of 1 MiB"):
            ours, theirs = rows[f"{what}, {how}"], rows[f"{what}, {how}: Samba's smbclient"]
            assert isinstance(ours.ours, float)
            assert isinstance(theirs.ours, float)
            assert ours.ours > 0
            assert rows[f"{what}, {how}: ours / smbclient"].limit is not None
    far = rows["1 MiB file over a line of 20 ms"]
    assert isinstance(far.ours, float)
    assert far.ours < (1 << 20) / 1e6 / bench_smb.ROUND_TRIP_SECONDS, "faster than one round trip"
    assert [path.name for path in setting.work.iterdir() if path.name != "sshd"] == []


def test_a_delayed_line_gives_everything_and_takes_its_time() -> None:
    data = bytes(range(256)) * 4000
    with socket.create_server(("127.0.0.1", 0)) as server, Delay(server.getsockname()[1], 0.1) as line:
        near = socket.create_connection(("127.0.0.1", line.port))
        far, _ = server.accept()
        begin = time.monotonic()
        near.sendall(b"?")
        assert far.recv(1) == b"?"
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        got = b""
        while piece := near.recv(1 << 16):
            got += piece
        assert time.monotonic() - begin >= 0.1
        assert got == data
        near.close()
        far.close()


def test_without_samba_it_says_how_to_get_it(setting: bench.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_smb, "is_installed", lambda: False)
    with pytest.raises(SetupError, match="apt-get install"):
        next(bench_smb.measure(setting))
