"""restore, reinit: what puts other data on nodes of a cluster. Each is named once more before it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ...common.cluster import Cluster
from ...common.errors import Refused, UserError
from ...states.backups.driver import TargetKind
from ..backups.backing import Backing
from ..backups.reinit import Reinit
from ..backups.restore_order import RESUME, Wanted
from ..backups.restore_window import window
from ..backups.restoring import Restoring
from ..control import Arguments, Request
from ..definition import inventory
from ..operations.operations import Operation
from ..operations.progress import End
from ..orchestration.fleet import Failed, Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report
from ..orchestration.stages import has_no_data
from ..rollout.rollout import Rollout
from ..server import Master


class Restore(Arguments):
    """`text`: the definition as the CLI read it; a cluster that is gone is built from it. `named`: typed once more."""

    path: str
    text: str
    kind: TargetKind = "latest"
    value: str = ""
    label: str = ""
    timeline: str = ""
    on: str = ""
    resume: bool = False
    commit: bool = False
    cancel: bool = False
    named: str = ""


class Member(Arguments):
    cluster: str
    node: str
    named: str = ""


async def restore_window(master: Master, request: Request) -> AsyncIterator[Any]:
    """What can be restored, and what it would be done to; changes nothing."""
    wanted = request.read(Restore)
    cluster = _with_backups(wanted)

    async def work(operation: Operation) -> End:
        tools = _tools(master, operation, cluster)
        noted = (await master.store.notes(cluster.name)).get("restore")
        if has_no_data(master.health(cluster)) and not noted:
            return End(data={"bare": True, "cluster": cluster.name, "nodes": [n.name for n in cluster.data_nodes]})
        return End(data=await window(tools[1], cluster, noted))

    operation = await master.operations.start(f"look {cluster.name}", cluster.name, request.who, work, at_once=True)
    async for line in master.operations.follow(operation):
        yield line


async def restore(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Restore)
    cluster = _with_backups(wanted)
    if wanted.named != cluster.name:
        raise Refused(f"a restore puts other data on every node: name the cluster once more, {cluster.name}")
    applied = master.clusters.get(cluster.name)
    if applied is not None and {n.name for n in applied.data_nodes} != {n.name for n in cluster.data_nodes}:
        raise Refused(
            f"{wanted.path} has other data nodes than {cluster.name} as it was applied last; apply it first, "
            "or restore with the one that was"
        )
    if wanted.on and wanted.on not in [node.name for node in cluster.data_nodes]:
        names = ", ".join(node.name for node in cluster.data_nodes)
        raise UserError(f"{wanted.on} is no data node of {cluster.name}; there are {names}")

    async def work(operation: Operation) -> End:
        tools = _tools(master, operation, cluster)
        restoring = Restoring(master, tools[0], cluster, tools[2], tools[3])
        try:
            if wanted.commit:
                gone = await restoring.commit()
                return End(
                    message=f"Deleted: {', '.join(gone) or 'nothing, no data was put aside'}.", data={"deleted": gone}
                )
            if wanted.cancel:
                return End(message=await restoring.cancel())
            asked = Wanted(
                kind=wanted.kind,
                value=RESUME if wanted.resume else wanted.value,
                label=wanted.label,
                timeline=wanted.timeline,
            )
            if await _is_bare(master, cluster, restoring):
                rollout = Rollout(master, operation, cluster, wanted.text, inventory.digest(wanted.text), recover=asked)
                return await rollout.apply()
            done = await restoring.over(asked, wanted.on)
        except Failed as error:
            return End(exit=1, message=str(error))
        return End(
            message=f"{cluster.name} is back at {done}, from {done.node}. What was there is kept on each node until: "
            f"pgha-master restore {cluster.name} --commit",
            data={"cluster": cluster.name, "node": done.node, "id": done.id},
        )

    async for line in _alone(master, request, "restore", cluster, work):
        yield line


async def reinit(master: Master, request: Request) -> AsyncIterator[Any]:
    """Give a replica its data anew."""
    wanted = request.read(Member)
    cluster = master.clusters.get(wanted.cluster)
    if cluster is None:
        raise UserError(f"no cluster {wanted.cluster!r} has been applied by this master")
    if wanted.node not in [node.name for node in cluster.data_nodes]:
        raise UserError(f"{wanted.node!r} is no data node of {cluster.name}")
    if wanted.named != wanted.node:
        raise Refused(f"the data of {wanted.node} is deleted and made anew: name the node once more")

    async def work(operation: Operation) -> End:
        fleet, _, report, keeper = _tools(master, operation, cluster)
        try:
            detail = await Reinit(master, fleet, cluster, report, keeper).run(wanted.node)
        except Failed as error:
            return End(exit=1, message=str(error))
        return End(message=detail)

    async for line in _alone(master, request, "reinit", cluster, work):
        yield line


def _with_backups(wanted: Restore) -> Cluster:
    """Raises UserError for a definition that says nothing of backups."""
    cluster, _ = inventory.load(wanted.path, wanted.text)
    if cluster.backup is None:
        raise UserError(f"no backups are made of {cluster.name}: {wanted.path} has no section backup")
    return cluster


async def _alone(master: Master, request: Request, kind: str, cluster: Cluster, work: Any) -> AsyncIterator[Any]:
    """As the one operation that changes the cluster. Raises Refused while another one does."""
    if (running := master.operations.changing(cluster.name)) is not None:
        raise Refused(
            f"{running.what} is under way; follow it with: pgha-master jobs show {running.id} --follow, and try again"
        )
    operation = await master.operations.start(
        f"{kind} {cluster.name}", cluster.name, request.who, work, tuple(n.name for n in cluster.nodes)
    )
    async for line in master.operations.follow(operation):
        yield line


async def _is_bare(master: Master, cluster: Cluster, restoring: Restoring) -> bool:
    """Nothing of the cluster is there, or nothing was when the restore began that is under way."""
    begun = await restoring.begun()
    return begun.bare if begun is not None else has_no_data(master.health(cluster))


def _tools(master: Master, operation: Operation, cluster: Cluster) -> tuple[Fleet, Backing, Report, Gatekeeper]:
    fleet = Fleet(master.hub, operation)
    report = Report(operation, master.clock, master.clock.monotonic())
    keeper = Gatekeeper(master, cluster, report)
    return fleet, Backing(master, fleet, cluster, report), report, keeper
