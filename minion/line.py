"""One connection of a minion to its master, from WELCOME on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..common.bus import Dialer
from ..common.codec import encode
from ..common.messages import Message
from ..common.signing import Verifier
from .outbox import Outbox


@dataclass
class Line:
    """`offset_ms` is the master's time less this host's time since boot."""

    dialer: Dialer
    outbox: Outbox
    verifier: Verifier
    version: int
    offset_ms: int
    heard: float = field(default_factory=time.monotonic)

    def now_ms(self) -> int:
        """The master's time."""
        return boot_ms() + self.offset_ms

    async def send(self, message: Message) -> bool:
        return message.first <= self.version and await self.dialer.send(encode(message, self.version))


def boot_ms() -> int:
    """Milliseconds since boot, also those that the host was suspended; nobody can set this clock."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
