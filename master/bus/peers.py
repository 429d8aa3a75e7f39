"""One minion as the master's end of the bus sees it: its newest connection, what it says of itself, how it behaves.

Pure bookkeeping: nothing here sends or stores.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ...common.facts import HostFacts
from ...common.messages import Fetch, Hello, Lost, Message, NextKey, Running, Sign, SuccessorKnown
from ...common.telemetry import Sample

FRAMES_PER_S = 400.0  # that are no events; those have their credit
BURST = 2000.0
DEAR: tuple[type[Message], ...] = (Hello, Lost, NextKey, Sign, SuccessorKnown)  # they write to the store, or sign
FETCH_COST = 0.25  # the largest file, however fast it comes, is within the budget of a burst
DEAR_COST, COST_BYTES, BAD_COST_BYTES = 40.0, 4096, 256
OFFENCES = 20  # in a minute
INCARNATIONS = 8


def cost(message: Message, size: int) -> float:
    """What a message takes from its sender's budget: more if it makes work, and by its size in bytes."""
    if isinstance(message, Fetch):
        return FETCH_COST
    return (DEAR_COST if isinstance(message, DEAR) else 1.0) + size // COST_BYTES


@dataclass
class Budget:
    """A token bucket. Not empty after a burst of `BURST`, empty for who goes on faster than `FRAMES_PER_S`."""

    left: float = BURST
    at: float = 0.0

    def spend(self, cost: float, now: float) -> bool:
        """False when there is not that much left."""
        self.left = min(BURST, self.left + (now - self.at) * FRAMES_PER_S)
        self.at = now
        if cost > self.left:
            return False
        self.left -= cost
        return True


@dataclass
class Peer:
    """`route` is its newest connection, `key` the accepted key that this was made with. Times are monotonic."""

    name: str
    key: str = ""
    route: bytes = b""
    address: str = ""
    version: int = 1
    epoch: str = ""
    session: bytes = field(default=b"", repr=False)  # key of that connection; queries are authenticated with it
    heard: float = float("-inf")  # on a connection that it still has
    left: float = float("-inf")  # it was heard of last on one that it has no more
    beat: bool = False  # a PING has come on this connection
    facts: HostFacts | None = None
    running: tuple[Running, ...] = ()
    spool: int = 0
    spool_bytes: int = 0
    trouble: str = ""
    sample: Sample | None = None
    sampled: float = float("-inf")
    granted: tuple[int, int] = (0, 0)  # events and bytes that it may have unacknowledged
    most: int = 0  # bytes: the widest it was granted on this connection, since it may not have heard of less yet
    storing: int = 0  # bytes of its events that the store has been given and has not confirmed
    caught_up_at: int | None = None  # the last event it held at HELLO; when it is stored, what is open is settled
    open: frozenset[tuple[str, int]] = frozenset()  # jobs, as it said at HELLO
    stray_bytes: int = 0
    twin: str = ""  # why two hosts seem to use its key
    budget: Budget = field(default_factory=Budget)
    offences: deque[float] = field(default_factory=lambda: deque(maxlen=OFFENCES))
    incarnations: deque[tuple[tuple[str, str], str]] = field(default_factory=lambda: deque(maxlen=INCARNATIONS))

    @property
    def last_heard(self) -> float:
        return max(self.heard, self.left)

    def leave(self) -> None:
        """It is not connected any more."""
        self.left, self.heard = self.last_heard, float("-inf")

    def offend(self, now: float) -> bool:
        """Count one. True when that were too many within a minute."""
        self.offences.append(now)
        return len(self.offences) == OFFENCES and now - self.offences[0] < 60

    def came(self, facts: HostFacts, address: str) -> bool:
        """Another HELLO. False when a host came back that another one had taken over from: then both are alive.

        A host that was booted again, or set up anew, never returns to what it was before.
        """
        host = (facts.machine_id, facts.boot_id)
        earlier = [one for one, _ in self.incarnations]
        returned = host in earlier and earlier[-1] != host
        if returned:
            self.twin = f"two hosts use its key: one at {address}, one at {self.incarnations[-1][1]}"
        if not earlier or earlier[-1] != host:
            self.incarnations.append((host, address))
        return not returned
