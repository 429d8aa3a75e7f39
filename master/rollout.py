"""Drives one plan or one apply of a cluster: preflight, plan first, then stage by stage, wave by wave, gate by gate.

All decisions are asked of pure neighbours: `preflight`, `stages`, `waves`, `gates`, `replacement`. What was done is not
remembered but observed, so an apply that was killed anywhere is resumed by applying again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..common.cluster import Cluster
from ..common.errors import Refused, UserError
from ..common.results import ResourceResult
from ..states import catalog
from ..states.resource import AnyResource
from . import absence, gates, impact, restarts
from .exchange import Exchange
from .fleet import Answer, Failed, Fleet
from .gates import Closed, Gate
from .members import NOTE, Members
from .observed import ClusterHealth
from .operations import Operation
from .plan_file import Expected, stale
from .progress import End, NodePlan, Plan, Step
from .readiness import Readiness
from .report import Report, counted
from .restarting import Restarts
from .seams import Headquarters
from .stages import (
    LEADER,
    STAGES,
    Stage,
    concerned,
    disturbing,
    is_fresh,
    spares,
    stage_waves,
    steady,
    steady_so_far,
    stops_writes,
)

FRESH_S = 20.0


@dataclass
class Rollout:
    master: Headquarters
    operation: Operation
    cluster: Cluster
    text: str
    definition: str  # its `inventory.digest`
    nodes: tuple[str, ...] = ()  # only these; empty: all
    only: tuple[str, ...] = ()  # only these documents; empty: all
    restart: bool = True  # PostgreSQL, where settings wait for it
    expect: Expected | None = None  # an apply is refused when it would do anything else

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.master.hub, self.operation)
        self.report = Report(self.operation, self.master.clock, self.master.clock.monotonic())
        self.readiness = Readiness(self.master, self.fleet, self.cluster, self.report)
        etcd = frozenset(self._chosen() if not self.only or "etcd" in self.only else ())
        self.members = Members(self.master, self.fleet, self.cluster, self.report, etcd)
        ssh = frozenset(self._chosen() if not self.only or "ssh" in self.only else ())
        self.exchange = Exchange(self.master, self.fleet, self.cluster, self.report, ssh)
        self.restarts = Restarts(self.master, self.fleet, self.cluster, self.report, self._gate)
        self._unplanned: set[str] = set()
        self._led = False  # somebody led when this was planned
        self._away: tuple[str, ...] = ()  # nodes that are not connected and were not asked for
        known = {node.name for node in self.cluster.nodes}
        if unknown := sorted(set(self.nodes) - known):
            raise UserError(f"{unknown[0]} is no node of {self.cluster.name}; it has {', '.join(sorted(known))}")
        if wrong := sorted(set(self.only) - set(catalog.DOCUMENTS)):
            raise UserError(f"there is no document {wrong[0]!r}; there are {', '.join(catalog.DOCUMENTS)}")

    # ---- the two things a person asks for

    async def plan(self) -> End:
        self._away = await self.readiness.nodes(self.nodes)
        plan = await self._plan()
        if failed := plan.failures:
            return End(exit=1, message=f"the plan is not complete: {failed[0]}", data={"changes": plan.change_count})
        for text in self._unsafe(plan):
            await self.report.warn(f"an apply would be refused: {text}")
        return End(data={"changes": plan.change_count})

    async def apply(self) -> End:
        self._away = await self.readiness.nodes(self.nodes)
        plan = await self._plan()
        results = {node.node: node.results for node in plan.nodes}
        if failed := plan.failures:
            return End(exit=1, message=f"nothing was changed, the plan is not complete: {failed[0]}")
        await self.readiness.without([*(stale(self.expect, plan) if self.expect else ()), *self._unsafe(plan)])
        try:
            await self.readiness.bare_hosts(results)
            await self.master.remember(self.cluster, self.text)
            for stage in STAGES:
                if "etcd" in stage.documents:  # no sooner: an added member that cannot start yet costs a vote
                    await self.members.replace()
                if "ssh" in stage.documents:
                    await self.exchange.before_stage()
                await self._stage(stage, results)
                if "etcd" in stage.documents:
                    await self._settle_members(stage)
            why = self._no_restart()
            if due := await self.restarts.due(plan.restarts) if self._led else []:
                await (self.report.warn(restarts.left(due, why)) if why else self.restarts.run())
            if not self.only or (self.report.counts["changed"] and self._led):
                await self._verify(changed=self.report.counts["changed"] > 0 or bool(self.restarts.done))
        except Failed as error:
            return End(exit=1, message=str(error), data=self.report.data())
        for node in plan.nodes:
            self.report.counts["unchanged"] += node.unchanged
        closing = self.report.closing(self.cluster.name)
        data = {"cluster": self.cluster.name, **self.report.data()}
        return End(message=" ".join((closing, *self.restarts.told())), data=data)

    # ---- plan

    async def _compile(self, nodes: Sequence[str], joining: str = "") -> dict[str, list[AnyResource]]:
        """`joining`: whose member of etcd would be replaced, so that a plan has what comes of it."""
        notes = await self.master.store.notes(self.cluster.name)
        if joining:
            notes = {**notes, NOTE + joining: "yes"}
        compiled = {}
        for name in nodes:
            facts = self.master.hub.facts(name)
            if facts is None:
                raise Failed(f"{name}: its minion is gone; apply again when it is back")
            compiled[name] = self.master.compile(self.cluster, self.cluster.node(name), facts, notes)
        return compiled

    def _documents(self, health: ClusterHealth) -> dict[str, list[str]]:
        """The documents to look at on each node. `database` is the leader's; without one it is applied unplanned."""
        wanted = [d for d in catalog.DOCUMENTS if not self.only or d in self.only]
        self._unplanned = set() if health.leader else {"database"} & set(wanted)
        not_on = {"database": {*self._chosen()} - {health.leader}, "ssh": self.exchange.unplanned}
        return {node: [d for d in wanted if node not in not_on.get(d, ())] for node in self._chosen()}

    def _chosen(self) -> list[str]:
        return [node.name for node in self.cluster.nodes if not self.nodes or node.name in self.nodes]

    async def _plan(self) -> Plan:
        since = self.master.clock.monotonic()
        health = await self._fresh_health()
        await self.readiness.what_stands(health)
        lost, applied = self.members.lost(health), self.master.clusters.get(self.cluster.name)
        await self.readiness.without(absence.before_plan(self.cluster, applied, health, self._away, lost))
        self._led = health.leader != ""
        await self.exchange.before_plan()
        compiled = await self._compile(self._chosen(), lost.node if lost is not None else "")
        answers = await self.fleet.converge("plan", compiled, self._documents(health), "plan")
        if silent := [a for a in answers.values() if a.outcome is None]:
            raise Failed(f"{silent[0].node}: no plan: {silent[0].why()}")
        nodes = tuple(
            NodePlan(
                node=name,
                role=health.node(name).role,
                unchanged=answer.outcome.unchanged if answer.outcome else 0,
                results=tuple(answer.results),
            )
            for name, answer in answers.items()
        )
        plan = Plan(cluster=self.cluster.name, definition=self.definition, nodes=nodes)
        results = {node.node: node.results for node in nodes}
        due = restarts.foreseen(results, health)
        if plan.change_count or due:
            shrinks = restarts.will_shrink(results, health)
            acts = () if self._no_restart() else restarts.course(self.cluster, health, due, shrinks=shrinks)
            told = impact.describe(self.cluster, results, health, acts, await self.restarts.measured())
            plan = plan.model_copy(update={**told, "restarts": tuple(due)})
        if lost is not None:
            await self.report.warn(lost.sentence())
        await self.operation.emit(plan)
        await self.report.step("plan", "done", since=since, detail=counted(plan.change_count, "change"))
        return plan

    def _no_restart(self) -> str:
        asked = restarts.Asked(self.nodes, self.only, self.restart, self._away)
        return restarts.why_not(self.cluster, self.master.health(self.cluster), asked)

    def _unsafe(self, plan: Plan) -> list[str]:
        """What may not be done while nodes are away."""
        results = {node.node: node.results for node in plan.nodes}
        return absence.after_plan(results, self.master.health(self.cluster), self._away)

    async def _fresh_health(self) -> ClusterHealth:
        """A judgement from telemetry of every node but those away. Raises Refused: what is not known may be running."""
        deadline = self.master.clock.monotonic() + FRESH_S
        names = [node.name for node in self.cluster.nodes if node.name not in self._away]
        while self.master.clock.monotonic() < deadline:
            health = self.master.health(self.cluster)
            if all(health.node(name).fresh for name in names):
                return health
            await self._next_telemetry()
        health = self.master.health(self.cluster)
        silent = [health.node(name).missing() for name in names if not health.node(name).fresh]
        raise Refused("nothing was changed: " + "; ".join(silent))

    # ---- stages

    async def _stage(self, stage: Stage, results: Mapping[str, Sequence[ResourceResult]]) -> None:
        if self.only and not set(self.only) & set(stage.documents):
            return
        health = self.master.health(self.cluster)
        nodes = concerned(stage, results)
        if "etcd" in stage.documents:
            nodes += sorted(self.members.rejoins - set(nodes))
        if "ssh" in stage.documents:
            nodes += self.exchange.unplanned
        if "database" in stage.documents and (nodes or self._unplanned):  # who leads may have changed since the plan
            nodes = [health.leader] if health.leader in results else []
        if not nodes:
            await self._gate(stage.name, stage.gate_name, stage.gate, stage.deadline_s, ())
            return
        order = stage_waves(stage, self.cluster, nodes, results, health)
        founding = stage.name == "patroni" and health.leader == "" and len(order) > 1
        for number, wave in enumerate(order):
            if disturbing(stage, wave, results) and spares(wave)(self.master.health(self.cluster)) != gates.OPEN:
                await self._gate(stage.name, "etcd can spare the member", spares(wave), 60.0, ())
            if stops_writes(stage, wave, self.master.health(self.cluster).leader, results):
                await self.restarts.give_way()
            await self._wave(stage, wave)
            last = number == len(order) - 1
            if founding and number == 0:
                await self._gate(stage.name, LEADER.gate_name, LEADER.gate, LEADER.deadline_s, wave)
            elif last:
                await self._gate(stage.name, stage.gate_name, stage.gate, stage.deadline_s, wave)
            elif not is_fresh(health):
                await self._gate(stage.name, "the cluster is steady", steady_so_far, 600.0, wave)

    async def _settle_members(self, stage: Stage) -> None:
        """A new member starts once more, as one that an empty disk could not make join again under its old id.

        That may wait for the next apply with every node, when nothing has to be risked for it.
        """
        if self._away:
            return
        for node in sorted(self.members.rejoins | self.members.joined):
            await self._gate(stage.name, "etcd can spare the member", spares([node]), 60.0, ())
            await self.members.settled(node)
            await self._wave(stage, [node])
            await self._gate(stage.name, stage.gate_name, stage.gate, stage.deadline_s, [node])

    async def _wave(self, stage: Stage, wave: Sequence[str]) -> None:
        documents = [d for d in stage.documents if not self.only or d in self.only]
        for node in wave:
            await self.operation.emit(Step(step=stage.name, node=node, state="started"))
        compiled = await self._compile(wave)

        async def one(node: str) -> Answer:
            answer = (await self.fleet.converge("apply", {node: compiled[node]}, {node: documents}, stage.name))[node]
            await self.report.settle(stage.name, answer)
            return answer

        answers = await asyncio.gather(*(one(node) for node in wave))
        self.report.critical_path_s += max((a.outcome.seconds for a in answers if a.outcome), default=0.0)
        if bad := [a for a in answers if not a.ok]:
            raise Failed(f"{stage.name}: {bad[0].node}: {bad[0].why()}")

    async def _gate(self, step: str, name: str, gate: Gate, deadline_s: float, touched: Sequence[str]) -> None:
        """Wait for it on telemetry taken after now. Raises Failed with what was seen last."""
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

    def _remaining(self) -> ClusterHealth:
        return absence.remaining(self.master.health(self.cluster), self._away)

    async def _next_telemetry(self) -> None:
        async with self.master.hub.telemetry:
            await self.master.hub.telemetry.wait()

    # ---- the end

    async def _verify(self, *, changed: bool) -> None:
        """Whole and steady; and after a change, a write through every node's own HAProxy, read back on a replica."""
        await self._gate("verify", "the cluster is steady", steady, 120.0, ())
        if not changed:
            return
        since = self.master.clock.monotonic()
        ports = (str(self.cluster.haproxy.rw_port), str(self.cluster.haproxy.ro_port))
        left = self._remaining()
        read_back = "yes" if len(left.data_nodes) > 1 else "no"
        calls = {node.name: (node.name, *ports, read_back, "20") for node in left.proxy_nodes}
        answers = await self.fleet.call("write_probe", calls, 60.0)
        for node, answer in answers.items():
            data = answer.outcome.data if answer.outcome else {}
            seen = f"wrote to {data.get('primary')} in {data.get('write_ms')} ms, read from {data.get('replica', '-')}"
            await self.report.node("verify", node, ok=answer.ok, detail=seen if answer.ok else answer.why())
        self.report.critical_path_s += self.master.clock.monotonic() - since
        if bad := [a for a in answers.values() if not a.ok]:
            raise Failed(f"verify: {bad[0].node}: {bad[0].why()}")
