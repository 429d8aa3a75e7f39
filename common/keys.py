"""CurveZMQ key pairs and how people compare them.

A CurveZMQ key is an X25519 key (RFC 7748). Private keys are made where they are used and never travel; a file that
holds one is 0600. The master's public key travels by hand inside the join line, so a minion never trusts on first use.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .errors import UserError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves as 32 raw bytes, the form libzmq takes."""

    public: bytes
    private: bytes

    def __repr__(self) -> str:
        return f"KeyPair({fingerprint(self.public)})"


def new_key_pair() -> KeyPair:
    private = X25519PrivateKey.generate()
    return KeyPair(private.public_key().public_bytes_raw(), private.private_bytes_raw())


def load_or_create(path: Path) -> KeyPair:
    """The key pair kept in that file; made, 0600, when there is none. Raises UserError as `load_private` does."""
    raw = load_private(path)
    return KeyPair(X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw(), raw)


def load_private(path: Path) -> bytes:
    """The 32 private bytes kept in that file; random ones, written 0600, when there is none.

    Raises UserError when the file is readable by others or does not hold a key.
    """
    if not path.exists():
        raw = os.urandom(32)
        save_private(path, raw)
        return raw
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} can be read by others; run: chmod 600 {path} (and think about who may have a copy)")
    try:
        return _from_base32(path.read_text().strip())
    except ValueError:
        raise UserError(f"{path} does not hold a pgha key; move it away and a new one is made") from None


def save_private(path: Path, raw: bytes) -> None:
    write_private(path, base64.b32encode(raw).decode().rstrip("=").lower() + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all, so that it outlives a power cut.

    Raises OSError when the disk refuses; then nothing has changed, and nothing is in the way of the next try.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that had the same number, and died here
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def rename(path: Path, to: Path) -> None:
    """Give a file another name, also if the power goes right afterwards. Raises OSError when the disk refuses."""
    path.replace(to)
    folder = os.open(to.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def fingerprint(public: bytes) -> str:
    """128 bits of SHA-256 in groups of four hex digits: what two people read to each other."""
    digest = hashlib.sha256(b"pgha-key:" + public).hexdigest()[:32]
    return ":".join(digest[i : i + 4] for i in range(0, 32, 4))


def public_text(public: bytes) -> str:
    """The public key itself in 52 letters and digits: the master's `fingerprint` in a join line."""
    return base64.b32encode(public).decode().rstrip("=").lower()


def public_from_text(text: str) -> bytes:
    """Raises UserError when it is not the 52 characters that `public_text` gives."""
    try:
        return _from_base32(text.strip())
    except ValueError:
        raise UserError(
            "the master's fingerprint has 52 letters and digits 2-7; copy it from: pgha-master keys list"
        ) from None


def _from_base32(text: str) -> bytes:
    raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    if len(raw) != 32:
        raise ValueError("a key has 32 bytes")
    return raw
