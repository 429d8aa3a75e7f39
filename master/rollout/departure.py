"""A node that left the definition and is still a part of the cluster: may it be taken out, and what that takes. Pure.

Rules:
1. Nobody goes by a slip of the pen: whoever applies names the node once more.
2. One at a time, and never a vote without which etcd would have no majority, nor the last copy of the data.
3. Who leads hands over first. The data of who goes stays on its disk.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...common.cluster import Cluster
from ..health.observed import ClusterHealth
from .restarts import heir_of


@dataclass(frozen=True, slots=True)
class Departure:
    """`member_id`: in etcd, empty when it is none any more; `via`: who removes it; `leads`: PostgreSQL."""

    node: str
    is_data: bool
    is_etcd: bool
    connected: bool
    member_id: str
    via: str
    leads: bool


def departures(cluster: Cluster, applied: Cluster | None, before: ClusterHealth | None) -> list[Departure]:
    """Nodes of the definition that was applied last and not of this one, that still take part or still run.

    `before`: the health of the cluster as it was applied.
    """
    if applied is None or before is None:
        return []
    stays = {node.name for node in cluster.nodes}
    gone = [node.name for node in applied.nodes if node.name not in stays]
    return [_departure(before, name) for name in gone if _there(before, name)]


def _there(health: ClusterHealth, name: str) -> bool:
    return bool(_member(health, name)) or name in _patroni_members(health) or health.node(name).connected


def _departure(health: ClusterHealth, name: str) -> Departure:
    node = health.node(name)
    well = [n.name for n in health.etcd_nodes if n.name != name and n.etcd in ("leader", "follower")]
    return Departure(
        node=name,
        is_data=node.is_data,
        is_etcd=node.is_etcd,
        connected=node.connected,
        member_id=_member(health, name),
        via=well[0] if well else "",
        leads=health.leader == name,
    )


def _member(health: ClusterHealth, name: str) -> str:
    return next((member.id for member in health.members if member.name == name), "")


def _patroni_members(health: ClusterHealth) -> set[str]:
    leading = health.leading.sample if health.leading else None
    return {member.name for member in leading.patroni.cluster_members} if leading and leading.patroni else set()


def problems(
    found: Collection[Departure], allowed: Collection[str], applied: Cluster | None, before: ClusterHealth | None
) -> list[str]:
    """Why they cannot go like this, a sentence each that begins with the node."""
    if not found or applied is None or before is None:
        return []
    unnamed = [
        f"{one.node}: is part of the cluster and no node of the definition any more; put it back, or take it out for "
        f"good: pgha-master apply {applied.name} --allow-destroy {one.node}"
        for one in found
        if one.node not in allowed
    ]
    if unnamed:
        return unnamed
    if len(found) > 1:
        names = ", ".join(one.node for one in found)
        return [f"{names}: nodes are taken out one at a time; leave all but one in the definition"]
    return [text for one in found for text in (*_vote(one, before), *_copy(one, applied, before))]


def _vote(one: Departure, health: ClusterHealth) -> list[str]:
    if not one.member_id:
        return []
    well = [n.name for n in health.etcd_nodes if n.name != one.node and n.etcd in ("leader", "follower")]
    left = max(1, len(health.members) - 1)
    if len(well) > left // 2:
        return []
    return [
        f"{one.node}: without it etcd would have no quorum: of the {left} other members only {len(well)} are healthy"
    ]


def _copy(one: Departure, applied: Cluster, health: ClusterHealth) -> list[str]:
    if not one.is_data:
        return []
    if one.leads and not heir_of(applied, health):
        return [f"{one.node}: leads, and no replica could take over now; it holds the last good copy"]
    down = [node.name for node in health.data_nodes if node.state == "down" and node.name != one.node]
    if one.leads and down:
        return [
            f"{one.node}: leads, and would wait with handing over until Patroni on {', '.join(down)} is up again; "
            "start it there: systemctl start patroni"
        ]
    if not one.leads and not health.leader:
        return [f"{one.node}: nobody leads the cluster now, so it may hold the last good copy"]
    return []
