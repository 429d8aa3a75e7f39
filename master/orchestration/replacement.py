"""Which etcd members must be replaced: one that lost its data has forgotten its votes, and may not come back as it was.

Pure. etcd derives a member's id from its peer URL and the cluster's token, so a member that simply starts again on an
empty disk joins under its old id; that is never done here. It is removed and added, while the others hold the quorum.
Data that is there counts as lost only when etcd says so at every start: damaged, or of a member that was removed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.telemetry import EtcdSample
from ..health.observed import ClusterHealth


@dataclass(frozen=True, slots=True)
class Replacement:
    """`member_id` is empty when the cluster does not count the node as a member (any more); `via` carries it out.

    `runs`: etcd is installed there, and systemd may be starting it again and again.
    `damage`: etcd's words for what is wrong with the data that is there; empty when there is none.
    """

    node: str
    member_id: str
    peer_url: str
    via: str
    added_already: bool = False
    runs: bool = False
    damage: str = ""

    def sentence(self) -> str:
        """What an apply will do, for a plan."""
        if self.damage:
            return (
                f"etcd on {self.node} cannot go on with its data ({self.damage}); an apply keeps that data aside and "
                f"makes it a new member, by {self.via}"
            )
        return f"etcd on {self.node} is no member with its data; an apply makes it a new one, by {self.via}"


def no_votes(health: ClusterHealth) -> bool:
    """Every etcd node tells that it has no data: no cluster is here to be joined."""
    samples = [(node.fresh, node.sample.etcd if node.sample else None) for node in health.etcd_nodes]
    return all(fresh and (etcd is None or not (etcd.healthy or etcd.data_present)) for fresh, etcd in samples)


def replacement(cluster: Cluster, health: ClusterHealth, forgotten: Collection[str] = ()) -> Replacement | None:
    """The next member to replace or add; None when there is none, or no quorum that could decide it.

    `forgotten`: nodes whose member was lost a moment ago. systemd starts it again and again, and what such a start may
    have written since is no vote of that member.
    """
    if health.quorum.healthy < health.quorum.majority or not health.members:
        return None
    via = next((n.name for n in health.etcd_nodes if n.fresh and n.etcd in ("leader", "follower")), None)
    if via is None:
        return None
    for node in cluster.etcd_nodes:
        seen = health.node(node.name)
        sample = seen.sample.etcd if seen.sample else None
        if not seen.fresh or (sample is not None and not _is_lost(sample, node.name in forgotten)):
            continue
        url = f"https://{node.address}:{cluster.etcd.peer_port}"
        member = next((m for m in health.members if url in m.peer_urls or m.name == node.name), None)
        runs, damage = sample is not None, sample.lost if sample is not None else ""
        if member is None:
            return Replacement(node.name, "", url, via, runs=runs, damage=damage)
        return Replacement(node.name, member.id, url, via, not member.started, runs, damage)
    return None


def _is_lost(sample: EtcdSample, forgotten: bool) -> bool:
    return not sample.healthy and (forgotten or not sample.data_present or sample.lost != "")
