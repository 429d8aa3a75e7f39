"""Which events go out next on one line: in order, within the credit, again from where the master asks. Go-back-N.

Nothing is kept here: the journal holds the events, and `acked` of the line is what the master said on it. `next` waits
for the disk and may be called from a thread, while the loop calls everything else: `expects` says whether what it gave
is still what comes next.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from ..common.messages import Event, Lost
from .journal import StoredEvent

BATCH = 64


class Events(Protocol):
    """As `journal.Journal`."""

    @property
    def epoch(self) -> str: ...

    def lowest(self) -> int: ...

    def highest(self) -> int: ...

    def events_after(self, seq: int, limit: int) -> list[StoredEvent]: ...


class Outbox:
    def __init__(self, events: Events, hw: int, credit: int, credit_bytes: int) -> None:
        """`hw` is how far the master has the stream, as its WELCOME said."""
        self._events, self._credit, self._credit_bytes = events, credit, credit_bytes
        self.acked = self.sent = hw
        self._stalled_at = -1
        self._sizes: deque[tuple[int, int]] = deque()  # what is on its way: seq, bytes
        self._bytes = 0

    @property
    def behind(self) -> bool:
        """Whether there is more than was sent; needs no disk, and `next` a thread that waits for one."""
        return self.sent < self._events.highest()

    def next(self) -> list[Event | Lost]:
        """What may be sent now; empty when there is nothing, or no credit."""
        sent = self.sent
        if sent < self._events.highest() and (lowest := self._events.lowest()) > sent + 1:
            return [Lost(epoch=self._events.epoch, first_seq=sent + 1, last_seq=lowest - 1)]
        room = min(self.acked + self._credit - sent, BATCH)
        if room <= 0 or (self._credit_bytes and self._bytes >= self._credit_bytes):
            return []
        return [
            Event(epoch=self._events.epoch, seq=e.seq, jid=e.jid, att=e.att, kind=e.kind, body=e.body)
            for e in self._events.events_after(sent, room)
        ]

    def expects(self, message: Event | Lost) -> bool:
        """False when the master has asked for others meanwhile, or has that one already."""
        return (message.seq if isinstance(message, Event) else message.first_seq) == self.sent + 1

    def took(self, message: Event | Lost) -> bool:
        """It was sent. False when the credit in bytes is used up with it."""
        self.sent = message.seq if isinstance(message, Event) else message.last_seq
        size = len(message.body) if isinstance(message, Event) else 0
        self._sizes.append((self.sent, size))
        self._bytes += size
        return not self._credit_bytes or self._bytes < self._credit_bytes

    def acknowledge(self, seq: int) -> None:
        self.acked = max(self.acked, seq)
        self.sent = max(self.sent, self.acked)
        while self._sizes and self._sizes[0][0] <= self.acked:
            self._bytes -= self._sizes.popleft()[1]

    def grant(self, events: int, size: int) -> None:
        self._credit, self._credit_bytes = events, size

    def resync(self, from_seq: int) -> None:
        """Send again, starting there."""
        self.sent = self.acked = from_seq - 1
        self._sizes.clear()
        self._bytes = 0

    def beat(self) -> bool:
        """Called at each heartbeat. True when, a whole beat long, nothing of what was sent has been acknowledged."""
        stalled = self._stalled_at == self.acked < self.sent
        if stalled:
            self.resync(self.acked + 1)
        self._stalled_at = self.acked
        return stalled
