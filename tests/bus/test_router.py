"""The socket that all minions hold on to, without any message of the domain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pgha.common.bus import Admission, Dialer, Received, Router
from pgha.common.keys import KeyPair, new_key_pair, public_text

WELL_S = 20.0


class Echo:
    """A router that answers whoever has the one key that is accepted."""

    def __init__(self) -> None:
        self.server, self.mine = new_key_pair(), new_key_pair()
        self.heard: list[Received] = []
        me = public_text(self.mine.public)
        admission = Admission(lambda key: me if public_text(key) == me else None, lambda peer: True)
        self.router = Router("tcp://127.0.0.1:0", self.server, "bus", admission, self._deliver)

    def _deliver(self, batch: list[Received]) -> None:
        self.heard += batch
        for received in batch:
            self.router.send(received.peer, received.route, [b"header", b"answer"])
        self.router.taken(batch)

    async def answers(self, keys: KeyPair | None = None) -> bool:
        dialer = Dialer(f"127.0.0.1:{self.router.port}", self.server.public, keys or self.mine)
        try:
            until = time.monotonic() + WELL_S
            while time.monotonic() < until:
                await dialer.send([b"header", b"question"])
                if await dialer.receive(0.2):
                    return True
            return False
        finally:
            dialer.close()


@contextmanager
def closing(echo: Echo) -> Iterator[Echo]:
    try:
        yield echo
    finally:
        echo.router.close()


@pytest.mark.parametrize("early", [False, True])
def test_what_is_sent_before_the_router_has_started_keeps_no_later_answer_back(early: bool) -> None:
    with closing(Echo()) as echo:
        if early:
            echo.router.send("nobody", b"nowhere", [b"header", b"too early"])
        echo.router.start()
        assert asyncio.run(echo.answers())
