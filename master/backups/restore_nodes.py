"""What a restore asks of nodes and has them do: one call each, and one step that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ...common.cluster import Cluster
from ...common.restore import Step, done
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.report import Report, spoken
from ..orchestration.seams import Headquarters
from .restore_order import NodeLook, Refusal, Wanted

STEP = "restore"
LOOK_S, ACT_S, POLL_S = 60.0, 60.0, 2.0
TOLD_S = 15.0
LOST_S = 300.0
TRIES = 3


@dataclass
class RestoreNodes:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.cluster.data_nodes]

    @property
    def parties(self) -> list[str]:
        """Who makes backups: the data nodes, and who holds a repository."""
        holders = {one.node for _, one in self.cluster.backup.repositories} if self.cluster.backup else set()
        return [node.name for node in self.cluster.nodes if node.is_data or node.name in holders]

    async def call(
        self, function: str, arguments: Mapping[str, Sequence[str]], timeout_s: float = ACT_S
    ) -> dict[str, Mapping[str, object]]:
        """The data of each answer. Raises Failed when one is not well."""
        answers = await self.fleet.call(function, arguments, timeout_s, silence_s=timeout_s)
        for node, answer in answers.items():
            if not answer.ok:
                raise Failed(f"{STEP}: {node}: {answer.why()}")
        return {node: answer.outcome.data if answer.outcome else {} for node, answer in answers.items()}

    async def on_all(self, function: str) -> None:
        """Call it on every data node, without a word more. Raises Failed."""
        await self.call(function, dict.fromkeys(self.names, ()))

    async def looks(self) -> dict[str, NodeLook]:
        """How each data node stands. Raises Failed when one is away."""
        if away := [name for name in self.names if not self.master.hub.connected(name)]:
            raise Failed(f"{STEP}: {', '.join(away)}: not connected; every data node must be, as each gets other data")
        return {name: await self.look(name) for name in self.names}

    async def look(self, node: str) -> NodeLook:
        """Raises Failed."""
        try:
            return NodeLook.model_validate((await self.call("restore.look", {node: ()}, LOOK_S))[node])
        except ValidationError as error:
            raise Failed(f"{STEP}: {node}: its answer cannot be read: {error.errors()[0]['msg']}") from None

    async def step(self, wanted: Wanted, step: Step, what: str) -> None:
        """Have it done by the node that recovers, unless it has been.

        Raises: Refusal when the node says that it cannot be; Failed when it is not known how far it came.
        """
        since = self.master.clock.monotonic()
        seen = await self.look(wanted.node)
        if not done(seen.phase(wanted.id), step):
            await self.report.begin(STEP, what)
            await self.call("restore.begin", {wanted.node: wanted.order(step)})
            seen = await self._followed(wanted, step, since)
        await self.report.step(
            STEP, "done", since=since, detail=f"{what}: {seen.restore.detail if seen.restore else ''}"
        )

    async def _followed(self, wanted: Wanted, step: Step, since: float) -> NodeLook:
        told = heard = self.master.clock.monotonic()
        idle = begun = 0
        while True:
            await asyncio.sleep(POLL_S)
            now = self.master.clock.monotonic()
            try:
                seen = await self.look(wanted.node)
                heard = now
            except Failed:
                if now - heard > LOST_S:
                    raise
                continue
            if done(seen.phase(wanted.id), step):
                return seen
            idle = 0 if step in seen.running else idle + 1
            if idle > 1:  # not only between two of its states
                why = seen.restore.error if seen.restore else ""
                if why:
                    raise Refusal(f"{STEP}: {wanted.node}: {why}")
                if begun >= TRIES:
                    unit = f"pgha-master run {wanted.node} -- journalctl -u 'pgha-restore@*' -n 50"
                    raise Failed(f"{STEP}: {wanted.node}: it ends again and again without a word; {unit}")
                begun, idle = begun + 1, 0  # it was killed, or its node was off
                await self.call("restore.begin", {wanted.node: wanted.order(step)})
            if now - told >= TOLD_S and seen.restore:
                told = now
                await self.report.begin(
                    STEP, f"{wanted.node}: {seen.restore.phase} {seen.restore.detail}, {spoken(now - since)}"
                )
