"""File descriptors: every minion, command and file costs one, and a master that has none left lets nobody in.

So it takes all that the system lets it have, and says so at 70 %, while there is still time to do something.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("pgha.limits")

FULL_AT, CALM_AT = 0.70, 0.60
PER_MINION, OWN = 4, 64  # all minions that come back at once hold an old and a new connection, on both ports
EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Descriptors:
    used: int
    limit: int  # the soft limit: what counts
    most: int  # the hard limit: what the soft one can be raised to


def full(seen: Descriptors) -> str:
    """What a person should know of how many are in use; "" while there are enough."""
    if seen.used < FULL_AT * seen.limit:
        return ""
    return (
        f"{seen.used} of {seen.limit} file descriptors are in use; at the limit no minion and no command gets in:"
        " raise LimitNOFILE of pgha-master.service, or see who holds so many connections"
    )


def scarce(seen: Descriptors, minions: int) -> str:
    """What a person should know when so many minions could not all come back at once; "" when they could."""
    needed = PER_MINION * minions + OWN
    if seen.most >= needed:
        return ""
    return (
        f"at most {seen.most} file descriptors for {minions} minions, {needed} should be there for when all of them"
        f" come back at once: set LimitNOFILE={needed} or more for pgha-master.service"
    )


def alarmed(before: bool, seen: Descriptors) -> bool:
    """Whether the alarm is on now: from 70 % on, until it was below 60 %."""
    return seen.used >= (CALM_AT if before else FULL_AT) * seen.limit


def look() -> Descriptors:
    """As it is in this process now."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit, most = (2**31 if value == resource.RLIM_INFINITY else value for value in (limit, most))
    return Descriptors(len(list(Path("/proc/self/fd").iterdir())) - 1, limit, most)  # less the one that lists


def take_all() -> None:
    """Raise the soft limit to the hard one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:
        log.warning("the limit of open files cannot be raised to %d: %s", most, error)


def warnings(minions: int) -> list[str]:
    """For `status`: what there is to say now, the most urgent first."""
    seen = look()
    return [text for text in (full(seen), scarce(seen, minions)) if text]


class Watch:
    """Tells the log, each of the two when it comes and not again before it was gone."""

    def __init__(self, tell: Callable[[str], None] = log.warning) -> None:
        self._tell = tell
        self._full = self._scarce = False

    def see(self, seen: Descriptors, minions: int) -> None:
        was_full, self._full = self._full, alarmed(self._full, seen)
        if self._full and not was_full:
            self._tell(full(seen))
        text = scarce(seen, minions)
        if text and not self._scarce:
            self._tell(text)
        self._scarce = bool(text)


async def watch(minions: Callable[[], int]) -> None:
    """Look every few seconds, until cancelled. `minions` tells how many are accepted now."""
    told = Watch()
    while True:
        told.see(look(), minions())
        await asyncio.sleep(EVERY_S)
