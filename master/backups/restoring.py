"""Brings a whole cluster back to a moment, from its backups: over the data that is there, or on nodes that have none.

Rules:
1. The backup is copied beside the data while the cluster goes on. What fails before the data has changed places leaves
   the cluster as it was, and it is started again if it was stopped by then.
2. What was there is put aside and kept until a person says `--commit`; until then no backup of before is expired.
3. From the stop until all is done no Patroni starts by itself, not even after a loss of power: an empty one would found
   a cluster of its own.
4. Each step is looked up before it is done, so whoever starts it again goes on where it was. What is wanted is noted
   first, and another wish is refused until this one has ended.
5. Other nodes get their data from the new leader, and the repository is not asked for replicas until it has a backup
   of the timeline that the restore began.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from ...common.cluster import Cluster
from ..health import gates
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from ..orchestration.stages import LAG_LIMIT, LEADER
from .backing import Backing
from .restore_choice import choose, insist_on_hosts, insist_on_time, source
from .restore_nodes import POLL_S, STEP, RestoreNodes
from .restore_notes import Notes
from .restore_order import RESUME, Refusal, Wanted, unarchived

STOP_S = 600.0
COMMIT_S = 3600.0


@dataclass
class Restoring:
    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    keeper: Gatekeeper

    def __post_init__(self) -> None:
        self._notes = Notes(self.master.store, self.cluster.name)
        self.backing = Backing(self.master, self.fleet, self.cluster, self.report)
        self.nodes = RestoreNodes(self.master, self.fleet, self.cluster, self.report)

    # ---- the two ways

    async def over(self, asked: Wanted, on: str = "") -> Wanted:
        """A cluster that has data, running or not. Raises Failed."""
        wanted = await self._take_up(asked, on)
        try:
            return await self._carry_out(wanted)
        except Refusal as error:
            raise Failed(f"{error}; {await self._as_it_was(wanted)}") from None
        except Failed as error:
            raise Failed(f"{error}; go on with: pgha-master restore {self.cluster.name} --resume") from None

    async def _carry_out(self, wanted: Wanted) -> Wanted:
        if not wanted.placing:
            await self.nodes.step(wanted, "copy", f"copy the backup to {wanted.node}, beside its data")
            await self._stop()
            await self._insist_on_wal(wanted)
            await self.nodes.step(wanted, "recover", f"recover on {wanted.node} to {wanted}")
            wanted = await self._notes.note(wanted.model_copy(update={"placing": True}))
        if not wanted.founded:
            await self._stop()  # a node that lost its power may be back with all that it starts by itself
            await self._change_places(wanted)
            await self._forget()
            await self.nodes.call("restore.start", {wanted.node: ()})
            await self.keeper.wait(STEP, f"{wanted.node} leads", leads(wanted.node), LEADER.deadline_s, [wanted.node])
            wanted = await self._notes.note(wanted.model_copy(update={"founded": True}))
        await self._replicas(wanted)
        try:
            await self.settle(wanted)
        except Failed as error:
            raise Failed(f"the restored data is served, but not every repository has a backup of it: {error}") from None
        return wanted

    async def bare(self, asked: Wanted) -> Wanted:
        """Before a cluster is founded, on nodes without data: the first gets the data. Raises Failed."""
        wanted = await self._take_up(asked, self.nodes.names[0], bare=True)
        if wanted.founded:
            return wanted
        try:
            await self._stop()
            await self.nodes.step(wanted, "copy", f"copy the backup to {wanted.node}")
            await self.nodes.step(wanted, "recover", f"recover on {wanted.node} to {wanted}")
        except Refusal as error:
            await self._drop(wanted)
            raise Failed(f"{error}; nothing was built yet: correct it, and try again") from None
        await self.nodes.call("restore.swap", {wanted.node: (wanted.id,)})
        await self.nodes.call("restore.hold", {name: () for name in self.nodes.names if name != wanted.node})
        await self._forget()
        await self.nodes.on_all("restore.lift")
        return await self._notes.note(wanted.model_copy(update={"founded": True}))

    async def settle(self, wanted: Wanted) -> None:
        """A backup of the new timeline; from then on replicas may be made from the repository again."""
        await self.backing.now("full")
        await self.nodes.on_all("restore.settle")
        if not wanted.stanza:
            await self._notes.remember(wanted, self.master.clock.now())
        await self._notes.clear()

    async def cancel(self) -> str:
        """Give one up whose data has not changed places yet: the cluster runs with the data it has. Raises Failed."""
        wanted = await self.begun()
        if wanted is None:
            raise Failed(f"no restore of {self.cluster.name} is under way")
        if wanted.placing or wanted.founded or (await self.nodes.look(wanted.node)).phase(wanted.id) == "swapped":
            raise Failed(
                f"data has begun to change places on {', '.join(self.nodes.names)}; go on with: pgha-master restore "
                f"{self.cluster.name} --resume. What was there before is kept beside it"
            )
        if wanted.bare:
            await self._drop(wanted)
            return f"The restore to {wanted} is given up; no node has any data."
        return f"The restore to {wanted} is given up; {await self._as_it_was(wanted)}."

    async def commit(self) -> list[str]:
        """Delete what was put aside: `NODE: PATH` each. Raises Failed while a restore is under way."""
        if (noted := await self._notes.noted()) is not None:
            raise Failed(
                f"the restore to {noted} has not ended; end it first: pgha-master restore {self.cluster.name} --resume"
            )
        answers = await self.nodes.call("restore.commit", dict.fromkeys(self.nodes.parties, ()), COMMIT_S)
        return [f"{node}: {path}" for node, data in answers.items() for path in _texts(data.get("deleted"))]

    # ---- what is wanted

    async def begun(self) -> Wanted | None:
        """The one that has begun and not ended."""
        return await self._notes.noted()

    async def _take_up(self, asked: Wanted, on: str, *, bare: bool = False) -> Wanted:
        """The one that is under way, if it is this one; else this one, decided and noted."""
        noted = await self._notes.noted()
        if noted is not None:
            if noted.same(asked) or asked.value == RESUME:
                return noted
            raise Failed(
                f"a restore to {noted} has begun and not ended; go on with it: pgha-master restore "
                f"{self.cluster.name} --resume, or give it up: --cancel. Another one can follow"
            )
        if asked.value == RESUME:
            raise Failed(f"no restore of {self.cluster.name} is under way")
        looks, health = await self.nodes.looks(), self.keeper.health()
        seen = await self.backing.look(next(iter(looks)), asked.stanza)
        whose = Notes(self.master.store, asked.stanza) if asked.stanza else self._notes
        insist_on_time(asked, await whose.left())
        insist_on_hosts(looks, health)
        number, found = source(seen.repositories, asked)
        node = choose(looks, health.leader, found.backups[-1].size, on)
        own = {"id": f"{int(self.master.clock.now()):x}", "node": node, "leader": health.leader, "bare": bare}
        own["repository"] = number
        return await self._notes.note(asked.model_copy(update=own))

    # ---- the steps

    async def _stop(self) -> None:
        """Replicas first; who leads ends last and archives all that it has written. None comes back by itself then."""
        since, leader = self.master.clock.monotonic(), self.keeper.health().leader
        names = sorted(self.nodes.names, key=lambda name: name == leader)
        for name in names:
            await self.nodes.call("restore.stop", {name: ()}, STOP_S)
        if running := [name for name, look in (await self.nodes.looks()).items() if look.serving]:
            raise Failed(f"{STEP}: PostgreSQL on {running[0]} goes on without Patroni; stop it there")
        await self.report.step(STEP, "done", since=since, detail=f"PostgreSQL is stopped on {', '.join(names)}")

    async def _insist_on_wal(self, wanted: Wanted) -> None:
        """For the newest: what was written must be archived, or it would be lost without a word."""
        if wanted.kind != "latest" or not wanted.leader:
            return
        seen = (await self.backing.look(wanted.node)).repositories
        asked = [one for one in seen if wanted.repository in (0, one.number)]
        archived = max((one.wal_max for one in asked if one.state == "ok"), default="")
        where = f"repository {wanted.repository}" if wanted.repository else "any repository"
        if not archived:
            told = "; ".join(f"it is {one.state} {one.why}".rstrip() for one in asked)
            raise Refusal(f"{STEP}: nobody knows which WAL of {wanted.leader} is in {where}: {told}")
        if missing := unarchived((await self.nodes.looks())[wanted.leader], archived):
            raise Refusal(f"{STEP}: {missing} segments of WAL of {wanted.leader} are not in {where}, and would be lost")

    async def _as_it_was(self, wanted: Wanted) -> str:
        """Nothing has changed places yet: who led leads again, then the others follow. What came of it, in words."""
        try:
            if wanted.leader:
                await self.nodes.call("restore.start", {wanted.leader: ()})
                await self.keeper.wait(STEP, LEADER.gate_name, gates.leader_running, LEADER.deadline_s, [wanted.leader])
            await self.nodes.on_all("restore.start")
            await self._drop(wanted)
        except Failed as error:
            again = f"pgha-master restore {self.cluster.name} --cancel"
            return f"and the cluster could not be started as it was: {error}; {again}"
        return (
            "the cluster goes on with the data it had"
            if wanted.leader
            else "nobody led before, and the data is as it was"
        )

    async def _drop(self, wanted: Wanted) -> None:
        """Nothing of it stays: neither the copy nor what keeps Patroni from starting."""
        await self.nodes.call("restore.drop", {wanted.node: (wanted.id,)}, COMMIT_S)
        await self.nodes.on_all("restore.lift")
        await self._notes.clear()

    async def _change_places(self, wanted: Wanted) -> None:
        since = self.master.clock.monotonic()
        others = [name for name in self.nodes.names if name != wanted.node]
        await self.nodes.call("restore.keep", dict.fromkeys(self.nodes.parties, ()))
        kept = await self.nodes.call("restore.aside", dict.fromkeys(others, (wanted.id,)))
        kept |= await self.nodes.call("restore.swap", {wanted.node: (wanted.id,)})
        told = ", ".join(f"{node}:{data['kept']}" for node, data in kept.items() if data.get("kept"))
        detail = f"what was there is kept: {told or 'there was nothing'}"
        await self.report.step(STEP, "done", since=since, detail=detail)

    async def _forget(self) -> None:
        """Patroni gives the lead up when it ends; of one that was killed it runs out."""
        voters = [node.name for node in self.cluster.etcd_nodes if self.master.hub.connected(node.name)]
        deadline = self.master.clock.monotonic() + self.cluster.timers.ttl + 20.0
        for voter in itertools.cycle(voters):
            try:
                await self.nodes.call("restore.forget", {voter: (self.cluster.name,)})
                return
            except Failed:
                if self.master.clock.monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_S)
        raise Failed(f"{STEP}: no node with etcd is connected")

    async def _replicas(self, wanted: Wanted) -> None:
        others = [name for name in self.nodes.names if name != wanted.node]
        for name in others:
            await self.nodes.call("restore.hold", {name: ()})
            await self.nodes.call("restore.start", {name: ()})
        streaming = gates.every(
            gates.leader_running, lambda health: gates.replicas_streaming(health, LAG_LIMIT), gates.takeover_ready
        )
        await self.keeper.wait(STEP, "a leader runs and every replica streams", streaming, 3600.0, others)
        await self.keeper.wait(STEP, "every HAProxy sends writes to the leader", gates.one_writer_up, 60.0, ())


def leads(node: str) -> gates.Gate:
    """That node and no other leads."""

    def gate(health: ClusterHealth) -> gates.GateResult:
        seen = gates.leader_running(health)
        if isinstance(seen, gates.Closed) or health.leader == node:
            return seen
        return gates.Closed(f"{health.leader} leads")

    return gate


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else []
