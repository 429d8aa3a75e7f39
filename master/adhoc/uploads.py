"""Files that the CLI hands to the daemon for `file.push`, piece by piece: a request is one line of limited length.

The CLI names an upload by a random word of its own; under its content's digest a file is known only when it is whole.
"""

from __future__ import annotations

import base64
import binascii

from ...common.clock import Clock
from ...common.errors import UserError
from ..bus.blobs import Blobs, Incoming

MOST = 16  # at once
STALE_S = 60.0


class Uploads:
    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs, self._clock = blobs, clock
        self._open: dict[str, tuple[Incoming, float]] = {}  # by the CLI's word; with when its last piece came

    def add(self, upload: str, offset: int, data: str) -> None:
        """A piece in base64. Raises UserError when it is not the next one, or too much is under way."""
        now = self._clock.monotonic()
        incoming = self._open[upload][0] if upload in self._open else self._begin(now)
        try:
            piece = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            piece = b""
        if offset != incoming.size or not piece:
            self._drop(upload, incoming)
            raise UserError("the file came in pieces that do not fit; run it again")
        self._open[upload] = (incoming, now)
        try:
            incoming.add(piece)
        except Exception:
            self._open.pop(upload, None)
            raise

    def end(self, upload: str) -> tuple[str, int]:
        """SHA-256 and size of the whole; it is among the blobs now."""
        incoming, _ = self._open.pop(upload, (None, 0.0))
        return (incoming or self._blobs.begin()).end()

    def _begin(self, now: float) -> Incoming:
        for upload, (incoming, at) in list(self._open.items()):
            if now - at > STALE_S:
                self._drop(upload, incoming)
        if len(self._open) >= MOST:
            raise UserError(f"{MOST} files are being handed over already; try again in a minute")
        return self._blobs.begin()

    def _drop(self, upload: str, incoming: Incoming) -> None:
        self._open.pop(upload, None)
        incoming.drop()
