"""The enrolment port: any key may knock, none gets further. Everything a stranger can reach of a master is here.

Rules: its own context and socket, frames of at most 4 KiB, four queued per peer, so many knocks a second from one
address, a capped list of waiting keys; the only message it understands is ENROL, and what it answers is where that key
stands. Whom a token lets in is written to the audit trail first, as what an operator decides is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from ...common.bus import Admission, Received, Router
from ...common.clock import Clock
from ...common.codec import decode, encode
from ...common.errors import BusError, PghaError, UserError
from ...common.keys import KeyPair, fingerprint, public_from_text, public_text
from ...common.messages import FROM_STRANGER, Enrol, Enrolled
from ..keeping import audit
from ..store import MinionRow, Store
from .enrolment import Derives, Token, decide, token_secret
from .knocks import Knocks

log = logging.getLogger("pgha.enrolment")

UNFINISHED = 64 * 1024  # bytes; a knock is a tenth of that
LOUD = 10  # knocks at once, on one connection, beyond what its address may; a minion knocks once


class EnrolDesk:
    def __init__(
        self,
        store: Store,
        vault: Derives,
        keys: KeyPair,
        address: str,
        clock: Clock,
        accepted: Callable[[], Awaitable[None]],
        died: Callable[[], None] = lambda: None,
    ) -> None:
        """`accepted` is awaited when the accepted keys have changed; `died` as in `Router`."""
        self._store, self._vault, self._clock, self._accepted = store, vault, clock, accepted
        self._knocks = Knocks()
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        admission = Admission(public_text, lambda peer: True)
        self._router = Router(
            address,
            keys,
            "enrol",
            admission,
            self._from_thread,
            max_frame=4096,
            queue=4,
            unfinished=UNFINISHED,
            died=died,
        )

    def start(self) -> None:
        self._router.start()

    def close(self) -> None:
        self._router.close()

    def _from_thread(self, batch: list[Received]) -> None:
        now = self._clock.monotonic()
        heard, loud = [], Counter[bytes]()
        for received in batch:
            if self._knocks.hear(received.address, now):
                heard.append(received)
            else:
                loud[received.route] += 1
        for route, times in loud.items():
            if times > LOUD:
                self._router.kick(route)
        self._loop.call_soon_threadsafe(self._spawn, batch, heard)

    def _spawn(self, batch: list[Received], heard: list[Received]) -> None:
        task = asyncio.create_task(self._take(heard))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._router.taken(batch)

        task.add_done_callback(done)

    async def _take(self, batch: list[Received]) -> None:
        async with self._lock:
            for received in batch:
                try:
                    request = decode(received.frames, FROM_STRANGER)
                    assert isinstance(request, Enrol)
                    answer = await self._answer(request, received.peer, received.address)
                except BusError as error:
                    log.warning("a stranger at %s sent what it must not: %s", received.address, error)
                    continue
                except PghaError as error:
                    log.error("enrolment of a key from %s: %s", received.address, error)
                    continue
                except Exception:
                    log.exception("what a stranger at %s sent cannot be handled", received.address)
                    continue
                self._router.send(received.peer, received.route, encode(answer))

    async def _answer(self, request: Enrol, key_text: str, address: str) -> Enrolled:
        now, known = self._clock.now(), await self._store.minions()
        token = await self._token(request.token_id) if request.token_id else None
        decision = decide(request, public_from_text(key_text), key_text, known, token, now, address)
        state, note = decision.state, decision.note
        if decision.spend and token is not None:
            shown = fingerprint(public_from_text(key_text))
            detail = {"name": request.name, "fingerprint": shown, "who": token.who}
            await audit.record(self._store, f"token {token.id}", "keys.accept", detail, self._clock)
            if not await self._store.spend_token(token.id):
                state, note = "pending", "its token has been used already"
        if decision.remember:
            since = next((r.since for r in known if r.public_key == key_text), now)
            await self._store.put_minion(
                MinionRow(request.name, key_text, state, address, request.machine_id, note, since, now, "")
            )
            if state == "accepted":
                log.info("accepted %s by %s", request.name, note)
                await self._accepted()
        return Enrolled(state=state, reason=note[:500])

    async def _token(self, identity: str) -> Token | None:
        row = await self._store.token(identity)
        if row is None:
            return None
        name, expires, who = row
        return Token(identity, token_secret(self._vault, identity, name, expires), name, expires, who)

    # ---- what an operator decides

    async def accept(self, name: str, shown: str) -> MinionRow:
        """Accept the waiting key with that fingerprint, and of that name unless it is empty.

        Raises UserError: no fingerprint, no such key, several keys under one name, or the name is taken by another key.
        """
        if not shown:
            raise UserError("a key is accepted by its fingerprint; see: pgha-master keys list; then give --fingerprint")
        async with self._lock:  # the same key may knock right now, and would be written down as waiting again
            row = await self._waiting(name, shown)
            holder = [r for r in await self._store.minions() if r.name == row.name and r.state == "accepted"]
            if holder:
                raise UserError(f"{row.name} is accepted with another key; first: pgha-master keys revoke {row.name}")
            return await self._set(row, "accepted")

    async def reject(self, name: str, shown: str) -> MinionRow:
        async with self._lock:
            return await self._set(await self._waiting(name, shown), "rejected")

    async def revoke(self, name: str) -> MinionRow:
        async with self._lock:
            rows = [r for r in await self._store.minions() if r.name == name]
            for row in rows:
                if row.state == "next":  # it would be let in, and take the name back from whoever has it then
                    await self._set(row, "revoked")
            for row in rows:
                if row.state == "accepted":
                    return await self._set(row, "revoked")
        raise UserError(f"no accepted key is named {name!r}; see: pgha-master keys list")

    async def _waiting(self, name: str, shown: str) -> MinionRow:
        rows = [
            row
            for row in await self._store.minions()
            if row.state in ("pending", "conflict", "rejected", *(("revoked", "retired") if shown else ()))
            and name in ("", row.name)
            and shown in ("", fingerprint(public_from_text(row.public_key)))
        ]
        if not rows:
            raise UserError(f"no waiting key matches {name or shown!r}; see: pgha-master keys list")
        if len(rows) > 1:
            raise UserError(f"{len(rows)} keys are waiting as {name or 'that'}; say which with --fingerprint")
        return rows[0]

    async def _set(self, row: MinionRow, state: str) -> MinionRow:
        changed = MinionRow(
            row.name, row.public_key, state, row.address, row.machine_id, "", self._clock.now(), row.seen, row.facts
        )
        await self._store.put_minion(changed)
        await self._accepted()
        return changed
