"""Keys as people paste them: host keys to pin, private keys to log in with. Nothing secret is ever in an error."""

import base64
import binascii
import hashlib
import io
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from linac.errors import SetupError

ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Types of host keys, and the algorithms by which each may sign (RFC 8332: never SHA-1), the preferred one first."""

_PEM = re.compile(r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----(?P<body>.*?)-----END (?P=kind)-----", re.DOTALL)


@dataclass(frozen=True)
class HostKey:
    """A public key: its type, and its bytes as SSH writes them."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As OpenSSH shows it, for example 'SHA256:uNiVztksCsDhcc0u9e8BrMJJNOb1ZrEmZSWdEZ5ZJ1c'."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """What goes into the form: type and key."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def host_keys(text: str) -> tuple[HostKey, ...]:
    """The keys in a text: lines of `known_hosts`, of `ssh-keyscan`, of a `.pub` file, or `type key` alone. One or more.

    Raises `SetupError` where there is none.
    """
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith("@"):  # known_hosts marks keys that are revoked, and keys of authorities, so
            continue
        for kind, encoded in itertools.pairwise(words):
            if kind not in ALGORITHMS:
                continue
            try:
                blob = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            fields = _fields(blob)
            if len(fields) >= 2 and fields[0] == kind.encode():
                found.append(HostKey(kind, blob))
                break
    if not found:
        raise SetupError(
            "The host key cannot be read: it looks like 'ssh-ed25519 AAAAC3Nz...'. `.venv/bin/python -m linac.transport key HOST "
            "--port PORT` (on Windows `.venv\\Scripts\\python`) prints the gateway's; copy the whole line."
        )
    return tuple(found)


def _fields(blob: bytes) -> list[bytes]:
    """The strings that a key consists of (RFC 4253 section 6.6); none where it was cut off."""
    found, at = [], 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "big")
        found.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    return found if at == len(blob) else []


def private_key(key: str | Path, passphrase: str | None = None) -> paramiko.PKey:
    """The private key in a file (a `Path`) or in a text. Any OpenSSH or PEM format; blanks for line ends do no harm.

    Raises `SetupError`, without a word of the key.
    """
    where = f"the key file {key}" if isinstance(key, Path) else "the private key"
    if isinstance(key, Path):
        try:
            text = key.expanduser().read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise SetupError(
                f"The key file {key} cannot be read: {error.strerror}. Check its path in the SSH gateway block, and that the "
                "account of the worker may read it."
            ) from error
    else:
        text = key
    if text.lstrip().startswith("PuTTY-User-Key-File"):
        raise SetupError(f"PuTTY wrote {where}. In PuTTYgen choose Conversions, Export OpenSSH key, and give that one.")
    if "PUBLIC KEY" in text or text.split(maxsplit=1)[:1] in ([kind] for kind in ALGORITHMS):
        raise SetupError(f"What was given as {where} is the public half of a key. Give the other half (without '.pub').")
    data = _rewrapped(text)
    if data is None:
        raise SetupError(f"No private key is in {where}. It begins with '-----BEGIN OPENSSH PRIVATE KEY-----': give it whole.")
    secret = passphrase.encode() if passphrase else None
    loaded = None
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            loaded = load(data, secret)
        except TypeError:  # encrypted without a passphrase, or the other way round
            if secret is None:
                raise SetupError(f"A passphrase protects {where}. Give it in the SSH gateway block, too.") from None
            secret = None
            try:
                loaded = load(data, None)
            except (TypeError, ValueError, UnsupportedAlgorithm):
                continue
        except (ValueError, UnsupportedAlgorithm):
            continue
        break
    kinds = ((ed25519.Ed25519PrivateKey, paramiko.Ed25519Key), (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey))
    for theirs, ours in (*kinds, (rsa.RSAPrivateKey, paramiko.RSAKey)):
        if isinstance(loaded, theirs):
            plain = loaded.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            found: paramiko.PKey = ours.from_private_key(io.StringIO(plain.decode()))
            return found
    advice = "Is the passphrase right, and the key whole?" if passphrase else "Was it copied whole?"
    raise SetupError(f"{where[0].upper()}{where[1:]} cannot be used. {advice} Ed25519, ECDSA and RSA keys can be used.")


def _rewrapped(text: str) -> bytes | None:
    """The key with its line ends as they belong: forms and clipboards turn them into blanks. None where there is no key."""
    found = _PEM.search(text)
    if found is None:
        return None
    kind, body = found["kind"], found["body"]
    if ":" in body:  # old PEM with headers above the key: it is used as it is
        lines = [line.strip() for line in body.strip().splitlines()]
    else:
        packed = "".join(body.split())
        lines = [packed[at : at + 70] for at in range(0, len(packed), 70)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""]).encode("ascii", "replace")
