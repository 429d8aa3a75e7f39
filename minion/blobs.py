"""Fetches what a job names, piece by piece, over whatever connection there is; resumes where it was after a break."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from ..common.errors import HostError
from ..common.messages import CHUNK_BYTES, FETCH_WINDOW, Chunk, Fetch

ANSWER_S = 15.0
LOOK_S = 0.5  # so soon a cancel is noticed
PATIENCE_S = 600.0  # without a single piece

Send = Callable[[Fetch], Awaitable[bool]]


class Fetcher:
    """One for the agent. All of it runs in the agent's loop but `fetch`, which a worker's thread calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        self._loop, self._send = loop, send
        self._waiting: dict[str, list[asyncio.Queue[Chunk]]] = {}

    def fetch(self, sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        """Write it to `file`. Raises HostError when it cannot be had, is not what it should be, or was cancelled."""
        try:
            asyncio.run_coroutine_threadsafe(self._fetch(sha256, size, file, cancelled), self._loop).result()
        except OSError as error:
            raise HostError(f"what was fetched cannot be written: {error.strerror}") from None

    def take(self, chunk: Chunk) -> None:
        for queue in self._waiting.get(chunk.sha256, ()):
            queue.put_nowait(chunk)

    async def _fetch(self, sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        queue: asyncio.Queue[Chunk] = asyncio.Queue()
        self._waiting.setdefault(sha256, []).append(queue)
        try:
            digest, offset, heard = hashlib.sha256(), 0, time.monotonic()
            while offset < size:
                if cancelled():
                    raise HostError("cancelled while its file was fetched")
                if time.monotonic() - heard > PATIENCE_S:
                    raise HostError(f"the master sent nothing of its file for {PATIENCE_S:g} s")
                got = await self._window(sha256, offset, queue, cancelled)
                for data in got:
                    digest.update(data)
                    await asyncio.to_thread(file.write, data)
                    offset += len(data)
                if got and offset < size and len(got[-1]) < CHUNK_BYTES:
                    raise HostError(
                        f"the master's file ends at {offset} bytes, and the job says {size}; it is not used"
                    )
                heard = time.monotonic() if got else heard
            if offset != size or digest.hexdigest() != sha256:
                raise HostError("what was fetched is not what the job names; it is not used")
        finally:
            self._waiting[sha256].remove(queue)
            if not self._waiting[sha256]:
                del self._waiting[sha256]

    async def _window(
        self, sha256: str, offset: int, queue: asyncio.Queue[Chunk], cancelled: Callable[[], bool]
    ) -> list[bytes]:
        """The next pieces in order; fewer, or none, when they did not come in time. Raises HostError when refused."""
        if not await self._send(Fetch(sha256=sha256, offset=offset, count=FETCH_WINDOW)):
            await asyncio.sleep(0.5)
            return []
        got: list[bytes] = []
        patience = time.monotonic() + ANSWER_S
        while len(got) < FETCH_WINDOW and not cancelled():
            try:
                chunk = await asyncio.wait_for(queue.get(), LOOK_S)
            except asyncio.TimeoutError:
                if time.monotonic() > patience:
                    break
                continue
            if chunk.why:
                raise HostError(f"the master does not give its file: {chunk.why}")
            if chunk.offset != offset + len(got) * CHUNK_BYTES:
                continue  # of a window that was asked for twice
            got.append(chunk.data)
            patience = time.monotonic() + ANSWER_S
            if len(chunk.data) < CHUNK_BYTES:
                break
        return got
