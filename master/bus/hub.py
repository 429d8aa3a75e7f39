"""The master's end of the bus: what comes in goes to whom it concerns, and who misbehaves is cut off.

Who is known and connected is the roster's, a job's road there the ledger's, and back the intake's.

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
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ...common.bus import Admission, Received, Router
from ...common.clock import Clock
from ...common.codec import decode, encode
from ...common.errors import BusError, PghaError
from ...common.keys import KeyPair
from ...common.messages import (
    FROM_MINION,
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
)
from ...common.signing import Signer
from ..keeping.vault import Vault
from ..store import Store
from .blobs import Blobs
from .credit import Credits
from .enrol_desk import EnrolDesk
from .feed import Feed
from .flights import Flights
from .greeting import Greeter
from .intake import Intake
from .ledger import Ledger
from .peers import BAD_COST_BYTES, Peer, cost
from .roster import QUARANTINE_S, Roster
from .rotation import KeyFiles, Rotation

log = logging.getLogger("pgha.hub")

STUCK_S = 20.0
FAREWELL_S = 0.3  # for the last word to go out, before the connection is shut
NOTIFY_S = 0.05
AHEAD = 1.25  # times the credit, in bytes: what a minion cannot have on its way is not taken

SignRequest = Callable[[str, str, str, str], Awaitable[str]]  # node, cluster, certificate name, CSR -> certificate


@dataclass(slots=True)
class _Heard:
    """What came at once and is stored at once: events by their minion's name, and answers."""

    streams: dict[str, list[Event]] = field(default_factory=dict)
    answers: list[tuple[Peer, Answer]] = field(default_factory=list)


class Hub(Roster):
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
        """`oldest` as of `Roster`."""
        super().__init__(clock, oldest)
        self._store, self._sign_request, self._died = store, sign, died
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.telemetry = asyncio.Condition()  # notified after samples and connections
        self._notifying = False
        self._credits = Credits()
        flights = Flights(store, clock)
        self.ledger = Ledger(store, vault, signer, clock, self, flights)
        self._intake = Intake(store, clock, flights, self, self.ledger.push, self._credits.took)
        admission = Admission(self.admit, self.heard_of)
        self._router = Router(
            f"tcp://{listen}:{port}", keys, "bus", admission, self._from_thread, gone=self._gone, died=self._broken
        )
        self.enrolment = EnrolDesk(
            store, vault, keys, f"tcp://{listen}:{port + 1}", clock, self.reload_keys, self._broken
        )
        self.rotation = Rotation(store, signer, files, self)
        self._feed = Feed(self, self.ledger, blobs)
        mine = (self._credits, self._intake, self.rotation)
        self._greeter = Greeter(self, store, clock, signer, *mine, self.ledger.now_ms)
        self._ticker: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin a run of the master: what is open and who is accepted is known; nobody is heard before `start`."""
        self._greeter.epoch = epoch = await self._store.next_epoch(self._clock.now())
        await self.ledger.open(epoch)
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
        for key, name in self.accept({row.public_key: row.name for row in rows}).items():
            await self._forget(key, name)

    async def _forget(self, key: str, name: str) -> None:
        peer = self.peers.get(name)
        if peer is not None and peer.key == key:
            del self.peers[name]
            self.routes.pop(peer.route, None)
            frames = encode(Bye(reason="this key has been revoked", retry_after_ms=5000), peer.version)
            self._router.send(peer.key, peer.route, frames, farewell=True)
        self._loop.call_later(FAREWELL_S, self._router.bar, key)
        if name not in self.accepted():
            self.rotation.forget(name)
            await self.ledger.forget(name)

    def turning(self) -> bool:
        """Whether the thread that holds the connections goes round, and jobs are looked after."""
        ticks = self._ticker is not None and not self._ticker.done()
        return ticks and time.monotonic() - self._router.turned < STUCK_S

    # ---- the bus

    def send(self, peer: Peer, message: Message) -> None:
        """Queued; lost when the connection is no more. What must arrive is sent again by who must know."""
        if message.first <= peer.version:
            self.send_frames(peer, encode(message, peer.version))

    def send_frames(self, peer: Peer, frames: list[bytes]) -> None:
        """As `send`, of a message that was encoded before, in the version that this minion speaks."""
        self._router.send(peer.key, peer.route, frames)

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
        for key in self.quarantine(peer.name):
            self._router.bar(key)

    def _broken(self) -> None:
        self._loop.call_soon_threadsafe(self._died)

    def _gone(self, route: bytes) -> None:
        self._loop.call_soon_threadsafe(self._disconnected, route)

    def _disconnected(self, route: bytes) -> None:
        peer = self.peers.get(self.routes.get(route, ""))
        if peer is not None and peer.route == route:
            peer.leave()

    def _from_thread(self, batch: list[Received]) -> None:
        self._loop.call_soon_threadsafe(self._sort, batch)

    def _sort(self, batch: list[Received]) -> None:
        heard = _Heard()
        for received in batch:
            peer = self.who(received.peer, received.address)
            if peer is not None:  # else it was turned out while this was on its way here
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
        elif isinstance(message, Refuse):  # of what was asked again, after it had been answered
            self._intake.answers(heard.answers)
            heard.answers = []
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
            if self._greeter.hello(peer, received, message):
                self._spawn(self._greeter.welcome(peer, received.route, message))
                self._notify_soon()
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
            self._spawn(self._feed.give(peer, message))
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
        self.let_back()
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
