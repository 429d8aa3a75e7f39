"""Every accepted minion as `targets` can mean it: with its cluster, its roles, its facts and its newest sample.

Rules:
1. A sample older than three intervals is not there; nothing is compared with what was once true.
2. Who leads is the judgement of `health`, not what a node says of itself; so `role:leader` is one node or none.
3. A minion of no cluster is there by its name, its facts and its sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...common.clock import Clock
from ...common.cluster import Cluster, Node, Tags
from ...common.facts import HostFacts
from ...common.telemetry import Sample
from ..health.health import INTERVAL_S, STALE_INTERVALS
from ..health.observed import LEADING, STANDBY, SYNCHRONOUS, ClusterHealth
from .comparisons import Known
from .targets import TargetNode


class Heard(Protocol):
    """As `hub.Peer`: its newest sample and when that was received, monotonic."""

    @property
    def sample(self) -> Sample | None: ...

    @property
    def sampled(self) -> float: ...


class Present(Protocol):
    """As `hub.Hub`."""

    @property
    def peers(self) -> Mapping[str, Heard]: ...

    def accepted(self) -> frozenset[str]: ...

    def connected(self, name: str) -> bool: ...

    def facts(self, name: str) -> HostFacts | None: ...


class Knowing(Protocol):
    """As `server.Master`."""

    @property
    def hub(self) -> Present: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def clusters(self) -> Mapping[str, Cluster]: ...

    def health(self, cluster: Cluster) -> ClusterHealth: ...


def nodes(master: Knowing) -> list[TargetNode]:
    """By name. A minion that two definitions name is there for each of them."""
    placed: dict[str, list[TargetNode]] = {}
    for cluster in master.clusters.values():
        for node in of_cluster(master, cluster):
            placed.setdefault(node.name, []).append(node)
    names = sorted(master.hub.accepted())
    return [found for name in names for found in placed.get(name) or [_single(master, name)]]


def of_cluster(master: Knowing, cluster: Cluster) -> list[TargetNode]:
    """The nodes of that definition, in its order, accepted or not."""
    judged = master.health(cluster)
    return [_placed(master, cluster, node, judged) for node in cluster.nodes]


def _placed(master: Knowing, cluster: Cluster, node: Node, judged: ClusterHealth) -> TargetNode:
    view = judged.node(node.name)
    return TargetNode(
        name=node.name,
        cluster=cluster.name,
        region=node.region,
        roles=roles(node, judged),
        connected=view.connected,
        tags=tags(node.tags),
        known=Known(view.sample, view.lag_bytes, master.hub.facts(node.name)),
    )


def _single(master: Knowing, name: str) -> TargetNode:
    peer = master.hub.peers.get(name)
    fresh = peer is not None and master.clock.monotonic() - peer.sampled <= STALE_INTERVALS * INTERVAL_S
    return TargetNode(
        name=name,
        connected=master.hub.connected(name),
        known=Known(peer.sample if peer and fresh else None, None, master.hub.facts(name)),
    )


def roles(node: Node, judged: ClusterHealth) -> frozenset[str]:
    """Words of targets.ROLES. A data node of which nothing is known is neither leader nor replica."""
    view = judged.node(node.name)
    now = {
        "data": node.is_data,
        "etcd": node.is_etcd,
        "proxy": node.is_proxy,
        "witness": node.is_etcd and not node.is_data,
        LEADING: judged.leader == node.name,
        "replica": view.role in STANDBY,
        "sync": view.role in SYNCHRONOUS,
    }
    return frozenset(word for word, holds in now.items() if holds)


def tags(defined: Tags) -> dict[str, str]:
    """Those that have a value, as a target writes it."""
    values = defined.model_dump(exclude_none=True)
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
