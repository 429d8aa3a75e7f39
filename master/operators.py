"""The desk at the local socket: tells who somebody is, and writes down what they asked before it is done.

What is refused is written down as well, but of one user only so many times an hour: the trail is never pruned, and
whoever may do nothing must not be able to fill the disk with it. The rest is counted, and told in the next row.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..common.clock import Clock
from ..common.errors import HostError
from . import roles
from .keeping import audit
from .roles import Groups, Operator

log = logging.getLogger("pgha.operators")

REFUSALS, PER_S = 20, 3600.0


class Refusals:
    """How often each user was turned away of late."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, int, int]] = {}  # uid -> begin of its hour, refusals in it, not written

    def count(self, uid: int, now: float) -> int | None:
        """None when this one is not to be written; else how many before it were not."""
        since, seen, skipped = self._since.get(uid, (now, 0, 0))
        if now - since >= PER_S:
            since, seen = now, 0
        if seen >= REFUSALS:
            self._since[uid] = (since, seen, skipped + 1)
            return None
        self._since[uid] = (since, seen + 1, 0)
        return skipped


class Operators:
    def __init__(self, groups: Groups, store: audit.Trail, clock: Clock) -> None:
        self.groups = groups
        self._store, self._clock = store, clock
        self._refusals = Refusals()
        self._threads = ThreadPoolExecutor(2, "accounts")  # a directory that does not answer holds up nothing else
        self._admins = {uid: _name(uid) for uid in (0, os.geteuid())}
        if roles.shadow_text() is None:
            log.info("%s cannot be read: a locked or expired account keeps its role", roles.SHADOW)

    async def who(self, uid: int) -> Operator:
        if uid in self._admins:
            return Operator(uid, self._admins[uid], "admin")
        ask = partial(roles.look_up, uid, self.groups, self._clock.now())
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    async def asked(self, operator: Operator, verb: str, args: Mapping[str, Any]) -> None:
        """Raises HostError: it is not to be done then."""
        if verb in audit.UNWRITTEN:
            return
        try:
            await audit.record(self._store, operator.described, verb, args, self._clock)
        except HostError as error:
            raise HostError(f"nothing was done, since it cannot be written to the audit trail: {error}") from None

    async def turned_away(self, operator: Operator, verb: str, args: Mapping[str, Any], why: str) -> None:
        skipped = self._refusals.count(operator.uid, self._clock.monotonic())
        if skipped is None:
            return
        more = f" (and {skipped} before it, not written)" if skipped else ""
        try:
            await audit.record(self._store, operator.described, f"refused {verb[:40]}{more}", args, self._clock)
        except HostError as error:
            log.error("%s; and it cannot be written to the audit trail: %s", why, error)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
