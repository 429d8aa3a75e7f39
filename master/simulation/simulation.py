"""A cluster of simulated nodes under the real rollout: real documents, real `converge`, made-up daemons and time.

Rules:
1. Time is virtual: when everybody waits, the clock jumps to the next who need not. An hour's deadline costs nothing,
   and a run is the same every time. When nobody is left to wait for, it raises instead of hanging.
2. Every node is a FakeSystem. Its daemons are guessed from its units: etcd is healthy once a majority of its members
   run, the first data node whose Patroni runs leads, the others copy it and stream.
3. `nodes[...]` may be changed while a rollout runs; that is how a test breaks something.

Shipped beside FakeSystem and FakeCluster, so that who writes a document can play a whole rollout of it.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from ...common.cluster import Cluster, Node
from ...common.facts import HostFacts
from ...common.messages import Job, Mode
from ...common.names import new_job_id
from ...common.results import Outcome, Status
from ...common.secret import Secret
from ...states import catalog
from ...states.converge import MemoryDebts, converge
from ...states.document import Context
from ...states.kinds import decode
from ...states.resource import AnyResource
from ..backups.part import WHOLE
from ..bus.flights import Document, Flight, News, is_last
from ..bus.following import SILENT, Following
from ..bus.peers import Peer
from ..definition import references
from ..definition.inventory import digest
from ..health import health
from ..operations.operations import Operation, Operations
from ..operations.progress import End
from ..rollout.drift import Drift
from ..rollout.drifting import Drifts
from ..rollout.exchange import halves
from ..rollout.rollout import Rollout
from ..store import MinionRow
from ..userstates import states as userstates
from ..userstates.states import UserStates
from .simulated import PEM, SimulatedNode, World
from .simulated_store import MemoryStore as MemoryStore

T = TypeVar("T")
UNIX = 1_800_000_000.0
ALIVE_S = 15.0
BEAT_S = health.INTERVAL_S
RESOURCE_S = 0.25  # how long a change takes


class _Jumping(selectors.DefaultSelector):
    """Instead of waiting for that long, it is that much later."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at that time, in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self._jumping = _Jumping(now)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def play(work: Coroutine[Any, Any, T], now: float = 0.0) -> tuple[T, float]:
    """Run to the end in virtual time; also the time at which that was."""
    loop = VirtualLoop(now)
    try:
        return loop.run_until_complete(work), loop.time()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class LoopClock:
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> float:
        return UNIX + self.monotonic()


class SimulatedHub:
    """Every job runs at once on its node, in a task of its own. It is the ledger, too."""

    def __init__(self, world: World, clock: LoopClock) -> None:
        self._world, self._clock = world, clock
        self.peers = {name: Peer(name, facts=node.facts) for name, node in world.nodes.items()}
        self.telemetry = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def connected(self, name: str) -> bool:
        return self._clock.monotonic() - self.peers[name].heard < ALIVE_S

    def held(self, name: str, what: str) -> str:
        return ""

    def facts(self, name: str) -> HostFacts | None:
        return self.peers[name].facts

    def accepted(self) -> frozenset[str]:
        return frozenset(self.peers)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def beat(self) -> None:
        """The telemetry of every node that is there, for ever."""
        while True:
            await self.sample(self.peers)
            await asyncio.sleep(BEAT_S)

    async def sample(self, names: Collection[str]) -> None:
        now = self._clock.monotonic()
        for name in names:
            if self._world.nodes[name].online:
                peer = self.peers[name]
                peer.heard, peer.sampled, peer.sample = now, now, self._world.sample(name, self._clock.now())
        async with self.telemetry:
            self.telemetry.notify_all()

    @property
    def ledger(self) -> SimulatedHub:
        return self

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
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[Flight]:
        cls = "call" if mode == "call" else "state"
        values = {"att": 1, "mepoch": 1, "cls": cls, "mode": mode, "not_after_ms": 1, "ttl_ms": 1}
        flights = []
        for node, document in documents.items():
            about = {**values, "jid": new_job_id(), "sha256": document.sha256, "document": document.text}
            flights.append(Flight(node, Job.model_validate(about), "started"))
            if self._world.nodes[node].online:
                self.spawn(self._run(flights[-1]))
        return flights

    async def follow(self, flights: Sequence[Flight], silence_s: float = 60.0) -> AsyncIterator[tuple[Flight, News]]:
        following = Following(flights, self._clock.monotonic(), silence_s)
        loop, patience = asyncio.get_running_loop(), dict[tuple[str, int], asyncio.TimerHandle]()

        def wait(flight: Flight) -> None:
            patience[flight.key] = loop.call_later(silence_s, following.tell, flight, SILENT)

        for flight in flights:
            wait(flight)
        while not following.over:
            flight, news = await following.next()
            patience[flight.key].cancel()
            if news != SILENT and not is_last(news):
                wait(flight)
            yield flight, news

    async def cancel(self, flight: Flight) -> None:
        """Nobody cancels a simulated job."""

    def flights(self, operation: str | None = None) -> list[Flight]:
        return []

    async def _run(self, flight: Flight) -> None:
        node = self._world.nodes[flight.node]
        node.system.clock = self._clock.now()
        since, request = self._clock.monotonic(), json.loads(flight.job.document)
        if flight.job.mode == "call":
            outcome: Outcome | None = self._world.call(flight.node, request["function"], request["arguments"])
            await asyncio.sleep(RESOURCE_S)
        else:
            node.touched = ()
            node.jobs.append(f"{flight.job.mode} {' '.join(request['documents'])}")
            outcome = await self._converge(flight, node, request)
        if outcome is None or not node.online:
            return  # it has gone silent
        outcome = outcome.model_copy(update={"seconds": self._clock.monotonic() - since})
        flight.state = "done" if outcome.ok else "failed"
        flight.tell(outcome)
        await asyncio.sleep(0.5)
        await self.sample([flight.node])

    async def _converge(self, flight: Flight, node: SimulatedNode, request: dict[str, Any]) -> Outcome | None:
        counts = dict.fromkeys(Status, 0)
        dry_run = flight.job.mode == "plan"
        debts = MemoryDebts(node.debts.known) if dry_run else node.debts
        resources, documents = decode(request["resources"]), request["documents"]
        named = request.get("allow_destroy", ())
        about: Any = {"dry_run": dry_run, "only": documents, "allow_destroy": named, "clock": self._clock}
        for result in converge(resources, node.system, debts, **about):
            if node.dies_at in (result.resource, result.document) and not dry_run:
                node.online = False
            if not node.online:
                return None
            counts[result.status] += 1
            if result.status is not Status.UNCHANGED or result.reason:
                flight.tell(result)
            if result.status is Status.CHANGED:
                await asyncio.sleep(RESOURCE_S)
                node.system.clock = self._clock.now()
        return Outcome(ok=counts[Status.FAILED] == 0, **{status.value: count for status, count in counts.items()})


class Simulation:
    """A master whose cluster is `world`. Raises nothing by itself; what a rollout ends with is its `End`."""

    def __init__(self, world: World, now: float = 0.0) -> None:
        self.world, self.clock = world, LoopClock()
        self.store = MemoryStore(
            [
                MinionRow(name, name, node.key, node.facts.addresses[0], name, "", 0, 0, "")
                for name, node in world.nodes.items()
            ]
        )
        self.clusters: dict[str, Cluster] = {}
        self.texts: dict[str, str] = {}
        self.states = UserStates()  # as `userfolder.discover` finds them
        self._judged: health.ClusterHealth | None = None
        self._now = now

    def apply(self, **asked: Any) -> list[Any]:
        """Every line of an apply of the cluster, in order; the last is its End. A minute passes before each one.

        `asked`: the fields of `Rollout` that say how much of it.
        """
        lines, self._now = play(self._play("apply", asked), self._now + 60.0)
        return lines

    def plan(self, **asked: Any) -> list[Any]:
        lines, self._now = play(self._play("plan", asked), self._now + 60.0)
        return lines

    def watch(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> Drift:
        """What is known of drift after so long, `meanwhile` having happened in the middle of it."""

        async def work() -> Drift:
            self._begin()
            drifts = Drifts(self)
            self.hub.spawn(drifts.watch())
            await asyncio.sleep(seconds / 2)
            meanwhile()
            await asyncio.sleep(seconds / 2)
            return drifts.of(self.world.cluster.name)

        drift, self._now = play(work(), self._now + 60.0)
        return drift

    def _begin(self) -> None:
        self.hub = SimulatedHub(self.world, self.clock)
        self._judged = None
        self.operations = Operations(self.store, self.clock)
        self.hub.spawn(self.hub.beat())

    async def _play(self, what: str, asked: dict[str, Any]) -> list[Any]:
        self._begin()

        async def work(operation: Operation) -> End:
            rollout = Rollout(
                self, operation, self.world.cluster, self.world.cluster.model_dump_json(), "abc123", **asked
            )
            return await (rollout.plan() if what == "plan" else rollout.apply())

        name = self.world.cluster.name
        operation = await self.operations.start(f"{what} {name}", name, "test", work)
        return [line async for line in self.operations.follow(operation)]

    # ---- what a rollout asks of its master

    async def definition(self, cluster: str) -> str:
        return self.texts[cluster]

    async def applied_whole(self, cluster: str) -> bool:
        return (await self.store.notes(cluster)).get(WHOLE) == digest(self.texts[cluster])

    async def remember(self, cluster: Cluster, text: str) -> None:
        self.clusters[cluster.name], self.texts[cluster.name] = cluster, text

    def health(self, cluster: Cluster) -> health.ClusterHealth:
        samples = {p.name: (p.sampled, p.sample) for p in self.hub.peers.values() if p.sample is not None}
        connected = {name: self.hub.connected(name) for name in self.hub.peers}
        self._judged = health.fold(cluster, samples, connected, self.clock.monotonic(), previous=self._judged)
        return self._judged

    def take_over_secrets(self, cluster: Cluster) -> None:
        """There is no vault here."""

    def user_states(self) -> UserStates:
        return self.states

    def compile(
        self, cluster: Cluster, node: Node, facts: HostFacts, notes: dict[str, str], own: UserStates
    ) -> list[AnyResource]:
        return userstates.compile(
            own,
            Context(
                cluster=cluster,
                node=node,
                facts=facts,
                secrets={
                    name: Secret(f"password-of-{name}")
                    for name in (*catalog.secrets(cluster), *references.wanted(cluster))
                },
                ca_pem=PEM,
                client_ca_pem=PEM,
                etcd_joins=f"etcd_joins:{node.name}" in notes,
                ssh=halves(cluster, notes),
                files=dict.fromkeys(references.paths(cluster), PEM),
            ),
        )
