"""Waits for what must hold before a rollout goes on, on telemetry alone; and proves in the end that the cluster works.

What must hold, `gates` and `stages` say. Nodes that are away and not needed are not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.errors import Refused
from ..health import gates
from ..health.gates import Closed, Gate
from ..health.observed import ClusterHealth
from . import absence
from .fleet import Failed, Fleet
from .report import Report
from .seams import Headquarters
from .stages import steady

FRESH_S = 20.0


@dataclass
class Gatekeeper:
    """`away`: nodes that are not connected and were not asked for."""

    master: Headquarters
    cluster: Cluster
    report: Report
    away: tuple[str, ...] = ()

    def health(self) -> ClusterHealth:
        return self.master.health(self.cluster)

    async def fresh_health(self) -> ClusterHealth:
        """A judgement from telemetry of every node but those away. Raises Refused: what is not known may be running."""
        deadline = self.master.clock.monotonic() + FRESH_S
        names = [node.name for node in self.cluster.nodes if node.name not in self.away]
        while self.master.clock.monotonic() < deadline:
            health = self.health()
            if all(health.node(name).fresh for name in names):
                return health
            await self._next_telemetry()
        health = self.health()
        silent = [health.node(name).missing() for name in names if not health.node(name).fresh]
        raise Refused("nothing was changed: " + "; ".join(silent))

    async def wait(self, step: str, name: str, gate: Gate, deadline_s: float, touched: Sequence[str]) -> None:
        """Until the gate is open, on telemetry that the `touched` nodes have sent since now.

        A gate without a name is none. Raises Failed at the deadline with what was seen last.
        """
        if not name:
            return
        since = self.master.clock.monotonic()
        whole = gates.every(lambda health: gates.all_seen_since(health, touched, since), gate)
        told = ""
        while isinstance(seen := whole(self._remaining()), Closed):
            waited = self.master.clock.monotonic() - since
            if waited > deadline_s:
                await self.report.gate(step, name, "failed", waited, seen.reason)
                raise Failed(f"{step}: waited {deadline_s:.0f} s until {name}: {seen.reason}")
            if seen.reason != told and waited > 1.0:
                told = seen.reason
                await self.report.gate(step, name, "waiting", waited, told)
            await self._next_telemetry()
        await self.report.gate(step, name, "open", self.master.clock.monotonic() - since)

    async def verify(self, fleet: Fleet, *, changed: bool) -> None:
        """Whole and steady; and after a change, a write through every node's own HAProxy, read back on a replica."""
        await self.wait("verify", "the cluster is steady", steady, 120.0, ())
        if not changed:
            return
        since = self.master.clock.monotonic()
        ports = (str(self.cluster.haproxy.rw_port), str(self.cluster.haproxy.ro_port))
        left = self._remaining()
        read_back = "yes" if len(left.data_nodes) > 1 else "no"
        calls = {node.name: (node.name, *ports, read_back, "20") for node in left.proxy_nodes}
        answers = await fleet.call("write_probe", calls, 60.0)
        for node, answer in answers.items():
            data = answer.outcome.data if answer.outcome else {}
            seen = f"wrote to {data.get('primary')} in {data.get('write_ms')} ms, read from {data.get('replica', '-')}"
            await self.report.node("verify", node, ok=answer.ok, detail=seen if answer.ok else answer.why())
        self.report.critical_path_s += self.master.clock.monotonic() - since
        if bad := [a for a in answers.values() if not a.ok]:
            raise Failed(f"verify: {bad[0].node}: {bad[0].why()}")

    def _remaining(self) -> ClusterHealth:
        return absence.remaining(self.health(), self.away)

    async def _next_telemetry(self) -> None:
        async with self.master.hub.telemetry:
            await self.master.hub.telemetry.wait()
