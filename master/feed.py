"""Gives a minion the pieces it fetches: a large document of its own open job, or the blob that one names. No others."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..common.errors import PghaError
from ..common.messages import CHUNK_BYTES, Chunk, Fetch, Message
from .blobs import Blobs
from .ledger import Ledger
from .peers import Peer

REFUSED_COST = 8.0  # to ask for what one may not have costs more than to fetch


class Sender(Protocol):
    def send(self, peer: Peer, message: Message) -> None: ...

    def charge(self, peer: Peer, cost: float) -> bool: ...


async def chunks(sender: Sender, ledger: Ledger, blobs: Blobs, peer: Peer, fetch: Fetch) -> None:
    """Send what was asked for, up to the end of it; or one piece that says why not."""
    document = ledger.wanted(peer.name, fetch.sha256)
    for number in range(fetch.count):
        offset = fetch.offset + number * CHUNK_BYTES
        try:
            if document is not None:
                data = document[offset : offset + CHUNK_BYTES]
            elif fetch.sha256 in ledger.blobs(peer.name):
                data = await asyncio.to_thread(blobs.read, fetch.sha256, offset)
            else:
                if sender.charge(peer, REFUSED_COST):
                    sender.send(peer, Chunk(sha256=fetch.sha256, offset=offset, why="no open job of yours names it"))
                return
        except PghaError as error:
            sender.send(peer, Chunk(sha256=fetch.sha256, offset=offset, why=str(error)[:500]))
            return
        sender.send(peer, Chunk(sha256=fetch.sha256, offset=offset, data=data))
        if len(data) < CHUNK_BYTES:
            return
