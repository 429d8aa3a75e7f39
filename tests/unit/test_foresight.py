"""An apply that would wait for a Patroni that is down says so before it begins, and one that starts it goes through."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest
from pgha.common.results import ChangeView, Disruption, Impact, ResourceResult, Status
from pgha.master.orchestration.stages import STAGES
from pgha.master.rollout.foresight import Intended, held_up
from pgha.master.simulation.testing import FakeCluster, three_nodes

CLUSTER = three_nodes()
NODES = tuple(node.name for node in CLUSTER.nodes)
START_IT = "start it first: pgha-master apply prod --only patroni"


def planned(document: str, resource: str, what: str = "content", restarts: str = "") -> ResourceResult:
    impact = Disruption(impact=Impact.RESTART, unit=restarts) if restarts else Disruption()
    change = ChangeView(what=what, before="x", after="y", disruption=impact)
    return ResourceResult(resource=resource, document=document, status=Status.PLANNED, changes=(change,))


ETCD = planned("etcd", "service:etcd", "restart", restarts="etcd")
FILE = planned("haproxy", "file:/etc/haproxy/haproxy.cfg")
START = planned("patroni", "service:patroni", "state")


def down(*names: str) -> FakeCluster:
    fake = FakeCluster(CLUSTER, leader="pg-node1", etcd_leader="witness-node")
    for name in names:
        fake.change(name, "patroni", reachable=False, role="", state="", timeline=None)
    return fake


def said(
    fake: FakeCluster,
    plans: Mapping[str, Sequence[ResourceResult]],
    looked_at: Collection[str] = NODES,
    restarts: Sequence[str] = (),
) -> list[str]:
    return held_up(CLUSTER, Intended(STAGES, plans, looked_at, restarts), fake.health())


def test_etcd_is_not_restarted_node_by_node_while_a_patroni_is_down_that_is_started_only_later() -> None:
    everywhere = {name: [ETCD] for name in NODES}
    (text,) = said(down("pg-node2"), {**everywhere, "pg-node2": [ETCD, START]})
    assert text.startswith("pg-node2: Patroni is down there, and etcd on witness-node would wait until the ")
    assert text.endswith(START_IT)
    (text,) = said(down("pg-node2"), everywhere, looked_at=())  # --only etcd
    assert text.endswith(START_IT)


@pytest.mark.parametrize(
    "plans",
    [
        {"pg-node2": [START]},
        {"pg-node1": [FILE], "pg-node2": [FILE, START], "witness-node": [FILE]},
        {"pg-node1": [planned("patroni", "service:patroni", "restart", restarts="patroni")], "pg-node2": [START]},
        {"witness-node": [ETCD], "pg-node2": [START]},
    ],
    ids=["start", "what disturbs nobody", "Patroni elsewhere, after the start", "etcd on one node"],
)
def test_an_apply_that_starts_it_before_it_must_wait_goes_through(plans: dict[str, list[ResourceResult]]) -> None:
    assert said(down("pg-node2"), plans) == []


def test_what_a_node_has_from_a_former_life_is_not_started_but_moved_away() -> None:
    everywhere = {name: [ETCD] for name in NODES}
    intended = Intended(STAGES, everywhere, (), joining=("pg-node2",))
    (text,) = held_up(CLUSTER, intended, down("pg-node2").health())
    assert text.endswith("it is from a former life: move /etc/patroni/config.yml there out of the way")


def test_a_patroni_that_is_silent_while_its_service_runs_is_waited_for() -> None:
    assert said(down("pg-node2"), {name: [ETCD] for name in NODES}) == []


def test_postgresql_is_not_restarted_while_a_patroni_is_down_that_this_apply_does_not_start() -> None:
    (text,) = said(down("pg-node2"), {"pg-node1": [FILE]}, looked_at=(), restarts=("pg-node1",))
    assert "and a restart of PostgreSQL on pg-node1 would wait" in text
    assert said(down("pg-node2"), {"pg-node2": [START]}, restarts=("pg-node1",)) == []


def test_the_lead_is_not_handed_over_while_a_patroni_is_down_that_this_apply_does_not_start() -> None:
    stops = planned("patroni", "service:patroni", "restart", restarts="patroni")
    (text,) = said(down("pg-node2"), {"pg-node1": [stops]}, looked_at=("pg-node1",))
    assert "a switchover away from pg-node1 would wait" in text


def test_nothing_is_held_up_in_a_cluster_that_is_well_or_that_does_not_run() -> None:
    everywhere = {name: [ETCD] for name in NODES}
    assert said(down(), everywhere, looked_at=()) == []
    off = down("pg-node1", "pg-node2")
    for name in NODES:
        off.change(name, "etcd", healthy=False, member_id="")
    assert said(off, everywhere, looked_at=()) == []
