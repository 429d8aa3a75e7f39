"""One `run` from its first node to its last: batch by batch, behind its guard, and on again after a restart.

What comes next is asked of `batches`, what may be taken down of `guards`. What was asked for is a `RunRequest`, stored
with the operation, so that a restarted master, `jobs resume` and `jobs rerun` know all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from ...common.clock import Clock
from ...common.cluster import Cluster
from ..bus.flights import Flight
from ..health.observed import ClusterHealth
from ..operations.operations import Operation
from ..operations.progress import End, Gate
from ..orchestration.fleet import STATE_SILENCE_S, Answer, Fleet
from ..orchestration.seams import Minions
from ..store import transitions
from . import batches, guards
from .batches import Limits, Start, Stop

EXIT_FAILED, EXIT_PARTLY, EXIT_REFUSED = 1, 4, 6
STEADY_S = 300.0


class RunRequest(BaseModel):
    """What to call, on exactly which nodes, and how many of them at once. `blob` is the SHA-256 and size of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    target: str
    function: str
    arguments: tuple[str, ...] = ()
    timeout_s: float = 60.0
    nodes: tuple[str, ...] = ()
    batch: str = ""
    canary: bool = False
    max_fail: str = ""
    force_unsafe: bool = False
    blob: tuple[str, int] = ("", 0)

    @property
    def what(self) -> str:
        called = ("--", *self.arguments) if self.function == "cmd" else (self.function, *self.arguments)
        return " ".join(["run", self.target, *called])[:200]

    @property
    def limits(self) -> Limits:
        """Raises UserError."""
        return batches.limits(len(self.nodes), self.batch, self.canary, self.max_fail)


class Base(Protocol):
    """What a run needs of the master. As `server.Master`."""

    @property
    def hub(self) -> Minions: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def clusters(self) -> Mapping[str, Cluster]: ...

    def health(self, cluster: Cluster) -> ClusterHealth: ...


@dataclass
class Run:
    """`answers`: of the nodes that have had their turn."""

    master: Base
    operation: Operation
    request: RunRequest
    answers: dict[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fleet = Fleet(self.master.hub, self.operation)
        wanted = self.request
        self._disrupts = frozenset() if wanted.force_unsafe else guards.disrupted(wanted.function, wanted.arguments)

    async def carry_out(self, under_way: Mapping[str, tuple[Answer, Flight]] | None = None) -> End:
        """To the end. `under_way`: what a master before this one had sent."""
        limits = self.request.limits
        reason, refused = self._forbidden(limits), True
        if under_way:
            self.answers |= await self._fleet.attach(list(under_way.values()), STATE_SILENCE_S)
        while not reason:
            step, refused = batches.following(self.request.nodes, limits, self._seen()), False
            if self.operation.cancelled_by:
                reason = f"cancelled by {self.operation.cancelled_by}"
            elif isinstance(step, Stop):
                reason = step.reason
            elif not isinstance(step, Start):
                break
            elif not (reason := await self._steady()):
                if reason := self._refused(step.nodes):
                    refused = True
                else:
                    await self._batch(step.nodes)
        left = [node for node in self.request.nodes if node not in self.answers]
        for node in left:
            await self._leave_out(node, reason)
        return self._end(reason if left else "", len(left), refused)

    def _seen(self) -> dict[str, batches.Seen]:
        return {node: "good" if answer.ok else "bad" for node, answer in self.answers.items()}

    async def _batch(self, nodes: Sequence[str]) -> None:
        wanted = self.request
        arguments = dict.fromkeys(nodes, wanted.arguments)
        self.answers |= await self._fleet.call(
            wanted.function, arguments, wanted.timeout_s, show=True, blob=wanted.blob
        )

    async def _leave_out(self, node: str, reason: str) -> None:
        self.answers[node] = Answer(node, "cancelled", message=f"not begun: {reason}")
        await self.operation.emit(self.answers[node].line())

    # ---- what may be taken down

    def _clusters(self, nodes: Sequence[str]) -> list[Cluster]:
        return [c for c in self.master.clusters.values() if {n.name for n in c.nodes} & set(nodes)]

    def _forbidden(self, limits: Limits) -> str:
        """Why some batch would be refused as things are now: better before the first one than in the middle."""
        left = [node for node in self.request.nodes if node not in self.answers]
        found = (self._refused(nodes) for nodes in batches.planned(left, limits))
        return next(filter(None, found), "")

    def _refused(self, nodes: Sequence[str]) -> str:
        if not self._disrupts:
            return ""
        healths = [self.master.health(cluster) for cluster in self._clusters(nodes)]
        return guards.refuse(self._disrupts, nodes, healths) or ""

    async def _steady(self) -> str:
        """After a batch that took something down: wait until its clusters are whole. Why not, when they are not."""
        if not self._disrupts or not self.answers:
            return ""
        since = self.master.clock.monotonic()
        for cluster in self._clusters(list(self.answers)):
            touched = [node.name for node in cluster.nodes if node.name in self.answers]
            if reason := await self._wait(cluster, touched, since):
                return f"waited {STEADY_S:.0f} s for {cluster.name} to be whole again: {reason}"
        return ""

    async def _wait(self, cluster: Cluster, touched: Sequence[str], since: float) -> str:
        name, told = f"{cluster.name} is whole again", ""
        clock, hub = self.master.clock, self.master.hub
        while reason := guards.steady(self.master.health(cluster), touched, since):
            waited = clock.monotonic() - since
            if waited > STEADY_S or self.operation.cancelled_by:
                await self._gate(name, "failed", reason, waited)
                return reason
            if reason != told and waited > 1.0:
                told = reason
                await self._gate(name, "waiting", told, waited)
            async with hub.telemetry:
                await hub.telemetry.wait()
        await self._gate(name, "open", "", clock.monotonic() - since)
        return ""

    async def _gate(self, name: str, state: str, reason: str, seconds: float) -> None:
        line = {"step": "run", "gate": name, "state": state, "reason": reason, "seconds": seconds}
        await self.operation.emit(Gate.model_validate(line))

    # ---- the end

    def _end(self, reason: str, left: int, refused: bool) -> End:
        counts = tally(answer.state for answer in self.answers.values())
        seconds = round(self.master.clock.now() - self.operation.began, 3)
        data: dict[str, object] = {**counts, "seconds": seconds}
        if refused and left == len(self.answers):
            return End(exit=EXIT_REFUSED, message=f"{reason}; nothing was sent", data=data)
        code = 0 if counts["ok"] == len(self.answers) else EXIT_PARTLY if counts["ok"] else EXIT_FAILED
        if left:
            verb = "node was" if left == 1 else "nodes were"
            reason += f"; {left} {verb} not begun. To go on with: pgha-master jobs resume {self.operation.id}"
        return End(exit=code, message=reason, data=data)


def tally(states: Iterable[str]) -> dict[str, int]:
    """How many are ok, failed, without an answer, cancelled: by the words of jobs."""
    counted = Counter(states)
    silent = sum(counted[word] for word in (*transitions.OPEN, "unknown", "expired"))
    failed = counted["failed"] + counted["refused"]
    return {"ok": counted["done"], "failed": failed, "no_answer": silent, "cancelled": counted["cancelled"]}
