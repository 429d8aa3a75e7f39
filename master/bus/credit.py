"""How many events each minion may have unacknowledged, so that a slow store fills the minions' spools and not memory.

One window for all, halved while a piece of a stream waits long for its commit, and widened while none does. The sum of
what is granted at first is bounded, in events and in bytes, however many minions connect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...common.messages import Credit
from .peers import Peer

MOST, LEAST = 256, 8  # events
ALL = 40_000  # events that all minions together may have on their way after connecting
EVENT_BYTES = 16 * 1024  # granted for each event; an event of output may be twice that
ALL_BYTES, LEAST_BYTES = 64 * 1024 * 1024, 64 * 1024  # of all minions together, unless they are too many for that
SLOW_S, FAST_S = 0.75, 0.25  # between submitting and commit


class Credits:
    def __init__(self) -> None:
        self._window = MOST
        self._worst_s = 0.0
        self._peers = 1

    def took(self, seconds: float) -> None:
        """A piece of a stream was stored after that time."""
        self._worst_s = max(self._worst_s, seconds)

    def first(self, peers: int) -> tuple[int, int]:
        """Events and bytes for a minion that connects as one of so many."""
        self._peers = max(1, peers)
        return self._grant()

    def turn(self, peers: Iterable[Peer]) -> Iterator[tuple[Peer, Credit]]:
        """Once a second: whom to tell what, if anything has changed for them."""
        if self._worst_s > SLOW_S:
            self._window = max(LEAST, self._window // 2)
        elif self._worst_s < FAST_S:
            self._window = min(MOST, self._window * 2)
        self._worst_s = 0.0
        granted = self._grant()
        for peer in peers:
            if peer.granted[0] and peer.granted != granted:
                peer.granted = granted
                peer.most = max(peer.most, granted[1])
                yield peer, Credit(events=granted[0], bytes=granted[1])

    def _grant(self) -> tuple[int, int]:
        events = max(LEAST, min(self._window, ALL // self._peers))
        return events, min(events * EVENT_BYTES, max(LEAST_BYTES, ALL_BYTES // self._peers))
