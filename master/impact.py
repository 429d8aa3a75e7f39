"""What a plan means for those who use the cluster, in words; and in which order it would be carried out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..common.cluster import Cluster
from ..common.results import Impact, ResourceResult
from ..states.resources.patroni import PENDING
from .observed import ClusterHealth
from .stages import STAGES, Stage, concerned, disruptions_of, is_fresh, stage_waves


def left_to_do(
    cluster: Cluster, plans: Mapping[str, Sequence[ResourceResult]], health: ClusterHealth
) -> tuple[str, ...]:
    """What an apply does not do by itself and a person must, with the commands: restarts that settings wait for."""
    if not _pending(plans) or not health.leader:
        return ()
    replicas = [n.name for n in cluster.data_nodes if n.name != health.leader]
    restart = "patronictl -c /etc/patroni/config.yml restart"
    told = [
        f"pgha-master run {n} -- {restart} {cluster.name} {n} --pending --force" for n in (*replicas, health.leader)
    ]
    return (
        "settings wait for a restart of PostgreSQL, which ends its sessions; one after the other, the leader last:",
        *(f"  {command}" for command in told),
    )


def _pending(plans: Mapping[str, Sequence[ResourceResult]]) -> bool:
    return any(change.what.endswith(PENDING) for results in plans.values() for r in results for change in r.changes)


def describe(
    cluster: Cluster,
    plans: Mapping[str, Sequence[ResourceResult]],
    health: ClusterHealth,
    stages: Sequence[Stage] = STAGES,
) -> dict[str, tuple[str, ...]]:
    """`order` and `impact` of a `progress.Plan`."""
    order: list[str] = []
    for stage in stages:
        if nodes := concerned(stage, plans):
            waves = stage_waves(stage, cluster, nodes, plans, health)
            order.append(f"{stage.name}: " + ", then ".join(" + ".join(wave) for wave in waves))
    if is_fresh(health):
        return {"order": tuple(order), "impact": ("nothing runs here yet, so nothing is disturbed",)}
    counted: Counter[str] = Counter()
    for node, results in plans.items():
        for disruption in {str(d): d for stage in stages for d in disruptions_of(results, stage.documents)}.values():
            counted[str(disruption)] += 1
            if disruption.impact is Impact.RESTART and disruption.unit.startswith("patroni") and node == health.leader:
                order.append(f"{node} leads: its restart is last, and writes stop until PostgreSQL is up again")
    waits = ("settings will wait for a restart of PostgreSQL on every data node; apply does not do it",)
    told = tuple(f"{what} on {count} node{'s' if count > 1 else ''}" for what, count in counted.items())
    told += waits if _pending(plans) else ()
    return {"order": tuple(order), "impact": told or ("no service is reloaded or restarted",)}
