"""Who left the definition: named once more or nothing happens, one at a time, never the quorum or the last copy."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.results import ChangeView, ResourceResult, Status
from pgha.master.operations.progress import NodePlan, Plan, destroying
from pgha.master.rollout.departure import departures, problems
from pgha.master.simulation.testing import FakeCluster, three_nodes

NODES = [
    {"name": f"node{number}", "address": f"10.77.{number}.1", "role": role}
    for number, role in enumerate(("data", "data", "data", "witness"), 1)
]
APPLIED = three_nodes(nodes=NODES)


def without(*names: str) -> Cluster:
    return three_nodes(nodes=[node for node in NODES if node["name"] not in names])


def living(leader: str = "node1") -> FakeCluster:
    return FakeCluster(APPLIED, leader=leader, etcd_leader="node4")


def said(wanted: Cluster, fake: FakeCluster, *allowed: str) -> list[str]:
    health = fake.health()
    return problems(departures(wanted, APPLIED, health), allowed, APPLIED, health)


def test_nobody_departs_from_a_definition_with_the_same_nodes() -> None:
    assert departures(APPLIED, APPLIED, living().health()) == []
    assert departures(without("node3"), None, None) == []


def test_who_departs_is_known_with_its_vote_and_who_takes_it() -> None:
    (one,) = departures(without("node3"), APPLIED, living().health())
    assert (one.node, one.is_data, one.connected, one.leads) == ("node3", True, True, False)
    assert one.member_id == "3"
    assert one.via != "node3"


def test_without_its_name_nobody_is_taken_out() -> None:
    (text,) = said(without("node3"), living())
    assert text.startswith("node3: is part of the cluster and no node of the definition any more; put it back")
    assert text.endswith("pgha-master apply prod --allow-destroy node3")
    assert said(without("node3"), living(), "node2") == [text]
    assert said(without("node3"), living(), "node3") == []


def test_two_do_not_go_at_once() -> None:
    (text,) = said(without("node2", "node3"), living(), "node2", "node3")
    assert text.startswith("node2, node3: nodes are taken out one at a time")


def test_a_vote_that_the_quorum_needs_stays() -> None:
    fake = living()
    for name in ("node2", "node4"):
        fake.change(name, "etcd", healthy=False)
    (text,) = said(without("node3"), fake, "node3")
    assert text == "node3: without it etcd would have no quorum: of the 3 other members only 1 are healthy"


def test_the_last_good_copy_stays() -> None:
    fake = living()
    for name in ("node2", "node3"):
        fake.change(name, "patroni", state="starting")
    (text,) = said(without("node1"), fake, "node1")
    assert text == "node1: leads, and no replica could take over now; it holds the last good copy"
    fake = living(leader="")
    for name in ("node1", "node2", "node3"):
        fake.change(name, "patroni", role="replica")
    (text,) = said(without("node3"), fake, "node3")
    assert "nobody leads the cluster now" in text


def test_who_leads_is_not_held_up_by_a_patroni_that_is_down() -> None:
    fake = living()
    fake.change("node3", "patroni", reachable=False, role="", state="", timeline=None)
    (text,) = said(without("node1"), fake, "node1")
    assert text.startswith("node1: leads, and would wait with handing over until Patroni on node3 is up again")
    assert said(without("node3"), fake, "node3") == []


def test_a_leader_goes_when_somebody_can_take_over_and_a_witness_goes_like_anybody() -> None:
    assert said(without("node1"), living(), "node1") == []
    assert said(without("node4"), living(), "node4") == []


def test_a_node_that_is_dead_goes_too() -> None:
    fake = living()
    fake.silence("node3", 1000.0)
    (one,) = departures(without("node3"), APPLIED, fake.health())
    assert not one.connected
    assert said(without("node3"), fake, "node3") == []


@pytest.mark.parametrize(("allowed", "refused"), [((), True), (("absent:/srv/x",), False), (("n1",), True)])
def test_what_destroys_data_is_named_or_refused(allowed: tuple[str, ...], refused: bool) -> None:
    change: Any = ChangeView(what="presence", destroys="/srv/x with all that is in it")
    result = ResourceResult(resource="absent:/srv/x", document="own", status=Status.PLANNED, changes=(change,))
    plan = Plan(cluster="prod", definition="x", nodes=(NodePlan(node="n1", results=(result,)),))
    found = destroying(plan, allowed)
    assert bool(found) is refused
    if refused:
        assert found == [
            "n1: absent:/srv/x would destroy /srv/x with all that is in it; "
            "if that is meant, add --allow-destroy 'absent:/srv/x'"
        ]
