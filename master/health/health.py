"""From the newest sample of each node to one view of the cluster: a pure fold, and the only judge of who leads.

Rules:
1. A sample older than three intervals says nothing. Ages are counted from when the master received it, by the
   master's monotonic clock; the clock of a node decides nothing.
2. The leader is the node whose own fresh sample says so, of the highest timeline. What a node tells about others
   (GET /cluster) is never believed on this: an isolated node goes on telling its last view.
3. A second node that says it leads counts only if it said so after the leader did. An older claim is a node that has
   not reported its own demotion yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...common.clock import iso
from ...common.cluster import Cluster, Node
from ...common.telemetry import EtcdMember, PatroniSample, Sample
from . import backup_view
from .findings import judge
from .observed import LEADING, ClusterHealth, Finding, NodeView, Quorum

__all__ = ["INTERVAL_S", "PRIMARY", "REPLICA", "ClusterHealth", "Finding", "NodeView", "Quorum", "fold", "view"]

INTERVAL_S = 5.0
STALE_INTERVALS = 3
GRACE_S = 2.0  # a sample may have been taken this long before it is received: the deadline of a probe
PRIMARY = "pg_primary_nodes"
REPLICA = "pg_replica_nodes"

Samples = Mapping[str, tuple[float, Sample]]  # node -> (monotonic time of receipt, sample)


def fold(
    cluster: Cluster,
    samples: Samples,
    connected: Mapping[str, bool],
    now: float,
    interval_s: float = INTERVAL_S,
    previous: ClusterHealth | None = None,
) -> ClusterHealth:
    """What is known at `now` (monotonic s). `previous` is the last fold; it tells since when the leader leads."""
    fresh = {
        name: (received, sample)
        for name, (received, sample) in samples.items()
        if now - received <= STALE_INTERVALS * interval_s
    }
    leader = _leader(cluster, fresh)
    seen = _leader_seen(leader, fresh, previous)
    members = _members(cluster, fresh)
    health = ClusterHealth(
        cluster=cluster.name,
        nodes=tuple(
            _node(node, samples.get(node.name), fresh, connected.get(node.name, False), leader, now)
            for node in cluster.nodes
        ),
        quorum=_quorum(cluster, fresh, members),
        leader=leader,
        leader_seen=seen,
        leader_since=_leader_since(leader, fresh, previous),
        rivals=_rivals(cluster, fresh, leader, seen),
        synchronous=cluster.synchronous_mode != "off",
        rpo_objective_bytes=0 if cluster.rpo == "zero" else cluster.rpo,
        members=members,
    )
    findings, verdict = judge(cluster, health)
    return replace(health, findings=findings, verdict=verdict)


def _patroni(fresh: Samples, name: str) -> PatroniSample | None:
    return fresh[name][1].patroni if name in fresh else None


def _claims(cluster: Cluster, fresh: Samples) -> list[tuple[int, float, str]]:
    """(timeline, received, node) of every node that says it leads."""
    return [
        (sample.timeline or 0, fresh[node.name][0], node.name)
        for node in cluster.data_nodes
        if (sample := _patroni(fresh, node.name)) and sample.reachable and sample.role == LEADING
    ]


def _leader(cluster: Cluster, fresh: Samples) -> str:
    return max(_claims(cluster, fresh), default=(0, 0.0, ""))[2]


def _leader_seen(leader: str, fresh: Samples, previous: ClusterHealth | None) -> float | None:
    if not leader:
        return None
    if previous and previous.leader == leader and previous.leader_seen is not None:
        return previous.leader_seen
    return fresh[leader][0]


def _leader_since(leader: str, fresh: Samples, previous: ClusterHealth | None) -> float | None:
    """Unix time: from Patroni's history, else from having watched it change; None when it led before we looked."""
    sample = _patroni(fresh, leader)
    if sample is None:
        return None
    if sample.leader_since is not None:
        return sample.leader_since
    if previous is None:
        return None
    return previous.leader_since if previous.leader == leader else fresh[leader][1].at


def _rivals(cluster: Cluster, fresh: Samples, leader: str, seen: float | None) -> tuple[str, ...]:
    """Only where PostgreSQL runs: Patroni calls a crashed primary a primary until it has demoted it."""
    since = (seen or 0.0) + GRACE_S
    later = [name for _, received, name in _claims(cluster, fresh) if name != leader and received > since]
    return tuple(sorted(name for name in later if (p := _patroni(fresh, name)) and p.state == "running"))


def _members(cluster: Cluster, fresh: Samples) -> tuple[EtcdMember, ...]:
    """The membership as the etcd leader lists it, else as any healthy member does."""
    lists = [
        (sample.etcd.is_leader, received, sample.etcd.members)
        for node in cluster.etcd_nodes
        if node.name in fresh
        for received, sample in (fresh[node.name],)
        if sample.etcd and sample.etcd.healthy and sample.etcd.members
    ]
    return max(lists, key=lambda entry: entry[:2])[2] if lists else ()


def _quorum(cluster: Cluster, fresh: Samples, members: tuple[EtcdMember, ...]) -> Quorum:
    voters = sum(not m.learner for m in members) or len(cluster.etcd_nodes)
    seen = [fresh[node.name][1].etcd for node in cluster.etcd_nodes if node.name in fresh]
    return Quorum(voters=voters, healthy=sum(1 for etcd in seen if etcd and etcd.healthy))


def _node(
    node: Node, newest: tuple[float, Sample] | None, fresh: Samples, connected: bool, leader: str, now: float
) -> NodeView:
    received = newest[0] if newest else None
    sample = fresh[node.name][1] if node.name in fresh else None
    return NodeView(
        name=node.name,
        region=node.region,
        is_data=node.is_data,
        is_etcd=node.is_etcd,
        is_proxy=node.is_proxy,
        connected=connected,
        age_s=None if received is None else max(0.0, now - received),
        received=received,
        sample=sample,
        role=_role(node, sample),
        lag_bytes=lag(_patroni(fresh, leader), sample.patroni if sample else None, node.name),
        writers=_up(sample, PRIMARY),
        readers=_up(sample, REPLICA),
        cert_days=_cert_days(sample),
    )


def _role(node: Node, sample: Sample | None) -> str:
    if node.is_data:
        return sample.patroni.role if sample and sample.patroni else ""
    return "witness" if node.is_etcd else "proxy"


def lag(leader: PatroniSample | None, replica: PatroniSample | None, name: str) -> int | None:
    """Bytes of WAL that the replica has not replayed; None without a leader or without a position.

    There are two estimates. Two samples that were not taken at the same moment differ by all that is written between
    them; what the leader's Patroni says is as old as the replica's last word to etcd, and counts only what is received,
    so what waits here for replay comes on top. The smaller one counts, or a steady load would look like a lag; it is
    right to within what is written in an interval.
    """
    if leader is None or replica is None or leader.wal_bytes is None or replica.replayed_bytes is None:
        return None
    estimates = [max(0, leader.wal_bytes - replica.replayed_bytes)]
    told = next((m.lag_bytes for m in leader.cluster_members if m.name == name), None)
    if told is not None:
        estimates.append(told + max(0, (replica.received_bytes or 0) - replica.replayed_bytes))
    return min(estimates)


def _up(sample: Sample | None, backend: str) -> tuple[str, ...] | None:
    if sample is None or sample.haproxy is None or sample.haproxy.error:
        return None
    return tuple(sorted(b.server for b in sample.haproxy.backends if b.name == backend and b.up))


def _cert_days(sample: Sample | None) -> int | None:
    ends = [c.not_after for c in sample.certificates if c.not_after is not None] if sample else []
    return int((min(ends) - sample.at) // 86400) if sample and ends else None


def view(health: ClusterHealth) -> dict[str, Any]:
    """The health as `status --json` prints it: plain JSON values, null for what is not known."""
    leading = health.leading
    versions = leading.sample.patroni if leading and leading.sample else None
    etcds = sorted(
        {n.sample.etcd.version for n in health.nodes if n.sample and n.sample.etcd and n.sample.etcd.version}
    )
    ages = [n.age_s for n in health.nodes if n.fresh and n.age_s is not None]
    quorum = health.quorum
    return {
        "cluster": health.cluster,
        "verdict": health.verdict,
        "as_of_s": round(max(ages), 1) if ages else None,
        "postgresql": _version(versions.server_version) if versions else None,
        "patroni": versions.version if versions else None,
        "etcd": ", ".join(etcds) or None,
        "timeline": leading.timeline if leading else None,
        "leader": health.leader or None,
        "leader_since": iso(health.leader_since) if health.leader_since is not None else None,
        "rpo": {"now_bytes": health.rpo_now_bytes, "objective_bytes": health.rpo_objective_bytes},
        "nodes": [_row(node) for node in health.nodes],
        "quorum": {"voters": quorum.voters, "healthy": quorum.healthy, "tolerates": quorum.tolerates},
        "backup": backup_view.view(health),
        "findings": [finding_view(finding) for finding in health.findings],
    }


def finding_view(finding: Finding) -> dict[str, str]:
    return {"severity": finding.severity, "text": finding.text, "fix": finding.fix}


def _row(node: NodeView) -> dict[str, Any]:
    host = node.sample.host if node.sample else None
    return {
        "name": node.name,
        "region": node.region,
        "role": node.role or None,
        "state": node.state,
        "lag_bytes": node.lag_bytes,
        "timeline": node.timeline,
        "etcd": node.etcd,
        "haproxy_rw": _proxy(node, node.writers, many="{} up!"),
        "haproxy_ro": _proxy(node, node.readers, many="{} up"),
        "minion": "offline" if not node.connected else "ok" if node.fresh else "silent",
        "seen_s": round(node.age_s, 1) if node.age_s is not None else None,
        "cert_days": node.cert_days,
        "disk_percent": round(host.disk_percent) if host else None,
    }


def _proxy(node: NodeView, servers: tuple[str, ...] | None, many: str) -> str:
    if node.sample is None:
        return "unknown" if node.is_proxy else "-"
    if servers is None:
        return "down" if node.sample.haproxy else "-"
    return f"up->{servers[0]}" if len(servers) == 1 else many.format(len(servers)) if servers else "none"


def _version(number: int | None) -> str | None:
    """170012 -> 17.12"""
    return f"{number // 10000}.{number % 10000}" if number else None
