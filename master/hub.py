"""Who is connected, and how each behaves: the master's end of the bus. What a job's road is, the ledger knows.

Rules:
1. A sender is the name that its accepted key stands for. No handler takes a name from a message.
2. Frames of one minion are handled in the order they came in.
3. Jobs go to the newest connection of a minion; frames of an older one are not heard.
4. A bad message costs its sender: who sends too many, or more than its budget, is cut off for a minute.
5. Two hosts that use one key get nothing to do until an operator has looked at it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ..common.bus import Admission, Received, Router
from ..common.clock import Clock
from ..common.codec import decode, encode
from ..common.errors import BusError, PghaError
from ..common.facts import HostFacts
from ..common.failpoint import reach
from ..common.keys import KeyPair, public_text
from ..common.messages import (
    FROM_MINION,
    VERSION,
    Accept,
    Answer,
    Bye,
    Chunk,
    Event,
    Fetch,
    Hello,
    Lost,
    Message,
    NextKey,
    Ping,
    Pong,
    Refuse,
    Sign,
    Signed,
    SuccessorKnown,
    Telemetry,
    Welcome,
)
from ..common.signing import Signer
from .blobs import Blobs
from .credit import Credits
from .enrol_desk import EnrolDesk
from .feed import chunks
from .flights import Flight, Flights, News, Output
from .intake import Intake
from .ledger import Ledger
from .peers import BAD_COST_BYTES, Peer, cost
from .rotation import KeyFiles, Rotation
from .store import Store
from .vault import Vault

__all__ = ["Flight", "Hub", "News", "Output", "Peer"]

log = logging.getLogger("pgha.hub")

ALIVE_S = 15.0  # three heartbeats
QUARANTINE_S = 60.0
STUCK_S = 20.0
FAREWELL_S = 0.3  # for the last word to go out, before the connection is shut
NOTIFY_S = 0.05
AHEAD = 1.25  # times the credit, in bytes: what a minion cannot have on its way is not taken
ALWAYS = ("ping", "facts", "self.upgrade")  # what a minion that is too old may still be asked

SignRequest = Callable[[str, str, str, str], Awaitable[str]]  # node, cluster, certificate name, CSR -> certificate


@dataclass(slots=True)
class _Heard:
    """What came at once and is stored at once: events by their minion's name, and answers."""

    streams: dict[str, list[Event]] = field(default_factory=dict)
    answers: list[tuple[Peer, Answer]] = field(default_factory=list)


class Hub:
    def __init__(
        self,
        store: Store,
        vault: Vault,
        keys: KeyPair,
        signer: Signer,
        blobs: Blobs,
        listen: str,
        port: int,
        clock: Clock,
        sign: SignRequest,
        died: Callable[[], None],
        oldest: int,
        files: KeyFiles,
    ) -> None:
        """`oldest`: minions that speak an older version of the protocol may do nothing but be upgraded."""
        self._store, self._clock, self._sign_request, self._signer = store, clock, sign, signer
        self._blobs, self._oldest, self._died = blobs, oldest, died
        self._loop = asyncio.get_running_loop()
        self._names: dict[str, str] = {}  # accepted key -> name; replaced whole, read from the IO threads
        self._quarantined: dict[str, float] = {}  # key -> until, monotonic
        self.peers: dict[str, Peer] = {}
        self._routes: dict[bytes, str] = {}  # newest connections -> name
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.telemetry = asyncio.Condition()  # notified after samples and connections
        self._notifying = False
        self._credits = Credits()
        flights = Flights(store, clock)
        self.ledger = Ledger(store, vault, signer, clock, self, flights)
        self._intake = Intake(store, clock, flights, self, self.ledger.push, self._credits.took)
        admission = Admission(self._admit, lambda key: key in self._names and key not in self._quarantined)
        self._router = Router(
            f"tcp://{listen}:{port}", keys, "bus", admission, self._from_thread, gone=self._gone, died=self._broken
        )
        self.enrolment = EnrolDesk(
            store, vault, keys, f"tcp://{listen}:{port + 1}", clock, self.reload_keys, self._broken
        )
        self.rotation = Rotation(store, signer, files, self)
        self._ticker: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin a run of the master: what is open and who is accepted is known; nobody is heard before `start`."""
        self._epoch = await self._store.next_epoch(self._clock.now())
        await self.ledger.open(self._epoch)
        await self.reload_keys()

    async def start(self) -> None:
        """Raises BusError when a port is taken, or a stranger would be let in."""
        await asyncio.to_thread(self._router.start)
        await asyncio.to_thread(self.enrolment.start)
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for peer in self.peers.values():
            self.send(peer, Bye(reason="the master stops", retry_after_ms=1000))
        await asyncio.to_thread(self._router.close)
        await asyncio.to_thread(self.enrolment.close)

    async def reload_keys(self) -> None:
        """Take the accepted keys from the store; who is no longer among them is told so and cut off at once."""
        rows = [row for row in await self._store.minions() if row.state in ("accepted", "next")]
        before, self._names = self._names, {row.public_key: row.name for row in rows}
        for key in before.keys() - self._names.keys():
            await self._forget(key, before[key])

    def _admit(self, public: bytes) -> str | None:
        key = public_text(public)
        return key if key in self._names and key not in self._quarantined else None

    async def _forget(self, key: str, name: str) -> None:
        peer = self.peers.get(name)
        if peer is not None and peer.key == key:
            del self.peers[name]
            self._routes.pop(peer.route, None)
            frames = encode(Bye(reason="this key has been revoked", retry_after_ms=5000), peer.version)
            self._router.send(peer.key, peer.route, frames, farewell=True)
        self._loop.call_later(FAREWELL_S, self._router.bar, key)
        if name not in self._names.values():
            self.rotation.forget(name)
            await self.ledger.forget(name)

    # ---- what others ask

    def peer(self, name: str) -> Peer | None:
        return self.peers.get(name)

    def connected(self, name: str) -> bool:
        peer = self.peers.get(name)
        return peer is not None and self._clock.monotonic() - peer.heard < ALIVE_S

    def facts(self, name: str) -> HostFacts | None:
        peer = self.peers.get(name)
        return peer.facts if peer else None

    def accepted(self) -> frozenset[str]:
        return frozenset(self._names.values())

    def running(self, flight: Flight) -> tuple[str, float] | None:
        """What that job does now and for how many seconds, as its minion said last."""
        peer = self.peers.get(flight.node)
        for job in peer.running if peer else ():
            if (job.jid, job.att) == flight.key:
                return job.resource, job.seconds
        return None

    def held(self, name: str, what: str) -> str:
        """Why that minion does not get this to do at the moment; empty when it does."""
        peer = self.peers.get(name)
        if peer is None or what in ALWAYS:
            return ""
        if peer.twin:
            return f"{peer.twin}; look at both, then: pgha-master keys revoke {name}, and enrol the right one"
        if peer.version < self._oldest:
            return (
                f"its minion speaks version {peer.version} of the protocol, this master wants {self._oldest}: "
                f"pgha-master run {name} self.upgrade"
            )
        return ""

    def turning(self) -> bool:
        """Whether the thread that holds the connections goes round, and jobs are looked after."""
        ticks = self._ticker is not None and not self._ticker.done()
        return ticks and time.monotonic() - self._router.turned < STUCK_S

    # ---- the bus

    def send(self, peer: Peer, message: Message) -> None:
        """Queued; lost when the connection is no more. What must arrive is sent again by who must know."""
        if message.first <= peer.version:
            self._router.send(peer.key, peer.route, encode(message, peer.version))

    def offend(self, peer: Peer, why: str) -> None:
        """Count a broken rule against a minion, and cut it off when there are too many."""
        log.warning("%s sent what it must not: %s", peer.name, why)
        if peer.offend(self._clock.monotonic()):
            self._cut_off(peer, "it broke the rules of the bus too often")

    def charge(self, peer: Peer, cost: float) -> bool:
        """Take that from a minion's budget. False when it has not that much left: then it is cut off."""
        if peer.budget.spend(cost, self._clock.monotonic()):
            return True
        self._cut_off(peer, "it sent more than a minion has reason to")
        return False

    def _cut_off(self, peer: Peer, why: str) -> None:
        log.error("%s is cut off for %d s: %s", peer.name, QUARANTINE_S, why)
        peer.leave()
        peer.trouble = why
        for key in [key for key, name in self._names.items() if name == peer.name]:
            self._quarantined[key] = self._clock.monotonic() + QUARANTINE_S
            self._router.bar(key)

    def _broken(self) -> None:
        self._loop.call_soon_threadsafe(self._died)

    def _gone(self, route: bytes) -> None:
        self._loop.call_soon_threadsafe(self._disconnected, route)

    def _disconnected(self, route: bytes) -> None:
        peer = self.peers.get(self._routes.get(route, ""))
        if peer is not None and peer.route == route:
            peer.leave()

    def _from_thread(self, batch: list[Received]) -> None:
        self._loop.call_soon_threadsafe(self._sort, batch)

    def _sort(self, batch: list[Received]) -> None:
        heard = _Heard()
        for received in batch:
            name = self._names.get(received.peer)
            if name is None or received.peer in self._quarantined:
                continue  # turned out while this was on its way here
            peer = self.peers.get(name)
            if peer is None:
                peer = self.peers[name] = Peer(name, key=received.peer, address=received.address)
            self._guarded(heard, peer, received)
        self._intake.answers(heard.answers)
        self._intake.streams([(self.peers[name], events) for name, events in heard.streams.items()])
        self._router.taken(batch)

    def _guarded(self, heard: _Heard, peer: Peer, received: Received) -> None:
        """Whatever a message breaks, it is its sender's offence, and the next one's turn."""
        try:
            self._hear(heard, peer, received)
        except BusError as error:
            self.offend(peer, str(error))
        except Exception as error:
            log.exception("a message of %s cannot be handled", peer.name)
            self.offend(peer, f"a message that breaks its reader: {type(error).__name__}")

    def _hear(self, heard: _Heard, peer: Peer, received: Received) -> None:
        try:
            message, size = decode(received.frames, FROM_MINION), len(received.frames[1])
        except BusError:
            self.charge(peer, sum(map(len, received.frames)) / BAD_COST_BYTES)  # to find out took longest
            raise
        if isinstance(message, Event) and received.route == peer.route:
            self._stream(heard, peer, message)
            return
        if isinstance(message, Hello | Lost):  # they speak of what comes after the events that came before them
            self._intake.streams([(peer, heard.streams.pop(peer.name, []))])
        if not self.charge(peer, cost(message, size)):
            return
        if isinstance(message, Answer) and received.route == peer.route:
            peer.heard = self._clock.monotonic()
            heard.answers.append((peer, message))
        else:
            self._take(peer, received, message)

    def _stream(self, heard: _Heard, peer: Peer, event: Event) -> None:
        """Events that came together are stored together. What is far beyond the credit is not taken, and costs."""
        peer.heard = self._clock.monotonic()
        if peer.storing > AHEAD * peer.most:
            self.charge(peer, cost(event, len(event.body)))
            return
        _same_epoch(peer, event.epoch)
        heard.streams.setdefault(peer.name, []).append(event)

    def _take(self, peer: Peer, received: Received, message: Message) -> None:
        now = self._clock.monotonic()
        if isinstance(message, Hello):
            self._hello(peer, received, message)
            return
        if received.route != peer.route:  # it did not notice that this end was restarted, or is an old one
            farewell = Bye(reason="say HELLO first", retry_after_ms=200)
            self._router.send(received.peer, received.route, encode(farewell, 1))
            return
        peer.heard = now
        if isinstance(message, Telemetry):
            peer.sample, peer.sampled = message.sample, now
            self._notify_soon()
        elif isinstance(message, Ping):
            peer.running, peer.trouble, peer.beat = message.running, message.trouble, True
            peer.spool, peer.spool_bytes = message.spool, message.spool_bytes
            self.send(peer, Pong(mono_ms=message.mono_ms))
        elif isinstance(message, Accept):
            self._intake.accepted(peer, message)
        elif isinstance(message, Refuse):
            self._intake.refused(peer, message)
        elif isinstance(message, Lost):
            _same_epoch(peer, message.epoch)
            self._intake.lost(peer, message)
        elif peer.twin:
            self._refuse_twin(peer, message)
        elif isinstance(message, Fetch):
            self._spawn(chunks(self, self.ledger, self._blobs, peer, message))
        elif isinstance(message, Sign):
            self._spawn(self._sign(peer, message))
        elif isinstance(message, NextKey):
            self._spawn(self.rotation.next_key(peer, message))
        elif isinstance(message, SuccessorKnown):
            self._spawn(self.rotation.successor_known(peer, message))

    def _refuse_twin(self, peer: Peer, message: Message) -> None:
        """Rule 5: nothing that only the right one of them may have, and no next key for a thief."""
        why = f"{peer.twin}; an operator has to look at both"[:500]
        if isinstance(message, Fetch):
            self.send(peer, Chunk(sha256=message.sha256, offset=message.offset, why=why))
        elif isinstance(message, Sign):
            self.send(peer, Signed(request=message.request, why=why))
        else:
            log.error("%s: %s of %s is not taken: %s", peer.name, message.type, peer.address, why)

    def _hello(self, peer: Peer, received: Received, hello: Hello) -> None:
        self._routes.pop(peer.route, None)
        peer.key, peer.route, peer.address = received.peer, received.route, received.address
        peer.version = max(1, min(hello.speaks, VERSION))
        peer.epoch, peer.facts, peer.beat = hello.epoch, hello.facts, False
        peer.granted = (0, 0)  # no CREDIT before its WELCOME
        peer.session = os.urandom(32)
        if not peer.came(hello.facts, received.address):
            log.error("%s: %s; it gets no jobs until an operator has looked", peer.name, peer.twin)
        if hello.mepoch > self._epoch:
            self.send(peer, Bye(reason="this node has obeyed a newer master", retry_after_ms=5000))
            peer.route = b""
            peer.leave()
            log.error(
                "%s has obeyed a newer master (epoch %d; this has %d) and takes no orders here. If another master is"
                " meant to rule, stop this one; if not: pgha-master init --supersede, and start this one again",
                peer.name,
                hello.mepoch,
                self._epoch,
            )
            return
        self._routes[received.route] = peer.name
        peer.heard = self._clock.monotonic()
        self._intake.hello(peer, hello)
        self._spawn(self._welcome(peer, received.route, hello))

    async def _welcome(self, peer: Peer, route: bytes, hello: Hello) -> None:
        kept = self._store.seen(peer.name, peer.key, peer.address, self._clock.now(), hello.facts.model_dump_json())
        high = await self._store.begin_stream(peer.name, hello.epoch)
        if peer.version < Lost.first and hello.spool_lo > high + 1:  # it cannot say so itself
            now = self._clock.now()
            high = await self._store.lose_events(peer.name, hello.epoch, high + 1, hello.spool_lo - 1, now)
        if await kept:
            await self.reload_keys()  # its new key has spoken; the old one is no more
        if peer.route != route:
            return  # it has connected again meanwhile
        peer.granted = self._credits.first(len(self.peers))
        peer.most = peer.granted[1]
        welcome = Welcome(
            name=peer.name,
            mepoch=self._epoch,
            hw=high,
            credit=peer.granted[0],
            now_ms=self.ledger.now_ms(),
            version=peer.version,
            credit_bytes=peer.granted[1],
            session=peer.session,
        )
        reach("hub.welcome.before_send")
        self.send(peer, self._signer.welcome(welcome, hello.nonce))
        self.rotation.greeted(peer)
        self._intake.greeted(peer, high)
        self._notify_soon()

    async def _sign(self, peer: Peer, message: Sign) -> None:
        try:
            certificate, why = await self._sign_request(peer.name, message.cluster, message.name, message.csr), ""
        except PghaError as error:
            certificate, why = "", str(error)[:500]
        self.send(peer, Signed(request=message.request, certificate=certificate, why=why))

    # ---- time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for part in (self.ledger.tick, self._turn):
                try:
                    await part()
                except PghaError as error:
                    log.error("jobs cannot be written down now: %s", error)
                except Exception:  # all that waits for a deadline waits for the next round
                    log.exception("a round of the bus broke")

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        self._quarantined = {key: until for key, until in self._quarantined.items() if until > now}
        for peer, credit in self._credits.turn(self.peers.values()):
            self.send(peer, credit)
        self._notify_soon()

    def _notify_soon(self) -> None:
        if not self._notifying:
            self._notifying = True
            self._loop.call_later(NOTIFY_S, lambda: self._spawn(self._notify()))

    async def _notify(self) -> None:
        self._notifying = False
        async with self.telemetry:
            self.telemetry.notify_all()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the bus: %s", error, exc_info=None if isinstance(error, PghaError) else error)


def _same_epoch(peer: Peer, epoch: str) -> None:
    """Of each epoch something is remembered, so a minion has one on each connection: that of its HELLO."""
    if epoch != peer.epoch:
        raise BusError("an event of another epoch than that of its HELLO")
