"""Who is known and who is there: accepted keys, and the newest connection of each minion. Sends and stores nothing.

Rules:
1. A key is looked up in a table that is replaced as a whole: the threads that hold the connections read it, too.
2. What a minion may be asked depends on what is known of it, and on nothing that it says of others.
"""

from __future__ import annotations

from ...common.clock import Clock
from ...common.facts import HostFacts
from ...common.keys import public_text
from .flights import Flight
from .peers import Peer

ALIVE_S = 15.0  # three heartbeats
QUARANTINE_S = 60.0
ALWAYS = ("ping", "facts", "self.upgrade")  # what a minion that is too old may still be asked


class Roster:
    def __init__(self, clock: Clock, oldest: int) -> None:
        """`oldest`: minions that speak an older version of the protocol may do nothing but be upgraded."""
        self._clock, self._oldest = clock, oldest
        self.peers: dict[str, Peer] = {}
        self.routes: dict[bytes, str] = {}  # newest connections -> name
        self._names: dict[str, str] = {}  # accepted key -> name
        self._quarantined: dict[str, float] = {}  # key -> until, monotonic

    # ---- keys

    def accept(self, names: dict[str, str]) -> dict[str, str]:
        """From now on these are the accepted keys, with their names; those that are no longer among them."""
        before, self._names = self._names, names
        return {key: name for key, name in before.items() if key not in names}

    def accepted(self) -> frozenset[str]:
        return frozenset(self._names.values())

    def admit(self, public: bytes) -> str | None:
        """Who has that key, as a text; None when it may not speak."""
        key = public_text(public)
        return key if self.heard_of(key) else None

    def heard_of(self, key: str) -> bool:
        """Whether what comes under that key is listened to."""
        return key in self._names and key not in self._quarantined

    def who(self, key: str, address: str) -> Peer | None:
        """The minion whose key that is; None when it is not listened to."""
        name = self._names.get(key)
        if name is None or key in self._quarantined:
            return None
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(name, key=key, address=address)
        return peer

    def quarantine(self, name: str) -> list[str]:
        """Listen to none of its keys for a while; these keys."""
        keys = [key for key, known in self._names.items() if known == name]
        for key in keys:
            self._quarantined[key] = self._clock.monotonic() + QUARANTINE_S
        return keys

    def let_back(self) -> None:
        """Those whose time is over are listened to again."""
        now = self._clock.monotonic()
        self._quarantined = {key: until for key, until in self._quarantined.items() if until > now}

    # ---- minions

    def peer(self, name: str) -> Peer | None:
        return self.peers.get(name)

    def connected(self, name: str) -> bool:
        peer = self.peers.get(name)
        return peer is not None and self._clock.monotonic() - peer.heard < ALIVE_S

    def facts(self, name: str) -> HostFacts | None:
        peer = self.peers.get(name)
        return peer.facts if peer else None

    def running(self, flight: Flight) -> tuple[str, float] | None:
        """What that job does now and for how many seconds, as its minion said last."""
        peer = self.peers.get(flight.node)
        for job in peer.running if peer else ():
            if (job.jid, job.att) == flight.key:
                return job.resource, job.seconds
        return None

    def held(self, name: str, what: str) -> str:
        """Why that minion does not get this to do at the moment; empty when it does."""
        peer = self.peers.get(name)
        if peer is None or what in ALWAYS:
            return ""
        if peer.twin:
            return f"{peer.twin}; look at both, then: pgha-master keys revoke {name}, and enrol the right one"
        if peer.version < self._oldest:
            return (
                f"its minion speaks version {peer.version} of the protocol, this master wants {self._oldest}: "
                f"pgha-master run {name} self.upgrade"
            )
        return ""
