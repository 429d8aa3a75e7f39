"""Pieces of files for minions: read once for all who ask, and for nobody who has no job that names them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from pgha.common.codec import decode
from pgha.common.errors import UserError
from pgha.common.messages import CHUNK_BYTES, FETCH_WINDOW, TO_MINION, Chunk, Fetch
from pgha.master.bus.feed import Feed
from pgha.master.bus.peers import Peer

BLOB, DOCUMENT = "b" * 64, "d" * 64
WHOLE = b"x" * (3 * CHUNK_BYTES + 5)


class Site:
    """The ledger, the blobs and the connections at once. Minions named in `jobs` have one that names the blob."""

    def __init__(self, *jobs: str, broken: int = 0) -> None:
        self.jobs, self.broken = jobs, broken
        self.reads: list[int] = []
        self.told: dict[str, list[Chunk]] = {}
        self.charged: list[str] = []
        self.budget = True
        self.feed = Feed(self, cast(Any, self), cast(Any, self))

    def wanted(self, name: str, sha256: str) -> bytes | None:
        return WHOLE[:10] if (name, sha256) == ("n1", DOCUMENT) else None

    def blobs(self, name: str) -> set[str]:
        return {BLOB} if name in self.jobs else set()

    def read(self, sha256: str, offset: int) -> bytes:
        self.reads.append(offset)
        if self.broken:
            self.broken -= 1
            raise UserError("there is no such blob (any more)")
        return WHOLE[offset : offset + CHUNK_BYTES]

    def send_frames(self, peer: Peer, frames: list[bytes]) -> None:
        message = decode(frames, TO_MINION)
        assert isinstance(message, Chunk)
        self.told.setdefault(peer.name, []).append(message)

    def charge(self, peer: Peer, cost: float) -> bool:
        self.charged.append(peer.name)
        return self.budget

    async def ask(self, *names: str, sha256: str = BLOB, offset: int = 0) -> None:
        fetch = Fetch(sha256=sha256, offset=offset, count=FETCH_WINDOW)
        await asyncio.gather(*(self.feed.give(Peer(name, version=2), fetch) for name in names))


def test_a_piece_is_read_once_for_all_who_ask_for_it_at_the_same_time() -> None:
    many = [f"n{number}" for number in range(20)]
    site = Site(*many)
    asyncio.run(site.ask(*many))
    assert site.reads == [0, CHUNK_BYTES]
    assert {name: [chunk.offset for chunk in chunks] for name, chunks in site.told.items()} == {
        name: [0, CHUNK_BYTES] for name in many
    }
    assert all(chunk.data == WHOLE[:CHUNK_BYTES] for chunks in site.told.values() for chunk in chunks)


def test_the_last_piece_is_shorter_and_nothing_comes_after_it() -> None:
    site = Site("n1")
    asyncio.run(site.ask("n1", offset=3 * CHUNK_BYTES))
    assert [chunk.data for chunk in site.told["n1"]] == [b"xxxxx"]


def test_a_document_goes_to_the_minion_that_it_is_for_and_from_no_disk() -> None:
    site = Site()
    asyncio.run(site.ask("n1", sha256=DOCUMENT))
    assert [chunk.data for chunk in site.told["n1"]] == [WHOLE[:10]]
    assert site.reads == []


def test_who_has_no_job_that_names_it_gets_nothing_though_it_was_just_read_for_another() -> None:
    site = Site("n1")

    async def both() -> None:
        await site.ask("n1")
        await site.ask("thief")

    asyncio.run(both())
    assert [(chunk.data, chunk.why) for chunk in site.told["thief"]] == [(b"", "no open job of yours names it")]
    assert site.charged == ["thief"]


def test_who_has_asked_too_often_for_what_is_not_its_own_is_not_even_answered() -> None:
    site = Site()
    site.budget = False
    asyncio.run(site.ask("thief"))
    assert site.told == {}


def test_what_could_not_be_read_is_told_and_read_again_for_who_asks_next() -> None:
    site = Site("n1", "n2", broken=1)

    async def one_after_the_other() -> None:
        await site.ask("n1")
        await site.ask("n2")

    asyncio.run(one_after_the_other())
    assert [chunk.why for chunk in site.told["n1"]] == ["there is no such blob (any more)"]
    assert [len(chunk.data) for chunk in site.told["n2"]] == [CHUNK_BYTES, CHUNK_BYTES]


@pytest.mark.parametrize("count", [40, 100])
def test_only_so_many_pieces_are_kept(count: int) -> None:
    site = Site("n1")

    async def many() -> None:
        for number in range(count):
            await site.feed.give(Peer("n1", version=2), Fetch(sha256=BLOB, offset=number * CHUNK_BYTES, count=1))

    asyncio.run(many())
    assert len(site.feed._pieces) <= 32
