"""What a minion must not forget: jobs it has seen, events not yet acknowledged, refreshes it owes. SQLite, FULL.

Rules:
1. (jid, att) is inserted before ACCEPT is sent; inserting it again changes nothing, so a job sent twice starts once.
2. A change of a job's state and the event that tells of it are one transaction.
3. After a crash every `started` job is `interrupted`, with its event; it never runs again by itself.
4. No job's document is kept here: it may hold secrets, and an interrupted job is not resumed from it.

One connection, shared under a lock: the agent's loop and the worker's thread both write.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..common.messages import EventKind, OpenJob
from ..common.sqlite import Connection, open_database

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists jobs (
    jid text not null, att integer not null, cls text not null, state text not null,
    not_after_ms integer not null, resource text not null default '', primary key (jid, att));
create table if not exists events (
    seq integer primary key, jid text not null, att integer not null, kind text not null, body blob not null);
create table if not exists debts (id text primary key);
"""
_KEEP_ACKNOWLEDGED = 1000  # rows, of which an output line has up to 32 KiB: a restored master can ask for them again
_FORGET_AFTER_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class StoredEvent:
    seq: int
    jid: str
    att: int
    kind: EventKind
    body: bytes


class Journal:
    def __init__(self, path: Path) -> None:
        """Open or create. Raises HostError when the disk refuses, with what to do."""
        self._lock = threading.RLock()
        self._db = open_database(path, "journal", (_SCHEMA,))
        self.epoch = self._meta("epoch", os.urandom(8).hex())
        self._acked = int(self._meta("acked", "0"))
        self._interrupt_what_was_running()

    # ---- jobs

    def seen(self, jid: str, att: int) -> bool:
        with self._lock:
            row = self._db.execute("select 1 from jobs where jid=? and att=?", (jid, att)).fetchone()
        return row is not None

    def accept(self, jid: str, att: int, cls: str, not_after_ms: int) -> bool:
        """True when this is the first time; then the caller may start it, once."""
        with self._transaction() as db:
            added = db.execute(
                "insert or ignore into jobs (jid, att, cls, state, not_after_ms) values (?,?,?,'accepted',?)",
                (jid, att, cls, not_after_ms),
            ).rowcount
        return added == 1

    def start(self, jid: str, att: int) -> None:
        with self._transaction():
            self._set_state(jid, att, "started")
            self._append(jid, att, "started", {})

    def record(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        with self._transaction():
            self._append(jid, att, kind, body)

    def finish(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        with self._transaction():
            self._set_state(jid, att, "finished" if kind == "done" else kind)
            self._append(jid, att, kind, body)

    def open_jobs(self) -> tuple[OpenJob, ...]:
        """Jobs that have not ended."""
        with self._lock:
            rows = self._db.execute(
                "select jid, att, state from jobs where state in ('accepted','started') order by jid limit 100"
            ).fetchall()
        return tuple(OpenJob(jid=jid, att=att, state=state) for jid, att, state in rows)

    def prune(self, now_ms: int) -> None:
        """Forget jobs a day after their deadline: one that old would be refused as expired anyway."""
        with self._transaction() as db:
            db.execute(
                "delete from jobs where not_after_ms < ? and state not in ('accepted','started')",
                (now_ms - _FORGET_AFTER_MS,),
            )

    # ---- events

    @property
    def acked(self) -> int:
        return self._acked

    def highest(self) -> int:
        with self._lock:
            row = self._db.execute("select max(seq) from events").fetchone()
        return max(int(row[0] or 0), self._acked)

    def lowest(self) -> int:
        """The oldest event still held; one more than the highest when none is."""
        with self._lock:
            row = self._db.execute("select min(seq) from events").fetchone()
        return int(row[0]) if row[0] is not None else self.highest() + 1

    def events_after(self, seq: int, limit: int) -> list[StoredEvent]:
        with self._lock:
            rows = self._db.execute(
                "select seq, jid, att, kind, body from events where seq > ? order by seq limit ?", (seq, limit)
            ).fetchall()
        return [StoredEvent(*row) for row in rows]

    def acknowledge(self, seq: int) -> None:
        """The master has stored all up to `seq`. The newest of them stay as a ring."""
        with self._transaction() as db:
            self._acked = max(self._acked, min(seq, self.highest()))
            self._set_meta("acked", str(self._acked))
            db.execute("delete from events where seq <= ?", (self._acked - _KEEP_ACKNOWLEDGED,))

    # ---- the highest epoch of a master ever seen: a master that is behind it is an old one

    @property
    def master_epoch(self) -> int:
        return int(self._meta("mepoch", "0"))

    def remember_master_epoch(self, mepoch: int) -> None:
        with self._transaction():
            self._set_meta("mepoch", str(mepoch))

    # ---- debts (states.converge.Debts)

    def owe(self, resource_id: str) -> None:
        with self._transaction() as db:
            db.execute("insert or ignore into debts values (?)", (resource_id,))

    def owed(self, resource_id: str) -> bool:
        with self._lock:
            return self._db.execute("select 1 from debts where id=?", (resource_id,)).fetchone() is not None

    def settle(self, resource_id: str) -> None:
        if self.owed(resource_id):
            with self._transaction() as db:
                db.execute("delete from debts where id=?", (resource_id,))

    def debts(self) -> set[str]:
        with self._lock:
            return {row[0] for row in self._db.execute("select id from debts")}

    def close(self) -> None:
        self._db.close()

    # ---- below: inside a transaction

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _append(self, jid: str, att: int, kind: EventKind, body: dict[str, object]) -> None:
        seq = self.highest() + 1
        data = json.dumps(body, separators=(",", ":")).encode()
        self._db.execute("insert into events values (?,?,?,?,?)", (seq, jid, att, kind, data))

    def _set_state(self, jid: str, att: int, state: str) -> None:
        self._db.execute("update jobs set state=? where jid=? and att=?", (state, jid, att))

    def _interrupt_what_was_running(self) -> None:
        with self._transaction() as db:
            rows = db.execute("select jid, att from jobs where state in ('accepted','started')").fetchall()
            for jid, att in rows:
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
