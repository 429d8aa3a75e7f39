"""Notes of a cluster, and the master's own."""

from __future__ import annotations

from ...common.sqlite import Connection
from .writer import Writer


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

    async def next_epoch(self) -> int:
        """One more than at the last start: minions obey no master that is behind the newest they have seen."""

        def work(db: Connection) -> int:
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
