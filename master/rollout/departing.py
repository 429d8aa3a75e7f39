"""Takes a node out of a cluster: hands over the lead, ends what serves the cluster on it, and takes its vote.

Whether it may go, `departure` decides.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...states.documents import etcd
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from .departure import Departure, departures, problems
from .restarting import Restarts
from .restarts import Switchover, heir_of

STEP = "departure"


@dataclass
class Departing:
    """`allowed`: names of nodes that whoever applies has named once more."""

    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    allowed: Collection[str] = ()

    def problems(self) -> list[str]:
        applied = self.master.clusters.get(self.cluster.name)
        before = self.master.health(applied) if applied else None
        return problems(departures(self.cluster, applied, before), self.allowed, applied, before)

    def found(self) -> list[Departure]:
        applied = self.master.clusters.get(self.cluster.name)
        return departures(self.cluster, applied, self.master.health(applied) if applied else None)

    def joining(self) -> list[str]:
        """The other way round: nodes of the definition that were not there when it was applied last, if it ever was."""
        applied = self.master.clusters.get(self.cluster.name)
        known = {node.name for node in applied.nodes} if applied else set()
        return [node.name for node in self.cluster.nodes if node.name not in known] if applied else []

    def handing_over(self) -> list[Switchover]:
        """What whoever leads and departs does first."""
        applied = self.master.clusters.get(self.cluster.name)
        if applied is None:
            return []
        before = self.master.health(applied)
        return [Switchover(one.node, heir) for one in self.found() if one.leads and (heir := heir_of(applied, before))]

    async def run(self) -> None:
        """Before anything else is changed: the others close their doors to it. Raises Failed."""
        if wrong := self.problems():  # time has passed since the plan
            raise Failed(f"{STEP}: {wrong[0]}")
        applied = self.master.clusters.get(self.cluster.name)
        for one in self.found():
            assert applied is not None  # else nobody departs
            since = self.master.clock.monotonic()
            await self.report.begin(STEP, f"{one.node} is taken out of the cluster")
            if one.leads:
                keeper = Gatekeeper(self.master, applied, self.report)
                await Restarts(self.master, self.fleet, applied, self.report, keeper).give_way()
                if keeper.health().leader in ("", one.node):
                    raise Failed(f"{STEP}: {one.node} leads, and no replica has taken over; nothing was ended on it")
            await self._take_out(one)
            left = "its data stays on its disk" if one.connected else "it is not connected; end etcd and Patroni there"
            detail = f"{one.node} is no part of the cluster any more; {left}: pgha-master keys revoke {one.node}"
            await self.report.step(STEP, "done", since=since, detail=detail)
            self.report.counts["changed"] += 1

    async def _take_out(self, one: Departure) -> None:
        """Each act may be done twice, since whoever goes on after a death does not know how far it came."""
        if one.connected:
            await self._call("service.retire", one.node, "patroni", "haproxy")
        if one.connected and one.is_data:  # else it would count as a node whose Patroni is down when it comes back
            await self._call("patroni.reset", one.node)
        if one.member_id:
            await self._call("etcd.remove", one.via, one.member_id)
        if one.connected:
            await self._call("service.retire", one.node, "etcd")
        if one.connected and one.is_etcd:  # with what a former member has it could never join again
            await self._call("etcd.reset", one.node, etcd.DATA)

    async def _call(self, function: str, node: str, *arguments: str) -> None:
        answer = (await self.fleet.call(function, {node: arguments}, 120.0, silence_s=120.0))[node]
        if not answer.ok:
            raise Failed(f"{STEP}: {node}: {function}: {answer.why()}")
