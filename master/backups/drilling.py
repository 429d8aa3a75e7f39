"""Has a node prove now that a backup restores. The drill is the node's own work; it needs no master to be made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from ...common.cluster import Cluster
from ...common.telemetry_backup import DrillSample
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from .backing import Backing

STEP = "drill"
ACT_S, POLL_S, LOST_S = 60.0, 2.0, 600.0


class DrillLook(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    running: bool = False
    drill: DrillSample | None = None


@dataclass
class Drilling:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report

    async def run(self, on: str = "") -> tuple[str, DrillSample]:
        """The node and what it has found, a failure too. Raises Failed when it is not known."""
        since = self.master.clock.monotonic()
        node = on or await self._whose()
        before = (await self._look(node)).drill
        await self.report.begin(STEP, f"restore the newest backup on {node}, start it and read it")
        answer = (await self.fleet.call("drill.start", {node: ()}, ACT_S))[node]
        if not answer.ok:
            raise Failed(f"{STEP}: {node}: {answer.why()}")
        heard = self.master.clock.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            now = self.master.clock.monotonic()
            try:
                seen, heard = await self._look(node), now
            except Failed:
                if now - heard > LOST_S:
                    raise
                continue
            if not seen.running:
                break
        if seen.drill is None or seen.drill == before:
            raise Failed(
                f"{STEP}: {node}: it ended without a word; pgha-master run {node} -- journalctl -u pgha-drill -n 50"
            )
        await self.report.step(STEP, "done" if seen.drill.ok else "failed", since=since, detail=f"by {node}")
        return node, seen.drill

    async def _whose(self) -> str:
        backup = self.cluster.backup
        if backup is not None and backup.drill.on is not None:
            return backup.drill.on
        return await Backing(self.master, self.fleet, self.cluster, self.report).turn()

    async def _look(self, node: str) -> DrillLook:
        answer = (await self.fleet.call("drill.look", {node: ()}, ACT_S, silence_s=ACT_S))[node]
        if not answer.ok or answer.outcome is None:
            raise Failed(f"{STEP}: {node}: {answer.why()}")
        try:
            return DrillLook.model_validate(answer.outcome.data)
        except ValidationError as error:
            raise Failed(f"{STEP}: {node}: its answer cannot be read: {error.errors()[0]['msg']}") from None
