"""What a job asks its master for while it runs: files and certificates, over whatever line there is."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, TypeVar

import pytest
from pgha.common.errors import ActionFailed, HostError
from pgha.common.messages import BLOB_BYTES, CHUNK_BYTES, FETCH_WINDOW, Chunk, Fetch, Sign, Signed
from pgha.master.bus.peers import Budget, cost
from pgha.minion import blobs, certifier
from pgha.minion.blobs import Fetcher
from pgha.minion.certifier import Certifier

T = TypeVar("T")
FILE = bytes(range(256)) * 1024 + b"the end"  # two whole pieces and a short one
DIGEST = hashlib.sha256(FILE).hexdigest()


def live(work: Callable[[], Awaitable[T]]) -> T:
    """In a loop; what is tested is called from a thread, as a worker does."""

    async def run() -> T:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(run())


def fetched(content: bytes, size: int = len(FILE), most: int = 1000) -> tuple[bytes, int]:
    """What a job gets of a master that has that content, and how often it asked. Raises HostError as `fetch` does."""
    asked, file = 0, BytesIO()

    async def work() -> None:
        async def send(fetch: Fetch) -> bool:
            nonlocal asked
            asked += 1
            assert asked <= most, "it asks without end"
            for number in range(fetch.count):
                offset = fetch.offset + number * CHUNK_BYTES
                data = content[offset : offset + CHUNK_BYTES]
                fetcher.take(Chunk(sha256=fetch.sha256, offset=offset, data=data))
                if len(data) < CHUNK_BYTES:
                    break
            return True

        fetcher = Fetcher(asyncio.get_running_loop(), send)
        await asyncio.to_thread(fetcher.fetch, DIGEST, size, file, lambda: False)

    live(work)
    return file.getvalue(), asked


def test_a_file_comes_piece_by_piece() -> None:
    assert fetched(FILE) == (FILE, 2)


@pytest.mark.parametrize("content", [b"", FILE[:CHUNK_BYTES], FILE[: 2 * CHUNK_BYTES], FILE[: CHUNK_BYTES + 5]])
def test_a_file_that_is_shorter_than_its_job_says_ends_the_job(content: bytes) -> None:
    with pytest.raises(HostError, match=f"ends at {len(content)} bytes, and the job says {len(FILE)}"):
        fetched(content, most=3)


def test_a_job_that_waits_for_a_piece_notices_that_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "LOOK_S", 0.01)
    stop = threading.Event()

    async def work() -> float:
        async def send(fetch: Fetch) -> bool:
            stop.set()
            return True  # and no answer ever comes

        fetcher = Fetcher(asyncio.get_running_loop(), send)
        with pytest.raises(HostError, match="cancelled"):
            await asyncio.to_thread(fetcher.fetch, DIGEST, len(FILE), BytesIO(), stop.is_set)
        return time.monotonic()

    since = time.monotonic()
    assert live(work) - since < blobs.ANSWER_S


def signed(lines: list[bool], **answer: Any) -> tuple[str, int]:
    """The certificate, or the error; and how often it was sent. `lines`: whether there is one, try after try."""
    sent = 0

    async def work() -> str:
        async def send(sign: Sign) -> bool:
            nonlocal sent
            there = lines.pop(0) if lines else True
            sent += there
            if there and answer:
                asking.take(Signed(request=sign.request, **answer))
            return there

        asking = Certifier(asyncio.get_running_loop(), send)
        try:
            return await asyncio.to_thread(asking.sign, "alpha", "n1", "csr")
        except ActionFailed as error:
            return str(error)

    return live(work), sent


def test_a_certificate_is_waited_for_while_the_master_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifier, "RETRY_S", 0.001)
    assert signed([False] * 50, certificate="PEM") == ("PEM", 1)


def test_a_master_that_stays_away_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifier, "RETRY_S", 0.001)
    monkeypatch.setattr(certifier, "PATIENCE_S", 0.05)
    text, sent = signed([False] * 10_000)
    assert "did not answer" in text
    assert sent == 0


def test_a_master_that_does_not_answer_is_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifier, "ANSWER_S", 0.02)
    text, sent = signed([])
    assert "did not answer" in text
    assert sent == certifier.TRIES


def test_a_refusal_is_told() -> None:
    assert signed([], why="n1 is in no cluster") == ("the master does not sign n1: n1 is in no cluster", 1)


def test_who_waits_for_a_certificate_is_told_that_the_minion_stops() -> None:
    async def work() -> None:
        asked = asyncio.Event()

        async def send(sign: Sign) -> bool:
            asked.set()
            return True

        asking = Certifier(asyncio.get_running_loop(), send)
        waiting = asyncio.create_task(asyncio.to_thread(asking.sign, "alpha", "n1", "csr"))
        await asked.wait()
        await asyncio.sleep(0)
        asking.close()
        with pytest.raises(ActionFailed, match="being stopped"):
            await waiting

    live(work)


def test_the_largest_file_is_within_what_a_minion_may_send_however_fast_it_comes() -> None:
    fetch = Fetch(sha256=DIGEST, offset=0, count=FETCH_WINDOW)
    budget = Budget()
    assert all(budget.spend(cost(fetch, 100), 0.0) for _ in range(BLOB_BYTES // CHUNK_BYTES // FETCH_WINDOW))
    assert not all(budget.spend(cost(fetch, 100), 0.0) for _ in range(10_000))
