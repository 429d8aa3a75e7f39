"""Jobs, the events of each minion's stream, and how far each stream is stored.

A job's state changes here and nowhere else, by `jobs.step`, in the transaction that stores why. An event belongs to the
minion whose stream it came in: it can touch that minion's jobs only. Of a job that this store does not know (it was
ordered after the backup that this store comes from) a row is made, so that what happened is not lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ...common.sqlite import Connection
from .. import jobs
from .writer import Writer

EPOCHS = 16  # of one node that are remembered: it has a new one when it was set up anew
STRAYS, OPEN_STRAYS = 1000, 200  # unknown jobs of one node that are taken down, and of which no end is known


@dataclass(frozen=True, slots=True)
class JobRow:
    jid: str
    att: int
    node: str
    operation: str
    mode: str
    cls: str
    what: str
    state: str
    not_after_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class EventRow:
    """`word` is what it means to the table of states; "" for an event that is acknowledged and not kept."""

    seq: int
    jid: str
    att: int
    kind: str
    body: str
    word: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Events of one stream that came together."""

    node: str
    epoch: str
    events: Sequence[EventRow]


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a piece of a stream: its high water, and the job's state after each event that was new."""

    hw: int
    states: dict[int, str]


_PUT = """insert into jobs (jid, att, node, operation, mode, cls, what, state, created, not_after_ms, payload)
values (?,?,?,?,?,?,?,'queued',?,?,?)"""
_OPEN = """select jid, att, node, operation, mode, cls, what, state, not_after_ms, payload from jobs
where state in ('queued','accepted','started') order by jid"""

_STRAYS = """select count(*), coalesce(sum(state in ('queued','accepted','started')), 0)
from jobs where operation='' and node=?"""
_FORGET_EPOCHS = """delete from streams where node=? and rowid not in
(select rowid from streams where node=? order by rowid desc limit ?)"""


class Jobs(Writer):
    def put_job(self, row: JobRow, created: float, *, lazy: bool = False) -> asyncio.Future[object]:
        """Queued, once the future is done; `lazy` as of `submit`."""
        values = (row.jid, row.att, row.node, row.operation, row.mode, row.cls, row.what, created, row.not_after_ms)
        return self.submit(lambda db: db.execute(_PUT, (*values, row.payload)), lazy=lazy)

    async def open_jobs(self) -> list[JobRow]:
        """All that has not ended, the oldest first."""
        return await self.read(lambda db: [JobRow(*row) for row in db.execute(_OPEN)])

    def move_job(self, jid: str, att: int, node: str, word: str, message: str, at: float) -> asyncio.Future[str]:
        """Something happened to a job that no event tells of. Its state afterwards."""
        return self.submit(lambda db: _move(db, jid, att, node, word, message, "", at))

    async def jobs(self, operation: str) -> list[tuple[str, str, str, str]]:
        """(node, state, message, outcome as JSON or "") of an operation's jobs, the oldest first."""
        return await self.read(
            lambda db: db.execute(
                "select node, state, message, outcome from jobs where operation=? order by jid", (operation,)
            ).fetchall()
        )

    def answer(
        self, jid: str, att: int, node: str, out: Sequence[str], outcome: str, word: str, at: float
    ) -> asyncio.Future[str]:
        """The answer to a query: its output and its end, at once. The job's state afterwards."""

        def work(db: Connection) -> str:
            state = _state(db, jid, att, node)
            if state is None or state not in jobs.MOVABLE:
                return state or ""
            rows = [(node, jid, n, jid, "out", text, at) for n, text in enumerate(out, 1)]
            db.executemany("insert or ignore into events values (?,?,?,?,?,?,?)", rows)
            return _move(db, jid, att, node, word, "", outcome, at)

        return self.submit(work)

    # ---- streams

    async def begin_stream(self, node: str, epoch: str) -> int:
        """How far that stream is stored."""
        return await self.read(lambda db: _high_water(db, node, epoch))

    def add_events(self, node: str, epoch: str, events: Sequence[EventRow], at: float) -> asyncio.Future[Stored]:
        """Store those that are next; what was stored before, or comes after a gap, changes nothing."""
        return self.submit(lambda db: _add_events(db, Piece(node, epoch, events), at))

    def add_pieces(self, pieces: Sequence[Piece], at: float) -> asyncio.Future[list[Stored]]:
        """As `add_events` for each of them, in one go."""
        return self.submit(lambda db: [_add_events(db, piece, at) for piece in pieces])

    def lose_events(self, node: str, epoch: str, first: int, last: int, at: float) -> asyncio.Future[int]:
        """A gap that the minion cannot fill any more: noted as such, and passed over. The high water afterwards."""

        def work(db: Connection) -> int:
            high = _high_water(db, node, epoch)
            if first != high + 1 or last < first:
                return high
            body = f'{{"first":{first},"last":{last}}}'
            db.execute("insert into events values (?,?,?,?,?,?,?)", (node, epoch, last, "", "lost", body, at))
            db.execute("insert or replace into streams values (?,?,?)", (node, epoch, last))
            return last

        return self.submit(work)


def _add_events(db: Connection, piece: Piece, at: float) -> Stored:
    node, epoch = piece.node, piece.epoch
    before = high = _high_water(db, node, epoch)
    states: dict[int, str] = {}
    for event in piece.events:
        if event.seq == high + 1:
            high = event.seq
            states[event.seq] = _take(db, node, epoch, event, at)
    if high > before:
        db.execute("insert or replace into streams values (?,?,?)", (node, epoch, high))
        if not before:
            db.execute(_FORGET_EPOCHS, (node, node, EPOCHS))
    return Stored(high, states)


def _high_water(db: Connection, node: str, epoch: str) -> int:
    row = db.execute("select hw from streams where node=? and epoch=?", (node, epoch)).fetchone()
    return int(row[0]) if row else 0


def _state(db: Connection, jid: str, att: int, node: str) -> str | None:
    row = db.execute("select state from jobs where jid=? and att=? and node=?", (jid, att, node)).fetchone()
    return str(row[0]) if row else None


def _take(db: Connection, node: str, epoch: str, event: EventRow, at: float) -> str:
    """Store one event and what it does to its job, whose state afterwards is given."""
    state = _state(db, event.jid, event.att, node)
    if not event.word:
        return state or ""
    if state is None:
        state = _stray(db, node, event, at)
    if state not in jobs.MOVABLE:
        return state
    row = (node, epoch, event.seq, event.jid, event.kind, event.body, at)
    db.execute("insert or ignore into events values (?,?,?,?,?,?,?)", row)
    if event.kind == "out" or event.kind == "res":
        return state
    outcome = event.body if event.kind == "done" else ""
    return _move(db, event.jid, event.att, node, event.word, "", outcome, at)


def _stray(db: Connection, node: str, event: EventRow, at: float) -> str:
    strays, opened = db.execute(_STRAYS, (node,)).fetchone()
    known = db.execute("select 1 from jobs where jid=? and att=?", (event.jid, event.att)).fetchone()
    if known or strays >= STRAYS or opened >= OPEN_STRAYS:
        return ""  # another minion's job, or too many: no row is touched
    row = (event.jid, event.att, node, "", "call", "call", "ordered before this store was restored", at, 0, b"")
    db.execute(_PUT, row)
    return "queued"


def _move(db: Connection, jid: str, att: int, node: str, word: str, message: str, outcome: str, at: float) -> str:
    before = _state(db, jid, att, node)
    if before is None:
        return ""
    after = jobs.step(before, word)
    if after == before:
        return before
    ended = at if after in jobs.ENDED else None
    db.execute(
        "update jobs set state=?, message=?, outcome=?, ended=?,"
        " accepted=case when ?='accepted' then ? else accepted end,"
        " started=case when ?='started' then ? else started end,"
        " payload=case when ? is null then payload else x'' end where jid=? and att=?",
        (after, message, outcome, ended, after, at, after, at, ended, jid, att),
    )
    return after
