"""Asks the nodes what must be right before anything is changed, and refuses with every problem there is.

What is right, `preflight` decides; this asks and tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ...common.cluster import Cluster
from ...common.errors import Refused
from ...common.facts import HostFacts
from ...common.results import ResourceResult, Status
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Fleet
from ..orchestration.report import Report, counted
from ..orchestration.seams import Headquarters
from . import preflight
from .preflight import Offset
from .standing import standing

CONNECT_S = 10.0
ANSWER_S = 4.0


@dataclass(frozen=True)
class Readiness:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report

    async def nodes(self, named: Collection[str] = ()) -> tuple[str, ...]:
        """The nodes that are away and not needed: none but `named` are, if there are any; else all.

        Raises Refused with every problem there is.
        """
        since = self.master.clock.monotonic()
        hub = self.master.hub
        every = [node.name for node in self.cluster.nodes]
        await self._until_connected([*every, *self._leaving()], named)
        facts, clocks = await self._answering([name for name in every if hub.connected(name)])
        connected = dict.fromkeys(facts, True)
        missing = preflight.not_there(self.cluster, await self.master.store.minions(), connected)
        away = tuple(name for name in missing if named and name not in named)
        names = [name for name in every if name not in away]
        problems = [text for name, text in missing.items() if name not in away]
        problems += preflight.hosts(self.cluster, {name: facts[name] for name in names if name in facts})
        problems += preflight.clocks({name: clocks[name] for name in names if name in clocks})
        problems += self._other_clusters(names)
        await self._refuse("preflight", since, problems)
        await self.report.step(
            "preflight", "done", since=since, detail=f"{counted(len(names), 'node')} connected, systems supported"
        )
        for name in away:
            await self.report.warn(f"goes on without {missing[name]}")
        return away

    async def _until_connected(self, names: Sequence[str], named: Collection[str]) -> None:
        """Until all that have a key are, or CONNECT_S have passed: they come one by one after a start of the master.

        One that is not needed and was heard once has gone; it is not waited for.
        """
        hub = self.master.hub
        wanted = [n for n in names if n in hub.accepted() and (not named or n in named or n not in hub.peers)]
        deadline = self.master.clock.monotonic() + CONNECT_S
        while self.master.clock.monotonic() < deadline and not all(hub.connected(name) for name in wanted):
            await asyncio.sleep(0.2)

    def _leaving(self) -> list[str]:
        """Nodes that were applied and left the definition: one that is just coming back is taken out whole."""
        applied = self.master.clusters.get(self.cluster.name)
        stays = {node.name for node in self.cluster.nodes}
        return [node.name for node in applied.nodes if node.name not in stays] if applied else []

    async def without(self, problems: Sequence[str]) -> None:
        """Raises Refused for what may not be done while nodes are away."""
        await self._refuse("preflight", self.master.clock.monotonic(), problems)

    async def what_stands(self, health: ClusterHealth, leaving: Collection[str] = ()) -> None:
        """Raises Refused for a definition that the running cluster cannot be changed to. `health` is of all nodes.

        `leaving`: nodes that left the definition and are taken out, or not, by others' decision.
        """
        since = self.master.clock.monotonic()
        names = [node.name for node in self.cluster.nodes]
        facts = {name: known for name in names if (known := self.master.hub.facts(name))}
        applied = self.master.clusters.get(self.cluster.name)
        await self._refuse("preflight", since, standing(self.cluster, facts, health, applied, leaving))

    async def _refuse(self, step: str, since: float, problems: Sequence[str]) -> None:
        if problems:
            await self.report.step(step, "failed", since=since, detail=counted(len(problems), "problem"))
            raise Refused("nothing was changed:\n" + "\n".join(f"  {problem}" for problem in problems))

    async def _answering(self, names: Sequence[str]) -> tuple[dict[str, HostFacts], dict[str, Offset]]:
        """What they say of themselves now, and how their clocks stand to this one.

        A line may look alive for some seconds after its host has died, and what it told when it was made is as old
        as it.
        """
        clock = self.master.clock
        asked, sets_off = clock.now(), clock.now() - clock.monotonic()
        answers = await self.fleet.call("facts", dict.fromkeys(names, ()), ANSWER_S, silence_s=ANSWER_S)
        facts, clocks = {}, {}
        for name, answer in answers.items():
            if not answer.ok or not answer.outcome:
                continue
            data = dict(answer.outcome.data)
            if isinstance(now := data.pop("now", None), float):  # an older minion does not say it
                clocks[name] = Offset(now - (answer.heard + sets_off), now - asked)
            if (known := self._facts(name, data)) is not None:
                facts[name] = known
        return facts, clocks

    def _facts(self, name: str, data: Mapping[str, object]) -> HostFacts | None:
        """These are what is built from, too."""
        peer = self.master.hub.peers.get(name)
        try:
            known = HostFacts.model_validate(data)
        except ValidationError:  # a minion of another version
            return self.master.hub.facts(name)
        if peer is not None:
            peer.facts = known
        return known

    def _other_clusters(self, names: Sequence[str]) -> list[str]:
        return [
            f"{node.name}: is a node of the cluster {other.name} already"
            for other in self.master.clusters.values()
            if other.name != self.cluster.name
            for node in other.nodes
            if node.name in names
        ]

    async def bare_hosts(self, results: Mapping[str, Sequence[ResourceResult]]) -> None:
        """On hosts that get packages, or lose a PostgreSQL: can they be had, are the ports free, whose is it?

        Raises Refused.
        """
        bare = [node for node, planned in results.items() if any(_needs_a_look(result) for result in planned)]
        if not bare:
            return
        since = self.master.clock.monotonic()
        answers = await self.fleet.call("preflight", dict.fromkeys(bare, ()), 180.0)
        problems: list[str] = []
        for node, answer in answers.items():
            data = answer.outcome.data if answer.outcome else {}
            if not answer.ok or not isinstance(listening := data.get("listening"), dict):
                problems.append(f"{node}: {answer.why()}")
                continue
            definition = self.cluster.node(node)
            ports = {int(port): str(name) for port, name in listening.items()}
            problems += preflight.taken(definition, preflight.ports(self.cluster, definition), ports)
            problems += preflight.locked_out(self.cluster, definition, ports)
            sample = self.master.health(self.cluster).node(node).sample
            problems += preflight.foreign(definition, sample, ports)
            if data.get("mirror"):
                problems.append(f"{node}: the package mirror cannot be reached: {data['mirror']}")
        await self._refuse("ports, mirror", since, problems)
        await self.report.step("ports, mirror", "done", since=since, detail="ports free, package mirror reachable")


def _needs_a_look(result: ResourceResult) -> bool:
    """It installs packages, or it stops a PostgreSQL that runs."""
    if result.status is not Status.PLANNED:
        return False
    stops = result.resource.startswith("service:postgresql") and any(c.what == "state" for c in result.changes)
    return stops or result.resource.startswith("packages:")
