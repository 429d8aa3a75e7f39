"""What must hold before the next wave may start: pure questions to the health of a cluster.

A gate is never open on what is not known: a silent node closes it. Each reason is one sentence that names the node and
what was seen, because it is what a person reads while waiting. Who waits, and how long, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from .observed import STANDBY, ClusterHealth, NodeView


@dataclass(frozen=True, slots=True)
class Open:
    pass


@dataclass(frozen=True, slots=True)
class Closed:
    reason: str


GateResult: TypeAlias = Open | Closed
Gate: TypeAlias = Callable[[ClusterHealth], GateResult]

OPEN = Open()


def every(*gates: Gate) -> Gate:
    """A gate that is as closed as the first closed one of these."""

    def all_of(health: ClusterHealth) -> GateResult:
        return next((result for gate in gates if isinstance(result := gate(health), Closed)), OPEN)

    return all_of


def all_connected(health: ClusterHealth, nodes: Collection[str]) -> GateResult:
    for name in nodes:
        if not health.node(name).connected:
            return Closed(f"the minion of {name} is not connected")
    return OPEN


def all_seen_since(health: ClusterHealth, nodes: Collection[str], since: float) -> GateResult:
    """Each has sent a sample after `since` (monotonic s), so that no other gate judges what was before a change."""
    for node in (health.node(name) for name in nodes):
        if not node.fresh:
            return Closed(node.missing())
        if node.received is None or node.received <= since:
            return Closed(f"{node.name} has not sent telemetry since it was changed")
    return OPEN


def etcd_quorum(health: ClusterHealth) -> GateResult:
    """More than half of the members say themselves that they are healthy."""
    if health.quorum.healthy >= health.quorum.majority:
        return OPEN
    states = ", ".join(f"{node.name} {node.etcd}" for node in health.etcd_nodes)
    return Closed(f"etcd: {health.quorum.healthy} of {health.quorum.voters} members healthy ({states})")


def etcd_healthy(health: ClusterHealth) -> GateResult:
    """Every etcd node is a started, healthy member; nobody else is one; exactly one leads, maybe one that is away."""
    for node in health.etcd_nodes:
        if not node.fresh:
            return Closed(node.missing())
        if node.etcd not in ("leader", "follower"):
            error = node.sample.etcd.error if node.sample and node.sample.etcd else "it is not configured"
            return Closed(f"etcd on {node.name} is not healthy: {error or 'it is ' + node.etcd}")
    leaders = [node.name for node in health.etcd_nodes if node.etcd == "leader"]
    if len(leaders) != 1 and not (health.away and not leaders):
        return Closed(f"etcd has {len(leaders)} leaders ({', '.join(leaders) or 'an election is on'})")
    return _membership(health)


def _membership(health: ClusterHealth) -> GateResult:
    if not health.members:
        return Closed("etcd has not told its list of members yet")
    for member in health.members:
        if not member.started:
            return Closed(f"etcd member {member.id} ({' '.join(member.peer_urls)}) has been added and not started yet")
    names, wanted = {m.name for m in health.members} - {*health.away}, {n.name for n in health.etcd_nodes}
    if names != wanted:
        extra, absent = ", ".join(sorted(names - wanted)), ", ".join(sorted(wanted - names))
        return Closed(
            "etcd's members: "
            + "; ".join(filter(None, (extra and f"unexpected {extra}", absent and f"missing {absent}")))
        )
    return OPEN


def leader_running(health: ClusterHealth) -> GateResult:
    """One node leads, nobody else says so, and its PostgreSQL runs."""
    leading = health.leading
    if leading is None:
        seen = "; ".join(node.missing() or f"{node.name} is {_doing(node)}" for node in health.data_nodes)
        return Closed(f"no leader yet: {seen}")
    if health.rivals:
        return Closed(f"{health.rivals[0]} says it is the leader, and {health.leader} does, too")
    return OPEN if leading.state == "running" else Closed(f"the leader {leading.name} is {leading.state}, not running")


def replicas_streaming(health: ClusterHealth, max_lag_bytes: int, *, unbuilt: bool = True) -> GateResult:
    """Every data node but the leader streams on the leader's timeline and lacks at most this much.

    `unbuilt=False`: a node that has no Patroni yet does not count; it cannot stream before its turn has come.
    """
    leading = health.leading
    if leading is None:
        return leader_running(health)
    for node in health.data_nodes:
        if node.state == "not built" and not unbuilt:
            continue
        if node.name != leading.name and isinstance(result := _replica(node, leading, max_lag_bytes), Closed):
            return result
    return OPEN


def _replica(node: NodeView, leading: NodeView, max_lag_bytes: int) -> GateResult:
    if not node.fresh:
        return Closed(node.missing())
    if not node.streaming:
        return Closed(f"{node.name} is {_doing(node)}, not streaming yet")
    if node.timeline is None:
        return Closed(f"the timeline of {node.name} is not known yet")
    if node.timeline != leading.timeline:
        return Closed(f"{node.name} is on timeline {node.timeline}, the leader {leading.name} on {leading.timeline}")
    if node.lag_bytes is None:
        return Closed(f"the lag of {node.name} is not known yet")
    if node.lag_bytes > max_lag_bytes:
        return Closed(f"{node.name} lags {node.lag_bytes} bytes, at most {max_lag_bytes} are allowed")
    return OPEN


def one_writer_up(health: ClusterHealth) -> GateResult:
    """Every proxy sends writes to exactly one server, and that is the leader."""
    for node in health.proxy_nodes:
        if isinstance(result := _proxy(node), Closed):
            return result
        writers = node.writers or ()
        if len(writers) != 1:
            seen = f"{len(writers)} servers ({', '.join(writers)})" if writers else "no server"
            return Closed(f"HAProxy on {node.name} has {seen} up for writes, one is wanted")
        if writers[0] != health.leader:
            leader = health.leader or "not known"
            return Closed(f"HAProxy on {node.name} sends writes to {writers[0]}, the leader is {leader}")
    return OPEN


def replica_backend_up(health: ClusterHealth) -> GateResult:
    """Every proxy has a server for reads, wherever there is a replica at all."""
    if len(health.data_nodes) < 2:
        return OPEN
    for node in health.proxy_nodes:
        if isinstance(result := _proxy(node), Closed):
            return result
        if not node.readers:
            return Closed(f"HAProxy on {node.name} has no server up for reads")
    return OPEN


def takeover_ready(health: ClusterHealth) -> GateResult:
    """With synchronous replication only a synchronous standby may take over: of those that stream, one is."""
    return OPEN if health.takeover_ready else Closed("no replica is synchronous yet, so none could take over")


def cluster_steady(health: ClusterHealth, max_lag_bytes: int, *, unbuilt: bool = True) -> GateResult:
    """All that it takes to lose a node: etcd whole, a leader, every replica streaming. `unbuilt` as there."""
    streaming: Gate = partial(replicas_streaming, max_lag_bytes=max_lag_bytes, unbuilt=unbuilt)
    return every(etcd_healthy, leader_running, streaming, takeover_ready)(health)


def _proxy(node: NodeView) -> GateResult:
    if node.sample is None:
        return Closed(node.missing())
    if node.sample.haproxy is None:
        return Closed(f"HAProxy on {node.name} is not configured yet")
    return Closed(f"{node.name}: {node.sample.haproxy.error}") if node.sample.haproxy.error else OPEN


def _doing(node: NodeView) -> str:
    """What a data node is busy with, for a sentence that goes on after "is"."""
    if node.state == "not built":
        return "without Patroni"
    if node.state == "running" and node.role in STANDBY:
        return "running as a replica"
    return node.state
