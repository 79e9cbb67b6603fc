"""Keys as people paste them are understood, whatever a form or a clipboard did to them; what is no key is refused in words."""

import subprocess
from pathlib import Path

import pytest

from linac.errors import SetupError
from linac.transport.ssh import Gateway
from linac.transport.ssh_keys import host_keys, private_key

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1/xIKqMSBWSLMLAEFmS2L+J0Rl7nNJ3o4hRXB3hE3m"
OTHER = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAAACBAQ="  # name, curve, a point much too short

KINDS = ("ed25519", "ecdsa", "rsa", "rsa-pem", "rsa-pkcs8", "ecdsa-pem")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of keys made by OpenSSH itself."""
    import shutil

    maker = shutil.which("ssh-keygen")
    if maker is None:
        pytest.skip("ssh-keygen is not installed (apt-get install --no-install-recommends openssh-client)")
    folder = tmp_path_factory.mktemp("keys")

    def run(*words: str) -> None:
        subprocess.run([maker, "-q", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)

    for kind in ("ed25519", "ecdsa", "rsa"):
        run("-t", kind, "-N", "", "-C", "x", "-f", str(folder / kind))
    for name in KINDS:
        kind, _, form = name.partition("-")
        for path, passphrase in ((folder / name, ""), (folder / f"{name}-locked", "offen-sesam")):
            if path.name != kind:  # the same key, written anew in another form
                path.write_text((folder / kind).read_text())
                path.chmod(0o600)
                path.with_suffix(".pub").write_text((folder / f"{kind}.pub").read_text())
                run("-p", "-m", form or "RFC4716", "-P", "", "-N", passphrase, "-f", str(path))
    return folder


class TestHostKeys:
    @pytest.mark.parametrize(
        "text",
        [
            KEY,
            f"{KEY} root@gate",
            f"  {KEY}\r\n",
            f"[gate.example]:38471 {KEY}",
            f"# gate:22 SSH-2.0-OpenSSH_9.2\n[127.0.0.1]:38471 {KEY}\n# another\n",
        ],
    )
    def test_the_key_is_found_in_a_line_of_any_file_that_has_it(self, text: str) -> None:
        (found,) = host_keys(text)
        assert found.line == KEY

    def test_a_key_that_known_hosts_marks_as_revoked_or_as_an_authoritys_is_not_pinned(self) -> None:
        assert [key.line for key in host_keys(f"@revoked * {OTHER}\n@cert-authority * {OTHER}\ngate {KEY}\n")] == [KEY]
        with pytest.raises(SetupError):
            host_keys(f"@revoked gate {KEY}")

    def test_several_keys_may_be_pinned_while_a_gateway_changes_its_own(self) -> None:
        assert [key.kind for key in host_keys(f"{KEY}\n{OTHER}")] == ["ssh-ed25519", "ecdsa-sha2-nistp256"]

    def test_the_fingerprint_is_the_one_that_openssh_shows(self, made: Path) -> None:
        public = made / "ed25519.pub"
        shown = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True, timeout=10)
        assert host_keys(public.read_text())[0].fingerprint == shown.stdout.split()[1]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "SHA256:abc",
            "ssh-ed25519",
            "ssh-ed25519 ????",
            KEY[:-20],
            f"ssh-rsa {KEY.split()[1]}",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ],
    )
    def test_what_holds_no_key_is_refused_with_the_way_to_get_one(self, text: str) -> None:
        with pytest.raises(SetupError, match=r"linac\.transport key HOST") as caught:
            host_keys(text)
        assert "Nz" in str(caught.value)


class TestPrivateKeys:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_format_that_openssh_writes_is_read_and_gives_its_own_public_key(self, made: Path, kind: str) -> None:
        expected = (made / f"{kind}.pub").read_text().split()[1]
        locked = (made / f"{kind}-locked.pub").read_text().split()[1]
        assert private_key(made / kind).get_base64() == expected
        assert private_key((made / kind).read_text()).get_base64() == expected
        assert private_key(made / kind, "not needed").get_base64() == expected
        assert private_key(made / f"{kind}-locked", "offen-sesam").get_base64() == locked

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa", "rsa-pkcs8"])
    @pytest.mark.parametrize("gap", [" ", "", "\r\n", "\n\n  "])
    def test_line_ends_that_a_form_turned_into_something_else_do_no_harm(self, made: Path, kind: str, gap: str) -> None:
        text = (made / kind).read_text().strip().replace("\n", gap)
        assert private_key(f"  {text} ").get_base64() == (made / f"{kind}.pub").read_text().split()[1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_missing_or_wrong_passphrase_is_told_and_no_word_of_the_key(self, made: Path, kind: str) -> None:
        path = made / f"{kind}-locked"
        with pytest.raises(SetupError, match="passphrase protects"):
            private_key(path)
        with pytest.raises(SetupError, match="passphrase right") as caught:
            private_key(path.read_text(), "falsch-geraten")
        body = "".join(path.read_text().splitlines()[1:-1])
        assert "falsch-geraten" not in str(caught.value)
        assert not any(body[at : at + 12] in str(caught.value) for at in range(0, len(body) - 12, 6))

    @pytest.mark.parametrize(
        ("text", "advice"),
        [
            ("", "BEGIN OPENSSH PRIVATE KEY"),
            ("hunter2", "BEGIN OPENSSH PRIVATE KEY"),
            (KEY, "public half"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "public half"),
            ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "Export OpenSSH key"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "copied whole"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza", "BEGIN OPENSSH PRIVATE KEY"),
        ],
    )
    def test_what_is_no_private_key_is_refused_with_what_to_do(self, text: str, advice: str) -> None:
        with pytest.raises(SetupError, match=advice) as caught:
            private_key(text)
        assert "hunter2" not in str(caught.value)

    def test_half_a_key_is_refused(self, made: Path) -> None:
        lines = (made / "ed25519").read_text().splitlines()
        with pytest.raises(SetupError, match="copied whole"):
            private_key("\n".join(lines[:2] + lines[-1:]))

    def test_a_key_file_that_is_not_there_is_told_by_its_path(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match=r"nowhere.*cannot be read"):
            private_key(tmp_path / "nowhere")

    def test_a_gateway_shows_neither_key_nor_passphrase(self, made: Path) -> None:
        key = (made / "ed25519-locked").read_text()
        gateway = Gateway("gate", 22, "tunnel", KEY, key=key, passphrase="offen-sesam")
        shown = repr(gateway) + str(gateway)
        assert "offen-sesam" not in shown
        assert key.splitlines()[1] not in shown
        assert not any("offen-sesam" in str(value) or key.splitlines()[1] in str(value) for value in vars(gateway).values())
