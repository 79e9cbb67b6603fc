"""What `python run.py demo` refuses before it starts anything. The demo itself is run as a whole after the tests."""

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from launch import demo, demo_shares
from launch.demo_shares import place
from launch.processes import Child
from linac.errors import LinacError


def test_folders_that_do_not_fit_are_refused_with_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "Demo", None)  # nothing is to be started
    file, full, logs = tmp_path / "file", tmp_path / "full", tmp_path / "logs"
    file.write_text("")
    full.mkdir()
    (full / "thesis.docx").write_text("")
    logs.mkdir()
    for arguments, reason in (
        (["--out", str(file)], "cannot be put into"),
        (["--out", str(file / "below")], "cannot be put into"),
        (["--out", str(full)], "is not empty. Give another folder"),
        (["--trf", str(full)], "holds no TRF files"),
        (["--trf", str(file)], "Give a folder with files named"),
        (["--trf", str(tmp_path / "nowhere")], "Give a folder with files named"),
    ):
        assert demo.main(arguments) == 1
        said = capsys.readouterr()
        assert reason in said.err
        assert said.out == ""
    assert not (tmp_path / "demo-out").exists()


def test_a_folder_with_logs_in_any_case_is_taken(tmp_path: Path) -> None:
    (tmp_path / "1.TRF").write_bytes(b"")
    assert demo._unfit(tmp_path / "new" / "out", tmp_path) == ""
    assert (tmp_path / "new" / "out").is_dir()


def test_what_is_shown_can_be_typed_as_it_stands() -> None:
    words = ["-p", "backup_folder=C:\\My Files\\TCS" if sys.platform == "win32" else "backup_folder=/home/a b/TCS"]
    quote = '"' if sys.platform == "win32" else "'"
    assert demo._typed(words) == f"-p {quote}{words[1]}{quote}"


def test_the_shares_are_served_while_the_demo_lives_and_their_password_is_for_it_alone(tmp_path: Path) -> None:
    from blocks import Share, SmbCredentials
    from linac.simulator.samba import is_installed

    if not is_installed():
        pytest.skip("Samba's server is not installed (apt-get install --no-install-recommends samba)")
    shares = Child(
        "shares", ["launch.demo_shares", str(tmp_path), str(tmp_path / "spool"), "4299"], tmp_path / "log", {**os.environ}
    )
    try:
        until = time.monotonic() + 60
        while not place(tmp_path).exists():
            assert time.monotonic() < until, shares.last_words()
            assert not shares.ended(), shares.last_words()
            time.sleep(0.05)
        assert place(tmp_path).stat().st_mode & 0o077 == 0
        answer = json.loads(place(tmp_path).read_text())
        account = SmbCredentials(username=answer["user"], password=answer["password"])
        with Share(path="\\\\127.0.0.1\\records", port=answer["port"], credentials=account).connect() as records:
            records.write("a.txt", b"written over SMB")
        assert (tmp_path / "records" / "a.txt").read_bytes() == b"written over SMB"
        with Share(path="\\\\127.0.0.1\\Backup", port=answer["port"], credentials=account).connect() as backup:
            with pytest.raises(LinacError):
                backup.write("a.txt", b"a linac's own share")
    finally:
        shares.end()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", answer["port"])) != 0, "smbd went with it"


def test_without_samba_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_shares, "is_installed", lambda: False)
    with contextlib.ExitStack() as running:
        assert demo_shares._start(tmp_path, running) == {"reason": "Samba is not installed"}
    assert list(tmp_path.iterdir()) == []
