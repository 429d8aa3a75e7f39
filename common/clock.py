"""Time as an argument: who needs the time is given a Clock, and a test gives one it can turn by hand.

Deadlines and intervals use `monotonic`; only what a person reads, or what crosses machines, uses `now`.
"""

from __future__ import annotations

import re
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


def moment(text: str) -> str:
    """A time as a person writes it -> as PostgreSQL reads it everywhere: `2026-11-22 18:21:03.899305+00`.

    Without an offset from UTC it is UTC. Raises ValueError.
    """
    offset = re.sub(r"([+-]\d\d)$", r"\1:00", text.strip()) if ":" in text else text.strip()
    try:
        read = datetime.fromisoformat(offset.replace("Z", "+00:00"))
        read = read.replace(tzinfo=read.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; write it as 2026-11-22 18:21:03+00") from None
    return read.strftime("%Y-%m-%d %H:%M:%S.%f+00")


def instant(text: str) -> float:
    """What `moment` has written, as Unix s."""
    return datetime.fromisoformat(text.replace("+00", "+00:00")).timestamp()
