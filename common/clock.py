"""Time as an argument: who needs the time is given a Clock, and a test gives one it can turn by hand.

Deadlines and intervals use `monotonic`; only what a person reads, or what crosses machines, uses `now`.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never go backwards; comparable only within one boot of one host."""
        ...

    def now(self) -> float:
        """Unix time in seconds, UTC."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()


def iso(unix_s: float) -> str:
    """RFC 3339 in UTC with seconds, for people and JSON."""
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
