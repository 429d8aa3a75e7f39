"""The road of a job there and back: ordered, stored, sent, answered. Minions are names here; who they are, hub knows.

Rules:
1. A job is stored before it is sent; only a query, which may be asked twice, is stored while it is on its way.
2. ACK follows the commit. A job's state changes in the store, by `jobs.step`, and is told after that.
3. What a minion says touches its own jobs only.
4. While a job is queued and its minion connected, it is sent again; the minion starts it once.
5. At HELLO a minion tells what is open there. When all that it held then has been stored, what the master still takes
   for open, and the minion does not, is settled: it never came, or nobody can know what became of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from ..common.clock import Clock
from ..common.errors import BusError, HostError, PghaError, Refused
from ..common.failpoint import reach
from ..common.messages import (
    INLINE_BYTES,
    Accept,
    Ack,
    Answer,
    Cancel,
    Event,
    Hello,
    Job,
    JobClass,
    Lost,
    Message,
    Mode,
    Refuse,
    Resync,
)
from ..common.names import new_job_id
from ..common.results import Outcome
from ..common.signing import Signer
from . import jobs
from .blobs import Seal
from .flights import Flight, News, Output, payload, read_event
from .peers import Peer
from .store import EventRow, JobRow, Store, Stored

log = logging.getLogger("pgha.ledger")

RESEND_S = 5.0
OVERDUE_S = 10.0  # a minion ends its jobs by itself; only who is silent leaves it to the master
OUTPUT_BYTES = 40 * 1024 * 1024  # of one job; more than its minion lets through
STRAY_BYTES = 64 * 1024 * 1024  # of one minion, in jobs that this master has not ordered
NEVER_CAME = "its time was over before it reached its minion"
NOT_KNOWN = "its minion no longer knows this job: it was set up anew, or lost its journal, while the job was open"


class Exchange(Protocol):
    """What the ledger needs of who holds the connections."""

    def peer(self, name: str) -> Peer | None: ...

    def connected(self, name: str) -> bool: ...

    def send(self, peer: Peer, message: Message) -> None: ...

    def offend(self, peer: Peer, why: str) -> None: ...

    def held(self, name: str, what: str) -> str: ...


class Ledger:
    def __init__(
        self,
        store: Store,
        seal: Seal,
        signer: Signer,
        clock: Clock,
        exchange: Exchange,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`took(seconds)` is told how long a piece of a stream waited for its commit."""
        self._took = took
        self._store, self._seal, self._signer, self._clock, self._exchange = store, seal, signer, clock, exchange
        self._flights: dict[tuple[str, int], Flight] = {}
        self._by_node: defaultdict[str, dict[tuple[str, int], Flight]] = defaultdict(dict)
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = 0
        self._offset = clock.now() - clock.monotonic()

    def now_ms(self) -> int:
        """The master's time, which deadlines are told in: it does not jump when the wall clock is set."""
        return int((self._offset + self._clock.monotonic()) * 1000)

    async def open(self, epoch: int) -> None:
        """Take up what had not ended when the master ended. Nothing of it is sent before somebody resumes it."""
        self._epoch = epoch
        for row in await self._store.open_jobs():
            try:
                flight = self._restored(row)
            except PghaError as error:
                log.error("job %s of %s cannot be read any more: %s", row.jid, row.node, error)
                await self._store.move_job(row.jid, row.att, row.node, "overdue", str(error), self._clock.now())
                continue
            self._add(flight)

    def _restored(self, row: JobRow) -> Flight:
        kept = json.loads(self._seal.open(row.payload, row.jid.encode()))
        text = kept["document"].encode()
        job = Job(
            jid=row.jid,
            att=row.att,
            minion=row.node,
            mepoch=self._epoch,
            cls=_class(row.cls),
            mode=_mode(row.mode),
            query=kept["query"],
            not_after_ms=row.not_after_ms,
            ttl_ms=0,
            sha256=hashlib.sha256(text).hexdigest(),
            size=len(text),
            document=text,
        )
        deadline = self._clock.monotonic() + (row.not_after_ms - self.now_ms()) / 1000
        return Flight(row.node, job, row.state, "", row.operation, kept["blob"], deadline, sent=True, resend=False)

    # ---- what others ask

    def flights(self, operation: str | None = None) -> list[Flight]:
        """What has not ended, of one operation or of all."""
        return [f for f in self._flights.values() if operation is None or f.operation == operation]

    def resume(self, operation: str) -> list[Flight]:
        """Its open jobs, after a restart of the master; those that have not been accepted go out again."""
        found = self.flights(operation)
        for flight in found:
            flight.resend = True
            self._push(flight)
        return found

    def wanted(self, node: str, sha256: str) -> bytes | None:
        """The document of that digest when an open job of that node is waiting for it."""
        for flight in self._of(node):
            if flight.job.sha256 == sha256:
                return flight.job.document
        return None

    def blobs(self, node: str | None = None) -> set[str]:
        """Digests that open jobs name, of one node or of all."""
        flights = self._flights.values() if node is None else self._of(node)
        return {flight.blob for flight in flights if flight.blob}

    async def order(
        self,
        node: str,
        mode: str,
        document: object,
        *,
        what: str,
        operation: str,
        timeout_s: float,
        query: bool = False,
        blob: tuple[str, int] = ("", 0),
    ) -> Flight:
        """Queue a job for one minion; it is sent as soon as that minion is connected, until the deadline.

        `blob` is the SHA-256 and size of a file that the call may fetch. Raises Refused while that minion is held.
        """
        if why := self._exchange.held(node, what):
            raise Refused(f"{node}: {why}")
        text = json.dumps(document, separators=(",", ":")).encode()
        job = Job(
            jid=new_job_id(),
            att=1,
            minion=node,
            mepoch=self._epoch,
            cls="call" if mode == "call" else "state",
            mode=_mode(mode),
            query=query,
            not_after_ms=self.now_ms() + int(timeout_s * 1000),
            ttl_ms=int(timeout_s * 1000),
            sha256=hashlib.sha256(text).hexdigest(),
            size=len(text),
            document=text,
        )
        deadline = self._clock.monotonic() + timeout_s
        flight = Flight(node, job, operation=operation, blob=blob[0], deadline=deadline)
        sealed = self._seal.seal(payload(flight), job.jid.encode())
        row = JobRow(job.jid, 1, node, operation, mode, job.cls, what, "queued", job.not_after_ms, sealed)
        stored = self._store.put_job(row, self._clock.now())
        if query:
            self._begin(flight)
            await self._kept(flight, stored)
        else:
            await stored
            reach("ledger.job.before_send")
            self._begin(flight)
        return flight

    async def _kept(self, flight: Flight, stored: asyncio.Future[object]) -> None:
        try:
            await stored
        except HostError:
            self._remove(flight)
            raise

    def _begin(self, flight: Flight) -> None:
        self._add(flight)
        self._push(flight)

    async def follow(self, flight: Flight, silence_s: float = 60.0) -> AsyncIterator[News]:
        """What arrives, until the job has ended or its minion has been silent for that long ("silent").

        A job that never left this host is withdrawn: what was given up here must not begin later there.
        """
        since = self._clock.monotonic()
        while True:
            try:
                news = flight.news.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    news = await asyncio.wait_for(flight.news.get(), 1.0)
                except asyncio.TimeoutError:
                    peer = self._exchange.peer(flight.node)
                    heard = max(peer.heard if peer else since, since)
                    if self._clock.monotonic() - heard > silence_s:
                        if not flight.sent:
                            await self.move(flight, "withdrawn", "its minion is not connected; nothing was sent")
                        yield "silent"
                        return
                    continue
            yield news
            if isinstance(news, Outcome) or news in jobs.ENDED:
                return

    async def cancel(self, flight: Flight) -> None:
        """End it: here when it never left this host, else where it runs."""
        flight.cancelled = True
        if flight.state == "queued" and not flight.sent:
            await self.move(flight, "withdrawn", "cancelled before it was sent")
        else:
            self._push(flight)

    async def move(self, flight: Flight, word: str, message: str) -> None:
        """Something happened that no event tells of. Told when it is stored."""
        await self._moved(flight, self._move(flight, word, message), message)

    def _move(self, flight: Flight, word: str, message: str) -> asyncio.Future[str]:
        jid, att = flight.key
        return self._store.move_job(jid, att, flight.node, word, message, self._clock.now())

    async def _moved(self, flight: Flight, stored: asyncio.Future[str], message: str) -> None:
        after = await stored
        if after and after != flight.state:
            flight.state, flight.message = after, message
            self._ended(flight)
            flight.news.put_nowait(after)

    async def forget(self, node: str) -> None:
        """Its key is revoked: nothing more is sent to it or heard of it."""
        for flight in self._of(node):
            word = "withdrawn" if flight.state == "queued" and not flight.sent else "overdue"
            await self.move(flight, word, "its key is revoked")

    # ---- what minions say

    def hello(self, peer: Peer, hello: Hello) -> None:
        """The minion is back. `peer.caught_up_at` says when what it does not know is settled."""
        peer.open = frozenset((job.jid, job.att) for job in hello.open)
        peer.caught_up_at = hello.spool_hi

    def greeted(self, peer: Peer, high: int) -> None:
        """It was told WELCOME, with that high water."""
        for flight in self._of(peer.name):
            self._push(flight)
        self._settle(peer, high)

    def accepted(self, peer: Peer, message: Accept) -> None:
        self._answered(peer, message.jid, message.att, "accept", "")

    def refused(self, peer: Peer, message: Refuse) -> None:
        self._answered(peer, message.jid, message.att, "refuse", f"{message.why} {message.detail}".strip())

    def _answered(self, peer: Peer, jid: str, att: int, word: str, text: str) -> None:
        flight = self._flights.get((jid, att))
        if flight is not None and flight.node == peer.name:
            self._spawn(self._moved(flight, self._move(flight, word, text), text))

    def disconnected(self, peer: Peer) -> None:
        """What was sent last on that connection has not left this host."""
        for flight in self._of(peer.name):
            if flight.state == "queued" and flight.resend:
                flight.sent = False

    def answer(self, peer: Peer, message: Answer) -> None:
        flight = self._flights.get((message.jid, message.att))
        if flight is None or flight.node != peer.name or not flight.job.query:
            return
        try:
            text = message.outcome.decode()
            outcome = Outcome.model_validate_json(text)
            lines = [json.dumps({"stream": stream, "text": said}) for stream, said in message.out]
            text.encode()
        except ValueError:
            self._exchange.offend(peer, "an ANSWER that cannot be read")
            return
        word, (jid, att), now = "done" if outcome.ok else "failed", flight.key, self._clock.now()
        stored = self._store.answer(jid, att, flight.node, lines, text, word, now)
        self._spawn(self._keep_answer(flight, message, outcome, stored))

    async def _keep_answer(
        self, flight: Flight, message: Answer, outcome: Outcome, stored: asyncio.Future[str]
    ) -> None:
        after = await stored
        if after in jobs.ENDED and flight.key in self._flights:
            flight.state = after
            self._ended(flight)
            for stream, said in message.out:
                flight.news.put_nowait(Output(stream, said))
            flight.news.put_nowait(outcome)

    def events(self, peer: Peer, events: Sequence[Event]) -> None:
        """A piece of its stream: stored as far as it is next, then acknowledged and told."""
        epoch, size = events[0].epoch, sum(len(event.body) for event in events)
        rows: list[EventRow] = []
        told: dict[int, News] = {}
        for event in events:
            row, told[event.seq] = self._row(peer, event)
            rows.append(row)
        peer.storing += size
        future = self._store.add_events(peer.name, epoch, rows, self._clock.now())
        since = self._clock.monotonic()

        async def keep() -> None:
            try:
                stored = await future
            finally:
                peer.storing -= size
                self._took(self._clock.monotonic() - since)
            reach("ledger.ack.before_send")
            if stored.hw < events[0].seq - 1:
                self._exchange.send(peer, Resync(epoch=epoch, from_seq=stored.hw + 1))
                return
            self._exchange.send(peer, Ack(epoch=epoch, seq=stored.hw))
            reach("ledger.ack.after_send")
            self._tell(peer, events, stored, told)
            self._settle(peer, stored.hw)

        self._spawn(keep())

    def _row(self, peer: Peer, event: Event) -> tuple[EventRow, News]:
        """As it is stored. An event that cannot be read is acknowledged, or its minion would send it for ever."""
        flight = self._flights.get((event.jid, event.att))
        keep = self._room(peer, flight, event)
        try:
            text, news = read_event(event)
            word = jobs.arrived(event.kind, event.body)
        except (BusError, ValueError) as error:
            self._exchange.offend(peer, str(error))
            text, news, keep, word = "", "", False, ""
        return EventRow(event.seq, event.jid, event.att, event.kind, text, word if keep else ""), news

    def _room(self, peer: Peer, flight: Flight | None, event: Event) -> bool:
        if flight is None or flight.node != peer.name:
            peer.stray_bytes += len(event.body)
            return peer.stray_bytes < STRAY_BYTES
        flight.output_bytes += len(event.body) if event.kind == "out" else 0
        return flight.output_bytes < OUTPUT_BYTES or event.kind != "out"

    def _tell(self, peer: Peer, events: Iterable[Event], stored: Stored, told: dict[int, News]) -> None:
        for event in events:
            flight = self._flights.get((event.jid, event.att))
            after = stored.states.get(event.seq)
            if flight is None or flight.node != peer.name or after is None:
                continue
            news, before = told[event.seq], flight.state
            flight.state = after or before
            if not isinstance(news, str):
                flight.news.put_nowait(news)
            elif flight.state != before:
                flight.message = news
                flight.news.put_nowait(flight.state)
            self._ended(flight)

    def lost(self, peer: Peer, message: Lost) -> None:
        log.warning("%s has lost its events %d to %d", peer.name, message.first_seq, message.last_seq)
        now, last = self._clock.now(), message.last_seq
        future = self._store.lose_events(peer.name, message.epoch, message.first_seq, last, now)

        async def keep() -> None:
            high = await future
            self._exchange.send(peer, Ack(epoch=message.epoch, seq=high))
            self._settle(peer, high)

        self._spawn(keep())

    def _settle(self, peer: Peer, high: int) -> None:
        """Rule 5."""
        if peer.caught_up_at is None or high < peer.caught_up_at:
            return
        peer.caught_up_at = None
        for flight in self._of(peer.name):
            if flight.key in peer.open or flight.job.query:
                continue
            if flight.state != "queued":
                self._spawn(self.move(flight, "absent", NOT_KNOWN))
            elif not flight.resend and not flight.cancelled:
                self._spawn(self.move(flight, "withdrawn", "the master was restarted before its minion took it"))
            elif self._clock.monotonic() > flight.deadline:
                self._spawn(self.move(flight, "absent", NEVER_CAME))

    # ---- time

    async def tick(self) -> None:
        """Once a second: send again, and end what is overdue."""
        now = self._clock.monotonic()
        for flight in list(self._flights.values()):
            if self._overdue(flight, now):
                await self.move(flight, "overdue" if flight.sent else "deadline", "its deadline has passed")
            elif now >= flight.next_send:
                self._push(flight)

    def _overdue(self, flight: Flight, now: float) -> bool:
        """A job that its minion says is running is not, however long it takes: a deadline is for the beginning."""
        if flight.state == "queued":
            return now > flight.deadline
        peer = self._exchange.peer(flight.node)
        running = peer.running if peer is not None and self._exchange.connected(flight.node) else ()
        if flight.key in {(job.jid, job.att) for job in running}:
            return False
        return now > flight.deadline + OVERDUE_S

    def _push(self, flight: Flight) -> None:
        flight.next_send = self._clock.monotonic() + RESEND_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        peer = self._exchange.peer(flight.node)
        if peer is None or not self._exchange.connected(flight.node):
            return
        if flight.cancelled:
            self._exchange.send(peer, Cancel(jid=flight.job.jid, att=flight.job.att))
        elif flight.state == "queued" and flight.resend:
            flight.sent = True
            job, left_ms = flight.job, max(0, flight.job.not_after_ms - self.now_ms())
            inline = job.document if job.size <= INLINE_BYTES or peer.version < 2 else b""
            update = {"ttl_ms": left_ms, "document": inline, "mepoch": self._epoch}
            self._exchange.send(peer, self._signer.job(job.model_copy(update=update)))

    def _of(self, node: str) -> list[Flight]:
        return list(self._by_node[node].values()) if node in self._by_node else []

    def _add(self, flight: Flight) -> None:
        self._flights[flight.key] = self._by_node[flight.node][flight.key] = flight

    def _remove(self, flight: Flight) -> None:
        self._flights.pop(flight.key, None)
        self._by_node[flight.node].pop(flight.key, None)

    def _ended(self, flight: Flight) -> None:
        if flight.state in jobs.ENDED:
            self._remove(flight)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.WARNING if isinstance(error, PghaError) else logging.ERROR
            log.log(level, "not stored, so not acknowledged: %s", error, exc_info=level == logging.ERROR and error)


def _mode(text: str) -> Mode:
    modes: tuple[Mode, ...] = ("plan", "apply", "call")
    return next(mode for mode in modes if mode == text)


def _class(text: str) -> JobClass:
    return "call" if text == "call" else "state"
