"""In which order nodes are changed, from what the changes would disturb.

Rules:
1. What disturbs nothing goes first, on all nodes together.
2. What restarts or reboots goes one node at a time, so never two quorum members, nor primary and replica, at once.
3. Those who matter least go first: who is no healthy member of etcd anyway, who holds no database, then replicas, the
   synchronous one after the others, then etcd's leader; the leader of PostgreSQL is last, when everybody who may take
   over is already done.
4. Before anything runs (`fresh`) there is nothing to disturb, and etcd needs all its members at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...common.results import Disruption, Impact
from ..health.observed import LEADING, ClusterHealth, NodeView

SERVES_NOBODY = ("chrony", "systemd-timesyncd", "pgha-minion", "prometheus-node-exporter")
"""Units whose restart no client and no quorum notices. Any other unit, known or not, is taken to matter."""


def waves(
    nodes: Sequence[str],
    impacts: Mapping[str, Sequence[Disruption]],
    health: ClusterHealth,
    *,
    fresh: bool = False,
) -> list[list[str]]:
    """`nodes` in waves, every node in exactly one, no wave empty. Within the first wave they keep the given order.

    `impacts` holds what each node's plan would disturb; a node that is not in it has nothing that disturbs.
    Raises KeyError for a node that the health does not know.
    """
    if fresh:
        return [list(nodes)] if nodes else []
    quiet = [name for name in nodes if not disruptive(impacts.get(name, ()))]
    others = sorted((name for name in nodes if name not in quiet), key=lambda name: _weight(health.node(name), health))
    return ([quiet] if quiet else []) + [[name] for name in others]


def disruptive(disruptions: Sequence[Disruption]) -> bool:
    """Whether a service that somebody depends on would stop, however shortly."""
    return any(
        d.impact is Impact.REBOOT or (d.impact is Impact.RESTART and not _serves_nobody(d.unit)) for d in disruptions
    )


def _serves_nobody(unit: str) -> bool:
    return unit.removesuffix(".service") in SERVES_NOBODY or unit.endswith(".timer")


def stops(disruption: Disruption, *units: str) -> bool:
    """Whether one of these stops, or the whole host. `units` are beginnings of names."""
    return disruption.impact is Impact.REBOOT or (
        disruption.impact is Impact.RESTART and disruption.unit.startswith(units)
    )


def _weight(node: NodeView, health: ClusterHealth) -> tuple[bool, bool, bool, bool, bool, bool, str]:
    """Larger is later. A data node that says it leads, or of which nothing is known, might be the leader."""
    leads = node.name == health.leader
    may_lead = node.is_data and (not node.fresh or node.role == LEADING)
    synchronous = node.role in ("sync_standby", "quorum_standby")
    counts = node.etcd in ("leader", "follower", "unknown")
    return (leads, may_lead, counts, node.etcd == "leader", synchronous, node.is_data, node.name)
