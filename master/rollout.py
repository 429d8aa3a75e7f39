"""Drives one plan or one apply of a cluster: preflight, plan first, then stage by stage, wave by wave, gate by gate.

All decisions are asked of pure neighbours: `preflight`, `stages`, `waves`, `gates`, `replacement`. What was done is not
remembered but observed, so an apply that was killed anywhere is resumed by applying again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..common.cluster import Cluster
from ..common.errors import HostError, Refused, UserError
from ..common.results import ResourceResult, Status
from ..states import catalog
from ..states.resource import AnyResource
from . import gates, impact, preflight
from .fleet import Answer, Fleet
from .gates import Closed, Gate
from .observed import ClusterHealth
from .operations import Operation
from .progress import End, NodePlan, Note, Plan, Step
from .progress import Gate as GateLine
from .replacement import Replacement, replacement
from .seams import Headquarters
from .stages import LEADER, STAGES, Stage, concerned, disturbing, is_fresh, spares, stage_waves, steady

StepState = Literal["done", "failed"]

CONNECT_S = 10.0
ANSWER_S = 4.0
FRESH_S = 20.0


class Failed(HostError):
    """A step did not succeed. The text is the End's message."""


@dataclass
class Rollout:
    master: Headquarters
    operation: Operation
    cluster: Cluster
    text: str
    definition: str  # first hex digits of the text's SHA-256
    nodes: tuple[str, ...] = ()  # only these; empty: all
    only: tuple[str, ...] = ()  # only these documents; empty: all
    timings: list[dict[str, object]] = field(default_factory=list)
    critical_path_s: float = 0.0  # the slowest node of each wave, the gates, the verification; not pgha's own looks
    counts: dict[str, int] = field(default_factory=lambda: {"changed": 0, "unchanged": 0, "failed": 0})

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.master.hub, self.operation)
        self._unplanned: set[str] = set()
        self._rejoins: set[str] = set()  # nodes whose etcd starts as a new member, whatever was planned for it
        self._led = False  # somebody led when this was planned
        known = {node.name for node in self.cluster.nodes}
        if unknown := sorted(set(self.nodes) - known):
            raise UserError(f"{unknown[0]} is no node of {self.cluster.name}; it has {', '.join(sorted(known))}")
        if wrong := sorted(set(self.only) - set(catalog.DOCUMENTS)):
            raise UserError(f"there is no document {wrong[0]!r}; there are {', '.join(catalog.DOCUMENTS)}")

    # ---- the two things a person asks for

    async def plan(self) -> End:
        await self._preflight()
        plan = await self._plan()
        failed = [
            f"{n.node}: {r.resource}: {r.reason}" for n in plan.nodes for r in n.results if r.status is Status.FAILED
        ]
        if failed:
            return End(exit=1, message=f"the plan is not complete: {failed[0]}", data={"changes": plan.change_count})
        return End(data={"changes": plan.change_count})

    async def apply(self) -> End:
        since = self.master.clock.monotonic()
        await self._preflight()
        plan = await self._plan()
        results = {node.node: node.results for node in plan.nodes}
        try:
            await self._before_the_first_change(results)
            await self.master.remember(self.cluster, self.text)
            await self._replace_a_lost_member()
            for stage in STAGES:
                results = await self._stage(stage, results)
            if not self.only or (self.counts["changed"] and self._led):
                await self._verify(changed=self.counts["changed"] > 0)
        except Failed as error:
            return End(exit=1, message=str(error), data=self._data(since))
        for node in plan.nodes:
            self.counts["unchanged"] += node.unchanged
        return End(message=self._closing(since), data=self._data(since))

    # ---- before anything is changed

    async def _preflight(self) -> None:
        """Raises Refused with every problem there is."""
        since = self.master.clock.monotonic()
        hub = self.master.hub
        names = [node.name for node in self.cluster.nodes]
        deadline = since + CONNECT_S
        accepted = hub.accepted()
        while self.master.clock.monotonic() < deadline and not all(hub.connected(n) for n in names if n in accepted):
            await asyncio.sleep(0.2)
        connected = await self._answering([name for name in names if hub.connected(name)])
        problems = preflight.keys_and_lines(self.cluster, await self.master.store.minions(), connected)
        facts = {name: known for name in names if connected.get(name) and (known := hub.facts(name))}
        free = {p.name: p.sample.host.disk_free_bytes for p in hub.peers.values() if p.sample and p.sample.host}
        problems += preflight.hosts(self.cluster, facts, free)
        problems += preflight.clocks(self._clock_offsets(names))
        problems += self._other_clusters(names)
        if problems:
            await self._step("preflight", "failed", since=since, detail=_counted(len(problems), "problem"))
            raise Refused("nothing was changed:\n" + "\n".join(f"  {problem}" for problem in problems))
        await self._step("preflight", "done", since=since, detail=f"{len(names)} nodes connected, systems supported")

    async def _answering(self, names: Sequence[str]) -> dict[str, bool]:
        """Ask: a line may look alive for some seconds after its host has died."""
        answers = await self.fleet.call("ping", dict.fromkeys(names, ()), ANSWER_S, silence_s=ANSWER_S)
        return {name: answer.ok for name, answer in answers.items()}

    def _clock_offsets(self, names: Sequence[str]) -> dict[str, float]:
        now, mono = self.master.clock.now(), self.master.clock.monotonic()
        peers = [self.master.hub.peers[name] for name in names if name in self.master.hub.peers]
        return {p.name: p.sample.at - (now - (mono - p.sampled)) for p in peers if p.sample is not None}

    def _other_clusters(self, names: Sequence[str]) -> list[str]:
        return [
            f"{node.name}: is a node of the cluster {other.name} already"
            for other in self.master.clusters.values()
            if other.name != self.cluster.name
            for node in other.nodes
            if node.name in names
        ]

    async def _before_the_first_change(self, results: dict[str, tuple[ResourceResult, ...]]) -> None:
        """On hosts that get packages: can they be had, and are the ports free? Raises Refused."""
        bare = [
            node
            for node, planned in results.items()
            if any(r.status is Status.PLANNED and r.resource.startswith("packages:") for r in planned)
        ]
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
            if data.get("mirror"):
                problems.append(f"{node}: the package mirror cannot be reached: {data['mirror']}")
        if problems:
            await self._step("ports, mirror", "failed", since=since, detail=_counted(len(problems), "problem"))
            raise Refused("nothing was changed:\n" + "\n".join(f"  {problem}" for problem in problems))
        await self._step("ports, mirror", "done", since=since, detail="ports free, package mirror reachable")

    # ---- plan

    async def _compile(self, nodes: Sequence[str]) -> dict[str, list[AnyResource]]:
        notes = await self.master.store.notes(self.cluster.name)
        compiled = {}
        for name in nodes:
            facts = self.master.hub.facts(name)
            if facts is None:
                raise Failed(f"{name}: its minion is gone; apply again when it is back")
            compiled[name] = self.master.compile(self.cluster, self.cluster.node(name), facts, notes)
        return compiled

    def _documents(self, health: ClusterHealth) -> list[str]:
        """The documents to look at. `database` needs a leader to ask; without one it is applied unplanned."""
        wanted = [d for d in catalog.DOCUMENTS if not self.only or d in self.only]
        self._unplanned = set() if health.leader else {"database"} & set(wanted)
        return [d for d in wanted if d not in self._unplanned]

    def _chosen(self) -> list[str]:
        return [node.name for node in self.cluster.nodes if not self.nodes or node.name in self.nodes]

    async def _plan(self) -> Plan:
        since = self.master.clock.monotonic()
        health = await self._fresh_health()
        self._led = health.leader != ""
        compiled = await self._compile(self._chosen())
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
        if plan.change_count:
            plan = plan.model_copy(update=impact.describe(self.cluster, results, health))
        if (lost := self._lost_member(health)) is not None:
            text = f"etcd on {lost.node} is no member with its data; an apply makes it a new one, by {lost.via}"
            await self.operation.emit(Note(level="warning", text=text))
        await self.operation.emit(plan)
        await self._step("plan", "done", since=since, detail=_counted(plan.change_count, "change"))
        return plan

    async def _fresh_health(self) -> ClusterHealth:
        """A judgement from telemetry of every node. Raises Refused without it: what is not known may be running."""
        deadline = self.master.clock.monotonic() + FRESH_S
        names = [node.name for node in self.cluster.nodes]
        while self.master.clock.monotonic() < deadline:
            health = self.master.health(self.cluster)
            if all(health.node(name).fresh for name in names):
                return health
            await self._next_telemetry()
        silent = [node.missing() for node in self.master.health(self.cluster).nodes if not node.fresh]
        raise Refused("nothing was changed: " + "; ".join(silent))

    # ---- stages

    async def _stage(
        self, stage: Stage, results: dict[str, tuple[ResourceResult, ...]]
    ) -> dict[str, tuple[ResourceResult, ...]]:
        if self.only and not set(self.only) & set(stage.documents):
            return results
        health = self.master.health(self.cluster)
        nodes = concerned(stage, results)
        if "etcd" in stage.documents:
            nodes += sorted(self._rejoins - set(nodes))
        if self._unplanned & set(stage.documents):
            nodes = [health.leader] if health.leader in results else []
        if not nodes:
            await self._gate(stage.name, stage.gate_name, stage.gate, stage.deadline_s, ())
            return results
        order = stage_waves(stage, self.cluster, nodes, results, health)
        founding = stage.name == "patroni" and health.leader == "" and len(order) > 1
        for number, wave in enumerate(order):
            if disturbing(stage, wave, results) and spares(wave)(self.master.health(self.cluster)) != gates.OPEN:
                await self._gate(stage.name, "etcd can spare the member", spares(wave), 60.0, ())
            await self._wave(stage, wave)
            last = number == len(order) - 1
            if founding and number == 0:
                await self._gate(stage.name, LEADER.gate_name, LEADER.gate, LEADER.deadline_s, wave)
            elif last:
                await self._gate(stage.name, stage.gate_name, stage.gate, stage.deadline_s, wave)
            elif not is_fresh(health):
                await self._gate(stage.name, "the cluster is steady", steady, 600.0, wave)
        return results

    async def _wave(self, stage: Stage, wave: Sequence[str]) -> None:
        documents = [d for d in stage.documents if not self.only or d in self.only]
        for node in wave:
            await self.operation.emit(Step(step=stage.name, node=node, state="started"))
        compiled = await self._compile(wave)

        async def one(node: str) -> Answer:
            answer = (await self.fleet.converge("apply", {node: compiled[node]}, documents, stage.name))[node]
            await self._settle(stage.name, answer)
            return answer

        answers = await asyncio.gather(*(one(node) for node in wave))
        self.critical_path_s += max((a.outcome.seconds for a in answers if a.outcome), default=0.0)
        if bad := [a for a in answers if not a.ok]:
            raise Failed(f"{stage.name}: {bad[0].node}: {bad[0].why()}")

    async def _settle(self, step: str, answer: Answer) -> None:
        outcome = answer.outcome
        seconds = outcome.seconds if outcome else 0.0
        self.timings.append({"step": step, "node": answer.node, "seconds": round(seconds, 2)})
        for result in answer.results:
            document = {"step": f"{step}/{result.document}", "node": answer.node}
            if result.seconds >= 0.5:
                self.timings.append({**document, "seconds": round(result.seconds, 2), "resource": result.resource})
        if outcome:
            self.counts["changed"] += outcome.changed
            self.counts["failed"] += outcome.failed
        state = "failed" if not answer.ok else "done" if outcome and outcome.changed else "unchanged"
        detail = answer.why() if not answer.ok else f"{outcome.changed if outcome else 0} changed"
        await self.operation.emit(Step(step=step, node=answer.node, state=state, detail=detail, seconds=seconds))

    async def _gate(self, step: str, name: str, gate: Gate, deadline_s: float, touched: Sequence[str]) -> None:
        """Wait for it on telemetry taken after now. Raises Failed with what was seen last."""
        if not name:
            return
        since = self.master.clock.monotonic()
        whole = gates.every(lambda health: gates.all_seen_since(health, touched, since), gate)
        told = ""
        while isinstance(seen := whole(self.master.health(self.cluster)), Closed):
            waited = self.master.clock.monotonic() - since
            if waited > deadline_s:
                await self.operation.emit(
                    GateLine(step=step, gate=name, state="failed", reason=seen.reason, seconds=waited)
                )
                raise Failed(f"{step}: waited {deadline_s:.0f} s until {name}: {seen.reason}")
            if seen.reason != told and waited > 1.0:
                told = seen.reason
                await self.operation.emit(GateLine(step=step, gate=name, state="waiting", reason=told, seconds=waited))
            await self._next_telemetry()
        waited = self.master.clock.monotonic() - since
        self.critical_path_s += waited
        self.timings.append({"step": f"{step}: gate", "node": "", "seconds": round(waited, 2)})
        await self.operation.emit(GateLine(step=step, gate=name, state="open", seconds=waited))

    async def _next_telemetry(self) -> None:
        async with self.master.hub.telemetry:
            await self.master.hub.telemetry.wait()

    # ---- etcd members

    def _lost_member(self, health: ClusterHealth) -> Replacement | None:
        """The member to replace, if that was asked for."""
        lost = replacement(self.cluster, health)
        asked = lost is not None and lost.node in self._chosen() and (not self.only or "etcd" in self.only)
        return lost if asked else None

    async def _replace_a_lost_member(self) -> None:
        """One at a time: the next apply sees to the next, when this one counts."""
        lost = self._lost_member(self.master.health(self.cluster))
        if lost is None:
            return
        since = self.master.clock.monotonic()
        await self.master.store.note(self.cluster.name, f"etcd_joins:{lost.node}", "yes")
        self._rejoins.add(lost.node)
        if lost.added_already:
            return
        if lost.runs:  # else it would found its cluster once more as soon as it is removed
            await self._stop_etcd(lost.node)
        arguments = (lost.member_id or "-", lost.node, lost.peer_url)
        answer = (await self.fleet.call("etcd.replace", {lost.via: arguments}, 30.0))[lost.via]
        detail = f"{lost.node} is a new member of etcd, by {lost.via}" if answer.ok else answer.why()
        await self._step("etcd member", "done" if answer.ok else "failed", since=since, detail=detail)
        if not answer.ok:
            raise Failed(f"etcd: {lost.node} could not be made a new member: {detail}")
        self.counts["changed"] += 1

    async def _stop_etcd(self, node: str) -> None:
        answer = (await self.fleet.call("cmd", {node: ("systemctl", "stop", "etcd")}, 60.0))[node]
        if not answer.ok:
            raise Failed(f"etcd: {node} has lost its data, and its etcd could not be stopped: {answer.why()}")

    # ---- the end

    async def _verify(self, *, changed: bool) -> None:
        """Whole and steady; and after a change, a write through every node's own HAProxy, read back on a replica."""
        await self._gate("verify", "the cluster is steady", steady, 120.0, ())
        if not changed:
            return
        since = self.master.clock.monotonic()
        ports = (str(self.cluster.haproxy.rw_port), str(self.cluster.haproxy.ro_port))
        read_back = "yes" if len(self.cluster.data_nodes) > 1 else "no"
        calls = {node.name: (node.name, *ports, read_back, "20") for node in self.cluster.proxy_nodes}
        answers = await self.fleet.call("write_probe", calls, 60.0)
        for node, answer in answers.items():
            data = answer.outcome.data if answer.outcome else {}
            seen = f"wrote to {data.get('primary')} in {data.get('write_ms')} ms, read from {data.get('replica', '-')}"
            await self.operation.emit(
                Step(
                    step="verify",
                    node=node,
                    state="done" if answer.ok else "failed",
                    detail=seen if answer.ok else answer.why(),
                )
            )
        self.critical_path_s += self.master.clock.monotonic() - since
        self.timings.append({"step": "verify", "node": "", "seconds": round(self.master.clock.monotonic() - since, 2)})
        if bad := [a for a in answers.values() if not a.ok]:
            raise Failed(f"verify: {bad[0].node}: {bad[0].why()}")

    async def _step(self, step: str, state: StepState, *, since: float, detail: str = "") -> None:
        seconds = self.master.clock.monotonic() - since
        self.timings.append({"step": step, "node": "", "seconds": round(seconds, 2)})
        await self.operation.emit(Step(step=step, state=state, detail=detail, seconds=seconds))

    def _closing(self, since: float) -> str:
        counts = ", ".join(f"{count} {word}" for word, count in self.counts.items())
        return f"Applied {self.cluster.name} in {_spoken(self.master.clock.monotonic() - since)}: {counts}."

    def _data(self, since: float) -> dict[str, object]:
        return {
            **self.counts,
            "seconds": round(self.master.clock.monotonic() - since, 2),
            "timings": self.timings,
            "critical_path_s": round(self.critical_path_s, 2),
        }


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} m {rest:.0f} s" if minutes else f"{rest:.1f} s"
