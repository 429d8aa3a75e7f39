"""The audit trail: rows that are added and read, and nothing else. What a row says is made in `keeping/audit.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...common.sqlite import Connection
from .writer import Writer


class AuditRow(NamedTuple):
    n: int
    at: float
    who: str
    act: str
    detail: str  # canonical JSON
    hash: str


_ROWS = "select n, at, who, act, detail, hash from audit"


class Audit(Writer):
    async def add_audit(
        self, at: float, who: str, act: str, detail: str, link: Callable[[str, AuditRow], str]
    ) -> AuditRow:
        """Add a row; `link` gives its hash from the hash before ("" for the first) and the row without one.

        It is called in the writer's thread, so that the chain has one order.
        """

        def work(db: Connection) -> AuditRow:
            last = db.execute("select n, hash from audit order by n desc limit 1").fetchone() or (0, "")
            row = AuditRow(last[0] + 1, at, who, act, detail, "")
            row = row._replace(hash=link(last[1], row))
            db.execute("insert into audit (n, at, who, act, detail, hash) values (?,?,?,?,?,?)", row)
            return row

        return await self.write(work)

    async def audit_after(self, n: int, limit: int) -> list[AuditRow]:
        """The rows after the n-th, in order."""
        query = f"{_ROWS} where n > ? order by n limit ?"
        return await self.read(lambda db: [AuditRow(*row) for row in db.execute(query, (n, limit))])

    async def newest_audit(self, limit: int, who: str = "") -> list[AuditRow]:
        """The newest rows in the order in which they were written; of one login name, if one is given."""
        query = f"{_ROWS} where ?='' or who=? or substr(who, 1, length(?) + 2) = ? || ' (' order by n desc limit ?"
        return await self.read(
            lambda db: [AuditRow(*row) for row in db.execute(query, (who, who, who, who, limit))][::-1]
        )
