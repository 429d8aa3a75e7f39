"""Asks the master to sign a certificate request. Called from a worker's thread; what it waits for comes in the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from ..common.errors import ActionFailed
from ..common.messages import Sign, Signed

ANSWER_S = 15.0
TRIES = 3


class Certifier:
    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Sign], Awaitable[bool]]) -> None:
        self._loop, self._send = loop, send
        self._waiting: dict[int, asyncio.Future[Signed]] = {}

    def sign(self, cluster: str, name: str, csr: str) -> str:
        """The certificate for that request. Raises ActionFailed when the master refuses or does not answer."""
        asked = asyncio.run_coroutine_threadsafe(self._sign(cluster, name, csr), self._loop)
        return asked.result((TRIES + 1) * ANSWER_S)

    def take(self, signed: Signed) -> None:
        waiting = self._waiting.pop(signed.request, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(signed)

    async def _sign(self, cluster: str, name: str, csr: str) -> str:
        for _ in range(TRIES):
            request = int.from_bytes(os.urandom(6), "big")
            future: asyncio.Future[Signed] = self._loop.create_future()
            self._waiting[request] = future
            try:
                await self._send(Sign(request=request, cluster=cluster, name=name, csr=csr))
                signed = await asyncio.wait_for(future, ANSWER_S)
            except asyncio.TimeoutError:
                continue
            finally:
                self._waiting.pop(request, None)
            if not signed.certificate:
                raise ActionFailed(f"the master does not sign {name}: {signed.why}")
            return signed.certificate
        raise ActionFailed(f"the master did not answer the request to sign {name}; it is tried again at the next apply")
