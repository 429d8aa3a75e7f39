"""Which PostgreSQL is restarted next when settings wait for it, and who takes the lead before the leader is. Pure.

Rules:
1. Replicas first, one after the other, a synchronous one after the others; then the lead is handed to one of them,
   by which who led is restarted, too.
2. A parameter that a standby cannot have lower than its primary is lowered on the leader first, in place: until then
   every standby goes on with the old value, whatever its configuration says.
   Source: PostgreSQL documentation, Hot Standby, Administrator's Overview; Patroni documentation, Patroni
   configuration.
3. Without a replica that could take over now, the leader is restarted in place.
4. Nothing is remembered from an earlier apply: what waits is what telemetry says. A replica that still waits after its
   restart waits for its leader; a Patroni older than 4 does not tell by which parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from ...common.cluster import Cluster
from ...common.results import ResourceResult, Status
from ...states.resources.patroni import PENDING
from ..health.observed import SYNCHRONOUS, ClusterHealth, NodeView

FOLLOWS_PRIMARY = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_prepared_transactions",
        "max_wal_senders",
        "max_worker_processes",
    }
)
LAG_LIMIT = 10 * 1024**2  # bytes that who takes the lead may still lack
DCS = "patroni_config:dcs"
MEASURED = 5  # as many of a cluster's latest interruptions are remembered
UNMEASURED_S = {"switchover": 5.0, "restart": 3.0}
"""Seconds of refused writes where nothing was measured yet. Source: the lab, with HAProxy's default checks."""


@dataclass(frozen=True, slots=True)
class Restart:
    """`leads`: in place, while it leads, so writes are refused meanwhile. `holds`: a standby for which commits wait."""

    node: str
    leads: bool = False
    holds: bool = False

    def __str__(self) -> str:
        return f"restart PostgreSQL on {self.node}" + (", which leads" if self.leads else "")


@dataclass(frozen=True, slots=True)
class Switchover:
    leader: str
    candidate: str

    def __str__(self) -> str:
        return f"switchover from {self.leader} to {self.candidate}"


Act: TypeAlias = Restart | Switchover


def course(
    cluster: Cluster, health: ClusterHealth, due: Collection[str], *, shrinks: bool = False, tried: Collection[str] = ()
) -> tuple[Act, ...]:
    """All that is to be done, in order, for the nodes `due`; `tried` have been restarted already.

    Only the first act is certain: whoever carries it out looks again before the next.
    """
    others = [n.name for n in sorted(health.data_nodes, key=_last) if n.name in due and n.name != health.leader]
    fresh = [name for name in others if name not in tried]
    holding = {n.name for n in health.data_nodes if health.synchronous and n.role in SYNCHRONOUS}
    restarts: tuple[Act, ...] = tuple(Restart(name, holds=name in holding) for name in fresh)
    if health.leader not in due or health.leader in tried:
        return restarts
    in_place = Restart(health.leader, leads=True)
    if shrinks or len(fresh) < len(others):
        return (in_place, *(Restart(name, holds=name in holding) for name in others))
    heir = heir_of(cluster, health)
    return (*restarts, Switchover(health.leader, heir) if heir else in_place)


def heir_of(cluster: Cluster, health: ClusterHealth) -> str:
    """Who is to take the lead: a replica that may, streams, and lacks least; empty when there is none."""
    ready = [node for node in health.data_nodes if _may_lead(cluster, health, node)]
    ready.sort(key=lambda node: (node.role not in SYNCHRONOUS, node.lag_bytes or 0, node.name))
    return ready[0].name if ready else ""


def _may_lead(cluster: Cluster, health: ClusterHealth, node: NodeView) -> bool:
    tags = cluster.node(node.name).tags
    return (
        node.name != health.leader
        and node.streaming
        and health.leading is not None
        and node.timeline == health.leading.timeline
        and node.lag_bytes is not None
        and node.lag_bytes <= LAG_LIMIT
        and not tags.nofailover
        and tags.failover_priority != 0
        and (not health.synchronous or node.role in SYNCHRONOUS)
    )


def _last(node: NodeView) -> tuple[bool, str]:
    return node.role in SYNCHRONOUS, node.name


def waiting(health: ClusterHealth) -> list[str]:
    """The data nodes whose PostgreSQL waits for a restart, by their own fresh word."""
    seen = ((node.name, node.sample.patroni) for node in health.data_nodes if node.sample)
    return [name for name, patroni in seen if patroni and patroni.pending_restart]


def paused(health: ClusterHealth) -> bool:
    return any(node.sample and node.sample.patroni and node.sample.patroni.paused for node in health.data_nodes)


@dataclass(frozen=True, slots=True)
class Asked:
    """Of an apply: only these nodes, only these documents, whether PostgreSQL may be restarted; and who is away."""

    nodes: Collection[str] = ()
    only: Collection[str] = ()
    restart: bool = True
    away: Collection[str] = ()


def why_not(cluster: Cluster, health: ClusterHealth, asked: Asked) -> str:
    """Why this apply restarts no PostgreSQL that waits for it, with what to do; empty when it does."""
    data = [node.name for node in cluster.data_nodes]
    if not asked.restart:
        return f"an apply of {cluster.name} without --no-restart does it"
    if asked.only and not {"patroni", "database"} & set(asked.only):
        return f"an apply of {cluster.name} without --only does it"
    if asked.nodes and not set(data) <= set(asked.nodes):
        return f"an apply of {cluster.name} without --node does it, since who leads is restarted last"
    if away := sorted(set(data) & set(asked.away)):
        return f"apply again when {away[0]} is back, which could not stand in now"
    return "Patroni is paused; resume it and apply again" if paused(health) else ""


def left(due: Sequence[str], why: str) -> str:
    return f"settings wait for a restart of PostgreSQL on {', '.join(due)}: {why}"


def shrinking(health: ClusterHealth) -> bool:
    """Whether the leader waits to lower a parameter that its standbys cannot have lower than it."""
    leading = health.leading
    patroni = leading.sample.patroni if leading and leading.sample else None
    return _lowers((one.name, one.before, one.after) for one in (patroni.pending_settings if patroni else ()))


# ---- as far as a plan can tell


def foreseen(plans: Mapping[str, Sequence[ResourceResult]], health: ClusterHealth) -> list[str]:
    """The data nodes that will wait for a restart once the plans are carried out."""
    found = {node for node, results in plans.items() if any(_pending(results))}
    if any(result.resource == DCS for results in plans.values() for result, _ in _pending_results(results)):
        found |= {node.name for node in health.data_nodes}
    found |= set(waiting(health))
    return [node.name for node in health.data_nodes if node.name in found]


def will_shrink(plans: Mapping[str, Sequence[ResourceResult]], health: ClusterHealth) -> bool:
    return shrinking(health) or _lowers(row for results in plans.values() for row in _pending(results))


def _pending(results: Sequence[ResourceResult]) -> list[tuple[str, str, str]]:
    return [row for _, rows in _pending_results(results) for row in rows]


def _pending_results(results: Sequence[ResourceResult]) -> Iterable[tuple[ResourceResult, list[tuple[str, str, str]]]]:
    for result in results:
        changes = [c for c in result.changes if c.what.endswith(PENDING)] if result.status is Status.PLANNED else []
        if changes:
            names = (c.what.removesuffix(PENDING).rpartition(".")[2] for c in changes)
            yield result, [(name, c.before, c.after) for name, c in zip(names, changes, strict=True)]


def _lowers(rows: Iterable[tuple[str, str, str]]) -> bool:
    """A value that is absent before or after is PostgreSQL's default, which nobody sets these above by accident."""
    for name, before, after in rows:
        if name in FOLLOWS_PRIMARY:
            if after == "absent":
                return True
            if before.isdigit() and after.isdigit() and int(after) < int(before):
                return True
    return False


def expected_s(measured: Sequence[float], kind: str) -> tuple[float, str]:
    """For how long writes will be refused, and what that rests on."""
    if not measured:
        return UNMEASURED_S[kind], "not measured on this cluster yet"
    last = f"the last {len(measured)} here" if len(measured) > 1 else "the last one here"
    return median(measured), f"median of {last}" if len(measured) > 1 else f"as {last}"


def costs(acts: Sequence[Act], measured: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """What these acts mean to those who use the cluster, in words. `measured`: seconds, by kind of act."""
    told = []
    for act in acts:
        kind = "switchover" if isinstance(act, Switchover) else "restart"
        seconds, basis = expected_s(measured.get(kind, ()), kind)
        if isinstance(act, Switchover):
            told.append(f"1 switchover, {act.leader} -> {act.candidate}: writes are refused for about {seconds:.1f} s")
            told.append(f"({basis}), sessions on {act.leader} end")
        elif act.leads:
            told.append(
                f"PostgreSQL restarts on {act.node} while it leads: writes are refused for about {seconds:.1f} s"
            )
            told.append(f"({basis}), its sessions end")
        else:
            told.append(f"PostgreSQL restarts on {act.node}, a replica: sessions that read there end")
            if act.holds:
                told.append(f"commits wait until {act.node} is back, or Patroni no longer counts on it: some seconds")
    return tuple(told)
