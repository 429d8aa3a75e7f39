"""Asks the master to sign a certificate request. Called from a worker's thread; what it waits for comes in the loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from ..common.errors import ActionFailed
from ..common.messages import Sign, Signed

ANSWER_S = 15.0
TRIES = 3
PATIENCE_S = 120.0  # without a line to the master: longer than its restart takes
RETRY_S = 0.5


class Certifier:
    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Sign], Awaitable[bool]]) -> None:
        """`send`: False when there is no line."""
        self._loop, self._send = loop, send
        self._waiting: dict[int, asyncio.Future[Signed]] = {}
        self._closed = False

    def sign(self, cluster: str, name: str, csr: str) -> str:
        """The certificate for that request. Raises ActionFailed when the master refuses or does not answer."""
        asked = asyncio.run_coroutine_threadsafe(self._sign(cluster, name, csr), self._loop)
        return asked.result((TRIES + 1) * (PATIENCE_S + ANSWER_S))

    def take(self, signed: Signed) -> None:
        waiting = self._waiting.pop(signed.request, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(signed)

    def close(self) -> None:
        """The minion stops: nobody waits any longer."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ActionFailed("the minion is being stopped"))

    async def _sign(self, cluster: str, name: str, csr: str) -> str:
        tries, alone_since = 0, time.monotonic()
        while tries < TRIES and time.monotonic() - alone_since < PATIENCE_S and not self._closed:
            request = int.from_bytes(os.urandom(6), "big")
            future: asyncio.Future[Signed] = self._loop.create_future()
            self._waiting[request] = future
            try:
                if not await self._send(Sign(request=request, cluster=cluster, name=name, csr=csr)):
                    await asyncio.sleep(RETRY_S)
                    continue
                tries += 1
                signed = await asyncio.wait_for(future, ANSWER_S)
            except asyncio.TimeoutError:
                alone_since = time.monotonic()
                continue
            finally:
                self._waiting.pop(request, None)
            if not signed.certificate:
                raise ActionFailed(f"the master does not sign {name}: {signed.why}")
            return signed.certificate
        raise ActionFailed(f"the master did not answer the request to sign {name}; it is tried again at the next apply")
