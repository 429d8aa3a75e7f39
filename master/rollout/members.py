"""Replaces an etcd member that lost its data, one in each apply: stopped, removed, added, and started as a new one.

Whether there is one, `replacement` decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...common.cluster import Cluster
from ...states.documents import etcd
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.replacement import Replacement, no_votes, replacement
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters

NOTE = "etcd_joins:"


@dataclass
class Members:
    """`nodes`: whose member may be replaced. `rejoins`: whose etcd starts as a new one, whatever was planned."""

    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    nodes: frozenset[str]
    rejoins: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)  # whose member was seen to be lost
    joined: set[str] = field(default_factory=set)  # by an apply that did not come to its end

    def lost(self, health: ClusterHealth) -> Replacement | None:
        """The member to replace, if that was asked for."""
        lost = replacement(self.cluster, health, self.forgotten)
        if lost is None or lost.node not in self.nodes:
            return None
        self.forgotten.add(lost.node)
        return lost

    async def replace(self) -> None:
        """One at a time: the next apply sees to the next, when this one counts."""
        health = self.master.health(self.cluster)
        if no_votes(health):
            await self._forget_the_former_life()
        self.joined |= {name for name in await self._noted() if health.node(name).etcd in ("leader", "follower")}
        lost = self.lost(health)
        if lost is None:
            return
        since = self.master.clock.monotonic()
        await self.master.store.note(self.cluster.name, NOTE + lost.node, "yes")
        self.rejoins.add(lost.node)
        kept = ""
        if lost.runs:  # else it would found its cluster once more as soon as it is removed, or join under its old id
            kept = await self._reset(lost.node)
        if lost.added_already:
            return
        arguments = (lost.member_id or "-", lost.node, lost.peer_url)
        answer = (await self.fleet.call("etcd.replace", {lost.via: arguments}, 120.0, silence_s=120.0))[lost.via]
        detail = f"{lost.node} is a new member of etcd, by {lost.via}{kept}" if answer.ok else answer.why()
        await self.report.step("etcd member", "done" if answer.ok else "failed", since=since, detail=detail)
        if not answer.ok:
            raise Failed(f"etcd: {lost.node} could not be made a new member: {detail}")
        self.report.counts["changed"] += 1

    async def settled(self, node: str) -> None:
        """It is a member with data now; from here on its configuration must not let an empty disk join again."""
        await self.master.store.note(self.cluster.name, NOTE + node, None)

    async def _noted(self) -> set[str]:
        notes = await self.master.store.notes(self.cluster.name)
        known = {node.name for node in self.cluster.etcd_nodes}
        return {key.removeprefix(NOTE) for key in notes if key.startswith(NOTE)} & known & self.nodes

    async def _forget_the_former_life(self) -> None:
        """Who joined the cluster that was here before is a founder of the new one, like all others."""
        for key in await self.master.store.notes(self.cluster.name):
            if key.startswith(NOTE):
                await self.master.store.note(self.cluster.name, key, None)

    async def _reset(self, node: str) -> str:
        """What to add to the sentence about its replacement: where its former data is now."""
        answer = (await self.fleet.call("etcd.reset", {node: (etcd.DATA,)}, 60.0))[node]
        if not answer.ok:
            raise Failed(f"etcd: {node} has lost its data, and its etcd could not be stopped: {answer.why()}")
        kept = answer.outcome.data.get("kept") if answer.outcome else None
        return f"; its former data is in {kept} there, remove it when nobody needs it" if kept else ""
