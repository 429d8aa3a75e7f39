"""What may be changed while nodes are away, and what is asked of those that are left."""

from __future__ import annotations

import pytest
from pgha.common.results import ChangeView, Disruption, Impact, ResourceResult, Status
from pgha.master.health.gates import OPEN, Closed, cluster_steady, etcd_healthy, one_writer_up, replica_backend_up
from pgha.master.health.observed import ClusterHealth
from pgha.master.orchestration.absence import AUTHORITIES, after_plan, before_plan, remaining
from pgha.master.orchestration.replacement import Replacement
from pgha.master.simulation.testing import FakeCluster, three_nodes

CLUSTER = three_nodes()
LOST = Replacement("pg-node2", "2", "https://10.77.2.12:2380", "pg-node1")


def without(*names: str, leader: str = "pg-node1", etcd_leader: str = "pg-node2") -> ClusterHealth:
    fake = FakeCluster(leader=leader, etcd_leader=etcd_leader)
    for name in names:
        fake.silence(name, 60.0)
    return fake.health()


def planned(resource: str, what: str, document: str, unit: str = "", impact: Impact = Impact.NONE) -> ResourceResult:
    change = ChangeView(what=what, disruption=Disruption(impact=impact, unit=unit))
    return ResourceResult(resource=resource, document=document, status=Status.PLANNED, changes=(change,))


def restart(unit: str, document: str) -> ResourceResult:
    return planned(f"service:{unit}", "restart", document, unit, Impact.RESTART)


def refused(node: str, result: ResourceResult, *away: str) -> list[str]:
    return after_plan({node: [result]}, without(*away), away)


def test_with_every_node_there_nothing_is_refused() -> None:
    health = without()
    assert before_plan(CLUSTER, None, health, (), LOST) == []
    assert after_plan({"pg-node1": [restart("etcd", "etcd")]}, health, ()) == []


@pytest.mark.parametrize(
    ("change", "allowed"),
    [({"rpo": "zero"}, True), ({"nodes": CLUSTER.model_dump()["nodes"][:2]}, False)],
    ids=["another promise", "a node less"],
)
def test_the_definition_may_change_but_not_who_the_nodes_are(change: dict[str, object], allowed: bool) -> None:
    found = before_plan(three_nodes(**change), CLUSTER, without("witness-node"), ("witness-node",), None)
    assert (found == []) == allowed


def test_a_region_is_no_place() -> None:
    nodes = [{**node.model_dump(), "region": "mars"} for node in CLUSTER.nodes]
    assert before_plan(three_nodes(nodes=nodes), CLUSTER, without("witness-node"), ("witness-node",), None) == []


@pytest.mark.parametrize(("away", "allowed"), [("pg-node1", False), ("pg-node2", True), ("witness-node", True)])
def test_whoever_may_lead_must_be_there(away: str, allowed: bool) -> None:
    assert (before_plan(CLUSTER, CLUSTER, without(away), (away,), None) == []) == allowed


def test_no_member_of_etcd_is_replaced() -> None:
    assert "membership" in before_plan(CLUSTER, CLUSTER, without("witness-node"), ("witness-node",), LOST)[0]


@pytest.mark.parametrize(
    ("unit", "document", "away", "allowed"),
    [
        ("etcd", "etcd", "witness-node", False),
        ("patroni", "patroni", "pg-node2", False),
        ("postgresql@17-main", "patroni", "pg-node2", False),
        ("patroni", "patroni", "witness-node", True),
        ("haproxy", "haproxy", "pg-node2", True),
    ],
)
def test_nothing_is_stopped_that_needs_those_who_are_away(unit: str, document: str, away: str, allowed: bool) -> None:
    assert (refused("pg-node1", restart(unit, document), away) == []) == allowed


def test_a_reboot_stops_everything() -> None:
    reboot = planned("packages:base", "reboot", "hardening", "", Impact.REBOOT)
    assert len(refused("pg-node1", reboot, "pg-node2")) == 2


@pytest.mark.parametrize(("what", "allowed"), [("content", False), ("file", True), ("mode", True)])
def test_an_authority_is_not_exchanged_but_may_be_put_where_it_is_missing(what: str, allowed: bool) -> None:
    for resource in AUTHORITIES:
        assert (refused("pg-node1", planned(resource, what, "pki"), "witness-node") == []) == allowed


@pytest.mark.parametrize("away", ["pg-node2", "witness-node"])
@pytest.mark.parametrize("etcd_leader", ["pg-node1", "pg-node2", "witness-node"])
def test_the_gates_are_open_on_those_who_are_left_whoever_leads_etcd(away: str, etcd_leader: str) -> None:
    whole = without(away, etcd_leader=etcd_leader)
    fake = FakeCluster(etcd_leader=etcd_leader)
    assert isinstance(etcd_healthy(whole), Closed)
    left = remaining(whole, [away])
    assert cluster_steady(left, 0) == OPEN
    assert one_writer_up(left) == OPEN
    assert replica_backend_up(left) == OPEN
    assert cluster_steady(remaining(fake.health(), []), 0) == OPEN


def test_an_election_among_all_keeps_the_gate_closed() -> None:
    fake = FakeCluster(etcd_leader="")
    assert isinstance(etcd_healthy(remaining(fake.health(), [])), Closed)


def test_a_member_that_is_left_must_be_healthy() -> None:
    fake = FakeCluster()
    fake.silence("witness-node", 60.0)
    fake.change("pg-node1", "etcd", healthy=False, error="connection refused")
    assert isinstance(etcd_healthy(remaining(fake.health(), ["witness-node"])), Closed)
