"""Drives one plan or one apply of a cluster: preflight, plan first, then stage by stage, wave by wave, gate by gate.

All decisions are asked of pure neighbours: `preflight`, `stages`, `waves`, `gates`, `replacement`. What was done is not
remembered but observed, so an apply that was killed anywhere is resumed by applying again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.results import ResourceResult
from ...states.resource import AnyResource
from ..backups.part import WHOLE, BackupPart
from ..backups.restore_order import Wanted
from ..definition.inventory import digest
from ..health import gates
from ..health.observed import ClusterHealth
from ..operations.operations import Operation
from ..operations.progress import End, NodePlan, Plan, Step, destroying
from ..orchestration import absence
from ..orchestration.fleet import Answer, Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report, counted
from ..orchestration.seams import Headquarters
from ..orchestration.stages import (
    BACKUP,
    BACKUPS,
    LEADER,
    OWN,
    Stage,
    concerned,
    disturbing,
    pauses,
    spares,
    stage_waves,
    steady_so_far,
    stops_writes,
)
from . import foresight, impact, restarts
from .departing import Departing
from .drift import harsh
from .exchange import Exchange
from .members import NOTE, Members
from .plan_file import Expected, stale
from .readiness import Readiness
from .restarting import Restarts
from .userpart import OwnPart, beyond


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
    allow_destroy: tuple[str, ...] = ()  # nodes that may be taken out, resources that may destroy data
    recover: Wanted | None = None  # the data of a cluster that has none comes from its backups
    as_applied: bool = False  # documents of the user's own that were written since then are left out

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.master.hub, self.operation)
        self.report = Report(self.operation, self.master.clock, self.master.clock.monotonic())
        self.keeper = Gatekeeper(self.master, self.cluster, self.report)
        self.readiness = Readiness(self.master, self.fleet, self.cluster, self.report)
        etcd = frozenset(self._chosen() if not self.only or "etcd" in self.only else ())
        self.members = Members(self.master, self.fleet, self.cluster, self.report, etcd)
        self.restarts = Restarts(self.master, self.fleet, self.cluster, self.report, self.keeper)
        self.backups = BackupPart(self.master, self.fleet, self.cluster, self.report, self.keeper, self.recover)
        self.departing = Departing(self.master, self.fleet, self.cluster, self.report, self.allow_destroy)
        ssh = frozenset(self._chosen() if not self.only or "ssh" in self.only else ())
        self.exchange = Exchange(self.master, self.fleet, self.cluster, self.report, ssh)
        self._unplanned: set[str] = set()
        self._led = False  # somebody led when this was planned
        known = {node.name for node in self.cluster.nodes}
        if unknown := sorted(set(self.nodes) - known):
            raise UserError(f"{unknown[0]} is no node of {self.cluster.name}; it has {', '.join(sorted(known))}")
        self.own = OwnPart(self.master, self.cluster, self.only, self.as_applied)

    # ---- the two things a person asks for

    async def plan(self) -> End:
        self.keeper.away = await self.readiness.nodes(self.nodes)
        plan = await self._plan()
        if failed := plan.failures:
            return End(exit=1, message=f"the plan is not complete: {failed[0]}", data={"changes": plan.change_count})
        for text in self._unsafe(plan):
            await self.report.warn(f"an apply would be refused: {text}")
        return End(data={"changes": plan.change_count})

    async def apply(self) -> End:
        self.keeper.away = await self.readiness.nodes(self.nodes)
        plan = await self._plan()
        results = {node.node: node.results for node in plan.nodes}
        if failed := plan.failures:
            return End(exit=1, message=f"nothing was changed, the plan is not complete: {failed[0]}")
        await self.readiness.without(await self.backups.under_way())
        await self.readiness.without([*(stale(self.expect, plan) if self.expect else ()), *self._unsafe(plan)])
        try:
            await self.readiness.bare_hosts(results)
            await self.departing.run()
            await self.master.remember(self.cluster, self.text)
            for stage in self.own.stages:
                if stage.name == BACKUP:  # what follows needs PostgreSQL as the definition has it, and who leads then
                    await self._restart(plan)
                if "etcd" in stage.documents:  # no sooner: an added member that cannot start yet costs a vote
                    await self.members.replace()
                if "ssh" in stage.documents:
                    await self.exchange.before_stage()
                await self._stage(stage, await self._own_again(stage, results) if stage.name == OWN else results)
                if "etcd" in stage.documents:
                    await self._settle_members(stage)
                if not self.only or stage.name in self.only:
                    changed = any(concerned(one, results) for one in self.own.stages if one.name in BACKUPS)
                    await self.backups.after(stage.name, changed=changed)
            if not self.only or (self.report.counts["changed"] and self._led):
                await self.keeper.verify(
                    self.fleet, changed=self.report.counts["changed"] > 0 or bool(self.restarts.done)
                )
            if not self.nodes:
                await self.own.remember()
            if not self.nodes and not self.only:
                await self.master.store.note(self.cluster.name, WHOLE, digest(self.text))
        except Failed as error:
            return End(exit=1, message=str(error), data=self.report.data())
        for node in plan.nodes:
            self.report.counts["unchanged"] += node.unchanged
        closing = self.report.closing(self.cluster.name)
        data = {"cluster": self.cluster.name, **self.report.data()}
        return End(message=" ".join((closing, *self.restarts.told())), data=data)

    async def _restart(self, plan: Plan) -> None:
        """PostgreSQL, where settings wait for it; recovered data begins with those that its control file demands."""
        why, lives = self._no_restart(), self._led or self.backups.recover is not None
        if due := await self.restarts.due(plan.restarts) if lives else []:
            await (self.report.warn(restarts.left(due, why)) if why else self.restarts.run())

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
            compiled[name] = self.master.compile(self.cluster, self.cluster.node(name), facts, notes, self.own.states)
        return compiled

    def _documents(self, health: ClusterHealth) -> dict[str, list[str]]:
        """The documents to look at on each node. `database` is the leader's; without one it is applied unplanned."""
        wanted = [d for d in self.own.names if not self.only or d in self.only]
        self._unplanned = set() if health.leader else {"database"} & set(wanted)
        not_on = {"database": {*self._chosen()} - {health.leader}, "ssh": self.exchange.unplanned}
        return {node: [d for d in wanted if node not in not_on.get(d, ())] for node in self._chosen()}

    def _chosen(self) -> list[str]:
        return [node.name for node in self.cluster.nodes if not self.nodes or node.name in self.nodes]

    async def _plan(self) -> Plan:
        since = self.master.clock.monotonic()
        health = await self.keeper.fresh_health()
        await self.readiness.what_stands(health, [one.node for one in self.departing.found()])
        lost, applied = self.members.lost(health), self.master.clusters.get(self.cluster.name)
        await self.readiness.without(absence.before_plan(self.cluster, applied, health, self.keeper.away, lost))
        self._led = health.leader != "" or any(one.leads for one in self.departing.found())
        await self.exchange.before_plan()
        joining = lost.node if lost is not None else ""
        compiled = await self.own.compiled(lambda: self._compile(self._chosen(), joining), self.report)
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
        own = {name: document.digest for name, document in self.own.states.documents.items()}
        plan = Plan(cluster=self.cluster.name, definition=self.definition, nodes=nodes, own=own)
        results = {node.node: node.results for node in nodes}
        due = restarts.foreseen(results, health)
        leaving = tuple(one.node for one in self.departing.found())
        if plan.change_count or due or leaving:
            shrinks = restarts.will_shrink(results, health)
            acts = () if self._no_restart() else restarts.course(self.cluster, health, due, shrinks=shrinks)
            measured = await self.restarts.measured()
            told = impact.describe(self.cluster, results, health, acts, measured, self.own.stages)
            told["order"] = (*(f"take {node} out of the cluster" for node in leaving), *told["order"])
            told["impact"] = (*restarts.costs(self.departing.handing_over(), measured), *told["impact"])
            plan = plan.model_copy(update={**told, "restarts": tuple(due), "leaving": leaving})
        if lost is not None:
            await self.report.warn(lost.sentence())
        await self.operation.emit(plan)
        await self.report.step("plan", "done", since=since, detail=counted(plan.change_count, "change"))
        return plan

    def _no_restart(self) -> str:
        asked = restarts.Asked(self.nodes, self.only, self.restart, self.keeper.away)
        return restarts.why_not(self.cluster, self.keeper.health(), asked)

    def _unsafe(self, plan: Plan) -> list[str]:
        """What may not be done without being named, or while nodes are away, or would wait for ever."""
        results = {node.node: node.results for node in plan.nodes}
        named = [*self.departing.problems(), *destroying(plan, self.allow_destroy)]
        named += harsh(plan) if self.as_applied else []  # nobody has asked for this one
        health = self.keeper.health()
        patroni = self._chosen() if not self.only or "patroni" in self.only else ()
        due = () if self._no_restart() else plan.restarts
        intended = foresight.Intended(self.own.stages, results, patroni, due, self.departing.joining())
        named += foresight.held_up(self.cluster, intended, health)
        return named + absence.after_plan(results, health, self.keeper.away)

    # ---- stages

    async def _stage(self, stage: Stage, results: Mapping[str, Sequence[ResourceResult]]) -> None:
        if self.only and not set(self.only) & set(stage.documents):
            return
        health = self.keeper.health()
        nodes = concerned(stage, results)
        if "etcd" in stage.documents:
            nodes += sorted(self.members.rejoins - set(nodes))
        if "ssh" in stage.documents:
            nodes += self.exchange.unplanned
        if "database" in stage.documents and (nodes or self._unplanned):  # who leads may have changed since the plan
            nodes = [health.leader] if health.leader in results else []
        if not nodes:
            await self.keeper.wait(stage.name, stage.gate_name, stage.gate, stage.deadline_s, ())
            return
        order = stage_waves(stage, self.cluster, nodes, results, health)
        founding = stage.name == "patroni" and health.leader == "" and len(order) > 1
        for number, wave in enumerate(order):
            if disturbing(stage, wave, results) and spares(wave)(self.keeper.health()) != gates.OPEN:
                await self.keeper.wait(stage.name, "etcd can spare the member", spares(wave), 60.0, ())
            if stops_writes(stage, wave, self.keeper.health().leader, results):
                await self.restarts.give_way()
            await self._wave(stage, wave)
            last = number == len(order) - 1
            if founding and number == 0:
                await self.keeper.wait(stage.name, LEADER.gate_name, LEADER.gate, LEADER.deadline_s, wave)
            elif last:
                await self.keeper.wait(stage.name, stage.gate_name, stage.gate, stage.deadline_s, wave)
            elif pauses(stage, health):
                await self.keeper.wait(stage.name, "the cluster is steady", steady_so_far, 600.0, wave)

    async def _settle_members(self, stage: Stage) -> None:
        """A new member starts once more, as one that an empty disk could not make join again under its old id.

        That may wait for the next apply with every node, when nothing has to be risked for it.
        """
        if self.keeper.away:
            return
        for node in sorted(self.members.rejoins | self.members.joined):
            await self.keeper.wait(stage.name, "etcd can spare the member", spares([node]), 60.0, ())
            await self.members.settled(node)
            await self._wave(stage, [node])
            await self.keeper.wait(stage.name, stage.gate_name, stage.gate, stage.deadline_s, [node])

    async def _own_again(
        self, stage: Stage, results: Mapping[str, Sequence[ResourceResult]]
    ) -> Mapping[str, Sequence[ResourceResult]]:
        nodes = self._chosen()
        again = await self.own.again(stage, results, nodes, lambda: self._compile(nodes), self.fleet)
        if unsafe := absence.after_plan(again, self.keeper.health(), self.keeper.away):
            raise Failed(f"{stage.name}: {unsafe[0]}")
        if self.expect and (more := beyond(again, results, stage.documents)):
            raise Failed(f"{stage.name}: {more[0]} would be changed, too, which is not in the plan; plan again")
        return again

    async def _wave(self, stage: Stage, wave: Sequence[str]) -> None:
        documents = [d for d in stage.documents if not self.only or d in self.only]
        for node in wave:
            await self.operation.emit(Step(step=stage.name, node=node, state="started"))
        compiled = await self._compile(wave)

        async def one(node: str) -> Answer:
            answer = (
                await self.fleet.converge(
                    "apply", {node: compiled[node]}, {node: documents}, stage.name, self.allow_destroy
                )
            )[node]
            await self.report.settle(stage.name, answer)
            return answer

        answers = await asyncio.gather(*(one(node) for node in wave))
        self.report.critical_path_s += max((a.outcome.seconds for a in answers if a.outcome), default=0.0)
        if bad := [a for a in answers if not a.ok]:
            raise Failed(f"{stage.name}: {bad[0].node}: {bad[0].why()}")
