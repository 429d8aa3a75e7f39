"""Restarts that settings wait for: who is next, who takes the lead, what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common.results import ChangeView, ResourceResult, Status
from pgha.common.telemetry import PendingSetting
from pgha.master.rollout import restarts
from pgha.master.rollout.restarts import Asked, Restart, Switchover, course, foreseen, heir_of, shrinking, will_shrink
from pgha.master.simulation.testing import FakeCluster, three_nodes
from pgha.states.resources.patroni import PENDING

DATA = ("pg-node1", "pg-node2")
THREE = [
    {"name": f"node{i}", "address": f"10.77.{i}.1", "role": role} for i, role in enumerate(("data", "data", "data"), 1)
]


def three_data(**tags: dict[str, Any]) -> FakeCluster:
    """node1 leads; `tags` by node."""
    nodes = [{**node, "tags": tags.get(str(node["name"]), {})} for node in THREE]
    return FakeCluster(three_nodes(nodes=nodes), leader="node1", etcd_leader="node2")


def planned(name: str, before: str, after: str, resource: str = restarts.DCS) -> ResourceResult:
    change = ChangeView(what=f"postgresql.parameters.{name}{PENDING}", before=before, after=after)
    return ResourceResult(resource=resource, document="database", status=Status.PLANNED, changes=(change,))


def test_replicas_restart_first_and_then_the_lead_is_handed_over() -> None:
    fake = FakeCluster()
    assert course(fake.cluster, fake.health(), DATA) == (Restart("pg-node2"), Switchover("pg-node1", "pg-node2"))


def test_for_a_synchronous_replica_commits_wait_and_the_plan_says_so() -> None:
    fake = FakeCluster(three_nodes(rpo="zero"))
    fake.change("pg-node2", "patroni", role="sync_standby")
    (act,) = course(fake.cluster, fake.health(), ["pg-node2"])
    assert act == Restart("pg-node2", holds=True)
    assert restarts.costs([act], {})[1].startswith("commits wait until pg-node2 is back")


def test_a_synchronous_replica_restarts_after_the_others_and_takes_over() -> None:
    fake = three_data()
    fake.change("node2", "patroni", role="sync_standby")
    assert course(fake.cluster, fake.health(), ["node1", "node2", "node3"]) == (
        Restart("node3"),
        Restart("node2"),
        Switchover("node1", "node2"),
    )


def test_when_only_a_replica_waits_the_leader_is_left_alone() -> None:
    fake = FakeCluster()
    assert course(fake.cluster, fake.health(), ["pg-node2"]) == (Restart("pg-node2"),)


def test_when_nothing_waits_nothing_is_done() -> None:
    fake = FakeCluster()
    assert course(fake.cluster, fake.health(), []) == ()


def test_a_parameter_that_standbys_follow_is_lowered_on_the_leader_first() -> None:
    fake = FakeCluster()
    wanted = (Restart("pg-node1", leads=True), Restart("pg-node2"))
    assert course(fake.cluster, fake.health(), DATA, shrinks=True) == wanted


def test_a_replica_that_still_waits_after_its_restart_waits_for_the_leader() -> None:
    fake = FakeCluster()
    wanted = (Restart("pg-node1", leads=True), Restart("pg-node2"))
    assert course(fake.cluster, fake.health(), DATA, tried=["pg-node2"]) == wanted


def test_a_leader_that_was_restarted_and_still_waits_is_not_restarted_for_ever() -> None:
    fake = FakeCluster()
    assert course(fake.cluster, fake.health(), ["pg-node1"], tried=["pg-node1"]) == ()


@pytest.mark.parametrize(
    "unfit",
    [
        {"state": "starting"},
        {"timeline": 6},
        {"replayed_bytes": None},
        {"role": ""},
    ],
    ids=str,
)
def test_without_a_replica_that_could_take_over_the_leader_restarts_in_place(unfit: dict[str, Any]) -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", **unfit)
    assert course(fake.cluster, fake.health(), ["pg-node1"]) == (Restart("pg-node1", leads=True),)


def test_who_must_not_take_over_does_not() -> None:
    assert heir_of(three_data().cluster, three_data().health()) == "node2"
    for tags in ({"nofailover": True}, {"failover_priority": 0}):
        fake = three_data(node2=tags)
        assert heir_of(fake.cluster, fake.health()) == "node3"


def test_with_synchronous_replication_only_a_synchronous_standby_takes_over() -> None:
    fake = FakeCluster(three_nodes(rpo="zero"))
    assert heir_of(fake.cluster, fake.health()) == ""
    fake.change("pg-node2", "patroni", role="sync_standby")
    assert heir_of(fake.cluster, fake.health()) == "pg-node2"


def test_of_several_the_one_that_lacks_least_takes_over() -> None:
    fake = three_data()
    fake.change("node2", "patroni", replayed_bytes=67108960 - 4096)
    fake.change("node1", "patroni", cluster_members=())
    assert heir_of(fake.cluster, fake.health()) == "node3"


@pytest.mark.parametrize(
    ("name", "before", "after", "lower"),
    [
        ("max_connections", "200", "100", True),
        ("max_connections", "100", "200", False),
        ("max_connections", "200", "absent", True),
        ("max_connections", "absent", "200", False),
        ("shared_buffers", "256MB", "128MB", False),
        ("max_worker_processes", "16", "8", True),
    ],
)
def test_what_is_lowered_is_seen_in_the_plan_and_in_telemetry(name: str, before: str, after: str, lower: bool) -> None:
    fake = FakeCluster()
    assert will_shrink({"pg-node1": [planned(name, before, after)]}, fake.health()) is lower
    if "absent" not in (before, after):
        fake.change("pg-node1", "patroni", pending_settings=(PendingSetting(name=name, before=before, after=after),))
        assert shrinking(fake.health()) is lower


def test_a_parameter_of_the_cluster_makes_every_data_node_wait_and_one_of_a_node_only_that_one() -> None:
    health = FakeCluster().health()
    assert foreseen({"pg-node1": [planned("max_connections", "1", "2")]}, health) == list(DATA)
    local = planned("shared_buffers", "1MB", "2MB", "file:/etc/patroni/config.yml")
    assert foreseen({"pg-node2": [local], "pg-node1": []}, health) == ["pg-node2"]


def test_who_waits_already_is_foreseen_without_any_change() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", pending_restart=True)
    assert foreseen({}, fake.health()) == ["pg-node2"] == restarts.waiting(fake.health())


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Asked(), ""),
        (Asked(only=("patroni",)), ""),
        (Asked(nodes=DATA), ""),
        (Asked(away=("witness-node",)), ""),
        (Asked(restart=False), "without --no-restart does it"),
        (Asked(only=("haproxy",)), "without --only does it"),
        (Asked(nodes=("pg-node2",)), "without --node does it"),
        (Asked(away=("pg-node2",)), "apply again when pg-node2 is back"),
    ],
    ids=str,
)
def test_an_apply_of_a_part_leaves_restarts_to_an_apply_of_all(asked: Asked, why: str) -> None:
    fake = FakeCluster()
    said = restarts.why_not(fake.cluster, fake.health(), asked)
    assert said.endswith(why) if why == "" else why in said
    assert bool(said) is bool(why)


def test_a_paused_patroni_restarts_nothing() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", paused=True)
    assert "resume" in restarts.why_not(fake.cluster, fake.health(), Asked())


def test_what_is_expected_rests_on_what_was_measured_here() -> None:
    acts = (Restart("pg-node2"), Switchover("pg-node1", "pg-node2"))
    assert restarts.costs(acts, {"switchover": [3.0, 9.0, 4.0]})[1:] == (
        "1 switchover, pg-node1 -> pg-node2: writes are refused for about 4.0 s",
        "(median of the last 3 here), sessions on pg-node1 end",
    )
    assert "(not measured on this cluster yet)" in restarts.costs(acts, {})[2]
    (one, _) = restarts.costs((Restart("pg-node1", leads=True),), {"restart": [1.3]})
    assert one == "PostgreSQL restarts on pg-node1 while it leads: writes are refused for about 1.3 s"
