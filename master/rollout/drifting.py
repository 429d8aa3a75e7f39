"""Looks at every cluster's nodes now and then, and soon after somebody touched a managed file, without changing them.

Rules:
1. A look is a plan of the definition that was applied last. It waits while an apply runs, and follows its end.
2. What is new is told once: in the log, and as a job of its own that holds the plan.
3. A look that cannot be had, because the cluster is not fit for a plan, keeps what the last one saw.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...common.cluster import Cluster
from ...common.errors import PghaError
from ...common.names import new_job_id
from ..definition import inventory
from ..operations.operation import Operation
from ..operations.operations import Operations
from ..operations.progress import End, Plan
from ..orchestration.seams import Headquarters
from . import drift
from .drift import Drift
from .rollout import Rollout

log = logging.getLogger("pgha.drift")

FIRST_S = 30.0  # after a start of the master, or an apply: nodes come back one by one
PAUSE_S = 10.0  # between two looks at a cluster, whatever is touched
TURN_S = 2.0
LOOK_S = 300.0
WHO = "pgha-master"
MENDING = "mending"  # the key of an apply that nobody asked for: who asks for one waits until it has ended


class Base(Headquarters, Protocol):
    """As `server.Master`."""

    @property
    def operations(self) -> Operations: ...

    async def definition(self, cluster: str) -> str: ...

    async def applied_whole(self, cluster: str) -> bool: ...


@dataclass
class Drifts:
    master: Base
    known: dict[str, Drift] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)

    def of(self, cluster: str) -> Drift:
        return self.known.setdefault(cluster, Drift())

    async def watch(self) -> None:
        """For ever. Each cluster has a task of its own: one that cannot be looked at does not hold up the others."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for name in list(self.master.clusters):
                    if name not in tasks or tasks[name].done():
                        tasks[name] = asyncio.create_task(self._turn(name))
                await asyncio.sleep(TURN_S)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _turn(self, name: str) -> None:
        cluster = self.master.clusters[name]
        try:
            await self._look_when_due(cluster)
        except asyncio.TimeoutError:
            self._failed(cluster, f"its nodes did not answer within {LOOK_S:.0f} s")
        except PghaError as error:
            self._failed(cluster, str(error))
        except Exception:
            log.exception("looking for drift on %s broke", name)

    async def _look_when_due(self, cluster: Cluster) -> None:
        now = self.master.clock.monotonic()
        due = self._due.setdefault(cluster.name, now + FIRST_S)
        if self.master.operations.changing(cluster.name):
            self._due[cluster.name] = now + TURN_S  # what it leaves behind is looked at
            return
        if now < due and not (self._touched(cluster) and now - self._seen.get(cluster.name, 0.0) > PAUSE_S):
            return
        self._due[cluster.name] = now + cluster.reconcile.interval
        self._seen[cluster.name] = now
        if not await self.master.applied_whole(cluster.name):
            self._failed(cluster, "the definition has not been applied as a whole yet")
            return
        await asyncio.wait_for(self._look(cluster), LOOK_S)
        if self._still(cluster) and (wanted := drift.to_mend(self.of(cluster.name), now)):
            await self._mend(cluster, wanted)

    def _still(self, cluster: Cluster) -> bool:
        """Nobody has applied anything meanwhile, nor is about to."""
        return self.master.clusters.get(cluster.name) is cluster and not self.master.operations.changing(cluster.name)

    def _touched(self, cluster: Cluster) -> bool:
        nodes = self.master.health(cluster).nodes
        return any(node.sample.touched for node in nodes if node.sample is not None)

    async def _look(self, cluster: Cluster) -> None:
        connected = tuple(node.name for node in cluster.nodes if self.master.hub.connected(node.name))
        if not connected:
            self._failed(cluster, "no node is connected")
            return
        quiet = Operation(new_job_id(), f"drift {cluster.name}", cluster.name, self.master.clock)
        text = await self.master.definition(cluster.name)
        end = await Rollout(
            self.master, quiet, cluster, text, inventory.digest(text), connected, as_applied=True
        ).plan()
        plan = next((line for line in quiet.lines if isinstance(line, Plan)), None)
        if plan is None or end.exit:
            self._failed(cluster, end.message)
            return
        if not self._still(cluster):
            return
        known, found = self.of(cluster.name), drift.differences(cluster.reconcile, plan)
        before, known.differences = known.differences, tuple(one for one in found if not one.follows)
        known.following = tuple(one for one in found if one.follows)
        known.checked, known.error = self.master.clock.monotonic(), ""
        if new := [one for one in known.differences if one not in before]:
            await self._tell(cluster, plan, new)

    async def _tell(self, cluster: Cluster, plan: Plan, new: list[drift.Difference]) -> None:
        for node in dict.fromkeys(one.node for one in new):
            what = drift.listed([one.resource for one in new if one.node == node])
            log.warning("%s: %s is not as it was applied: %s", cluster.name, node, what)

        async def work(operation: Operation) -> End:
            await operation.emit(plan)
            return End(data={"changes": plan.change_count})

        nodes = tuple(dict.fromkeys(one.node for one in new))
        await self.master.operations.start(f"drift {cluster.name}", cluster.name, WHO, work, nodes)

    async def _mend(self, cluster: Cluster, wanted: dict[str, tuple[str, ...]]) -> None:
        """By applies as anybody would start them, one after the other; each may be followed."""
        if self.master.health(cluster).verdict != "healthy":
            return
        text = await self.master.definition(cluster.name)
        drift.remember_mended(self.of(cluster.name), wanted, self.master.clock.monotonic())
        for node, documents in wanted.items():
            if not self._still(cluster):
                return
            asked = {"nodes": (node,), "only": documents, "restart": False}

            async def work(operation: Operation, asked: dict[str, Any] = asked) -> End:
                digest = inventory.digest(text)
                return await Rollout(self.master, operation, cluster, text, digest, **asked, as_applied=True).apply()

            request = json.dumps({"path": f"{cluster.name}, as it was applied last", "text": text, **asked})
            operation = await self.master.operations.start(
                f"apply {cluster.name}", cluster.name, WHO, work, (node,), MENDING, request=request
            )
            if operation.task is not None:
                await asyncio.wait({operation.task})
        self._due[cluster.name] = self.master.clock.monotonic() + TURN_S

    def _failed(self, cluster: Cluster, why: str) -> None:
        known = self.of(cluster.name)
        if known.error != why:
            log.info("%s cannot be compared with its definition: %s", cluster.name, why)
        known.error = why
