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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ...common.cluster import Cluster
from ...common.restore import Step, done
from ..health import gates
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report, spoken
from ..orchestration.seams import Headquarters
from ..orchestration.stages import LAG_LIMIT, LEADER
from .backing import Backing
from .restore_choice import choose, insist_on_hosts, insist_on_time, source
from .restore_notes import Notes
from .restore_order import RESUME, NodeLook, Refusal, Wanted, unarchived

STEP = "restore"
LOOK_S, ACT_S, STOP_S, POLL_S = 60.0, 60.0, 600.0, 2.0
TOLD_S = 15.0
LOST_S = 300.0
COMMIT_S = 3600.0
TRIES = 3


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
            await self._step(wanted, "copy", f"copy the backup to {wanted.node}, beside its data")
            await self._stop()
            await self._insist_on_wal(wanted)
            await self._step(wanted, "recover", f"recover on {wanted.node} to {wanted}")
            wanted = await self._notes.note(wanted.model_copy(update={"placing": True}))
        if not wanted.founded:
            await self._stop()  # a node that lost its power may be back with all that it starts by itself
            await self._change_places(wanted)
            await self._forget()
            await self._call("restore.start", {wanted.node: ()})
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
        wanted = await self._take_up(asked, self._names()[0], bare=True)
        if wanted.founded:
            return wanted
        try:
            await self._stop()
            await self._step(wanted, "copy", f"copy the backup to {wanted.node}")
            await self._step(wanted, "recover", f"recover on {wanted.node} to {wanted}")
        except Refusal as error:
            await self._drop(wanted)
            raise Failed(f"{error}; nothing was built yet: correct it, and try again") from None
        await self._call("restore.swap", {wanted.node: (wanted.id,)})
        await self._call("restore.hold", {name: () for name in self._names() if name != wanted.node})
        await self._forget()
        await self._call("restore.lift", dict.fromkeys(self._names(), ()))
        return await self._notes.note(wanted.model_copy(update={"founded": True}))

    async def settle(self, wanted: Wanted) -> None:
        """A backup of the new timeline; from then on replicas may be made from the repository again."""
        await self.backing.now("full")
        await self._call("restore.settle", dict.fromkeys(self._names(), ()))
        await self._notes.remember(wanted, self.master.clock.now())
        await self._notes.clear()

    async def cancel(self) -> str:
        """Give one up whose data has not changed places yet: the cluster runs with the data it has. Raises Failed."""
        wanted = await self.begun()
        if wanted is None:
            raise Failed(f"no restore of {self.cluster.name} is under way")
        if wanted.placing or wanted.founded or (await self._look(wanted.node)).phase(wanted.id) == "swapped":
            raise Failed(
                f"data has begun to change places on {', '.join(self._names())}; go on with: pgha-master restore "
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
        answers = await self._call("restore.commit", dict.fromkeys(self._parties(), ()), COMMIT_S)
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
        looks, health = await self._looks(), self.keeper.health()
        seen = await self.backing.look(next(iter(looks)))
        insist_on_time(asked, await self._notes.left())
        insist_on_hosts(looks, health)
        number, found = source(seen.repositories, asked)
        node = choose(looks, health.leader, found.backups[-1].size, on)
        own = {"id": f"{int(self.master.clock.now()):x}", "node": node, "leader": health.leader, "bare": bare}
        own["repository"] = number
        return await self._notes.note(asked.model_copy(update=own))

    def _names(self) -> list[str]:
        return [node.name for node in self.cluster.data_nodes]

    def _parties(self) -> list[str]:
        """Who makes backups: the data nodes, and who holds a repository."""
        holders = {one.node for _, one in self.cluster.backup.repositories} if self.cluster.backup else set()
        return [node.name for node in self.cluster.nodes if node.is_data or node.name in holders]

    # ---- the steps

    async def _step(self, wanted: Wanted, step: Step, what: str) -> None:
        """Raises Refusal when the node says that it cannot be; Failed when it is not known how far it came."""
        since = self.master.clock.monotonic()
        seen = await self._look(wanted.node)
        if not done(seen.phase(wanted.id), step):
            await self.report.begin(STEP, what)
            await self._call("restore.begin", {wanted.node: wanted.order(step)})
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
                seen = await self._look(wanted.node)
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
                await self._call("restore.begin", {wanted.node: wanted.order(step)})
            if now - told >= TOLD_S and seen.restore:
                told = now
                await self.report.begin(
                    STEP, f"{wanted.node}: {seen.restore.phase} {seen.restore.detail}, {spoken(now - since)}"
                )

    async def _stop(self) -> None:
        """Replicas first; who leads ends last and archives all that it has written. None comes back by itself then."""
        since, leader = self.master.clock.monotonic(), self.keeper.health().leader
        names = sorted(self._names(), key=lambda name: name == leader)
        for name in names:
            await self._call("restore.stop", {name: ()}, STOP_S)
        if running := [name for name, look in (await self._looks()).items() if look.serving]:
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
        if missing := unarchived((await self._looks())[wanted.leader], archived):
            raise Refusal(f"{STEP}: {missing} segments of WAL of {wanted.leader} are not in {where}, and would be lost")

    async def _as_it_was(self, wanted: Wanted) -> str:
        """Nothing has changed places yet: who led leads again, then the others follow. What came of it, in words."""
        try:
            if wanted.leader:
                await self._call("restore.start", {wanted.leader: ()})
                await self.keeper.wait(STEP, LEADER.gate_name, gates.leader_running, LEADER.deadline_s, [wanted.leader])
            await self._call("restore.start", dict.fromkeys(self._names(), ()))
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
        await self._call("restore.drop", {wanted.node: (wanted.id,)}, COMMIT_S)
        await self._call("restore.lift", dict.fromkeys(self._names(), ()))
        await self._notes.clear()

    async def _change_places(self, wanted: Wanted) -> None:
        since = self.master.clock.monotonic()
        others = [name for name in self._names() if name != wanted.node]
        await self._call("restore.keep", dict.fromkeys(self._parties(), ()))
        kept = await self._call("restore.aside", dict.fromkeys(others, (wanted.id,)))
        kept |= await self._call("restore.swap", {wanted.node: (wanted.id,)})
        told = ", ".join(f"{node}:{data['kept']}" for node, data in kept.items() if data.get("kept"))
        detail = f"what was there is kept: {told or 'there was nothing'}"
        await self.report.step(STEP, "done", since=since, detail=detail)

    async def _forget(self) -> None:
        """Patroni gives the lead up when it ends; of one that was killed it runs out."""
        voters = [node.name for node in self.cluster.etcd_nodes if self.master.hub.connected(node.name)]
        deadline = self.master.clock.monotonic() + self.cluster.timers.ttl + 20.0
        for voter in itertools.cycle(voters):
            try:
                await self._call("restore.forget", {voter: (self.cluster.name,)})
                return
            except Failed:
                if self.master.clock.monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_S)
        raise Failed(f"{STEP}: no node with etcd is connected")

    async def _replicas(self, wanted: Wanted) -> None:
        others = [name for name in self._names() if name != wanted.node]
        for name in others:
            await self._call("restore.hold", {name: ()})
            await self._call("restore.start", {name: ()})
        streaming = gates.every(
            gates.leader_running, lambda health: gates.replicas_streaming(health, LAG_LIMIT), gates.takeover_ready
        )
        await self.keeper.wait(STEP, "a leader runs and every replica streams", streaming, 3600.0, others)
        await self.keeper.wait(STEP, "every HAProxy sends writes to the leader", gates.one_writer_up, 60.0, ())

    # ---- asking

    async def _looks(self) -> dict[str, NodeLook]:
        names = self._names()
        if away := [name for name in names if not self.master.hub.connected(name)]:
            raise Failed(f"{STEP}: {', '.join(away)}: not connected; every data node must be, as each gets other data")
        return {name: await self._look(name) for name in names}

    async def _look(self, node: str) -> NodeLook:
        try:
            return NodeLook.model_validate((await self._call("restore.look", {node: ()}, LOOK_S))[node])
        except ValidationError as error:
            raise Failed(f"{STEP}: {node}: its answer cannot be read: {error.errors()[0]['msg']}") from None

    async def _call(
        self, function: str, arguments: Mapping[str, Sequence[str]], timeout_s: float = ACT_S
    ) -> dict[str, Mapping[str, object]]:
        """The data of each answer. Raises Failed when one is not well."""
        answers = await self.fleet.call(function, arguments, timeout_s, silence_s=timeout_s)
        for node, answer in answers.items():
            if not answer.ok:
                raise Failed(f"{STEP}: {node}: {answer.why()}")
        return {node: answer.outcome.data if answer.outcome else {} for node, answer in answers.items()}


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
