"""Which member of etcd is replaced, and when nobody may be."""

from __future__ import annotations

import pytest
from pgha.common.telemetry import EtcdMember
from pgha.master.orchestration.replacement import Replacement, replacement
from pgha.master.simulation.testing import FakeCluster, three_nodes

URL = "https://10.77.3.13:2380"
NODES = ("pg-node1", "pg-node2", "witness-node")


def lost(fake: FakeCluster, name: str, **etcd: object) -> None:
    """Its etcd is installed, does not run and has no data."""
    fake.change(name, "etcd", healthy=False, is_leader=False, member_id="", data_present=False, **etcd)


def members(fake: FakeCluster, *listed: EtcdMember) -> None:
    """The list as every healthy member tells it."""
    for node in fake.cluster.etcd_nodes:
        if (sample := fake.sample(node.name).etcd) is not None and sample.healthy:
            fake.change(node.name, "etcd", members=listed)


def of(fake: FakeCluster) -> Replacement | None:
    return replacement(fake.cluster, fake.health())


def test_of_a_healthy_cluster_nobody_is_replaced() -> None:
    assert of(FakeCluster()) is None


def test_on_bare_hosts_there_is_nobody_to_replace() -> None:
    fake = FakeCluster()
    for name in NODES:
        fake.bare(name)
    assert of(fake) is None


def test_a_member_that_lost_its_data_is_replaced_by_way_of_a_healthy_one() -> None:
    fake = FakeCluster()
    lost(fake, "witness-node")
    assert of(fake) == Replacement("witness-node", "3", URL, "pg-node1", runs=True)


def test_a_node_that_was_set_up_anew_is_replaced() -> None:
    fake = FakeCluster()
    fake.bare("witness-node")
    assert of(fake) == Replacement("witness-node", "3", URL, "pg-node1")


def test_a_member_that_is_down_with_its_data_is_only_waited_for() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, member_id="", error="connection refused")
    assert of(fake) is None


def test_a_member_that_cannot_go_on_with_its_data_is_replaced_and_its_data_named() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, is_leader=False, member_id="", lost="crc mismatch")
    found = of(fake)
    assert found == Replacement("witness-node", "3", URL, "pg-node1", runs=True, damage="crc mismatch")
    assert "(crc mismatch); an apply keeps that data aside" in found.sentence()


def test_a_member_that_was_removed_is_added_and_nothing_is_removed_for_it() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, is_leader=False, member_id="", lost="permanently removed")
    known = [EtcdMember(id="1", name="pg-node1", started=True), EtcdMember(id="2", name="pg-node2", started=True)]
    members(fake, *known)
    assert of(fake) == Replacement("witness-node", "", URL, "pg-node1", runs=True, damage="permanently removed")


def test_what_a_member_said_before_it_was_healthy_again_does_not_count() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", lost="crc mismatch")
    assert of(fake) is None


def test_what_a_lost_member_has_written_since_is_no_vote_unless_it_is_healthy() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, is_leader=False, member_id="")
    assert of(fake) is None
    found = replacement(fake.cluster, fake.health(), {"witness-node"})
    assert found == Replacement("witness-node", "3", URL, "pg-node1", runs=True)
    fake.change("witness-node", "etcd", healthy=True, member_id="3")
    assert replacement(fake.cluster, fake.health(), {"witness-node"}) is None


def test_damaged_data_of_two_of_three_members_is_nobodys_to_throw_away() -> None:
    fake = FakeCluster()
    for name in ("pg-node2", "witness-node"):
        fake.change(name, "etcd", healthy=False, is_leader=False, member_id="", lost="crc mismatch")
    assert of(fake) is None


@pytest.mark.parametrize("connected", [True, False])
def test_a_node_that_is_silent_is_never_taken_for_lost(connected: bool) -> None:
    """It may be alive behind a partition, with its data and its vote."""
    fake = FakeCluster()
    fake.bare("witness-node")
    fake.silence("witness-node", 60.0)
    fake.connected["witness-node"] = connected
    assert of(fake) is None


def test_without_a_quorum_nobody_can_be_replaced() -> None:
    fake = FakeCluster()
    lost(fake, "pg-node2")
    lost(fake, "witness-node")
    assert of(fake) is None


def test_before_the_members_are_known_nothing_is_decided() -> None:
    fake = FakeCluster()
    members(fake)
    fake.bare("witness-node")
    assert of(fake) is None


def test_a_new_node_is_added_and_nothing_is_removed_for_it() -> None:
    five = [
        *({"name": name, "address": f"10.77.{i}.1"} for i, name in enumerate(NODES, 1)),
        {"name": "node4", "address": "10.77.4.1", "role": "witness"},
        {"name": "node5", "address": "10.77.5.1", "role": "witness"},
    ]
    fake = FakeCluster(three_nodes(nodes=five))
    fake.bare("node4")
    fake.bare("node5")
    members(fake, *(EtcdMember(id=str(i), name=name, started=True) for i, name in enumerate(NODES, 1)))
    assert of(fake) == Replacement("node4", "", "https://10.77.4.1:2380", "pg-node1")


def test_a_member_that_was_added_and_has_not_started_is_not_added_once_more() -> None:
    fake = FakeCluster()
    lost(fake, "witness-node")
    known = [EtcdMember(id="1", name="pg-node1", started=True), EtcdMember(id="2", name="pg-node2", started=True)]
    members(fake, *known, EtcdMember(id="9", peer_urls=(URL,)))
    assert of(fake) == Replacement("witness-node", "9", URL, "pg-node1", added_already=True, runs=True)


def test_a_member_is_recognised_by_its_address_before_its_name() -> None:
    fake = FakeCluster()
    lost(fake, "witness-node")
    known = [EtcdMember(id="1", name="pg-node1", started=True), EtcdMember(id="2", name="pg-node2", started=True)]
    members(fake, *known, EtcdMember(id="7", name="an-old-name", started=True, peer_urls=(URL,)))
    assert of(fake) == Replacement("witness-node", "7", URL, "pg-node1", runs=True)
