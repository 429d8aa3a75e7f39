"""The road of a job to its minion: ordered, stored, sent, sent again, followed, cancelled, overdue. What comes back is
taken down by `intake`; who is connected, the hub knows.

Rules:
1. A job is stored before it is sent; only a query, which may be asked twice, is stored while it is on its way.
2. While a job is queued and its minion connected, and not held, it is sent again; the minion starts it once.
3. A deadline is for the beginning. What its minion says is running goes on, however long it takes. A job is overdue
   only when its minion is there, has told all that it has to tell, and no longer names it; or is away for long.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ...common.clock import Clock
from ...common.errors import BusError, PghaError, Refused
from ...common.failpoint import reach
from ...common.messages import INLINE_BYTES, Cancel, Job, JobClass, Message, Mode
from ...common.names import new_job_id
from ...common.signing import Signer
from ..store import JobRow, Store
from .blobs import Seal
from .flights import Document, Flight, Flights, News, payload
from .following import SILENT, Following
from .peers import Peer

log = logging.getLogger("pgha.ledger")

RESEND_S = 5.0
OVERDUE_S = 10.0  # a minion ends its jobs by itself; what it no longer names comes to nothing after that
AWAY_S = 60.0  # and so long after it was heard of last: it may be on its way back with the end of the job
LONGEST_S = 8 * 86400.0  # no job has more time; a deadline beyond that was set by a clock that was wrong
LATE_S = 3.0  # a tick that late: this process stood still, and heard nobody meanwhile


class Exchange(Protocol):
    """What the ledger needs of who holds the connections."""

    def peer(self, name: str) -> Peer | None: ...

    def connected(self, name: str) -> bool: ...

    def send(self, peer: Peer, message: Message) -> None: ...

    def held(self, name: str, what: str) -> str: ...


class Ledger:
    def __init__(
        self, store: Store, seal: Seal, signer: Signer, clock: Clock, exchange: Exchange, flights: Flights
    ) -> None:
        self._store, self._seal, self._signer, self._clock = store, seal, signer, clock
        self._exchange, self._flights = exchange, flights
        self._followings: list[Following] = []
        self._epoch = 0
        self._offset = clock.now() - clock.monotonic()
        self._ticked = self._listening = clock.monotonic()  # since then, without a break

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
            self._flights.add(flight)

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
        left_s = min((row.not_after_ms - self.now_ms()) / 1000, LONGEST_S)
        deadline = self._clock.monotonic() + left_s
        about = {"operation": row.operation, "what": row.what, "blob": kept["blob"]}
        return Flight(row.node, job, row.state, **about, deadline=deadline, sent=True, resend=False)

    # ---- what others ask

    def flights(self, operation: str | None = None) -> list[Flight]:
        """What has not ended, of one operation or of all."""
        return [f for f in self._flights.all() if operation is None or f.operation == operation]

    def resume(self, operation: str) -> list[Flight]:
        """Its open jobs, after a restart of the master; those that have not been accepted go out again."""
        found = self.flights(operation)
        for flight in found:
            flight.resend = True
            self.push(flight)
        return found

    def wanted(self, node: str, sha256: str) -> bytes | None:
        """The document of that digest when an open job of that node is waiting for it."""
        for flight in self._flights.of(node):
            if flight.job.sha256 == sha256:
                return flight.job.document
        return None

    def blobs(self, node: str | None = None) -> set[str]:
        """Digests that open jobs name, of one node or of all."""
        flights = self._flights.all() if node is None else self._flights.of(node)
        return {flight.blob for flight in flights if flight.blob}

    async def order(
        self,
        documents: Mapping[str, Document],
        mode: Mode,
        *,
        what: str,
        operation: str,
        timeout_s: float,
        query: bool = False,
        blob: tuple[str, int] = ("", 0),
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Flight]:
        """Queue a job for each of these minions, in one commit; each is sent as soon as its minion is connected.

        `blob` is the SHA-256 and size of a file that the call may fetch. They are cancelled when they are not `wanted`
        any more once they are stored. Raises Refused while one of them is held; then nothing has been ordered.
        """
        if not documents:
            return []
        for node in documents:
            if why := self._exchange.held(node, what):
                raise Refused(f"{node}: {why}")
        deadline = self._clock.monotonic() + timeout_s
        flights = [
            Flight(
                node,
                self._job(node, mode, document, timeout_s, query),
                operation=operation,
                what=what,
                blob=blob[0],
                deadline=deadline,
            )
            for node, document in documents.items()
        ]
        kept = {document: payload(document, query, blob[0]) for document in set(documents.values())}
        rows = [self._row(flight, kept[documents[flight.node]]) for flight in flights]
        stored = self._store.put_jobs(rows, self._clock.now(), lazy=query)
        if query:
            stored.add_done_callback(lambda done: self._not_kept(flights) if done.exception() else None)
        else:
            try:
                await stored
            except asyncio.CancelledError:  # their rows are stored all the same, and nobody would ever send or end them
                self._withdraw(flights)
                raise
        for flight in flights:
            self._flights.add(flight)
        if wanted():
            for flight in flights:
                self._begin(flight)
        else:
            self._withdraw(flights)
        return flights

    def _withdraw(self, flights: Iterable[Flight]) -> None:
        for flight in flights:
            flight.resend = False  # nor by a tick that comes before this is stored
            self._flights.move(flight, "withdrawn", "cancelled before it was sent")

    def _job(self, node: str, mode: Mode, document: Document, timeout_s: float, query: bool) -> Job:
        return Job(
            jid=new_job_id(),
            att=1,
            minion=node,
            mepoch=self._epoch,
            cls="call" if mode == "call" else "state",
            mode=mode,
            query=query,
            not_after_ms=self.now_ms() + int(timeout_s * 1000),
            ttl_ms=int(timeout_s * 1000),
            sha256=document.sha256,
            size=len(document.text),
            document=document.text,
        )

    def _row(self, flight: Flight, kept: bytes) -> JobRow:
        job = flight.job
        sealed = self._seal.seal(kept, job.jid.encode())
        about = (flight.operation, job.mode, job.cls, flight.what, "queued", job.not_after_ms)
        return JobRow(job.jid, job.att, flight.node, *about, sealed)

    def _not_kept(self, flights: Iterable[Flight]) -> None:
        """The store did not take them, so their answers would be nobody's."""
        for flight in flights:
            self._flights.remove(flight)
            flight.state, flight.message = "cancelled", "the store of the master does not take the write"
            flight.tell("cancelled")

    def _begin(self, flight: Flight) -> None:
        if flight.job.query:
            self.push(flight)
            return
        reach("ledger.job.before_send")
        self.push(flight)
        reach("ledger.job.after_send")

    async def follow(self, flights: Sequence[Flight], silence_s: float = 60.0) -> AsyncIterator[tuple[Flight, News]]:
        """What arrives of any of them, until each has ended or its minion has been silent for that long ("silent").

        A job that never left this host is withdrawn: what was given up here must not begin later there.
        """
        following = Following(flights, self._clock.monotonic(), silence_s)
        self._followings.append(following)
        try:
            while not following.over:
                yield await following.next()
        finally:
            self._followings.remove(following)
            following.close()

    def _lost_patience(self, following: Following, flight: Flight, now: float) -> bool:
        """Whether who follows it has waited long enough. While this end is behind with listening, nobody is silent."""
        peer = self._exchange.peer(flight.node)
        heard = max(peer.last_heard if peer else 0.0, following.since, self._listening)
        return now - heard > following.patience_s

    async def cancel(self, flight: Flight) -> None:
        """End it: here when it never left this host, else where it runs."""
        flight.cancelled = True
        if flight.state == "queued" and not flight.sent:
            await self._flights.move(flight, "withdrawn", "cancelled before it was sent")
        else:
            self.push(flight)

    async def forget(self, node: str) -> None:
        """Its key is revoked: nothing more is sent to it or heard of it."""
        for flight in self._flights.of(node):
            word = "withdrawn" if flight.state == "queued" and not flight.sent else "overdue"
            await self._flights.move(flight, word, "its key is revoked")

    # ---- time

    async def tick(self) -> None:
        """Once a second: send again, and end what is overdue. What the store does not take now, it is asked again."""
        now = self._clock.monotonic()
        if now - self._ticked > LATE_S:
            self._listening = now
        self._ticked = now
        for following in list(self._followings):
            for flight in following.waiting():
                if self._lost_patience(following, flight, now):
                    await self._guarded(self._give_up(following, flight))
        for flight in self._flights.all():
            if self._named(flight):
                flight.named = now
            if self._overdue(flight, now):
                word = "overdue" if flight.sent else "deadline"
                await self._guarded(self._flights.move(flight, word, "its deadline has passed"))
            elif now >= flight.next_send:
                self.push(flight)

    async def _guarded(self, work: Awaitable[object]) -> None:
        """What becomes of one job holds up no other."""
        try:
            await work
        except PghaError as error:
            log.error("jobs cannot be written down now: %s", error)

    async def _give_up(self, following: Following, flight: Flight) -> None:
        try:
            if not flight.sent:
                text = "its minion is not connected; nothing was sent"
                await self._flights.move(flight, "withdrawn", text)
        finally:
            following.tell(flight, SILENT)

    def _named(self, flight: Flight) -> bool:
        peer = self._exchange.peer(flight.node)
        running = peer.running if peer is not None and self._exchange.connected(flight.node) else ()
        return any((job.jid, job.att) == flight.key for job in running)

    def _overdue(self, flight: Flight, now: float) -> bool:
        """Rule 3. What was never sent, or may be asked again, has nothing to wait for."""
        if flight.state == "queued" and (not flight.sent or flight.job.query):
            return now > flight.deadline
        peer = self._exchange.peer(flight.node)
        if peer is None or not self._exchange.connected(flight.node):
            heard = peer.last_heard if peer is not None else flight.deadline
            return now > max(flight.deadline, self._listening, heard) + AWAY_S
        if not peer.beat or peer.caught_up_at is not None or peer.spool or peer.storing:
            return False  # what became of it may be on its way
        return now > max(flight.deadline, flight.named) + OVERDUE_S

    def push(self, flight: Flight) -> None:
        flight.next_send = self._clock.monotonic() + RESEND_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        peer = self._exchange.peer(flight.node)
        if peer is None or not self._exchange.connected(flight.node):
            return
        if flight.cancelled:
            self._exchange.send(peer, Cancel(jid=flight.job.jid, att=flight.job.att))
        elif flight.state == "queued" and flight.resend and not self._exchange.held(flight.node, flight.what):
            flight.sent = True
            job, left_ms = flight.job, max(0, flight.job.not_after_ms - self.now_ms())
            inline = job.document if job.size <= INLINE_BYTES or peer.version < 2 else b""
            try:
                self._exchange.send(peer, self._signer.job_now(job, peer.session, left_ms, inline))
            except BusError as error:  # it will never fit
                self._flights.move(flight, "refuse", str(error))


def _mode(text: str) -> Mode:
    modes: tuple[Mode, ...] = ("plan", "apply", "call")
    return next(mode for mode in modes if mode == text)


def _class(text: str) -> JobClass:
    return "call" if text == "call" else "state"
