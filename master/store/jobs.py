"""Jobs, the events of each minion's stream, and how far each stream is stored.

A job's state changes here and nowhere else, by `transitions.step`, in the transaction that stores why. An event belongs
to the minion whose stream it came in: it can touch that minion's jobs only. Of a job that this store does not know (it
was ordered after the backup that this store comes from) a row is made, so that what happened is not lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ...common.sqlite import Connection
from . import transitions
from .writer import Writer

EPOCHS = 16  # of one node that are remembered: it has a new one when it was set up anew
STRAYS, OPEN_STRAYS = 1000, 200  # unknown jobs of one node that are taken down, and of which no end is known


class JobRow(NamedTuple):
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


class EventRow(NamedTuple):
    """`word` is what it means to the table of states; "" for an event that is acknowledged and not kept."""

    seq: int
    jid: str
    att: int
    kind: str
    body: str
    word: str


class AnswerRow(NamedTuple):
    """`out` are pieces of output and `outcome` the end, all as JSON; `word` is what it means to the table of states."""

    jid: str
    att: int
    node: str
    out: Sequence[str]
    outcome: str
    word: str


class Piece(NamedTuple):
    """Events of one stream that came together."""

    node: str
    epoch: str
    events: Sequence[EventRow]


class Stored(NamedTuple):
    """What became of a piece of a stream: its high water, and the job's state after each event that was new."""

    hw: int
    states: dict[int, str]


_PUT = """insert into jobs (jid, att, node, operation, mode, cls, what, state, created, not_after_ms, payload)
values (?,?,?,?,?,?,?,'queued',?,?,?)"""
_OPEN = """select jid, att, node, operation, mode, cls, what, state, not_after_ms, payload from jobs
where state in ('queued','accepted','started') order by jid"""

_STEP = """update jobs set state=?, message=?, outcome=?, ended=?,
accepted=case when ?='accepted' then ? else accepted end, started=case when ?='started' then ? else started end,
payload=case when ? is null then payload else x'' end where jid=? and att=?"""
_STRAYS = """select count(*), coalesce(sum(state in ('queued','accepted','started')), 0)
from jobs where operation='' and node=?"""
_FORGET_EPOCHS = """delete from streams where node=? and rowid not in
(select rowid from streams where node=? order by rowid desc limit ?)"""


class Jobs(Writer):
    def put_jobs(self, rows: Sequence[JobRow], created: float, *, lazy: bool = False) -> asyncio.Future[object]:
        """Queued, all of them or none, once the future is done; `lazy` as of `submit`."""
        values = [
            (
                row.jid,
                row.att,
                row.node,
                row.operation,
                row.mode,
                row.cls,
                row.what,
                created,
                row.not_after_ms,
                row.payload,
            )
            for row in rows
        ]
        return self.submit(lambda db: db.executemany(_PUT, values), lazy=lazy)

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

    def answers(self, rows: Sequence[AnswerRow], at: float) -> asyncio.Future[list[str]]:
        """Answers to queries: of each its output and its end, at once. The jobs' states afterwards."""
        return self.submit(lambda db: [_answer(db, row, at) for row in rows])

    # ---- streams

    async def begin_stream(self, node: str, epoch: str) -> int:
        """How far that stream is stored."""
        return await self.read(lambda db: _high_water(db, node, epoch))

    def add_pieces(self, pieces: Sequence[Piece], at: float) -> asyncio.Future[list[Stored]]:
        """Store of each the events that are next; what was stored before, or comes after a gap, changes nothing."""
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


def _answer(db: Connection, row: AnswerRow, at: float) -> str:
    state = _state(db, row.jid, row.att, row.node)
    if state not in transitions.MOVABLE:
        return state or ""
    if row.out:
        out = [(row.node, row.jid, n, row.jid, "out", text, at) for n, text in enumerate(row.out, 1)]
        db.executemany("insert or ignore into events values (?,?,?,?,?,?,?)", out)
    return _step(db, row.jid, row.att, state, row.word, "", row.outcome, at)


def _add_events(db: Connection, piece: Piece, at: float) -> Stored:
    node, epoch = piece.node, piece.epoch
    before = high = _high_water(db, node, epoch)
    states: dict[int, str] = {}
    rows: list[tuple[object, ...]] = []
    known: dict[tuple[str, int], str] = {}  # job -> state, while its events are gone through
    for event in piece.events:
        if event.seq != high + 1:
            continue
        high, job = event.seq, (event.jid, event.att)
        if job not in known:
            known[job] = _state(db, *job, node) or ""
        if event.word:
            known[job] = known[job] or _stray(db, node, event, at)
            if known[job] in transitions.MOVABLE:
                rows.append((node, epoch, event.seq, event.jid, event.kind, event.body, at))
                known[job] = _effect(db, event, known[job], at)
        states[event.seq] = known[job]
    if high > before:
        db.executemany("insert or ignore into events values (?,?,?,?,?,?,?)", rows)
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


def _effect(db: Connection, event: EventRow, state: str, at: float) -> str:
    """What an event does to its job, which is in that state; the state afterwards."""
    if event.kind == "out" or event.kind == "res":
        return state
    outcome = event.body if event.kind == "done" else ""
    return _step(db, event.jid, event.att, state, event.word, "", outcome, at)


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
    return "" if before is None else _step(db, jid, att, before, word, message, outcome, at)


def _step(db: Connection, jid: str, att: int, before: str, word: str, message: str, outcome: str, at: float) -> str:
    after = transitions.step(before, word)
    if after == before:
        return before
    ended = at if after in transitions.ENDED else None
    db.execute(_STEP, (after, message, outcome, ended, after, at, after, at, ended, jid, att))
    return after
