"""How long the master remembers what ran: by age, and by the size of its store.

Rules:
1. What is open is never forgotten, nor are the newest operations, nor the audit trail, nor how far each minion's
   stream is stored: a minion that repeats an event of a forgotten job is told that it was stored.
2. Little at a time: every step is a transaction of at most ROWS rows, so that nobody's write waits long.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from ...common.clock import Clock
from ...common.errors import HostError
from ...common.fields import Bytes

log = logging.getLogger("pgha.retention")

EVERY_S = 3600.0
ROWS = 500
NEWEST = 100  # operations that stay, however old they are and however full the store is
PAGES = 2000
DAY_S = 86400.0
STRAY_S = 3600.0


class Keep(BaseModel):
    """`keep` of /etc/pgha/master.yml. `size` is in bytes, and in the file text such as `1GiB`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    days: float = Field(default=30.0, gt=0)
    size: Bytes = Field(default=1024**3, ge=16 * 1024**2)


@dataclass
class Forgotten:
    operations: int = 0
    rows: int = 0
    used_bytes: int = 0  # afterwards


class History(Protocol):
    """What can be forgotten; `store.Store` is one."""

    async def old_operations(self, before: float, newest: int, after: str, limit: int) -> tuple[list[str], str]: ...

    async def forget_operation(self, operation: str, rows: int) -> int: ...

    async def forget_loose_jobs(self, before: float, rows: int) -> int: ...

    async def forget_strays(self, before: float, first: str, rows: int) -> tuple[int, str | None]: ...

    async def used_bytes(self) -> int: ...

    async def give_back(self, pages: int) -> None: ...


async def keep_tidy(store: History, clock: Clock, settings: Keep) -> None:
    """Tidy now and then every hour, until cancelled. A store that does not take writes is tidied an hour later."""
    while True:
        try:
            report(await tidy(store, clock.now(), settings), settings)
        except HostError as error:
            log.warning("what is old could not be forgotten, it is tried again in an hour: %s", error)
        await asyncio.sleep(EVERY_S)


def report(forgotten: Forgotten, settings: Keep) -> None:
    if forgotten.rows:
        log.info("forgot %d ended jobs, %d rows of the store", forgotten.operations, forgotten.rows)
    if forgotten.used_bytes > settings.size:
        log.warning(
            "the store holds %d MiB, more than keep.size allows (%d MiB): what is left is the newest %d jobs, what is"
            " open, and the audit trail; give it more in master.yml",
            forgotten.used_bytes // 1024**2,
            settings.size // 1024**2,
            NEWEST,
        )


async def tidy(store: History, now: float, settings: Keep) -> Forgotten:
    """Forget what is older than it may be, and then the oldest until the store is small enough."""
    forgotten = Forgotten()
    await _forget(store, now - settings.days * DAY_S, forgotten, down_to=None)
    await _forget_strays(store, now - settings.days * DAY_S, forgotten)
    if await store.used_bytes() > settings.size:
        await _forget_strays(store, now - STRAY_S, forgotten)
        await _forget(store, now, forgotten, down_to=settings.size)
    if forgotten.rows:
        await store.give_back(PAGES)
    forgotten.used_bytes = await store.used_bytes()
    return forgotten


async def _forget(store: History, before: float, forgotten: Forgotten, down_to: int | None) -> None:
    """Operations that ended before then, the oldest first; with `down_to` only until the store holds no more bytes."""
    after, more = "", True
    while more:
        old, after = await store.old_operations(before, NEWEST, after, ROWS)
        more = bool(after)
        for operation in old:
            if down_to is not None and await store.used_bytes() <= down_to:
                return
            gone = 0
            while step := await store.forget_operation(operation, ROWS):
                gone += step
            forgotten.rows += gone
            forgotten.operations += bool(gone)


async def _forget_strays(store: History, before: float, forgotten: Forgotten) -> None:
    """What belongs to no operation: jobs that another store had ordered, and what minions told of unknown ones."""
    while gone := await store.forget_loose_jobs(before, ROWS):
        forgotten.rows += gone
    first: str | None = ""
    while first is not None:
        gone, first = await store.forget_strays(before, first, ROWS)
        forgotten.rows += gone
