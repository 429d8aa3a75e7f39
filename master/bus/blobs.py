"""Files on their way to minions: kept by their SHA-256, encrypted piece by piece, gone when no job wants them.

A minion gets only what one of its own open jobs names; that is the ledger's to know. Nothing received is ever part of
a path but a digest that was checked to be one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Protocol

from ...common.errors import HostError, UserError
from ...common.messages import BLOB_BYTES, CHUNK_BYTES

_OVERHEAD = 64  # bytes a sealed piece may be longer
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Seal(Protocol):
    """As `vault.Vault`."""

    def seal(self, data: bytes, context: bytes = b"") -> bytes: ...

    def open(self, sealed: bytes, context: bytes = b"") -> bytes: ...


class Blobs:
    def __init__(self, folder: Path, seal: Seal) -> None:
        self._folder, self._seal = folder, seal
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self) -> Incoming:
        """A blob that is about to come, piece by piece."""
        return Incoming(self._folder, self._seal)

    def put(self, data: bytes) -> str:
        """Keep it. Its SHA-256."""
        incoming = self.begin()
        incoming.add(data)
        return incoming.end()[0]

    def read(self, sha256: str, offset: int) -> bytes:
        """Up to `CHUNK_BYTES` from `offset`, a multiple of that; empty at the end.

        Raises UserError when there is no such blob.
        """
        path = self._path(sha256)
        number, odd = divmod(offset, CHUNK_BYTES)
        if odd:
            raise UserError(f"a blob is read in pieces of {CHUNK_BYTES} bytes")
        try:
            with path.open("rb") as file:
                width = int.from_bytes(file.read(4), "big")
                file.seek(4 + number * width)
                sealed = file.read(width)
        except FileNotFoundError:
            raise UserError("there is no such blob (any more)") from None
        return self._seal.open(sealed, _context(number)) if sealed else b""

    def keep_only(self, wanted: set[str], before: float) -> None:
        """Remove what no open job names, if it came before that (Unix time): a job may be about to be ordered."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in wanted and path.stat().st_mtime < before:
                    path.unlink()

    def _path(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise UserError("a blob is named by its SHA-256")
        return self._folder / sha256


class Incoming:
    """Written as it comes; under its name only when whole. The pieces are all of one width, but the last."""

    def __init__(self, folder: Path, seal: Seal) -> None:
        self._folder, self._seal = folder, seal
        self._rest, self._count, self.size = bytearray(), 0, 0
        self._digest = hashlib.sha256()
        self._width = len(seal.seal(bytes(CHUNK_BYTES), _context(0)))
        handle, name = tempfile.mkstemp(dir=folder, prefix=".incoming-")
        self._path, self._file = Path(name), os.fdopen(handle, "wb")
        self._file.write(self._width.to_bytes(4, "big"))

    def add(self, data: bytes) -> None:
        """Raises UserError beyond `BLOB_BYTES`, HostError when the disk refuses."""
        self.size += len(data)
        if self.size > BLOB_BYTES:
            self.drop()
            raise UserError(f"a file may have {BLOB_BYTES >> 20} MiB")
        self._digest.update(data)
        self._rest += data
        try:
            while len(self._rest) >= CHUNK_BYTES:
                self._piece(bytes(self._rest[:CHUNK_BYTES]))
                del self._rest[:CHUNK_BYTES]
        except OSError as error:
            self.drop()
            raise HostError(f"cannot keep the file on the master: {error.strerror}") from None

    def end(self) -> tuple[str, int]:
        """Its SHA-256 and size; from now on it can be read."""
        try:
            if self._rest:
                self._piece(bytes(self._rest))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self.drop()
            raise HostError(f"cannot keep the file on the master: {error.strerror}") from None
        self._file.close()
        digest = self._digest.hexdigest()
        self._path.replace(self._folder / digest)
        return digest, self.size

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _piece(self, data: bytes) -> None:
        self._file.write(self._seal.seal(data, _context(self._count)))
        self._count += 1


def _context(number: int) -> bytes:
    return b"blob " + number.to_bytes(8, "big")
