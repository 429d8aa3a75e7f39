"""Keys that knocked, which of them are accepted, and the tokens that let one in."""

from __future__ import annotations

import asyncio
from dataclasses import astuple, dataclass

from ...common.sqlite import Connection
from .writer import Writer


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


class Minions(Writer):
    async def minions(self) -> list[MinionRow]:
        return await self.read(lambda db: [MinionRow(*row) for row in db.execute(_MINIONS)])

    async def put_minion(self, row: MinionRow) -> None:
        await self.write(lambda db: db.execute(_PUT_MINION, astuple(row)))

    async def delete_minion(self, public_key: str) -> None:
        await self.write(lambda db: db.execute("delete from minions where public_key=?", (public_key,)))

    def seen(self, name: str, key: str, address: str, at: float, facts: str) -> asyncio.Future[bool]:
        """That key has said HELLO. True when it was the next key of that name, and is the accepted one from now on."""

        def work(db: Connection) -> bool:
            row = db.execute("select state from minions where public_key=?", (key,)).fetchone()
            promoted = row is not None and row[0] == "next" and _accepted(db, name)
            if promoted:
                db.execute("update minions set state='retired', since=? where name=? and state='accepted'", (at, name))
                db.execute("update minions set state='accepted', since=? where public_key=?", (at, key))
            db.execute("update minions set seen=?, address=?, facts=? where public_key=?", (at, address, facts, key))
            return promoted

        return self.submit(work)

    async def put_next_key(self, row: MinionRow, present: str) -> bool:
        """Beside the accepted key `present` of that name, in place of a next one that was never used.

        False, and nothing has changed, when `present` is not that name's key any more, or the next one is known.
        """

        def work(db: Connection) -> bool:
            known = db.execute("select 1 from minions where public_key=?", (row.public_key,)).fetchone()
            if known or not _accepted(db, row.name, present):
                return False
            db.execute("delete from minions where name=? and state='next'", (row.name,))
            db.execute(_PUT_MINION, astuple(row))
            return True

        return await self.write(work)

    async def forget_waiting(self, before: float) -> None:
        """Keys that knocked, were never decided about, and have not knocked since then; tokens that ended before."""

        def work(db: Connection) -> None:
            db.execute("delete from minions where state in ('pending','conflict') and seen < ?", (before,))
            db.execute("delete from tokens where expires < ?", (before,))

        await self.write(work)

    async def put_token(self, token_id: str, name: str, expires: float, who: str) -> None:
        await self.write(lambda db: db.execute("insert into tokens values (?,?,?,?)", (token_id, name, expires, who)))

    async def token(self, token_id: str) -> tuple[str, float, str] | None:
        """(name it is bound to or "", expiry as Unix time, who made it); None when there is none."""
        return await self.read(
            lambda db: db.execute("select name, expires, who from tokens where id=?", (token_id,)).fetchone()
        )

    async def spend_token(self, token_id: str) -> bool:
        """True for the one who gets to use it."""
        return await self.write(lambda db: db.execute("delete from tokens where id=?", (token_id,)).rowcount == 1)


def _accepted(db: Connection, name: str, key: str = "") -> bool:
    """Whether that name has an accepted key, or that one."""
    row = db.execute("select public_key from minions where name=? and state='accepted'", (name,)).fetchone()
    return row is not None and key in ("", row[0])
