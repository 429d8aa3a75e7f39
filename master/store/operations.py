"""What a person asked for, and the lines they saw."""

from __future__ import annotations

from typing import Any

from .writer import Writer


class Operations(Writer):
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
