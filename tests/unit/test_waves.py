"""What disturbs nobody goes first and together; the rest one by one, the leader last."""

from __future__ import annotations

import itertools

import pytest
from pgha.common.results import Disruption, Impact
from pgha.master.orchestration.waves import waves
from pgha.master.simulation.testing import FakeCluster, three_nodes

NODES = ["pg-node1", "pg-node2", "witness-node"]
RESTART_PATRONI = Disruption(impact=Impact.RESTART, unit="patroni")
RESTART_ETCD = Disruption(impact=Impact.RESTART, unit="etcd.service")
RELOAD = Disruption(impact=Impact.RELOAD, unit="haproxy")


def five_nodes() -> FakeCluster:
    """node1 leads, node2 is its synchronous replica and leads etcd, node3 is asynchronous, two witnesses."""
    nodes = [{"name": f"node{i}", "address": f"10.77.{i}.1"} for i in (1, 2, 3)]
    nodes += [{"name": f"witness{i}", "address": f"10.77.{i}.1", "role": "witness"} for i in (4, 5)]
    fake = FakeCluster(three_nodes(nodes=nodes), leader="node1", etcd_leader="node2")
    fake.change("node2", "patroni", role="sync_standby")
    return fake


def test_what_disturbs_nobody_goes_out_in_one_wave() -> None:
    impacts = {"pg-node1": [RELOAD], "pg-node2": [Disruption()]}
    assert waves(NODES, impacts, FakeCluster().health()) == [NODES]


def test_the_leader_is_restarted_last_and_alone() -> None:
    impacts = {name: [RELOAD, RESTART_PATRONI] for name in ("pg-node1", "pg-node2")}
    assert waves(NODES, impacts, FakeCluster().health()) == [["witness-node"], ["pg-node2"], ["pg-node1"]]


def test_after_a_failover_the_new_leader_is_last() -> None:
    fake = FakeCluster(leader="pg-node2", etcd_leader="witness-node")
    impacts = {key: [RESTART_ETCD] for key in NODES}
    assert waves(NODES, impacts, fake.health()) == [["pg-node1"], ["witness-node"], ["pg-node2"]]


def test_witnesses_then_replicas_then_the_synchronous_one_then_the_leader() -> None:
    fake = five_nodes()
    names = [n.name for n in fake.cluster.nodes]
    order = waves(names, {key: [RESTART_ETCD] for key in names}, fake.health())
    assert order == [["witness4"], ["witness5"], ["node3"], ["node2"], ["node1"]]


def test_the_etcd_leader_is_restarted_after_all_its_followers_but_before_the_leader() -> None:
    fake = five_nodes()
    fake.change("node2", "etcd", is_leader=False)
    fake.change("witness4", "etcd", is_leader=True)
    names = [n.name for n in fake.cluster.nodes]
    order = waves(names, {key: [RESTART_ETCD] for key in names}, fake.health())
    assert [name for (name,) in order][-2:] == ["witness4", "node1"]


@pytest.mark.parametrize("restarted", list(itertools.product([False, True], repeat=5)))
def test_never_two_restarts_at_once_and_every_node_exactly_once(restarted: tuple[bool, ...]) -> None:
    fake = five_nodes()
    names = [n.name for n in fake.cluster.nodes]
    impacts = {name: [RESTART_PATRONI] for name, yes in zip(names, restarted, strict=True) if yes}
    order = waves(names, impacts, fake.health())
    assert sorted(itertools.chain(*order)) == names
    assert all(sum(name in impacts for name in wave) <= 1 for wave in order)
    assert all(wave for wave in order)


def test_when_nothing_runs_yet_everybody_starts_at_once() -> None:
    fake = FakeCluster()
    for name in NODES:
        fake.bare(name)
    assert waves(NODES, {key: [RESTART_ETCD] for key in NODES}, fake.health(), fresh=True) == [NODES]
    assert waves([], {}, fake.health(), fresh=True) == []


def test_a_node_of_which_nothing_is_known_might_lead_and_comes_after_those_that_do_not() -> None:
    fake = FakeCluster()
    fake.silence("pg-node1", 60)
    impacts = {key: [RESTART_PATRONI] for key in NODES}
    assert waves(NODES, impacts, fake.health()) == [["witness-node"], ["pg-node2"], ["pg-node1"]]


def test_even_a_silent_replica_comes_before_the_known_leader() -> None:
    fake = five_nodes()
    fake.silence("node3", 60)
    impacts = {name: [RESTART_PATRONI] for name in ("node1", "node2", "node3")}
    assert waves(list(impacts), impacts, fake.health()) == [["node2"], ["node3"], ["node1"]]


def test_a_reboot_disturbs_whatever_unit_it_is_for() -> None:
    impacts = {name: [Disruption(impact=Impact.REBOOT)] for name in NODES}
    assert len(waves(NODES, impacts, FakeCluster().health())) == 3


def test_restarting_the_time_service_disturbs_nobody_and_an_unknown_unit_does() -> None:
    chrony = Disruption(impact=Impact.RESTART, unit="chrony")
    unknown = Disruption(impact=Impact.RESTART, unit="something")
    health = FakeCluster().health()
    assert waves(NODES, {key: [chrony] for key in NODES}, health) == [NODES]
    assert len(waves(NODES, {key: [unknown] for key in NODES}, health)) == 3


def test_only_the_nodes_that_were_asked_for_are_in_the_waves() -> None:
    assert waves(["pg-node2"], {"pg-node1": [RESTART_PATRONI]}, FakeCluster().health()) == [["pg-node2"]]
