"""Jobs, the events of each minion's stream, and how far each stream is stored."""

from __future__ import annotations

from ...common.sqlite import Connection
from .writer import Writer


class Jobs(Writer):
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

        def work(db: Connection) -> int:
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

        def work(db: Connection) -> int:
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


def _high_water(db: Connection, node: str, epoch: str) -> int:
    row = db.execute("select hw from streams where node=? and epoch=?", (node, epoch)).fetchone()
    return int(row[0]) if row else 0
