"""The benchmark of forwards, in small: every figure comes from bytes that went through a real sshd."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launch import bench, bench_ssh

if TYPE_CHECKING:
    from linac.simulator.sshd import SshServer


def test_each_way_is_measured_beside_openssh_and_without_a_gateway(ssh_server: "SshServer", tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client is not installed (apt-get install --no-install-recommends openssh-client)")
    setting = bench.Setting(tmp_path, [], None, quick=True)
    rows = list(bench_ssh.measure(setting, size=1 << 20, rounds=1))
    assert len(rows) == 3 * len(bench_ssh.WAYS)
    assert all(isinstance(row.ours, float) and row.ours > 0 for row in rows)
    for ratio, ours, openssh in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert isinstance(ours.ours, float)
        assert isinstance(openssh.ours, float)
        assert ratio.ours == pytest.approx(ours.ours / openssh.ours)
        assert ratio.limit == bench.Limit(1.0, at_most=False)
        assert isinstance(ours.floor, float)
    assert "OpenSSH" in setting.notes[0]
