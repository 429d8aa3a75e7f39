"""Keys that knocked, which of them are accepted, and the tokens that let one in."""

from __future__ import annotations

from dataclasses import dataclass

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
        values = (row.name, row.public_key, row.state, row.address, row.machine_id, row.note, row.since, row.seen)
        await self.write(lambda db: db.execute(_PUT_MINION, (*values, row.facts)))

    async def delete_minion(self, public_key: str) -> None:
        await self.write(lambda db: db.execute("delete from minions where public_key=?", (public_key,)))

    async def seen(self, name: str, address: str, at: float, facts: str | None = None) -> None:
        def work(db: Connection) -> None:
            db.execute("update minions set seen=?, address=? where name=? and state='accepted'", (at, address, name))
            if facts is not None:
                db.execute("update minions set facts=? where name=? and state='accepted'", (facts, name))

        await self.write(work)

    async def put_token(self, token_id: str, secret: str, name: str, expires: float) -> None:
        await self.write(
            lambda db: db.execute("insert into tokens values (?,?,?,?)", (token_id, secret, name, expires))
        )

    async def token(self, token_id: str) -> tuple[str, str, float] | None:
        """(secret, name it is bound to or "", expiry as Unix time); None when there is none."""
        return await self.read(
            lambda db: db.execute("select secret, name, expires from tokens where id=?", (token_id,)).fetchone()
        )

    async def spend_token(self, token_id: str) -> bool:
        """True for the one who gets to use it."""
        return await self.write(lambda db: db.execute("delete from tokens where id=?", (token_id,)).rowcount == 1)
