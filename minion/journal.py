"""What a minion must not forget: jobs it has seen, events not yet acknowledged, refreshes it owes. SQLite, FULL.

Rules:
1. (jid, att) is inserted before ACCEPT is sent; inserting it again changes nothing, so a job sent twice starts once.
2. A change of a job's state and the event that tells of it are one transaction.
3. After a crash every `started` job is `interrupted`, with its event; it never runs again by itself. One that had not
   begun is known to have had no effect: it is `cancelled`.
4. No job's document is kept here: it may hold secrets, and an interrupted job is not resumed from it.
5. An epoch's numbers are used once: what came out of an older copy of this file gets a new epoch.
6. Acknowledged events stay as a ring for a day, up to 64 MiB: a master restored from a backup asks for them again.
7. An event is never dropped. A full spool makes the worker wait.

One connection, shared under a lock that is held through each commit: threads call this, and the agent's loop only what
needs no disk (`acknowledge`, `waiting`, `full`, `highest`, `remember_master_epoch`).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import HostError
from ..common.failpoint import reach
from ..common.messages import EventKind, OpenJob
from ..common.sqlite import Connection, SQLError, open_database
from ..states.converge import NEVER
from .spool import Spool

_FIRST = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists jobs (
    jid text not null, att integer not null, cls text not null, state text not null,
    not_after_ms integer not null, resource text not null default '', primary key (jid, att));
create table if not exists events (
    seq integer primary key, jid text not null, att integer not null, kind text not null, body blob not null);
create table if not exists debts (id text primary key);
"""
_SECOND = "alter table events add column at real not null default 0"
_THIRD = "alter table debts add column since real"
_STEPS = (_FIRST, _SECOND, _THIRD)

SPOOL_BYTES = 256 * 1024 * 1024  # not acknowledged
RING_BYTES, RING_S = 64 * 1024 * 1024, 24 * 3600.0  # acknowledged
_FORGET_AFTER_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class StoredEvent:
    seq: int
    jid: str
    att: int
    kind: EventKind
    body: bytes


class Journal:
    """Every method that writes or reads raises HostError when the disk refuses; then nothing of it was written."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises HostError when the disk refuses, with what to do."""
        self._lock = threading.RLock()
        self._db = open_database(path, "journal", _STEPS)
        self._spool = Spool()
        self._debts: dict[str, float] = {}  # as they are written down: asked for each resource
        self._inside, self._new = False, list[int]()  # a transaction, and the bytes of its events
        try:
            self.epoch = self._meta("epoch", os.urandom(8).hex())
            self._mepoch = int(self._meta("mepoch", "0"))
            self._count(int(self._meta("acked", "0")))
            rows = self._db.execute("select id, since from debts")
            self._debts = {name: NEVER if since is None else float(since) for name, since in rows}
        except (SQLError, ValueError) as error:
            raise HostError(f"cannot use the journal {path}: {error}; is the disk full or the file damaged?") from None
        self._kept = self.acked, self._mepoch  # as they are written down
        self._interrupt_what_was_running()

    # ---- jobs

    def seen(self, jid: str, att: int) -> bool:
        with self._reading() as db:
            return db.execute("select 1 from jobs where jid=? and att=?", (jid, att)).fetchone() is not None

    def accept(self, jid: str, att: int, cls: str, not_after_ms: int) -> bool:
        """True when this is the first time; then the caller may start it, once."""
        with self._transaction("accept") as db:
            added = db.execute(
                "insert or ignore into jobs (jid, att, cls, state, not_after_ms) values (?,?,?,'accepted',?)",
                (jid, att, cls, not_after_ms),
            ).rowcount
        return added == 1

    def never(self, jid: str, att: int, not_after_ms: int) -> None:
        """That job was cancelled before it came. Should it come yet, it has been seen."""
        with self._transaction("never") as db:
            added = db.execute(
                "insert or ignore into jobs (jid, att, cls, state, not_after_ms) values (?,?,'call','cancelled',?)",
                (jid, att, not_after_ms),
            ).rowcount
            if added:
                self._append(jid, att, "cancelled", {"reason": "it had not begun"})

    def start(self, jid: str, att: int) -> None:
        with self._transaction("start"):
            self._set_state(jid, att, "started")
            self._append(jid, att, "started", {})

    def record(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        with self._transaction("record"):
            self._append(jid, att, kind, body)

    def finish(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        with self._transaction("finish"):
            self._set_state(jid, att, "finished" if kind == "done" else kind)
            self._append(jid, att, kind, body)

    def open_jobs(self) -> tuple[OpenJob, ...]:
        """Jobs that have not ended."""
        with self._reading() as db:
            rows = db.execute(
                "select jid, att, state from jobs where state in ('accepted','started') order by jid"
            ).fetchall()
        return tuple(OpenJob(jid=jid, att=att, state=state) for jid, att, state in rows)

    def tidy(self, now_ms: int) -> None:
        """Forget jobs a day after their deadline (one that old would be refused), and what the ring has no room for.

        `now_ms` is the master's time, as deadlines are.
        """
        with self._transaction("tidy") as db:
            db.execute(
                "delete from jobs where not_after_ms < ? and state not in ('accepted','started')",
                (now_ms - _FORGET_AFTER_MS,),
            )
            db.execute("delete from events where seq <= ? and at < ?", (self.acked, time.time() - RING_S))
            row = db.execute(
                "select seq from (select seq, sum(length(body)) over (order by seq desc) as size from events"
                " where seq <= ?) where size > ? order by seq desc limit 1",
                (self.acked, RING_BYTES),
            ).fetchone()
            if row is not None:
                db.execute("delete from events where seq <= ?", (row[0],))

    # ---- events

    @property
    def acked(self) -> int:
        return self._spool.acked

    @property
    def waiting(self) -> tuple[int, int]:
        """Events, and their bytes, that are not acknowledged."""
        return self._spool.high - self._spool.acked, self._spool.bytes

    @property
    def full(self) -> bool:
        return self._spool.bytes > SPOOL_BYTES

    def highest(self) -> int:
        return self._spool.high

    def lowest(self) -> int:
        """The oldest event still held; one more than the highest when none is."""
        with self._reading() as db:
            (lowest,) = db.execute("select min(seq) from events").fetchone()
            return int(lowest) if lowest is not None else self._spool.high + 1

    def events_after(self, seq: int, limit: int) -> list[StoredEvent]:
        with self._reading() as db:
            rows = db.execute(
                "select seq, jid, att, kind, body from events where seq > ? order by seq limit ?", (seq, limit)
            ).fetchall()
        return [StoredEvent(*row) for row in rows]

    def acknowledge(self, seq: int) -> None:
        """The master has stored all up to `seq`. Written down with the next transaction: lost, it is told again."""
        self._spool.acknowledge(seq)

    # ---- the highest epoch of a master ever seen: a master that is behind it is an old one

    @property
    def master_epoch(self) -> int:
        return self._mepoch

    def remember_master_epoch(self, mepoch: int) -> None:
        """Written down with the next transaction: the first job of that master is one."""
        self._mepoch = max(self._mepoch, mepoch)

    # ---- which master, and which epoch

    def belong_to(self, master: str, names: Collection[str]) -> None:
        """This host is enrolled with that master; `names` are the keys under which it may be known here.

        Of another one nothing is kept that this one would be told, or measured by.
        """
        with self._reading():
            kept = self._meta("master", master)
        if kept != master and kept not in names:
            self._begin_anew("forget", keep=False, mepoch=0)
        if kept != master:
            with self._transaction("master"):
                self._set_meta("master", master)

    def renew(self) -> None:
        """This journal is older than what it has told: a new epoch, begun with what is not acknowledged."""
        self._begin_anew("renew", keep=True, mepoch=self._mepoch)

    def _begin_anew(self, name: str, keep: bool, mepoch: int) -> None:
        with self._lock:
            epoch, acked = os.urandom(8).hex(), self.acked
            with self._transaction(name) as db:
                db.execute("delete from events where seq <= ?", (acked if keep else self.highest(),))
                db.execute("update events set seq = -seq")  # no number is ever there twice
                db.execute("update events set seq = -seq - ?", (acked,))
                self._set_meta("epoch", epoch)
                self._set_meta("acked", "0")
                self._set_meta("mepoch", str(mepoch))
                self._kept = acked, self._mepoch  # not to be written over that
            self.epoch, self._mepoch, self._kept = epoch, mepoch, (0, mepoch)
            with self._reading():
                self._count(0)

    # ---- debts (states.converge.Debts)

    def owe(self, resource_id: str) -> None:
        """Written once: a hundred changed files that one unit watches are one commit, not a hundred."""
        if self._debts.get(resource_id) != NEVER:
            self._note(resource_id, None)

    def changed(self, resource_id: str, at: float) -> None:
        self._note(resource_id, at)

    def owed(self, resource_id: str) -> bool:
        return resource_id in self._debts

    def since(self, resource_id: str) -> float:
        return self._debts.get(resource_id, NEVER)

    def settle(self, resource_id: str) -> None:
        if self.owed(resource_id):
            with self._lock:
                with self._transaction("settle") as db:
                    db.execute("delete from debts where id=?", (resource_id,))
                del self._debts[resource_id]

    def debts(self) -> dict[str, float]:
        """Since when by id."""
        with self._lock:
            return dict(self._debts)

    def _note(self, resource_id: str, since: float | None) -> None:
        with self._lock:
            with self._transaction("owe") as db:
                db.execute("insert or replace into debts values (?, ?)", (resource_id, since))
            self._debts[resource_id] = NEVER if since is None else since

    def close(self) -> None:
        self._db.close()

    # ---- below: how it is read and written

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._lock:
            try:
                yield self._db
            except SQLError as error:
                raise HostError(f"the journal cannot be read: {error}") from None

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Connection]:
        """One transaction, or a part of the one that is open. Raises HostError when it is not written."""
        with self._lock:
            if self._inside:
                yield self._db
                return
            self._inside = True
            try:
                self._db.execute("begin immediate")
                yield self._db
                told = self.acked, self._mepoch
                if told != self._kept:
                    self._set_meta("acked", str(told[0]))
                    self._set_meta("mepoch", str(told[1]))
                reach(f"journal.{name}.before")
                self._db.execute("commit")
            except BaseException as error:
                self._undo()
                if isinstance(error, (SQLError, OSError)):
                    raise HostError(f"the journal does not take the write: {error}") from None
                raise
            finally:
                self._inside = False
            self._kept = told
            self._spool.add(self._new)
            self._new = []
        reach(f"journal.{name}.after")

    def _undo(self) -> None:
        self._new = []
        with suppress(SQLError):  # why the write was not taken is told already
            if self._db.in_transaction:
                self._db.execute("rollback")
            (highest,) = self._db.execute("select max(seq) from events").fetchone()
            if (highest or 0) > self._spool.high:
                self._count(self.acked)  # it was taken after all

    def _count(self, acked: int) -> None:
        (highest,) = self._db.execute("select max(seq) from events").fetchone()
        sizes = self._db.execute("select seq, length(body) from events where seq > ?", (acked,))
        self._spool.reset(acked, max(int(highest or 0), acked), sizes)

    def _append(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        data, seq = json.dumps(body, separators=(",", ":")).encode(), self._spool.high + len(self._new) + 1
        self._db.execute(
            "insert into events (seq, jid, att, kind, body, at) values (?,?,?,?,?,?)",
            (seq, jid, att, kind, data, time.time()),
        )
        self._new.append(len(data))

    def _set_state(self, jid: str, att: int, state: str) -> None:
        self._db.execute("update jobs set state=? where jid=? and att=?", (state, jid, att))

    def _interrupt_what_was_running(self) -> None:
        with self._transaction("interrupt") as db:
            rows = db.execute("select jid, att, state from jobs where state in ('accepted','started')").fetchall()
            for jid, att, state in rows:
                if state == "accepted":
                    self.finish(jid, att, "cancelled", {"reason": "the minion was restarted before it began"})
                else:
                    self.finish(jid, att, "interrupted", {"reason": "the minion was restarted while the job ran"})

    def _meta(self, key: str, default: str) -> str:
        with self._lock:
            row = self._db.execute("select value from meta where key=?", (key,)).fetchone()
            if row is None:
                self._set_meta(key, default)
                return default
        return str(row[0])

    def _set_meta(self, key: str, value: str) -> None:
        self._db.execute("insert or replace into meta values (?,?)", (key, value))
