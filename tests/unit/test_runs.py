"""A run behind its guard and a run that is taken up again: with minions, time and judgements that the test makes up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.facts import HostFacts
from pgha.common.messages import Job
from pgha.common.names import new_job_id
from pgha.common.results import Outcome
from pgha.master import resumption
from pgha.master.adhoc.runs import Run, RunRequest
from pgha.master.bus.flights import Document, Flight, News, Output
from pgha.master.bus.following import Following
from pgha.master.bus.peers import Peer
from pgha.master.health.observed import ClusterHealth
from pgha.master.operations.operations import Operation, Operations
from pgha.master.operations.progress import End, Gate, NodeDone, Started
from pgha.master.operations.progress import Output as Line
from pgha.master.resumption import Recalled
from pgha.master.simulation.simulated import World
from pgha.master.simulation.simulation import LoopClock, MemoryStore, SimulatedHub, Simulation, play
from pgha.master.simulation.testing import three_nodes
from pgha.master.store.operations import OperationJob, OperationRow

NAMES = ("pg-node1", "pg-node2", "witness-node")


class Minions:
    """Nodes that answer as the test says, a second after they were asked. They are the hub and the ledger at once."""

    def __init__(self, answers: Mapping[str, bool], clock: LoopClock) -> None:
        self.answers, self._clock = answers, clock
        self.peers = {name: Peer(name, heard=0.0) for name in answers}
        self.telemetry = asyncio.Condition()
        self.asked: list[tuple[float, str]] = []

    @property
    def ledger(self) -> Minions:
        return self

    def connected(self, name: str) -> bool:
        return name in self.peers

    def facts(self, name: str) -> HostFacts | None:
        return None

    def accepted(self) -> frozenset[str]:
        return frozenset(self.answers)

    def held(self, name: str, what: str) -> str:
        return ""

    async def order(self, documents: Mapping[str, Document], mode: str, **rest: Any) -> list[Flight]:
        self.asked += [(self._clock.monotonic(), node) for node in documents]
        flights = [flight_to(node) for node in documents]
        for flight in flights:
            asyncio.get_running_loop().call_later(1.0, self.end, flight, self.answers[flight.node])
        return flights

    def end(self, flight: Flight, ok: bool) -> None:
        flight.state = "done" if ok else "failed"
        flight.tell(Outcome(ok=ok, seconds=1.0))

    async def follow(self, flights: Sequence[Flight], silence_s: float = 60.0) -> AsyncIterator[tuple[Flight, News]]:
        following = Following(flights, 0.0, silence_s)
        while not following.over:
            yield await following.next()

    async def cancel(self, flight: Flight) -> None: ...

    def flights(self, operation: str | None = None) -> list[Flight]:
        return []


def flight_to(node: str, state: str = "started") -> Flight:
    values = {"jid": new_job_id(), "att": 1, "mepoch": 1, "cls": "call", "mode": "call", "not_after_ms": 1, "ttl_ms": 1}
    return Flight(node, Job.model_validate({**values, "sha256": "0" * 64, "document": b""}), state)


class Headquarters:
    """`judged` is what `health` says; it may be changed while a run goes on."""

    def __init__(
        self, clusters: Mapping[str, Cluster], judged: ClusterHealth | None, answers: Mapping[str, bool]
    ) -> None:
        self.clock = LoopClock()
        self.hub = Minions(answers, self.clock)
        self.clusters, self.judged = clusters, judged
        self.operations = Operations(MemoryStore([]), self.clock)

    def health(self, cluster: Cluster) -> ClusterHealth:
        assert self.judged is not None
        seen = tuple(replace(node, received=self.clock.monotonic()) for node in self.judged.nodes)
        return replace(self.judged, nodes=seen)

    async def lines(self, request: RunRequest) -> list[Any]:
        async def work(operation: Operation) -> End:
            return await Run(self, operation, request).carry_out()

        operation = await self.operations.start(request.what, "", "anna", work, request.nodes)
        return [line async for line in self.operations.follow(operation)]

    @property
    def order(self) -> list[str]:
        return [node for _, node in self.hub.asked]


def run(body: Callable[[Headquarters], Coroutine[Any, Any, None]], answers: Mapping[str, bool]) -> None:
    async def whole() -> None:
        await body(Headquarters({}, None, answers))

    play(whole())


def request(*nodes: str, function: str = "ping", **changed: Any) -> RunRequest:
    return RunRequest.model_validate({"target": "x", "function": function, "nodes": nodes, **changed})


# ---- in batches


def test_batches_follow_each_other_and_all_of_one_go_at_once() -> None:
    async def body(master: Headquarters) -> None:
        lines = await master.lines(request("a", "b", "c", batch="2"))
        assert master.hub.asked == [(0.0, "a"), (0.0, "b"), (1.0, "c")]
        assert lines[-1].exit == 0
        assert lines[-1].data == {"ok": 3, "failed": 0, "no_answer": 0, "cancelled": 0, "seconds": 2.0}

    run(body, dict.fromkeys("abc", True))


def test_who_was_not_begun_is_told_with_the_reason_and_how_to_go_on() -> None:
    async def body(master: Headquarters) -> None:
        lines = await master.lines(request("a", "b", "c", batch="1"))
        assert master.order == ["a", "b"]
        left = [line for line in lines if isinstance(line, NodeDone) and line.state == "cancelled"]
        assert [(line.node, line.message) for line in left] == [
            ("c", "not begun: b is not done, and --max-fail allows 0")
        ]
        assert lines[-1].exit == 4
        assert f"1 node was not begun. To go on with: pgha-master jobs resume {lines[0].id}" in lines[-1].message

    run(body, {"a": True, "b": False, "c": True})


def test_a_run_of_which_nothing_was_done_has_failed() -> None:
    async def body(master: Headquarters) -> None:
        assert (await master.lines(request("a", "b")))[-1].exit == 1

    run(body, {"a": False, "b": False})


def test_a_node_without_a_connection_is_asked_nothing_and_counts_as_not_done() -> None:
    async def body(master: Headquarters) -> None:
        del master.hub.peers["a"]
        lines = await master.lines(request("a", "b", batch="1"))
        assert master.order == []
        assert next(line.message for line in lines if isinstance(line, NodeDone)).endswith("nothing was sent")
        assert lines[-1].exit == 1

    run(body, {"a": True, "b": True})


# ---- behind its guard


@pytest.fixture(scope="module")
def built() -> tuple[Cluster, ClusterHealth]:
    """A whole cluster and how it is judged."""
    simulation = Simulation(World(three_nodes()))
    assert simulation.apply()[-1].exit == 0
    cluster = simulation.world.cluster

    async def look() -> ClusterHealth:
        simulation.hub = SimulatedHub(simulation.world, simulation.clock)
        await simulation.hub.sample(simulation.hub.peers)
        return simulation.health(cluster)

    judged, _ = play(look(), 1000.0)
    return cluster, judged


def guarded(built: tuple[Cluster, ClusterHealth], body: Callable[[Headquarters], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        cluster, judged = built
        await body(Headquarters({cluster.name: cluster}, judged, dict.fromkeys(NAMES, True)))

    play(whole())


STOP: dict[str, Any] = {"function": "service.stop", "arguments": ("etcd",)}
RESTART: dict[str, Any] = {"function": "service.restart", "arguments": ("etcd",)}


def test_two_voters_at_once_are_refused_and_nothing_is_sent(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        lines = await master.lines(request(*NAMES, **STOP))
        assert master.order == []
        assert lines[-1].exit == 6
        assert "etcd would go down on" in lines[-1].message
        assert "--batch 1" in lines[-1].message
        assert lines[-1].message.endswith("; nothing was sent")
        assert {line.state for line in lines if isinstance(line, NodeDone)} == {"cancelled"}

    guarded(built, body)


def test_a_batch_that_would_be_refused_later_is_refused_before_the_first(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        lines = await master.lines(request(*NAMES, **STOP, canary=True))
        assert master.order == []
        assert lines[-1].exit == 6

    guarded(built, body)


def test_who_insists_is_not_guarded(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        assert (await master.lines(request(*NAMES, **STOP, force_unsafe=True)))[-1].exit == 0
        assert sorted(master.order) == sorted(NAMES)

    guarded(built, body)


def test_what_takes_nothing_down_is_not_guarded(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        assert (await master.lines(request(*NAMES)))[-1].exit == 0

    guarded(built, body)


def test_the_next_node_waits_until_the_cluster_is_whole_again(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        whole = master.judged
        assert whole is not None
        broken = tuple(replace(n, sample=None) if n.name == "witness-node" else n for n in whole.nodes)
        loop = asyncio.get_running_loop()

        def becomes(judged: ClusterHealth) -> None:
            master.judged = judged

        loop.call_later(0.5, becomes, replace(whole, nodes=broken))
        loop.call_later(31.0, becomes, whole)
        beat = asyncio.create_task(_beat(master.hub))
        lines = await master.lines(request("witness-node", "pg-node2", **RESTART, batch="1"))
        beat.cancel()
        assert lines[-1].exit == 0
        assert master.order == ["witness-node", "pg-node2"]
        assert master.hub.asked[1][0] >= 31.0
        gates = [(line.state, line.reason) for line in lines if isinstance(line, Gate)]
        assert [state for state, _ in gates] == ["waiting", "open"]
        assert "witness-node" in gates[0][1]

    guarded(built, body)


def test_a_cluster_that_does_not_become_whole_stops_the_run(built: tuple[Cluster, ClusterHealth]) -> None:
    async def body(master: Headquarters) -> None:
        whole = master.judged
        assert whole is not None
        broken = tuple(replace(n, sample=None) if n.name == "witness-node" else n for n in whole.nodes)

        def breaks() -> None:
            master.judged = replace(whole, nodes=broken)

        asyncio.get_running_loop().call_later(0.5, breaks)
        beat = asyncio.create_task(_beat(master.hub))
        lines = await master.lines(request("witness-node", "pg-node2", **RESTART, batch="1"))
        beat.cancel()
        assert master.order == ["witness-node"]
        assert lines[-1].exit == 4
        assert "waited 300 s for" in lines[-1].message
        assert [line.state for line in lines if isinstance(line, Gate)] == ["waiting", "failed"]

    guarded(built, body)


async def _beat(hub: Minions) -> None:
    while True:
        await asyncio.sleep(1.0)
        async with hub.telemetry:
            hub.telemetry.notify_all()


# ---- taken up again


def recalled(wanted: RunRequest, states: Mapping[str, str], told: tuple[str, ...] = (), **more: Any) -> Recalled:
    row = OperationRow(new_job_id(), "run", wanted.what, "anna", "", "started", 0.0, None, None, "", "", 0, 0)
    found = tuple(
        OperationJob(f"J{node}", 1, node, "call", "ping", state, 0.0, None, None, None, "", "", "")
        for node, state in states.items()
    )
    return Recalled(row, wanted, 1, found, more.get("untold", ()), frozenset(told), more.get("flights", {}))


async def gone_on(master: Headquarters, one: Recalled) -> list[Any]:
    store = MemoryStore([])
    store.kept[one.row.id] = [Started(id=one.row.id, what="run x").model_dump_json()]
    master.operations = Operations(store, master.clock)
    resumption.go_on(master, [one])
    operation = master.operations.running(one.row.id)
    assert operation is not None
    return [line async for line in master.operations.follow(operation)]


def test_what_ended_is_told_what_is_open_is_followed_and_what_had_not_begun_begins() -> None:
    async def body(master: Headquarters) -> None:
        flight = flight_to("b")
        asyncio.get_running_loop().call_later(5.0, master.hub.end, flight, True)
        wanted = request("a", "b", "c", batch="2")
        lines = await gone_on(master, recalled(wanted, {"a": "done", "b": "started"}, flights={"b": flight}))
        assert master.hub.asked == [(5.0, "c")]
        assert [line.node for line in lines if isinstance(line, NodeDone)] == ["a", "b", "c"]
        assert isinstance(lines[0], Started)
        assert lines[-1].exit == 0

    run(body, dict.fromkeys("abc", True))


def test_an_end_that_was_told_is_not_told_again() -> None:
    async def body(master: Headquarters) -> None:
        wanted = request("a", "b", batch="1")
        lines = await gone_on(master, recalled(wanted, {"a": "done"}, told=("a",)))
        assert [line.node for line in lines if isinstance(line, NodeDone)] == ["b"]
        assert lines[-1].data["ok"] == 2

    run(body, dict.fromkeys("ab", True))


def test_output_that_nobody_was_told_of_is_told() -> None:
    async def body(master: Headquarters) -> None:
        untold = (("a", Output("stdout", "one\n")), ("a", Output("stderr", "two\n")))
        lines = await gone_on(master, recalled(request("a"), {"a": "done"}, untold=untold))
        said = [(line.stream, line.text) for line in lines if isinstance(line, Line)]
        assert said == [("stdout", "one\n"), ("stderr", "two\n")]

    run(body, {"a": True})


def test_what_failed_before_the_restart_counts_for_what_may_begin_after_it() -> None:
    async def body(master: Headquarters) -> None:
        lines = await gone_on(master, recalled(request("a", "b", batch="1"), {"a": "failed"}))
        assert master.order == []
        assert lines[-1].exit == 1

    run(body, {"a": True, "b": True})


def test_nodes_are_given_time_to_come_back_before_they_are_called_absent() -> None:
    async def body(master: Headquarters) -> None:
        peer = master.hub.peers.pop("b")
        asyncio.get_running_loop().call_later(12.0, master.hub.peers.__setitem__, "b", peer)
        beat = asyncio.create_task(_beat(master.hub))
        lines = await gone_on(master, recalled(request("a", "b", batch="1"), {"a": "done"}))
        beat.cancel()
        assert [node for _, node in master.hub.asked] == ["b"]
        assert lines[-1].exit == 0

    run(body, {"a": True, "b": True})
