"""Notes of a cluster, and the master's own."""

from __future__ import annotations

from ...common.sqlite import Connection
from .writer import Writer

GENERATION = 2**40  # seconds; no clock says a time as late as that


class Notes(Writer):
    async def notes(self, cluster: str) -> dict[str, str]:
        return await self.read(
            lambda db: dict(db.execute("select key, value from notes where cluster=?", (cluster,)).fetchall())
        )

    async def note(self, cluster: str, key: str, value: str | None) -> None:
        """Set, or forget with None."""

        def work(db: Connection) -> None:
            if value is None:
                db.execute("delete from notes where cluster=? and key=?", (cluster, key))
            else:
                db.execute("insert or replace into notes values (?,?,?)", (cluster, key, value))

        await self.write(work)

    async def next_epoch(self, now: float, *, supersede: bool = False) -> int:
        """Of this run of the master; minions obey no run that is older than the newest they have seen.

        It is the time in seconds within a generation, so a master restored from a backup is newer than the one it was
        copied from. `supersede` begins the next generation: the way out when the clock was wrong.
        """

        def work(db: Connection) -> int:
            row = db.execute("select value from meta where key='mepoch'").fetchone()
            before = int(row[0]) if row else 0
            generation = before // GENERATION + supersede
            epoch = max(before + 1, generation * GENERATION + int(now))
            db.execute("insert or replace into meta values ('mepoch', ?)", (str(epoch),))
            return epoch

        return await self.write(work)

    async def definitions(self) -> dict[str, str]:
        """The text of each cluster's definition as it was applied last."""
        return await self.read(
            lambda db: dict(db.execute("select cluster, value from notes where key='definition'").fetchall())
        )
