"""What minions say of their jobs: taken down first, then acknowledged and told to whoever follows.

Rules:
1. ACK follows the commit. A job's state changes in the store, by `transitions.step`, and is told after that.
2. What a minion says touches its own jobs only.
3. At HELLO a minion tells what is open there. When all that it held then has been stored, what the master still takes
   for open, and the minion does not, is settled: it never came, or nobody can know what became of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from ...common.clock import Clock
from ...common.errors import BusError
from ...common.failpoint import reach
from ...common.messages import Accept, Ack, Answer, Event, Hello, Lost, Message, Refuse, Resync
from ...common.results import Outcome
from ..store import AnswerRow, EventRow, Piece, Store, Stored, transitions
from .flights import Flight, Flights, News, Output, read_event, read_json
from .peers import Peer

log = logging.getLogger("pgha.intake")

OUTPUT_BYTES = 40 * 1024 * 1024  # of one job; more than its minion lets through
ROW_BYTES, WAITING_BYTES = 100, 512  # that an event takes beside its body: in the store, and in memory before
STRAY_BYTES = 64 * 1024 * 1024  # of one minion, in jobs that this master has not ordered
NEVER_CAME = "its time was over before it reached its minion"
NOT_KNOWN = "its minion no longer knows this job: it was set up anew, or lost its journal, while the job was open"
NOBODY_WAITS = "the master was restarted before its minion took it"


class Exchange(Protocol):
    """What is needed of who holds the connections."""

    def send(self, peer: Peer, message: Message) -> None: ...

    def offend(self, peer: Peer, why: str) -> None: ...

    def charge(self, peer: Peer, cost: float) -> bool: ...


class _Reply(NamedTuple):
    flight: Flight
    row: AnswerRow
    out: Sequence[tuple[str, str]]
    outcome: Outcome


class _Arrival(NamedTuple):
    peer: Peer
    events: Sequence[Event]
    piece: Piece
    told: dict[int, News]
    size: int  # bytes that it takes while it waits for the commit


class Intake:
    def __init__(
        self,
        store: Store,
        clock: Clock,
        flights: Flights,
        exchange: Exchange,
        push: Callable[[Flight], None],
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`push` sends a job again; `took(seconds)` is told how long a piece of a stream waited for its commit."""
        self._store, self._clock, self._flights = store, clock, flights
        self._exchange, self._push, self._took = exchange, push, took

    def hello(self, peer: Peer, hello: Hello) -> None:
        """The minion is back. `peer.caught_up_at` says when what it does not know is settled."""
        peer.open = frozenset((job.jid, job.att) for job in hello.open)
        peer.caught_up_at = hello.spool_hi

    def greeted(self, peer: Peer, high: int) -> None:
        """It was told WELCOME, with that high water."""
        for flight in self._flights.of(peer.name):
            self._push(flight)
        self._settle(peer, high)

    def accepted(self, peer: Peer, message: Accept) -> None:
        self._knows(peer, message.jid, message.att)
        self._answered(peer, message.jid, message.att, "accept", "")

    def _knows(self, peer: Peer, jid: str, att: int) -> None:
        """It has spoken of that job since its HELLO, so the job is not forgotten there."""
        if peer.caught_up_at is not None and self._flights.get(jid, att, peer.name) is not None:
            peer.open |= {(jid, att)}

    def refused(self, peer: Peer, message: Refuse) -> None:
        self._answered(peer, message.jid, message.att, "refuse", f"{message.why} {message.detail}".strip())

    def _answered(self, peer: Peer, jid: str, att: int, word: str, text: str) -> None:
        if (flight := self._flights.get(jid, att, peer.name)) is not None:
            self._flights.move(flight, word, text)

    def answers(self, heard: Sequence[tuple[Peer, Answer]]) -> None:
        """Answers to queries that came together are stored together, and told then."""
        replies = [one for peer, message in heard if (one := self._reply(peer, message)) is not None]
        if replies:
            future = self._store.answers([one.row for one in replies], self._clock.now())
            future.add_done_callback(partial(self._kept_answers, replies))

    def _reply(self, peer: Peer, message: Answer) -> _Reply | None:
        flight = self._flights.get(message.jid, message.att, peer.name)
        if flight is None or not flight.job.query or flight.answered:
            return None
        try:
            text = message.outcome.decode()
            outcome = Outcome.model_validate(read_json(text))
            lines = [json.dumps({"stream": stream, "text": said}) for stream, said in message.out]
        except Exception as error:  # noqa: BLE001 - whatever a message breaks, it is its sender's offence
            self._exchange.offend(peer, f"an ANSWER that cannot be read: {type(error).__name__}")
            return None
        flight.answered = True
        row = AnswerRow(*flight.key, flight.node, lines, text, "done" if outcome.ok else "failed")
        return _Reply(flight, row, message.out, outcome)

    def _kept_answers(self, replies: Sequence[_Reply], future: asyncio.Future[list[str]]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            log.warning("answers are not stored, and asked again: %s", error)
            for one in replies:
                one.flight.answered = False
            return
        for one, after in zip(replies, future.result(), strict=True):
            flight = one.flight
            if after in transitions.ENDED and self._flights.get(*flight.key, flight.node) is flight:
                flight.state = after
                self._flights.settled(flight)
                for stream, said in one.out:
                    flight.tell(Output(stream, said))
                flight.tell(one.outcome)

    def streams(self, heard: Sequence[tuple[Peer, Sequence[Event]]]) -> None:
        """Pieces of streams that came together are stored together; then each is acknowledged and told."""
        arrivals = [one for peer, events in heard if events and (one := self._arrival(peer, events)) is not None]
        if arrivals:
            future = self._store.add_pieces([one.piece for one in arrivals], self._clock.now())
            future.add_done_callback(partial(self._kept, arrivals, self._clock.monotonic()))

    def _arrival(self, peer: Peer, events: Sequence[Event]) -> _Arrival | None:
        told: dict[int, News] = {}
        try:
            rows = [self._row(peer, event, told) for event in events]
        except Exception as error:  # whatever a message breaks, it is its sender's offence, and nobody else's
            log.exception("events of %s cannot be read", peer.name)
            self._exchange.offend(peer, f"events that break their reader: {type(error).__name__}")
            return None
        size = sum(WAITING_BYTES + len(event.body) for event in events)
        peer.storing += size
        return _Arrival(peer, events, Piece(peer.name, events[0].epoch, rows), told, size)

    def _kept(self, arrivals: Sequence[_Arrival], since: float, future: asyncio.Future[list[Stored]]) -> None:
        """A callback and no task: tasks that wait for two commits may wake in another order than these ended in."""
        for one in arrivals:
            one.peer.storing -= one.size
        self._took(self._clock.monotonic() - since)
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            log.warning("not stored, so not acknowledged: %s", error)
            return
        for one, stored in zip(arrivals, future.result(), strict=True):
            self._acknowledge(one, stored)

    def _acknowledge(self, one: _Arrival, stored: Stored) -> None:
        peer, epoch = one.peer, one.piece.epoch
        if in_vain := len(one.events) - len(stored.states):
            self._exchange.charge(peer, in_vain)
        reach("ledger.ack.before_send")
        if stored.hw < one.events[0].seq - 1:
            self._exchange.send(peer, Resync(epoch=epoch, from_seq=stored.hw + 1))
            return
        self._exchange.send(peer, Ack(epoch=epoch, seq=stored.hw))
        reach("ledger.ack.after_send")
        self._tell(peer, one.events, stored, one.told)
        self._settle(peer, stored.hw)

    def _row(self, peer: Peer, event: Event, told: dict[int, News]) -> EventRow:
        """As it is stored; what it says goes into `told`.

        An event that cannot be read is acknowledged, or its minion would send it for ever.
        """
        if peer.caught_up_at is not None and event.seq > peer.caught_up_at:
            self._knows(peer, event.jid, event.att)
        flight = self._flights.get(event.jid, event.att, peer.name)
        keep = self._room(peer, flight, event)
        try:
            text, news = read_event(event)
            word = transitions.arrived(event.kind, event.body)
        except (BusError, ValueError) as error:
            self._exchange.offend(peer, str(error))
            text, news, keep, word = "", "", False, ""
        told[event.seq] = news
        return EventRow(event.seq, event.jid, event.att, event.kind, text, word if keep else "")

    def _room(self, peer: Peer, flight: Flight | None, event: Event) -> bool:
        """Whether it is kept. Of a job that has said too much already, only what changes its state is."""
        size = ROW_BYTES + len(event.body)
        if flight is None:
            peer.stray_bytes += size
            return peer.stray_bytes < STRAY_BYTES
        if event.kind == "done" or transitions.step(flight.state, event.kind) != flight.state:
            return True
        flight.output_bytes += size
        return flight.output_bytes < OUTPUT_BYTES

    def _tell(self, peer: Peer, events: Iterable[Event], stored: Stored, told: dict[int, News]) -> None:
        for event in events:
            flight = self._flights.get(event.jid, event.att, peer.name)
            after = stored.states.get(event.seq)
            if flight is None or after is None:
                continue
            news, before = told[event.seq], flight.state
            flight.state = after or before
            if not isinstance(news, str):
                flight.tell(news)
            elif flight.state != before:
                flight.message = news
                flight.tell(flight.state)
            self._flights.settled(flight)

    def lost(self, peer: Peer, message: Lost) -> None:
        log.warning("%s has lost its events %d to %d", peer.name, message.first_seq, message.last_seq)
        now, last = self._clock.now(), message.last_seq
        future = self._store.lose_events(peer.name, message.epoch, message.first_seq, last, now)

        async def keep() -> None:
            high = await future
            self._exchange.send(peer, Ack(epoch=message.epoch, seq=high))
            self._settle(peer, high)

        self._flights.spawn(keep())

    def _settle(self, peer: Peer, high: int) -> None:
        """Rule 3."""
        if peer.caught_up_at is None or high < peer.caught_up_at:
            return
        peer.caught_up_at = None
        for flight in self._flights.of(peer.name):
            if flight.key in peer.open or flight.job.query:
                continue
            if flight.state != "queued":
                self._flights.move(flight, "absent", NOT_KNOWN)
            elif not flight.resend and not flight.cancelled:
                self._flights.move(flight, "withdrawn", NOBODY_WAITS)
            elif self._clock.monotonic() > flight.deadline:
                self._flights.move(flight, "absent", NEVER_CAME)
