"""What a plan means for those who use the cluster, in words; and in which order it would be carried out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ...common.cluster import Cluster
from ...common.results import ResourceResult
from ..health.observed import ClusterHealth
from ..orchestration.stages import STAGES, Stage, concerned, disruptions_of, is_fresh, stage_waves
from ..orchestration.waves import stops
from . import restarts
from .restarts import Act, Restart, Switchover


def describe(
    cluster: Cluster,
    plans: Mapping[str, Sequence[ResourceResult]],
    health: ClusterHealth,
    acts: Sequence[Act] = (),
    measured: Mapping[str, Sequence[float]] | None = None,
    stages: Sequence[Stage] = STAGES,
) -> dict[str, tuple[str, ...]]:
    """`order` and `impact` of a `progress.Plan`. `acts`: restarts that follow; `measured`: see `restarts.costs`."""
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
            if stops(disruption, "patroni", "postgresql") and node == health.leader:
                heir = restarts.heir_of(cluster, health)
                acts = (Switchover(node, heir) if heir else Restart(node, leads=True), *acts)
    order += [str(act) for act in acts]
    told = tuple(f"{what} on {count} node{'s' if count > 1 else ''}" for what, count in counted.items())
    told += restarts.costs(acts, measured or {})
    return {"order": tuple(order), "impact": told or ("no service is reloaded or restarted",)}
