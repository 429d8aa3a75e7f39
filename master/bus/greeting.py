"""HELLO and WELCOME: how a minion's newest connection becomes the one that counts, and what it is told then."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Protocol

from ...common.bus import Received
from ...common.clock import Clock
from ...common.failpoint import reach
from ...common.messages import VERSION, Bye, Hello, Lost, Message, Welcome
from ...common.signing import Signer
from ..store import Store
from .credit import Credits
from .intake import Intake
from .peers import Peer
from .rotation import Rotation

log = logging.getLogger("pgha.hub")


class Exchange(Protocol):
    """What is needed of who holds the connections."""

    @property
    def peers(self) -> dict[str, Peer]: ...

    @property
    def routes(self) -> dict[bytes, str]: ...

    def send(self, peer: Peer, message: Message) -> None: ...

    async def reload_keys(self) -> None: ...


class Greeter:
    def __init__(
        self,
        exchange: Exchange,
        store: Store,
        clock: Clock,
        signer: Signer,
        credits: Credits,
        intake: Intake,
        rotation: Rotation,
        now_ms: Callable[[], int],
    ) -> None:
        """`now_ms` is the master's time, which deadlines are told in."""
        self._exchange, self._store, self._clock, self._signer = exchange, store, clock, signer
        self._credits, self._intake, self._rotation, self._now_ms = credits, intake, rotation, now_ms
        self.epoch = 0  # of this run of the master

    def hello(self, peer: Peer, received: Received, hello: Hello) -> bool:
        """This connection counts from now on. False when the minion takes no orders of this master."""
        self._exchange.routes.pop(peer.route, None)
        peer.key, peer.route, peer.address = received.peer, received.route, received.address
        peer.version = max(1, min(hello.speaks, VERSION))
        peer.epoch, peer.facts, peer.beat = hello.epoch, hello.facts, False
        peer.granted = (0, 0)  # no CREDIT before its WELCOME
        peer.session = os.urandom(32)
        if not peer.came(hello.facts, received.address):
            log.error("%s: %s; it gets no jobs until an operator has looked", peer.name, peer.twin)
        if hello.mepoch > self.epoch:
            self._exchange.send(peer, Bye(reason="this node has obeyed a newer master", retry_after_ms=5000))
            peer.route = b""
            peer.leave()
            log.error(
                "%s has obeyed a newer master (epoch %d; this has %d) and takes no orders here. If another master is"
                " meant to rule, stop this one; if not: pgha-master init --supersede, and start this one again",
                peer.name,
                hello.mepoch,
                self.epoch,
            )
            return False
        self._exchange.routes[received.route] = peer.name
        peer.heard = self._clock.monotonic()
        self._intake.hello(peer, hello)
        return True

    async def welcome(self, peer: Peer, route: bytes, hello: Hello) -> None:
        """Tell it how far its stream is stored; from then on it gets jobs."""
        kept = self._store.seen(peer.name, peer.key, peer.address, self._clock.now(), hello.facts.model_dump_json())
        high = await self._store.begin_stream(peer.name, hello.epoch)
        if peer.version < Lost.first and hello.spool_lo > high + 1:  # it cannot say so itself
            now = self._clock.now()
            high = await self._store.lose_events(peer.name, hello.epoch, high + 1, hello.spool_lo - 1, now)
        if await kept:
            await self._exchange.reload_keys()  # its new key has spoken; the old one is no more
        if peer.route != route:
            return  # it has connected again meanwhile
        peer.granted = self._credits.first(len(self._exchange.peers))
        peer.most = peer.granted[1]
        welcome = Welcome(
            name=peer.name,
            mepoch=self.epoch,
            hw=high,
            credit=peer.granted[0],
            now_ms=self._now_ms(),
            version=peer.version,
            credit_bytes=peer.granted[1],
            session=peer.session,
        )
        reach("hub.welcome.before_send")
        self._exchange.send(peer, self._signer.welcome(welcome, hello.nonce))
        self._rotation.greeted(peer)
        self._intake.greeted(peer, high)
