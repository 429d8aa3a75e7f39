"""Carries out the restarts that settings wait for, one act after the other, each between two looks at the cluster.

What is next, `restarts` decides. While the leader is concerned a node writes through its own HAProxy all the time, so
that what users felt is told, and the next plan can say what to expect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field

from ...common.cluster import Cluster
from ..health import gates
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Answer, Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from ..orchestration.stages import steady_so_far
from . import restarts
from .restarts import Act, Restart, Switchover

STEP = "restart"
NOTE = "refused_s:"
ACT_S = 300.0
WATCH_S = 120
BEGIN_S = 10.0


@dataclass
class Restarts:
    """`done`: in words, for the end of the report."""

    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    keeper: Gatekeeper
    done: list[str] = field(default_factory=list)

    async def due(self, expected: Collection[str]) -> list[str]:
        """Whose PostgreSQL waits. `expected`: nodes that soon will, because a setting was changed just now.

        Patroni looks at its configuration once in a loop; what then does not wait was set to what it already is.
        """
        deadline = self.master.clock.monotonic() + 2 * self.cluster.timers.loop_wait + 10.0
        while set(expected) - set(restarts.waiting(self._health())) and self.master.clock.monotonic() < deadline:
            with contextlib.suppress(asyncio.TimeoutError):
                async with self.master.hub.telemetry:
                    await asyncio.wait_for(self.master.hub.telemetry.wait(), 5.0)
        return restarts.waiting(self._health())

    async def run(self) -> None:
        """Until nothing waits. Raises Failed."""
        tried: set[str] = set()
        handed_over = False
        while restarts.waiting(self._health()):
            await self.keeper.wait(STEP, "the cluster is steady", steady_so_far, ACT_S, ())
            health = self._health()
            if not (due := restarts.waiting(health)):
                return  # somebody else has restarted it meanwhile
            acts = restarts.course(self.cluster, health, due, shrinks=restarts.shrinking(health), tried=tried)
            if not acts or (handed_over and isinstance(acts[0], Switchover)):
                raise Failed(f"{STEP}: {due[0]} waits for a restart of PostgreSQL also after one: patronictl list")
            handed_over = handed_over or isinstance(acts[0], Switchover)
            tried = await self._act(acts[0], tried)

    async def give_way(self) -> None:
        """Hand the lead over, before what serves it is stopped; where nobody could take it, leave it."""
        if heir := restarts.heir_of(self.cluster, self._health()):
            await self.keeper.wait(STEP, "the cluster is steady", steady_so_far, ACT_S, ())
            await self._act(Switchover(self._health().leader, heir), set())

    async def measured(self) -> dict[str, list[float]]:
        """Seconds for which writes were refused, of the latest acts of each kind, oldest first."""
        notes = await self.master.store.notes(self.cluster.name)
        found = {key.removeprefix(NOTE): value.split() for key, value in notes.items() if key.startswith(NOTE)}
        return {kind: [float(word) for word in words] for kind, words in found.items()}

    async def _act(self, act: Act, tried: set[str]) -> set[str]:
        """Do it and wait until the cluster is whole again. The nodes tried from now on."""
        since = self.master.clock.monotonic()
        await self.report.begin(STEP, str(act))
        proxied = gates.one_writer_up(self._health()) == gates.OPEN
        felt = isinstance(act, Switchover) or act.leads
        watch = await self._watch() if felt else None
        try:
            answer = await self._order(act)
            if not answer.ok:
                raise Failed(f"{STEP}: {act}: {answer.why()}")
            whole = gates.every(steady_so_far, gates.one_writer_up) if proxied else steady_so_far
            touched = [act.leader, act.candidate] if isinstance(act, Switchover) else [act.node]
            await self.keeper.wait(STEP, "the cluster is steady again", whole, ACT_S, touched)
        except BaseException:
            if watch is not None:
                watch.cancel()
            raise
        told = await self._felt(act, watch) if watch is not None else ""
        self.done.append(f"{act}{'; ' + told if told else ''}")
        await self.report.step(STEP, "done", since=since, detail=self.done[-1])
        if isinstance(act, Switchover):
            return tried
        return {act.node} if act.leads else {*tried, act.node}  # after the leader's, replicas get another one

    async def _order(self, act: Act) -> Answer:
        if isinstance(act, Restart):
            role = {act.node: ("primary" if act.leads else "replica",)}
            return (await self.fleet.call("patroni.restart", role, ACT_S, silence_s=ACT_S))[act.node]
        arguments = {act.leader: (act.leader, act.candidate)}
        return (await self.fleet.call("patroni.switchover", arguments, ACT_S, silence_s=ACT_S))[act.leader]

    async def _watch(self) -> asyncio.Task[Answer] | None:
        """Some node that goes on while others act writes through its own HAProxy; None when none can."""
        health = self._health()
        proxies = sorted(health.proxy_nodes, key=lambda node: (node.is_data, node.name))
        node = next((n for n in proxies if n.connected and n.writers == (health.leader,)), None)
        if node is None:
            return None
        begun = asyncio.Event()
        arguments = {node.name: (node.name, str(self.cluster.haproxy.rw_port), str(WATCH_S))}

        async def call() -> Answer:
            told = self.fleet.call("write_watch", arguments, WATCH_S + 10.0, silence_s=WATCH_S, begun=begun)
            return (await told)[node.name]

        task = asyncio.create_task(call())
        waiter = asyncio.create_task(begun.wait())
        await asyncio.wait((task, waiter), timeout=BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        return task

    async def _felt(self, act: Act, watch: asyncio.Task[Answer]) -> str:
        """What the watch has seen, in words; kept for later plans."""
        answer = await watch
        seen = answer.outcome.data.get("refused_s") if answer.outcome else None
        if not answer.ok or not isinstance(seen, (int, float)):
            return f"for how long writes were refused is not known: {answer.why()}"
        kind = "switchover" if isinstance(act, Switchover) else "restart"
        before = (await self.measured()).get(kind, [])
        kept = [*before, float(seen)][-restarts.MEASURED :]
        await self.master.store.note(self.cluster.name, NOTE + kind, " ".join(f"{one:.1f}" for one in kept))
        return f"writes were refused for {seen:.1f} s, expected {restarts.expected_s(before, kind)[0]:.1f} s"

    def told(self) -> tuple[str, ...]:
        """What was done, for the end."""
        return tuple(f"{text[0].upper()}{text[1:]}." for text in self.done)

    def _health(self) -> ClusterHealth:
        return self.master.health(self.cluster)
