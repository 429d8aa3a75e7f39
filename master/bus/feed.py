"""Gives a minion the pieces it fetches: a large document of its own open job, or the blob that one names. No others.

A file that goes to many is read, opened and packed once for all who ask for it within half a minute.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple, Protocol

from ...common.codec import encode
from ...common.errors import PghaError, Refused
from ...common.messages import CHUNK_BYTES, Chunk, Fetch
from .blobs import Blobs
from .ledger import Ledger
from .peers import Peer

REFUSED_COST = 8.0  # to ask for what one may not have costs more than to fetch
_KEPT, _KEPT_S = 32, 30.0  # pieces: 4 MiB, in clear


class Sender(Protocol):
    def send_frames(self, peer: Peer, frames: list[bytes]) -> None: ...

    def charge(self, peer: Peer, cost: float) -> bool: ...


class _Piece(NamedTuple):
    frames: list[bytes]
    last: bool


class Feed:
    def __init__(self, sender: Sender, ledger: Ledger, blobs: Blobs) -> None:
        self._sender, self._ledger, self._blobs = sender, ledger, blobs
        self._pieces: OrderedDict[tuple[int, str, int], asyncio.Task[_Piece]] = OrderedDict()

    async def give(self, peer: Peer, fetch: Fetch) -> None:
        """Send what was asked for, up to the end of it; or one piece that says why not."""
        for number in range(fetch.count):
            offset = fetch.offset + number * CHUNK_BYTES
            try:
                piece = await self._piece(peer, fetch.sha256, offset)
            except PghaError as error:
                refusal = Chunk(sha256=fetch.sha256, offset=offset, why=str(error)[:500])
                piece = _Piece(encode(refusal, peer.version), last=True)
            if piece is not None:
                self._sender.send_frames(peer, piece.frames)
            if piece is None or piece.last:
                break

    async def _piece(self, peer: Peer, sha256: str, offset: int) -> _Piece | None:
        """None when its minion is cut off for asking. Raises PghaError when it cannot be read, or is not for it."""
        document = self._ledger.wanted(peer.name, sha256)
        if document is not None:
            return _packed(peer.version, sha256, offset, document[offset : offset + CHUNK_BYTES])
        if sha256 in self._ledger.blobs(peer.name):
            return await asyncio.shield(self._read(peer.version, sha256, offset))
        if self._sender.charge(peer, REFUSED_COST):
            raise Refused("no open job of yours names it")
        return None

    def _read(self, version: int, sha256: str, offset: int) -> asyncio.Task[_Piece]:
        """Once for all who ask soon after each other; what failed is tried again by who asks next."""
        key = version, sha256, offset

        async def read() -> _Piece:
            return _packed(version, sha256, offset, await asyncio.to_thread(self._blobs.read, sha256, offset))

        def forget_failure(done: asyncio.Task[_Piece]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._pieces.pop(key, None)

        task = self._pieces.get(key)
        if task is None:
            task = self._pieces[key] = asyncio.create_task(read())
            task.add_done_callback(forget_failure)
            asyncio.get_running_loop().call_later(_KEPT_S, self._pieces.pop, key, None)
            if len(self._pieces) > _KEPT:
                self._pieces.popitem(last=False)
        return task


def _packed(version: int, sha256: str, offset: int, data: bytes) -> _Piece:
    return _Piece(encode(Chunk(sha256=sha256, offset=offset, data=data), version), last=len(data) < CHUNK_BYTES)
