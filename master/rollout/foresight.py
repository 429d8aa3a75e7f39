"""Gates of an apply that would not open, seen before anything is changed: a Patroni that is down stays down. Pure.

Rules:
1. Between two waves the cluster must be steady, and so it must before a restart of PostgreSQL or a switchover; none of
   that comes about while a data node's Patroni is down, unless this apply itself starts it before.
2. A Patroni that is silent while its service runs is just coming up: it is waited for as ever.
3. What disturbs nobody goes through, whoever is down: that is how a node is repaired.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.results import ResourceResult, Status
from ...states.documents.patroni import CONFIG
from ..health.observed import ClusterHealth
from ..orchestration.stages import Stage, concerned, pauses, stage_waves, stops_writes

PATRONI = "service:patroni"


@dataclass(frozen=True, slots=True)
class Intended:
    """What an apply would do. `looked_at`: whose Patroni was planned; `restarts`: whose PostgreSQL would be.

    `joining`: nodes that the others do not let in yet; where Patroni is set up there, it is from a former life.
    """

    stages: Sequence[Stage]
    plans: Mapping[str, Sequence[ResourceResult]]
    looked_at: Collection[str]
    restarts: Sequence[str] = ()
    joining: Collection[str] = ()


def held_up(cluster: Cluster, intended: Intended, health: ClusterHealth) -> list[str]:
    """Why that would wait in vain, in at most one sentence."""
    for what, down in _waits(cluster, intended, health):
        if down:
            former = [name for name in down if name in intended.joining]
            names = ", ".join(former or down)
            start = f"start it first: pgha-master apply {cluster.name} --only patroni"
            fix = f"it is from a former life: move {CONFIG} there out of the way" if former else start
            return [f"{names}: Patroni is down there, and {what} would wait until the cluster is steady; {fix}"]
    return []


def _waits(cluster: Cluster, intended: Intended, health: ClusterHealth) -> Iterator[tuple[str, list[str]]]:
    """Each wait for a steady cluster, in the order of the apply: before what it is, and whose Patroni is down then."""
    plans = intended.plans
    silent = [node.name for node in health.data_nodes if node.state == "down"]
    down = [name for name in silent if name not in intended.looked_at or _starts(plans.get(name, ()))]
    for stage in intended.stages:
        nodes = concerned(stage, plans)
        order = stage_waves(stage, cluster, nodes, plans, health) if nodes else []
        founding = stage.name == "patroni" and health.leader == ""
        for number, wave in enumerate(order):
            if stops_writes(stage, wave, health.leader, plans):
                yield f"a switchover away from {health.leader}", down
            if "patroni" in stage.documents:
                down = [node for node in down if not (node in wave and _starts(plans[node]))]
            if number < len(order) - 1 and pauses(stage, health) and not (founding and number == 0):
                yield f"{stage.name} on {', '.join(order[number + 1])}", down
    if intended.restarts:
        yield f"a restart of PostgreSQL on {', '.join(intended.restarts)}", down


def _starts(results: Sequence[ResourceResult]) -> bool:
    return any(
        result.resource == PATRONI
        and result.status is Status.PLANNED
        and any(change.what == "state" for change in result.changes)
        for result in results
    )
