"""Backups as the master sees and orders them: the first of a cluster, one that a person wants, what is in their way.

Where a backup is made, the nodes themselves say (`minion/backups/turn.py`); that it was made, the repository says.
The run is a unit of the node's systemd, so neither the master nor the minion must last as long as it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from ...common.backup import Backup, BackupType
from ...common.cluster import Cluster
from ...common.telemetry_backup import BackupRun, RepositorySample
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.report import Report, spoken
from ..orchestration.seams import Headquarters

STEP = "backup"
LOOK_S, START_S, POLL_S = 120.0, 60.0, 2.0
TOLD_S = 30.0  # between two words on progress
LOST_S = 600.0  # a node that is silent for so long in the middle of a backup is given up
USABLE = ("ok", "no backups")


class Look(BaseModel):
    """What `backup.look` says of a node."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    turn: str = ""
    why: str = ""
    running: tuple[str, ...] = ()
    progress: tuple[int, int] | None = None
    operates: tuple[int, ...] = ()
    repositories: tuple[RepositorySample, ...] = ()
    runs: tuple[BackupRun, ...] = ()

    @property
    def last(self) -> float:
        """When the latest run ended, by the node's clock."""
        return max((run.ended or 0.0 for run in self.runs), default=0.0)


@dataclass
class Backing:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report

    async def reachable(self, *, founding: bool) -> None:
        """Before anything of the database depends on them: every repository answers, and is not somebody else's.

        `founding`: a database with a history of its own is about to be made, so there must be none of before in it.
        Raises Failed.
        """
        for node in self._askable():
            for one in (await self.look(node)).repositories:
                where = f"{node}: repository {one.number} ({self._kind(one.number)})"
                if one.state in ("unreachable", "damaged"):
                    raise Failed(
                        f"{STEP}: {where} is {one.state}: {one.why}; PostgreSQL was left as it is. Correct it soon: "
                        "where WAL is archived already, it waits until then"
                    )
                if founding and (one.backups or one.system_id):
                    raise Failed(
                        f"{STEP}: {where} holds backups of a cluster {self.cluster.name} already, and no node has its "
                        f"data. To have it back: pgha-master restore {self.cluster.name} --to latest. To begin anew, "
                        "give the repository another path, or the cluster another name in the definition"
                    )

    async def first(self, *, insist: bool) -> None:
        """A full backup wherever a repository has none. `insist`: one that cannot be used is an error."""
        for node, seen in (await self._operators()).items():
            for one in seen.repositories:
                if one.number in seen.operates and one.state not in USABLE:
                    text = f"{STEP}: {node}: repository {one.number} is {one.state}: {one.why or 'apply again'}"
                    if insist:
                        raise Failed(text)
                    await self.report.warn(text)
            if any(one.state == "no backups" for one in seen.repositories if one.number in seen.operates):
                await self.make(node, seen, "full", "first full backup")

    async def now(self, kind: BackupType, on: str = "") -> list[BackupRun]:
        """One to each repository, where it is its turn, or `on` that node; also when another one's fails.

        Raises Failed.
        """
        made, wrong = list[BackupRun](), list[str]()
        operators = await self._operators(on)
        if not any(seen.operates for seen in operators.values()):
            raise Failed(f"{STEP}: {on or 'no node'} makes no backups of {self.cluster.name}")
        for node, seen in operators.items():
            try:
                made += await self.make(node, seen, kind, f"{kind} backup")
            except Failed as error:
                wrong.append(str(error))
        if wrong:
            raise Failed("; ".join(wrong))
        return made

    async def make(self, node: str, seen: Look, kind: BackupType, what: str) -> list[BackupRun]:
        """Start it there and wait for its end. Raises Failed with the tool's words."""
        since = self.master.clock.monotonic()
        numbers = ", ".join(str(number) for number in seen.operates)
        await self.report.begin(STEP, f"{what} by {node}, to repository {numbers}")
        answer = (await self.fleet.call("backup.start", {node: (kind,)}, START_S))[node]
        if not answer.ok or answer.outcome is None:
            raise Failed(f"{STEP}: {node}: {answer.why()}")
        if answer.outcome.data.get("running"):
            await self.report.warn(f"{node}: a backup was running there already; its end is waited for")
        runs = await self._ended(node, seen.last, since)
        if bad := [run for run in runs if not run.ok]:
            raise Failed(f"{STEP}: {node}: {what} to repository {bad[0].repository} failed: {bad[0].error}")
        labels = ", ".join(run.label for run in runs)
        await self.report.step(STEP, "done", since=since, detail=f"{what} by {node}: {labels}")
        return runs

    async def look(self, node: str, stanza: str = "") -> Look:
        """What that node sees; `stanza`: of another cluster's backups in the same repositories. Raises Failed."""
        words = (stanza,) if stanza else ()
        answer = (await self.fleet.call("backup.look", {node: words}, LOOK_S, silence_s=LOOK_S))[node]
        if not answer.ok or answer.outcome is None:
            raise Failed(f"{STEP}: {node}: {answer.why()}")
        try:
            return Look.model_validate(answer.outcome.data)
        except ValidationError as error:
            raise Failed(f"{STEP}: {node}: its answer cannot be read: {error.errors()[0]['msg']}") from None

    async def _ended(self, node: str, mark: float, since: float) -> list[BackupRun]:
        """The runs that ended after `mark`, once nothing runs any more."""
        told, heard = self.master.clock.monotonic(), self.master.clock.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            now = self.master.clock.monotonic()
            try:
                seen = await self.look(node)
                heard = now
            except Failed as error:
                if now - heard > LOST_S:
                    raise Failed(f"{error}; the backup may still run there: pgha-master backup list") from None
                continue
            ended = [run for run in seen.runs if (run.ended or 0.0) > mark]
            runs = list({run.repository: run for run in ended}.values())  # of each repository its last
            if not seen.running:
                if not runs:
                    raise Failed(f"{STEP}: {node}: it ended without a backup; {self._journal(node)}")
                return runs
            if seen.progress and seen.progress[1] and now - told >= TOLD_S:
                told = now
                done, total = seen.progress
                await self.report.begin(STEP, f"{node}: {size(done)} of {size(total)} in {spoken(now - since)}")

    async def _operators(self, on: str = "") -> dict[str, Look]:
        """Node -> what it sees: who holds a repository; and for those in clouds whose turn it is, or `on`."""
        backup = self._backup()
        names = list(self._holders(backup))
        if backup.numbers_at(""):
            names.append(on or await self.turn())
        return {name: await self.look(name) for name in names if on in ("", name)}

    async def turn(self) -> str:
        """The data node whose turn it is, by what the first says that answers."""
        seen = await self.look(self._askable()[0])
        if not seen.turn:
            raise Failed(f"{STEP}: {seen.why}")
        return seen.turn

    def _askable(self) -> list[str]:
        """Nodes that are connected and reach repositories: the data nodes, then who holds one."""
        backup = self._backup()
        nodes = [*(node.name for node in self.cluster.data_nodes), *self._holders(backup)]
        there = [name for name in dict.fromkeys(nodes) if self.master.hub.connected(name)]
        if not there:
            raise Failed(f"{STEP}: no node that reaches a repository is connected")
        return there

    def _holders(self, backup: Backup) -> Sequence[str]:
        return tuple(dict.fromkeys(one.node for _, one in backup.repositories if one.node))

    def _kind(self, number: int) -> str:
        return dict(self._backup().repositories)[number].kind

    def _backup(self) -> Backup:
        if self.cluster.backup is None:
            raise Failed(f"{self.cluster.name} has no backup section in its definition; add one and apply it")
        return self.cluster.backup

    def _journal(self, node: str) -> str:
        return f"pgha-master run {node} -- journalctl -u 'pgha-backup@*' -n 50"


def size(count: float) -> str:
    """`512 MiB`, `1.4 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
