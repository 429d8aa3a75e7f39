"""A job that has come to this minion and has not ended: what it is at, and whether it may still begin."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from ..common.messages import EventKind, Job


@dataclass
class Underway:
    job: Job
    since: float
    resource: str = ""
    document: bytes = b""
    turn: threading.Lock = field(default_factory=threading.Lock)  # who has it begins it, or tells that it never will
    came: float = field(default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))  # also counts suspended time
    cancelled: threading.Event = field(default_factory=threading.Event)


def over(current: Underway) -> EventKind | None:
    """Why it must not begin any more, if so; once it is, it stays so."""
    if current.cancelled.is_set() or _too_late(current):
        return "cancelled" if current.cancelled.is_set() else "expired"
    return None


def _too_late(current: Underway) -> bool:
    """Its time was over while it waited for the job before it: nothing begins after its deadline."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - current.came > current.job.ttl_ms / 1000
