"""Whether some nodes of a cluster may be changed while others are away, and what then is asked of those left. Pure.

Rules:
1. A cluster is founded, and nodes come, go and move, with every node connected: who is away could not let them in.
2. Who is away may be the leader, so somebody connected must lead wherever a data node is away.
3. The membership of etcd stays as it is, and so does the authority whose certificates everyone trusts.
4. Nothing is stopped for which those that are away would have to stand in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ...common.cluster import Cluster
from ...common.results import ResourceResult, Status
from ...states.certificates import ETCD_TLS, HAPROXY_TLS, PATRONI_TLS, PGBACKREST_TLS, PGHA_TLS, authority_ids
from ..health.gates import Closed
from ..health.observed import ClusterHealth
from .replacement import Replacement
from .stages import disruptions_of, spares
from .waves import stops

AUTHORITIES = frozenset(
    name for folder in (ETCD_TLS, HAPROXY_TLS, PATRONI_TLS, PGBACKREST_TLS, PGHA_TLS) for name in authority_ids(folder)
)


def remaining(health: ClusterHealth, away: Collection[str]) -> ClusterHealth:
    """What gates are asked of: the nodes that are there. The quorum goes on counting every voter."""
    return replace(health, nodes=tuple(n for n in health.nodes if n.name not in away), away=tuple(away))


def before_plan(
    cluster: Cluster, applied: Cluster | None, health: ClusterHealth, away: Sequence[str], lost: Replacement | None
) -> list[str]:
    """Why nothing may be changed without these nodes, whatever the plan is."""
    if not away:
        return []
    names = ", ".join(away)
    if applied is None or _places(applied) != _places(cluster):
        what = "the cluster has not been applied yet" if applied is None else "nodes have come, gone or moved"
        return [f"{what}, of which {names} must know: apply when every node is connected"]
    found = []
    if not health.leader and any(health.node(name).is_data for name in away):
        found.append(f"no connected node leads, and {names} may: what runs there is not known")
    if lost is not None:
        found.append(
            f"etcd's membership would change, which is done with every node connected, without {names} it is not"
        )
    return found


def after_plan(plans: Mapping[str, Sequence[ResourceResult]], health: ClusterHealth, away: Sequence[str]) -> list[str]:
    """Why this plan may not be carried out without these nodes."""
    if not away:
        return []
    names = ", ".join(away)
    found = []
    for node, results in plans.items():
        disruptions = disruptions_of(results, {result.document for result in results})
        seen = spares([node])(health)
        if any(stops(d, "etcd") for d in disruptions) and isinstance(seen, Closed):
            found.append(f"{node}: etcd would be restarted; {seen.reason}")
        data_away = [name for name in away if health.node(name).is_data]
        if health.node(node).is_data and data_away and any(stops(d, "patroni", "postgresql") for d in disruptions):
            found.append(f"{node}: Patroni or PostgreSQL would be restarted, and {data_away[0]} could not stand in")
        if changed := sorted(r.resource for r in results if r.resource in AUTHORITIES and _replaces(r)):
            found.append(f"{node}: {changed[0]} would change, which {names} must know first")
    return found


def _places(cluster: Cluster) -> set[tuple[object, ...]]:
    return {(node.name, node.address, node.role) for node in cluster.nodes}


def _replaces(result: ResourceResult) -> bool:
    """It is there and becomes another one; one that is missing on a node is no news for the others."""
    return result.status is Status.PLANNED and any(change.what == "content" for change in result.changes)
