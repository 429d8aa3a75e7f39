"""What a rollout needs of the master, and no more: so that the same code drives real nodes and simulated ones.

`server.Master`, `hub.Hub` and `store.Store` fit these shapes without knowing of them, and so does `simulation.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from ...common.clock import Clock
from ...common.cluster import Cluster, Node
from ...common.facts import HostFacts
from ...common.messages import Mode
from ...states.resource import AnyResource
from ..bus.flights import Document, Flight, News
from ..bus.peers import Peer
from ..health.observed import ClusterHealth
from ..store import MinionRow
from ..userstates.states import UserStates


class Road(Protocol):
    """Of a job to its minion and back. As `ledger.Ledger`."""

    async def order(
        self,
        documents: Mapping[str, Document],
        mode: Mode,
        *,
        what: str,
        operation: str,
        timeout_s: float,
        query: bool = False,
        blob: tuple[str, int] = ("", 0),
        wanted: Callable[[], bool] = ...,
    ) -> list[Flight]: ...

    def follow(self, flights: Sequence[Flight], silence_s: float = 60.0) -> AsyncIterator[tuple[Flight, News]]: ...

    async def cancel(self, flight: Flight) -> None: ...

    def flights(self, operation: str | None = None) -> list[Flight]: ...


class Minions(Protocol):
    """Who is connected. As `hub.Hub`."""

    @property
    def peers(self) -> Mapping[str, Peer]: ...

    @property
    def telemetry(self) -> asyncio.Condition: ...

    @property
    def ledger(self) -> Road: ...

    def connected(self, name: str) -> bool: ...

    def held(self, name: str, what: str) -> str: ...

    def facts(self, name: str) -> HostFacts | None: ...

    def accepted(self) -> frozenset[str]: ...


class Notes(Protocol):
    """As `store.Store`."""

    async def minions(self) -> list[MinionRow]: ...

    async def notes(self, cluster: str) -> dict[str, str]: ...

    async def note(self, cluster: str, key: str, value: str | None) -> None: ...


class Headquarters(Protocol):
    """As `server.Master`."""

    @property
    def hub(self) -> Minions: ...

    @property
    def store(self) -> Notes: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def clusters(self) -> Mapping[str, Cluster]: ...

    def compile(
        self, cluster: Cluster, node: Node, facts: HostFacts, notes: dict[str, str], own: UserStates
    ) -> list[AnyResource]: ...

    def take_over_secrets(self, cluster: Cluster) -> None: ...

    def user_states(self) -> UserStates: ...

    def health(self, cluster: Cluster) -> ClusterHealth: ...

    async def remember(self, cluster: Cluster, text: str) -> None: ...
