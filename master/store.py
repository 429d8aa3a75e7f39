"""What a master must not forget, in SQLite: minions, jobs, events, rollouts. The only SQL of the master.

Rules:
1. One thread writes; what has queued up while it was busy goes into one transaction (group commit, FULL).
   A `write` returns only after the commit.
2. An event is stored iff it is the next of its minion's epoch, together with the state it leads to.
3. Documents are sealed by the vault before they come here; nothing in this file is a secret in clear.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..common.errors import HostError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

_SCHEMA = """
create table if not exists minions (
    name text not null, public_key text not null primary key, state text not null, address text not null default '',
    machine_id text not null default '', note text not null default '', since real not null, seen real not null,
    facts text not null default '');
create unique index if not exists minions_accepted on minions (name) where state = 'accepted';
create table if not exists tokens (
    id text primary key, secret text not null, name text not null, expires real not null);
create table if not exists streams (node text not null, epoch text not null, hw integer not null,
    primary key (node, epoch));
create table if not exists jobs (
    jid text not null, att integer not null, node text not null, operation text not null, mode text not null,
    what text not null, state text not null, created real not null, ended real, not_after_ms integer not null,
    message text not null default '', outcome text not null default '', primary key (jid, att));
create table if not exists events (
    node text not null, epoch text not null, seq integer not null, jid text not null, kind text not null,
    body text not null, at real not null, primary key (node, epoch, seq));
create table if not exists operations (
    id text primary key, what text not null, who text not null, cluster text not null, state text not null,
    started real not null, ended real, exit integer, message text not null default '');
create table if not exists lines (operation text not null, n integer not null, line text not null,
    primary key (operation, n));
create table if not exists notes (cluster text not null, key text not null, value text not null,
    primary key (cluster, key));
create table if not exists meta (key text primary key, value text not null);
"""


@dataclass(frozen=True, slots=True)
class MinionRow:
    name: str
    public_key: str
    state: str
    address: str
    machine_id: str
    note: str
    since: float
    seen: float
    facts: str


_MINIONS = """
select name, public_key, state, address, machine_id, note, since, seen, facts from minions order by name, since"""
_PUT_MINION = """
insert or replace into minions (name, public_key, state, address, machine_id, note, since, seen, facts)
values (?,?,?,?,?,?,?,?,?)"""


class Store:
    def __init__(self, path: Path) -> None:
        """Open or create. Raises HostError with what to do."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._queue: queue.SimpleQueue[tuple[Work, asyncio.Future[Any], asyncio.AbstractEventLoop] | None] = (
            queue.SimpleQueue()
        )
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise HostError(f"cannot use the store {path}: {error}; is the disk full or the file damaged?") from None
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(10)
        self._db.close()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction of the writer; its value after the commit, or what it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((work, future, loop))
        return await future

    read = write  # one connection, one thread: a read sees every write before it

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            while not self._queue.empty() and len(batch) < 200:
                more = self._queue.get()
                if more is None:
                    self._queue.put(None)
                    break
                batch.append(more)
            self._commit(batch)

    def _commit(self, batch: list[tuple[Work, asyncio.Future[Any], asyncio.AbstractEventLoop]]) -> None:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            self._db.execute("begin immediate")
            for work, _, _ in batch:
                outcomes.append(self._one(work))
            self._db.execute("commit")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            outcomes = [(None, HostError(f"the store does not take the write: {error}"))] * len(batch)
        for (_, future, loop), (value, failure) in zip(batch, outcomes, strict=True):
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future, value, failure)

    def _one(self, work: Work) -> tuple[Any, Exception | None]:
        """A savepoint each, so that one failure costs nobody else's write."""
        self._db.execute("savepoint one")
        try:
            value = work(self._db)
        except Exception as error:  # noqa: BLE001 - handed to the one who asked
            self._db.execute("rollback to one")
            self._db.execute("release one")
            return None, error
        self._db.execute("release one")
        return value, None

    # ---- minions and tokens

    async def minions(self) -> list[MinionRow]:
        return await self.read(lambda db: [MinionRow(*row) for row in db.execute(_MINIONS)])

    async def put_minion(self, row: MinionRow) -> None:
        values = (row.name, row.public_key, row.state, row.address, row.machine_id, row.note, row.since, row.seen)
        await self.write(lambda db: db.execute(_PUT_MINION, (*values, row.facts)))

    async def delete_minion(self, public_key: str) -> None:
        await self.write(lambda db: db.execute("delete from minions where public_key=?", (public_key,)))

    async def seen(self, name: str, address: str, at: float, facts: str | None = None) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.execute("update minions set seen=?, address=? where name=? and state='accepted'", (at, address, name))
            if facts is not None:
                db.execute("update minions set facts=? where name=? and state='accepted'", (facts, name))

        await self.write(work)

    async def put_token(self, token_id: str, secret: str, name: str, expires: float) -> None:
        await self.write(
            lambda db: db.execute("insert into tokens values (?,?,?,?)", (token_id, secret, name, expires))
        )

    async def token(self, token_id: str) -> tuple[str, str, float] | None:
        """(secret, name it is bound to or "", expiry as Unix time); None when there is none."""
        return await self.read(
            lambda db: db.execute("select secret, name, expires from tokens where id=?", (token_id,)).fetchone()
        )

    async def spend_token(self, token_id: str) -> bool:
        """True for the one who gets to use it."""
        return await self.write(lambda db: db.execute("delete from tokens where id=?", (token_id,)).rowcount == 1)

    # ---- jobs and events

    async def put_job(
        self, jid: str, att: int, node: str, operation: str, mode: str, what: str, created: float, not_after_ms: int
    ) -> None:
        values = (jid, att, node, operation, mode, what, "queued", created, not_after_ms)
        await self.write(
            lambda db: db.execute(
                "insert into jobs (jid, att, node, operation, mode, what, state, created, not_after_ms)"
                " values (?,?,?,?,?,?,?,?,?)",
                values,
            )
        )

    async def job_state(self, jid: str, att: int, state: str, message: str = "", ended: float | None = None) -> None:
        """Changes nothing when the job has ended: an end is final, whatever was on its way at the same time."""
        await self.write(
            lambda db: db.execute(
                "update jobs set state=?, message=?, ended=coalesce(?, ended) where jid=? and att=?"
                " and state in ('queued','accepted','started')",
                (state, message, ended, jid, att),
            )
        )

    async def jobs(self, operation: str) -> list[tuple[str, str, str, str]]:
        """(node, state, message, outcome as JSON or "") of an operation's jobs, the oldest first."""
        return await self.read(
            lambda db: db.execute(
                "select node, state, message, outcome from jobs where operation=? order by jid", (operation,)
            ).fetchall()
        )

    async def settle_overdue(self, now: float) -> None:
        """Jobs that nobody waits for any more, since the master was restarted, end with their deadline."""
        await self.write(
            lambda db: db.execute(
                "update jobs set state=case state when 'queued' then 'expired' else 'unknown' end, ended=?,"
                " message='its deadline has passed'"
                " where state in ('queued','accepted','started') and not_after_ms < ?",
                (now, int(now * 1000)),
            )
        )

    async def begin_stream(self, node: str, epoch: str, after: int) -> int:
        """The high water of that stream, raised to `after` if it was lower: older events can never be had again."""

        def work(db: sqlite3.Connection) -> int:
            high = max(_high_water(db, node, epoch), after)
            db.execute("insert or replace into streams values (?,?,?)", (node, epoch, high))
            return high

        return await self.write(work)

    async def high_water(self, node: str, epoch: str) -> int:
        return await self.read(lambda db: _high_water(db, node, epoch))

    async def add_event(
        self, node: str, epoch: str, seq: int, jid: str, kind: str, body: str, at: float, state: tuple[str, str] | None
    ) -> int:
        """Store the event iff it is the next one; the stream's high water afterwards, either way.

        `state` is the job's new (state, outcome) that becomes true with it.
        """

        def work(db: sqlite3.Connection) -> int:
            high = _high_water(db, node, epoch)
            if seq != high + 1:
                return high
            db.execute("insert into events values (?,?,?,?,?,?,?)", (node, epoch, seq, jid, kind, body, at))
            db.execute("insert or replace into streams values (?,?,?)", (node, epoch, seq))
            if state is not None:
                ended = at if state[0] != "started" else None
                db.execute(
                    "update jobs set state=?, outcome=?, ended=? where jid=? and node=?"
                    " and state in ('queued','accepted','started')",
                    (state[0], state[1], ended, jid, node),
                )
            return seq

        return await self.write(work)

    # ---- operations: what a person asked for, and the lines they saw

    async def put_operation(self, operation: str, what: str, who: str, cluster: str, started: float) -> None:
        await self.write(
            lambda db: db.execute(
                "insert into operations (id, what, who, cluster, state, started) values (?,?,?,?,'running',?)",
                (operation, what, who, cluster, started),
            )
        )

    async def end_operation(self, operation: str, state: str, exit_code: int, message: str, ended: float) -> None:
        await self.write(
            lambda db: db.execute(
                "update operations set state=?, exit=?, message=?, ended=? where id=?",
                (state, exit_code, message, ended, operation),
            )
        )

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None:
        await self.write(
            lambda db: db.executemany(
                "insert into lines values (?,?,?)", [(operation, first + i, line) for i, line in enumerate(lines)]
            )
        )

    async def lines(self, operation: str) -> list[str]:
        return await self.read(
            lambda db: [
                row[0] for row in db.execute("select line from lines where operation=? order by n", (operation,))
            ]
        )

    async def operations(self, limit: int) -> list[dict[str, Any]]:
        """Newest first: id, what, who, cluster, state, started, ended, exit, message, nodes."""
        names = ("id", "what", "who", "cluster", "state", "started", "ended", "exit", "message", "nodes")
        query = (
            "select o.id, what, who, cluster, state, started, ended, exit, message,"
            " (select count(distinct node) from jobs j where j.operation = o.id)"
            " from operations o order by started desc limit ?"
        )
        return await self.read(lambda db: [dict(zip(names, row, strict=True)) for row in db.execute(query, (limit,))])

    async def close_interrupted(self, at: float) -> None:
        """What ran when the master died did not end well; its jobs on the minions may have."""
        await self.write(
            lambda db: db.execute(
                "update operations set state='interrupted', ended=?, exit=1, message='the master was restarted'"
                " where state='running'",
                (at,),
            )
        )

    # ---- notes of a cluster, and the master's own

    async def notes(self, cluster: str) -> dict[str, str]:
        return await self.read(
            lambda db: dict(db.execute("select key, value from notes where cluster=?", (cluster,)).fetchall())
        )

    async def note(self, cluster: str, key: str, value: str | None) -> None:
        """Set, or forget with None."""

        def work(db: sqlite3.Connection) -> None:
            if value is None:
                db.execute("delete from notes where cluster=? and key=?", (cluster, key))
            else:
                db.execute("insert or replace into notes values (?,?,?)", (cluster, key, value))

        await self.write(work)

    async def next_epoch(self) -> int:
        """One more than at the last start: minions obey no master that is behind the newest they have seen."""

        def work(db: sqlite3.Connection) -> int:
            row = db.execute("select value from meta where key='mepoch'").fetchone()
            epoch = int(row[0]) + 1 if row else 1
            db.execute("insert or replace into meta values ('mepoch', ?)", (str(epoch),))
            return epoch

        return await self.write(work)

    async def definitions(self) -> dict[str, str]:
        """The text of each cluster's definition as it was applied last."""
        return await self.read(
            lambda db: dict(db.execute("select cluster, value from notes where key='definition'").fetchall())
        )


def _high_water(db: sqlite3.Connection, node: str, epoch: str) -> int:
    row = db.execute("select hw from streams where node=? and epoch=?", (node, epoch)).fetchone()
    return int(row[0]) if row else 0


def _resolve(future: asyncio.Future[Any], value: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(value)
