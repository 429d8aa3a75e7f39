"""Forgetting what ran, in small steps, the oldest first. When and what is decided in `master/keeping/retention.py`."""

from __future__ import annotations

from ...common.sqlite import Connection
from .writer import Writer

# ids sort by the time they were made, so that this reads no more of the table than it gives back
_OLD = """
select id, coalesce(ended, 1e18) < ? and not exists (
    select 1 from jobs where operation = operations.id and state in ('queued','accepted','started'))
from operations where id > ? and id < coalesce((select id from operations order by id desc limit 1 offset ?), '')
order by id limit ?"""
_CLOSED = """
select 1 from operations where id = ? and ended is not null and not exists (
    select 1 from jobs where operation = operations.id and state in ('queued','accepted','started'))"""

_PARTS = (
    "delete from lines where rowid in (select rowid from lines where operation=? order by n limit ?)",
    "delete from events where rowid in"
    " (select events.rowid from jobs join events on events.jid = jobs.jid where operation=? limit ?)",
    "delete from jobs where rowid in (select rowid from jobs where operation=? limit ?)",
)

# the next jobs that have events, each found by one look into the index however many events it has
_JIDS = """
with recursive next(jid) as (
    select min(jid) from events where jid >= ?
    union all select (select min(jid) from events where jid > next.jid) from next where next.jid is not null limit ?)
select jid, exists (select 1 from jobs where jobs.jid = next.jid) from next where jid is not null"""
_LOOSE_JOBS = """
select jid, att from jobs where operation = '' and coalesce(ended, created) < ? limit ?"""
_STRAYS = "delete from events where rowid in (select rowid from events where jid=? and at < ? limit ?)"


class Retention(Writer):
    async def old_operations(self, before: float, newest: int, after: str, limit: int) -> tuple[list[str], str]:
        """Of the next so many operations after the id `after`: those that ended before, and where to go on.

        Left out are the newest ones, and those of which a job is open. "" when all have been looked at.
        """

        def work(db: Connection) -> tuple[list[str], str]:
            rows = db.execute(_OLD, (before, after, newest - 1, limit)).fetchall()
            return [identity for identity, old in rows if old], rows[-1][0] if len(rows) == limit else ""

        return await self.read(work)

    async def forget_operation(self, operation: str, rows: int) -> int:
        """Take up to that many rows of it, of its lines and of its jobs, the operation itself last; how many went.

        0 when nothing of it is left, or when it is open.
        """

        def work(db: Connection) -> int:
            if db.execute(_CLOSED, (operation,)).fetchone() is None:
                return 0
            gone = 0
            for part in _PARTS:
                gone += db.execute(part, (operation, rows - gone)).rowcount
                if gone >= rows:
                    return gone
            return gone + db.execute("delete from operations where id=?", (operation,)).rowcount

        return await self.write(work)

    async def forget_loose_jobs(self, before: float, rows: int) -> int:
        """Take jobs of no operation; how many went. Their events are strays from then on.

        Also those whose end nobody knows: this master did not order them, and nobody follows them.
        """

        def work(db: Connection) -> int:
            found = db.execute(_LOOSE_JOBS, (before, rows)).fetchall()
            db.executemany("delete from jobs where jid=? and att=?", found)
            return len(found)

        return await self.write(work)

    async def forget_strays(self, before: float, first: str, rows: int) -> tuple[int, str | None]:
        """Take old events of no known job, among those of the next jobs from `first` on.

        How many went, and the job to go on with; None when all have been looked at.
        """

        def work(db: Connection) -> tuple[int, str | None]:
            gone = 0
            found = db.execute(_JIDS, (first, rows)).fetchall()
            for jid, known in found:
                if not known:
                    gone += db.execute(_STRAYS, (jid, before, rows - gone)).rowcount
                if gone >= rows:
                    return gone, str(jid)
            return gone, str(found[-1][0]) if len(found) == rows else None

        return await self.write(work)

    async def used_bytes(self) -> int:
        """What the store holds. Its file may be larger: pages that became free are used again."""

        def work(db: Connection) -> int:
            pages, free, size = (
                db.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
            return int((pages - free) * size)

        return await self.read(work)

    async def give_back(self, pages: int) -> None:
        """Shorten the file by up to that many free pages, if it was created so that it can be."""
        await self.write(lambda db: db.execute(f"pragma incremental_vacuum({pages:d})").fetchall())
