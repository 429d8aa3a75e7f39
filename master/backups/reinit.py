"""Gives a replica its data anew, by Patroni: from the backups, else from the leader."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ...common.cluster import Cluster
from ..health import gates
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report, spoken
from ..orchestration.seams import Headquarters
from ..orchestration.stages import LAG_LIMIT

STEP = "reinit"
BEGIN_S, POLL_S = 30.0, 0.5
ACT_S, COPY_S = 120.0, 6 * 3600.0


@dataclass
class Reinit:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    keeper: Gatekeeper

    async def run(self, node: str) -> str:
        """What was done. Raises Failed; of who leads nothing is deleted."""
        since, health = self.master.clock.monotonic(), self.keeper.health()
        if not health.leader:
            raise Failed(f"{STEP}: nobody leads {self.cluster.name}, so there is nothing to make a replica from")
        if health.leader == node:
            raise Failed(f"{STEP}: {node} leads {self.cluster.name}, and its data is the cluster's; hand over first")
        await self.report.begin(STEP, f"delete the data of {node} and make it anew")
        answer = (await self.fleet.call("patroni.reinitialize", {node: ()}, ACT_S, silence_s=ACT_S))[node]
        if not answer.ok:
            raise Failed(f"{STEP}: {node}: {answer.why()}")

        began = self.master.clock.monotonic()
        while self.keeper.health().node(node).streaming and self.master.clock.monotonic() - began < BEGIN_S:
            await asyncio.sleep(POLL_S)  # what streams still is the old data

        def streams(seen: ClusterHealth) -> gates.GateResult:
            view = seen.node(node)
            if not view.fresh or not view.streaming:
                return gates.Closed(view.missing() or f"{node} is {view.state}")
            return gates.replicas_streaming(seen, LAG_LIMIT)

        await self.keeper.wait(STEP, f"{node} streams", streams, COPY_S, [node])
        return f"{node} has its data anew and streams, after {spoken(self.master.clock.monotonic() - since)}."
