"""What a person asked for, and the lines they saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ...common.sqlite import Connection
from .writer import Writer


@dataclass(frozen=True, slots=True)
class OperationRow:
    """`request` is JSON, enough to begin it again; `nodes` had a job of it, on `done` of them the newest is done."""

    id: str
    kind: str
    what: str
    who: str
    cluster: str
    state: str
    started: float
    ended: float | None
    exit: int | None
    message: str
    request: str
    nodes: int
    done: int


@dataclass(frozen=True, slots=True)
class OperationJob:
    """A job of an operation; `outcome` is JSON or empty, times are Unix seconds."""

    jid: str
    att: int
    node: str
    mode: str
    what: str
    state: str
    created: float
    accepted: float | None
    started: float | None
    ended: float | None
    message: str
    outcome: str
    step: str


_OPERATION = """
select o.id, kind, what, who, cluster, state, started, ended, exit, message, request,
    (select count(distinct j.node) from jobs j where j.operation = o.id),
    (select count(distinct j.node) from jobs j where j.operation = o.id and j.state = 'done' and not exists
        (select 1 from jobs k where k.operation = o.id and k.node = j.node and k.jid > j.jid))
from operations o"""
_JOBS = """
select jid, att, node, mode, what, state, created, accepted, started, ended, message, outcome, step
from jobs where operation=? order by jid, att"""
_FINISH = "update operations set state=?, exit=?, message=?, ended=? where id=?"


class Operations(Writer):
    def put_operation(
        self,
        operation: str,
        kind: str,
        what: str,
        who: str,
        cluster: str,
        started: float,
        request: str,
        *,
        lazy: bool = False,
    ) -> asyncio.Future[object]:
        """Started, once the future is done; `lazy` as of `submit`."""
        return self.submit(
            lambda db: db.execute(
                "insert into operations (id, kind, what, who, cluster, state, started, request)"
                " values (?,?,?,?,?,'started',?,?)",
                (operation, kind, what, who, cluster, started, request),
            ),
            lazy=lazy,
        )

    async def end_operation(
        self, operation: str, state: str, exit_code: int, message: str, ended: float, first: int, lines: list[str]
    ) -> None:
        """Its state and its last lines become true together."""

        def work(db: Connection) -> None:
            _add_lines(db, operation, first, lines)
            db.execute(_FINISH, (state, exit_code, message, ended, operation))

        await self.write(work)

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None:
        await self.write(lambda db: _add_lines(db, operation, first, lines))

    async def lines(self, operation: str, first: int = 0, limit: int = -1) -> list[str]:
        """Those from number `first` on, at most `limit` of them; -1: all."""
        query = "select line from lines where operation=? and n>=? order by n limit ?"
        return await self.read(lambda db: [row[0] for row in db.execute(query, (operation, first, limit))])

    async def count_lines(self, operation: str) -> int:
        query = "select coalesce(max(n), -1) + 1 from lines where operation=?"
        return await self.read(lambda db: int(db.execute(query, (operation,)).fetchone()[0]))

    async def operations(self, limit: int) -> list[OperationRow]:
        """Newest first."""
        query = f"{_OPERATION} order by started desc, id desc limit ?"
        return await self.read(lambda db: [OperationRow(*row) for row in db.execute(query, (limit,))])

    async def operation(self, operation: str) -> OperationRow | None:
        def work(db: Connection) -> OperationRow | None:
            row = db.execute(f"{_OPERATION} where o.id=?", (operation,)).fetchone()
            return OperationRow(*row) if row else None

        return await self.read(work)

    async def open_operations(self) -> list[OperationRow]:
        """Those that ran when the master ended, the oldest first."""
        query = f"{_OPERATION} where state='started' order by o.id"
        return await self.read(lambda db: [OperationRow(*row) for row in db.execute(query)])

    async def operation_ids(self, prefix: str, limit: int = 5) -> list[str]:
        """Ids that begin so, the newest first."""
        query = "select id from operations where id >= ? and id < ? order by id desc limit ?"
        return await self.read(lambda db: [row[0] for row in db.execute(query, (prefix, prefix + "~", limit))])

    async def operation_jobs(self, operation: str) -> list[OperationJob]:
        """The oldest first."""
        return await self.read(lambda db: [OperationJob(*row) for row in db.execute(_JOBS, (operation,))])

    async def told(self, operation: str) -> dict[tuple[str, str], int]:
        """How many lines of each (node, kind) are stored."""
        query = (
            "select json_extract(line, '$.node') as node, json_extract(line, '$.kind') as kind, count(*) from lines"
            " where operation=? and node is not null group by node, kind"
        )
        return await self.read(lambda db: {(row[0], row[1]): int(row[2]) for row in db.execute(query, (operation,))})

    async def output_of(self, jid: str, skip: int) -> list[str]:
        """What a job has put out, as JSON, without the first `skip` pieces."""
        query = "select body from events where jid=? and kind='out' order by at, epoch, seq limit -1 offset ?"
        return await self.read(lambda db: [str(row[0]) for row in db.execute(query, (jid, skip))])


def _add_lines(db: Connection, operation: str, first: int, lines: list[str]) -> Any:
    return db.executemany("insert into lines values (?,?,?)", [(operation, first + i, t) for i, t in enumerate(lines)])
