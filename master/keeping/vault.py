"""The secrets of all clusters, encrypted at rest under one master key.

Rules:
1. One encrypted file per cluster, bound to its cluster's name: a file copied over another's is refused.
2. Each purpose has its own key, derived from the master key, so that what one leaks opens nothing else.
3. A secret is made once and stays: asking again gives the same value.

Losing the master key loses every secret here and the authorities' keys; back it up apart from this directory.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
from pathlib import Path
from threading import Lock

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...common.errors import HostError, UserError
from ...common.names import is_cluster_name
from ...common.secret import Secret
from .durable import read_private, write

_MAGIC = b"pgha-vault-1\n"
_NONCE = 12
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")


def create_key(key_file: Path) -> bool:
    """Make the master key (256 random bits, mode 0400) unless there is one. Gives True when it was made now."""
    return write(key_file, base64.urlsafe_b64encode(os.urandom(32)) + b"\n", 0o400, once=True)


class Vault:
    """Safe to use from several threads of one process; the daemon is the only process that writes.

    Raises:
        HostError: the key file is missing, damaged, or open to others.
    """

    def __init__(self, key_file: Path, directory: Path) -> None:
        self._directory = directory
        self._key_file = key_file
        self._master = _load_key(key_file)
        self._lock = Lock()
        self._ciphers: dict[str, AESGCM] = {}  # by purpose

    def get_or_create(self, cluster: str, name: str) -> Secret:
        """The secret of that name, made now (256 random bits, letters that need no quoting) when it is missing."""
        with self._lock:
            held = self._load(cluster)
            if name not in held:
                held[_checked(name)] = secrets.token_urlsafe(32)
                self._save(cluster, held)
            return Secret(held[name])

    def get(self, cluster: str, name: str) -> Secret | None:
        """The secret of that name, None when there is none."""
        value = self._load(cluster).get(name)
        return None if value is None else Secret(value)

    def set(self, cluster: str, name: str, value: Secret) -> None:
        """Put a value of the user's choice in place.

        Raises:
            UserError: an empty value, or one with control characters: no configuration file can carry it safely.
        """
        text = value.reveal()
        if not text or not text.isprintable():
            raise UserError(f"{cluster}/{name} must be one line of printable text; strip the line end and try again")
        with self._lock:
            held = self._load(cluster)
            held[_checked(name)] = text
            self._save(cluster, held)

    def names(self, cluster: str) -> tuple[str, ...]:
        """What there is, sorted; empty for a cluster without secrets."""
        return tuple(sorted(self._load(cluster)))

    def seal(self, data: bytes, context: bytes = b"") -> bytes:
        """Encrypt for the store; only `open` with the same context gives it back."""
        return self._seal("payload", data, context)

    def open(self, sealed: bytes, context: bytes = b"") -> bytes:
        """What `seal` was given.

        Raises:
            HostError: another key, another context, or damaged bytes.
        """
        opened = self._open("payload", sealed, context)
        if opened is None:
            raise HostError(f"stored data cannot be decrypted: damaged, or not written under {self._key_file}")
        return opened

    def passphrase(self, purpose: str) -> bytes:
        """A passphrase that is the same every time for one purpose, such as `authority/prod`."""
        return base64.urlsafe_b64encode(self._derive(f"passphrase/{purpose}"))

    def _derive(self, purpose: str) -> bytes:
        return HKDF(hashes.SHA256(), 32, None, f"pgha/1/{purpose}".encode()).derive(self._master)

    def _cipher(self, purpose: str) -> AESGCM:
        cipher = self._ciphers.get(purpose)
        if cipher is None:
            cipher = self._ciphers[purpose] = AESGCM(self._derive(purpose))
        return cipher

    def _seal(self, purpose: str, data: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + self._cipher(purpose).encrypt(nonce, data, _MAGIC + context)

    def _open(self, purpose: str, sealed: bytes, context: bytes) -> bytes | None:
        body = sealed[len(_MAGIC) :]
        if not sealed.startswith(_MAGIC) or len(body) <= _NONCE:
            return None
        try:
            return self._cipher(purpose).decrypt(body[:_NONCE], body[_NONCE:], _MAGIC + context)
        except InvalidTag:
            return None

    def _path(self, cluster: str) -> Path:
        if not is_cluster_name(cluster):
            raise UserError(f"{cluster!r} is no name of a cluster: a-z, 0-9 and -, at most 40, a letter first")
        return self._directory / f"{cluster}.secrets"

    def _load(self, cluster: str) -> dict[str, str]:
        path = self._path(cluster)
        sealed = read_private(path)
        if sealed is None:
            return {}
        opened = self._open(f"secrets/{cluster}", sealed, cluster.encode())
        if opened is None:
            raise HostError(
                f"{path} cannot be decrypted: it is damaged, belongs to another cluster, or was written under another"
                f" key than {self._key_file}; restore both from the same backup"
            )
        held: dict[str, str] = json.loads(opened)
        return held

    def _save(self, cluster: str, held: dict[str, str]) -> None:
        data = json.dumps(held, sort_keys=True).encode()
        write(self._path(cluster), self._seal(f"secrets/{cluster}", data, cluster.encode()))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of a secret: expected words such as postgresql/superuser")
    return name


def _load_key(key_file: Path) -> bytes:
    text = read_private(key_file)
    if text is None:
        raise HostError(f"{key_file} does not exist; run pgha-master init, or restore it from its backup")
    try:
        key = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise HostError(f"{key_file} is damaged: expected 32 bytes in base64; restore it from its backup")
    return key
