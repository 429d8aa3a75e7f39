"""Who is connected, what each is doing, and the road of a job there and back. Decides nothing about clusters.

Rules:
1. A sender is the name that its accepted key stands for. No handler takes a name from a message.
2. Frames of one minion are handled in order; those of different minions side by side.
3. ACK follows the commit. A job's state changes by `jobs.step` only.
4. Jobs go to the newest connection of a minion; frames of an older one are not heard.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from ..common.bus import Admission, Received, Router
from ..common.clock import Clock
from ..common.codec import decode, encode
from ..common.errors import BusError, PghaError
from ..common.facts import HostFacts
from ..common.keys import KeyPair, public_text
from ..common.messages import (
    FROM_MINION,
    Accept,
    Ack,
    Bye,
    Cancel,
    Event,
    Hello,
    Job,
    JobClass,
    Message,
    Ping,
    Pong,
    Refuse,
    Resync,
    Running,
    Sign,
    Signed,
    Telemetry,
    Welcome,
)
from ..common.names import new_job_id
from ..common.results import Outcome, ResourceResult
from ..common.telemetry import Sample
from . import jobs
from .enrol_desk import EnrolDesk
from .store import Store

log = logging.getLogger("pgha.hub")

CREDIT = 256
RESEND_S = 5.0
ALIVE_S = 15.0  # three heartbeats
OVERDUE_S = 10.0  # a job that is followed has ended long before, by `_tick`

Signer = Callable[[str, str, str, str], Awaitable[str]]  # node, cluster, certificate name, CSR -> certificate


@dataclass(frozen=True, slots=True)
class Output:
    stream: str
    text: str


News = ResourceResult | Output | Outcome | str  # str: the job's new state


@dataclass
class Flight:
    """A job that has not ended. `news` is what arrives, in order; the last is an Outcome or an ended state."""

    node: str
    job: Job
    state: str = "queued"
    message: str = ""
    next_send: float = 0.0
    sent: bool = False  # it may have reached its minion
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)


@dataclass
class Peer:
    name: str
    key: str = ""  # of the newest connection, which is `route`
    route: bytes = b""
    address: str = ""
    epoch: str = ""
    heard: float = float("-inf")  # monotonic
    facts: HostFacts | None = None
    running: tuple[Running, ...] = ()
    sample: Sample | None = None
    sampled: float = float("-inf")
    inbox: asyncio.Queue[Received] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None


class Hub:
    def __init__(self, store: Store, keys: KeyPair, listen: str, port: int, clock: Clock, signer: Signer) -> None:
        self._store, self._clock, self._signer = store, clock, signer
        self._loop = asyncio.get_running_loop()
        self._names: dict[str, str] = {}  # accepted key -> name; replaced whole, read from the IO threads
        self.peers: dict[str, Peer] = {}
        self._flights: dict[tuple[str, int], Flight] = {}
        self._epoch = 0
        self.telemetry = asyncio.Condition()  # notified at every sample and connection
        admission = Admission(self._admit, lambda key: key in self._names)
        self._router = Router(f"tcp://{listen}:{port}", keys, "bus", admission, self._from_thread, gone=self._gone)
        self.enrolment = EnrolDesk(store, keys, f"tcp://{listen}:{port + 1}", clock, self.reload_keys)
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises BusError when a port is taken, or a stranger would be let in."""
        self._epoch = await self._store.next_epoch()
        await self._store.settle_overdue(self._clock.now())
        await self.reload_keys()
        await asyncio.to_thread(self._router.start)
        await asyncio.to_thread(self.enrolment.start)
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        tasks = [task for task in (self._ticker, *(peer.task for peer in self.peers.values())) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self.peers.values():
            self._send(peer, Bye(reason="the master stops", retry_after_ms=1000))
        await asyncio.to_thread(self._router.close)
        await asyncio.to_thread(self.enrolment.close)

    async def reload_keys(self) -> None:
        """Take the accepted keys from the store; who is no longer among them is told so and cut off at once."""
        rows = [row for row in await self._store.minions() if row.state == "accepted"]
        before, self._names = self._names, {row.public_key: row.name for row in rows}
        for key in before.keys() - self._names.keys():
            await self._forget(before[key])

    def _admit(self, public: bytes) -> str | None:
        key = public_text(public)
        return key if key in self._names else None

    async def _forget(self, name: str) -> None:
        peer = self.peers.pop(name, None)
        if peer is not None:
            frames = encode(Bye(reason="this key has been revoked", retry_after_ms=5000))
            self._router.send(peer.key, peer.route, frames, farewell=True)
            if peer.task is not None:
                peer.task.cancel()
        for flight in list(self._flights.values()):
            if flight.node == name:
                await self._move(flight, "cancelled" if flight.state == "queued" else "forgotten", "its key is revoked")

    # ---- what others ask

    def connected(self, name: str) -> bool:
        peer = self.peers.get(name)
        return peer is not None and self._clock.monotonic() - peer.heard < ALIVE_S

    def facts(self, name: str) -> HostFacts | None:
        peer = self.peers.get(name)
        return peer.facts if peer else None

    def accepted(self) -> frozenset[str]:
        return frozenset(self._names.values())

    async def order(
        self, node: str, mode: str, document: object, *, what: str, operation: str, timeout_s: float
    ) -> Flight:
        """Queue a job for one minion; it is sent as soon as that minion is connected, until the deadline."""
        cls: JobClass = "call" if mode == "call" else "state"
        text = json.dumps(document, separators=(",", ":")).encode()
        not_after_ms = int((self._clock.now() + timeout_s) * 1000)
        job = Job(
            jid=new_job_id(),
            att=1,
            mepoch=self._epoch,
            cls=cls,
            mode=mode,  # type: ignore[arg-type]
            not_after_ms=not_after_ms,
            ttl_ms=int(timeout_s * 1000),
            sha256=hashlib.sha256(text).hexdigest(),
            document=text,
        )
        encode(job)  # too large is the caller's error, now and not later
        await self._store.put_job(job.jid, 1, node, operation, mode, what, self._clock.now(), not_after_ms)
        flight = Flight(node, job)
        self._flights[job.jid, 1] = flight
        self._push(flight)
        return flight

    async def follow(self, flight: Flight, silence_s: float = 60.0) -> AsyncIterator[News]:
        """What arrives, until the job has ended or its minion has been silent for that long ("silent").

        A job that never left this host is withdrawn: what was given up here must not begin later there.
        """
        since = self._clock.monotonic()
        while True:
            try:
                news = await asyncio.wait_for(flight.news.get(), 1.0)
            except asyncio.TimeoutError:
                peer = self.peers.get(flight.node)
                heard = max(peer.heard if peer else since, since)
                if self._clock.monotonic() - heard > silence_s:
                    if not flight.sent:
                        await self._move(flight, "withdrawn", "its minion is not connected; nothing was sent")
                    yield "silent"
                    return
                continue
            yield news
            if isinstance(news, Outcome) or news in jobs.ENDED:
                return

    async def cancel(self, flight: Flight) -> None:
        if peer := self.peers.get(flight.node):
            self._send(peer, Cancel(jid=flight.job.jid, att=flight.job.att))

    # ---- from the bus

    def _gone(self, route: bytes) -> None:
        self._loop.call_soon_threadsafe(self._disconnected, route)

    def _disconnected(self, route: bytes) -> None:
        """What was sent last on that connection has not left this host."""
        for peer in self.peers.values():
            if peer.route == route:
                peer.heard = float("-inf")
                for flight in self._flights.values():
                    if flight.node == peer.name and flight.state == "queued":
                        flight.sent = False

    def _from_thread(self, batch: list[Received]) -> None:
        self._loop.call_soon_threadsafe(self._sort, batch)

    def _sort(self, batch: list[Received]) -> None:
        for received in batch:
            name = self._names.get(received.peer)
            if name is None:
                continue  # revoked while this was on its way here
            peer = self.peers.setdefault(name, Peer(name))
            if peer.task is None:
                peer.task = asyncio.create_task(self._serve(peer))
            peer.inbox.put_nowait(received)

    async def _serve(self, peer: Peer) -> None:
        while True:
            received = await peer.inbox.get()
            try:
                message = decode(received.frames, FROM_MINION)
                if isinstance(message, Hello):
                    peer.key, peer.route, peer.address = received.peer, received.route, received.address
                if received.route != peer.route:  # it did not notice that this end was restarted, or is an old one
                    farewell = Bye(reason="say HELLO first", retry_after_ms=200)
                    self._router.send(received.peer, received.route, encode(farewell))
                    continue
                peer.heard = self._clock.monotonic()
                await self._take(peer, message)
            except BusError as error:
                log.warning("%s sent what it must not: %s", peer.name, error)
            except PghaError as error:
                log.error("%s: %s", peer.name, error)

    async def _take(self, peer: Peer, message: Message) -> None:
        if isinstance(message, Event):
            await self._event(peer, message)
        elif isinstance(message, Telemetry):
            peer.sample, peer.sampled = message.sample, self._clock.monotonic()
            await self._notify()
        elif isinstance(message, Ping):
            peer.running = message.running
            self._send(peer, Pong(mono_ms=message.mono_ms))
        elif isinstance(message, Accept):
            await self._answered(message.jid, message.att, peer, "accept", "")
        elif isinstance(message, Refuse):
            await self._answered(message.jid, message.att, peer, "refuse", f"{message.why} {message.detail}".strip())
        elif isinstance(message, Sign):
            asyncio.create_task(self._sign(peer, message))  # noqa: RUF006 - answers by itself
        elif isinstance(message, Hello):
            await self._hello(peer, message)

    async def _hello(self, peer: Peer, hello: Hello) -> None:
        peer.epoch, peer.facts = hello.epoch, hello.facts
        if hello.mepoch > self._epoch:
            self._send(peer, Bye(reason="this node has obeyed a newer master", retry_after_ms=5000))
            peer.route, peer.heard = b"", float("-inf")
            log.error(
                "%s has obeyed a newer master (epoch %d; this has %d, from an old backup?) and takes no orders here",
                peer.name,
                hello.mepoch,
                self._epoch,
            )
            return
        high = await self._store.begin_stream(peer.name, hello.epoch, max(hello.spool_lo, 1) - 1)
        now = self._clock.now()
        await self._store.seen(peer.name, peer.address, now, hello.facts.model_dump_json())
        welcome = Welcome(name=peer.name, mepoch=self._epoch, hw=high, credit=CREDIT, now_ms=int(now * 1000))
        self._send(peer, welcome)
        await self._settle_forgotten(peer, hello)
        for flight in list(self._flights.values()):
            if flight.node == peer.name and flight.state == "queued":
                self._push(flight)
        await self._notify()

    async def _settle_forgotten(self, peer: Peer, hello: Hello) -> None:
        """A minion set up anew knows nothing of the jobs it had: what became of them cannot be known."""
        known = {(job.jid, job.att) for job in hello.open}
        for (jid, att), flight in list(self._flights.items()):
            fresh_journal = hello.acked == 0 and hello.spool_hi == 0
            if flight.node == peer.name and fresh_journal and (jid, att) not in known:
                await self._move(flight, "forgotten", "the minion lost its journal while the job ran")

    async def _event(self, peer: Peer, event: Event) -> None:
        flight = self._flights.get((event.jid, event.att))
        text, news = read_event(event)
        state = flight.state if flight else "started"
        after = jobs.step(state, jobs.arrived(event.kind, event.body))
        change = (after, text if event.kind == "done" else "") if after != state or not flight else None
        if flight is None and after not in jobs.ENDED:
            change = None
        high = await self._store.add_event(
            peer.name, event.epoch, event.seq, event.jid, event.kind, text, self._clock.now(), change
        )
        if high < event.seq:
            self._send(peer, Resync(epoch=event.epoch, from_seq=high + 1))
            return
        self._send(peer, Ack(epoch=event.epoch, seq=high))
        if high == event.seq and flight is not None and flight.node == peer.name:
            self._publish(flight, after, news)

    def _publish(self, flight: Flight, after: str, news: News) -> None:
        if after in jobs.ENDED:
            self._flights.pop((flight.job.jid, flight.job.att), None)
        if isinstance(news, Outcome):
            flight.state = after
        if not isinstance(news, str):
            flight.news.put_nowait(news)
        elif after != flight.state:
            flight.state, flight.message = after, news
            flight.news.put_nowait(after)

    async def _answered(self, jid: str, att: int, peer: Peer, what: str, message: str) -> None:
        flight = self._flights.get((jid, att))
        if flight is not None and flight.node == peer.name:
            await self._move(flight, what, message)

    async def _move(self, flight: Flight, what: str, message: str) -> None:
        after = jobs.step(flight.state, what)
        if after == flight.state:
            return
        flight.state, flight.message = after, message
        ended = self._clock.now() if after in jobs.ENDED else None
        await self._store.job_state(flight.job.jid, flight.job.att, after, message, ended)
        if ended is not None:
            self._flights.pop((flight.job.jid, flight.job.att), None)
        flight.news.put_nowait(after)

    async def _sign(self, peer: Peer, message: Sign) -> None:
        try:
            certificate, why = await self._signer(peer.name, message.cluster, message.name, message.csr), ""
        except PghaError as error:
            certificate, why = "", str(error)[:500]
        self._send(peer, Signed(request=message.request, certificate=certificate, why=why))

    # ---- sending

    def _push(self, flight: Flight) -> None:
        flight.next_send = self._clock.monotonic() + RESEND_S
        if self.connected(flight.node):
            flight.sent = True
            left_ms = flight.job.not_after_ms - int(self._clock.now() * 1000)
            self._send(self.peers[flight.node], flight.job.model_copy(update={"ttl_ms": max(0, left_ms)}))

    def _send(self, peer: Peer, message: Message) -> None:
        self._router.send(peer.key, peer.route, encode(message))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._store.settle_overdue(self._clock.now() - OVERDUE_S)
            now = self._clock.monotonic()
            for flight in list(self._flights.values()):
                if self._clock.now() * 1000 > flight.job.not_after_ms:
                    await self._move(flight, "deadline", "its deadline has passed")
                elif flight.state == "queued" and now >= flight.next_send:
                    self._push(flight)
            await self._notify()

    async def _notify(self) -> None:
        async with self.telemetry:
            self.telemetry.notify_all()


def read_event(event: Event) -> tuple[str, News]:
    """The event's body as text, and what it says; for a change of state that is the reason, maybe empty.

    Raises BusError for a body that is not what its kind has: whoever is told of it later could break on it.
    """
    try:
        text = event.body.decode() or "{}"
        body = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair cannot be shown or stored
        if event.kind == "res":
            return text, ResourceResult.model_validate(body)
        if event.kind == "done":
            return text, Outcome.model_validate(body)
        if event.kind == "out":
            return text, Output(str(body["stream"]), str(body["text"]))
        return text, str(body.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BusError(f"event {event.seq} ({event.kind}) has a body that cannot be read") from None
