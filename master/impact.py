"""What a plan means for those who use the cluster, in words; and in which order it would be carried out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..common.cluster import Cluster
from ..common.results import Impact, ResourceResult
from .observed import ClusterHealth
from .stages import STAGES, concerned, disruptions_of, is_fresh, stage_waves


def describe(
    cluster: Cluster, plans: Mapping[str, Sequence[ResourceResult]], health: ClusterHealth
) -> dict[str, tuple[str, ...]]:
    """`order` and `impact` of a `progress.Plan`."""
    order: list[str] = []
    for stage in STAGES:
        if nodes := concerned(stage, plans):
            waves = stage_waves(stage, cluster, nodes, plans, health)
            order.append(f"{stage.name}: " + ", then ".join(" + ".join(wave) for wave in waves))
    if is_fresh(health):
        return {"order": tuple(order), "impact": ("nothing runs here yet, so nothing is disturbed",)}
    counted: Counter[str] = Counter()
    for node, results in plans.items():
        for disruption in {str(d): d for stage in STAGES for d in disruptions_of(results, stage.documents)}.values():
            counted[str(disruption)] += 1
            if disruption.impact is Impact.RESTART and disruption.unit.startswith("patroni") and node == health.leader:
                order.append(f"{node} leads: its restart is last, and writes stop until PostgreSQL is up again")
    told = tuple(f"{what} on {count} node{'s' if count > 1 else ''}" for what, count in counted.items())
    return {"order": tuple(order), "impact": told or ("no service is reloaded or restarted",)}
