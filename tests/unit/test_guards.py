"""Never two voters of etcd, never the last data node that serves; and what is down already may be repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.common.cluster import Cluster
from pgha.common.errors import UserError
from pgha.common.functions import FUNCTIONS
from pgha.common.telemetry import EtcdMember
from pgha.master.adhoc.guards import disrupted, refuse, steady
from pgha.master.simulation.testing import FakeCluster

P1, P2, W = "pg-node1", "pg-node2", "witness-node"
ALL = (P1, P2, W)
HOST = frozenset({"*"})
ETCD = frozenset({"etcd"})
PATRONI = frozenset({"patroni"})
BATCH = "--batch 1"
FORCE = "--force-unsafe"


def five(**sections: Any) -> FakeCluster:
    """Three data nodes and two witnesses; a leads."""
    nodes = [
        {"name": name, "address": f"10.77.1.{index}", "role": "data" if name in "abc" else "witness"}
        for index, name in enumerate("abcde", start=11)
    ]
    cluster = Cluster.model_validate({"cluster": "large", "nodes": nodes, **sections})
    return FakeCluster(cluster, leader="a", etcd_leader="e")


def asked(fake: FakeCluster, disrupts: frozenset[str], at_once: Sequence[str]) -> str:
    return refuse(disrupts, at_once, [fake.health()]) or ""


# ---- what a function takes down


@pytest.mark.parametrize(
    ("function", "arguments", "units"),
    [
        ("ping", (), set()),
        ("cmd", ("systemctl", "restart", "etcd"), {"etcd"}),
        ("cmd", ("sudo", "reboot"), {"*"}),
        ("cmd", ("df", "-h"), set()),
        ("service.stop", ("etcd.service",), {"etcd"}),
        ("service.restart", ("postgresql@17-main",), {"postgresql@17-main"}),
        ("service.stop", ("networking",), {"*"}),
        ("service.start", ("reboot.target",), {"*"}),
        ("service.start", ("etcd",), set()),
        ("service.reload", ("patroni",), set()),
        ("service.status", ("patroni",), set()),
        ("package.upgrade", ("etcd-server",), {"etcd"}),
        ("package.upgrade", ("postgresql-17",), {"patroni", "postgresql"}),
        ("package.upgrade", ("htop",), set()),
    ],
)  # fmt: skip
def test_a_function_says_what_it_takes_down(function: str, arguments: Sequence[str], units: set[str]) -> None:
    assert disrupted(function, arguments) == units


def test_no_function_that_only_reads_takes_anything_down() -> None:
    for function in FUNCTIONS.values():
        if function.query:
            assert disrupted(function.name, ("etcd",)) == frozenset()


def test_an_unknown_function_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="did you mean ping"):
        disrupted("pign", ())


# ---- a healthy cluster


@pytest.mark.parametrize("node", ALL)
@pytest.mark.parametrize("disrupts", [HOST, ETCD, PATRONI])
def test_one_node_of_a_healthy_cluster_may_go(node: str, disrupts: frozenset[str]) -> None:
    assert asked(FakeCluster(), disrupts, [node]) == ""


@pytest.mark.parametrize(
    ("disrupts", "at_once", "words"),
    [
        (ETCD, (P1, P2), "etcd would go down on pg-node1 and pg-node2 at once: 1 of 3 members would be left"),
        (ETCD, ALL, "0 of 3 members"),
        (HOST, (P2, W), "etcd would go down on pg-node2 and witness-node at once"),
        (PATRONI, (P1, P2), "PostgreSQL would go down on pg-node1 and pg-node2 at once: no data node would be left"),
        (frozenset({"postgresql"}), ALL, "no data node would be left that serves"),
        (frozenset({"postgresql@17-main"}), ALL, "no data node would be left that serves"),
    ],
)  # fmt: skip
def test_two_voters_or_all_data_nodes_may_not(disrupts: frozenset[str], at_once: Sequence[str], words: str) -> None:
    reason = asked(FakeCluster(), disrupts, at_once)
    assert reason.startswith("prod: ")
    assert words in reason
    assert BATCH in reason
    assert reason.endswith(FORCE)


@pytest.mark.parametrize("unit", ["haproxy", "chrony", "pgha-minion", "ssh"])
def test_what_neither_votes_nor_holds_data_may_go_everywhere(unit: str) -> None:
    assert asked(FakeCluster(), frozenset({unit}), ALL) == ""


def test_nothing_that_is_taken_down_is_never_refused() -> None:
    fake = FakeCluster()
    for name in ALL:
        fake.silence(name, 60)
    assert asked(fake, frozenset(), ALL) == ""


def test_patroni_may_go_on_the_witness_and_one_data_node() -> None:
    assert asked(FakeCluster(), PATRONI, (P2, W)) == ""


def test_five_voters_still_go_one_at_a_time() -> None:
    reason = asked(five(), ETCD, ("d", "e"))
    assert "etcd would go down on d and e at once: 3 of 5 members would be left, 3 are a majority" in reason
    assert BATCH in reason


def test_of_three_data_nodes_two_replicas_may_go() -> None:
    assert asked(five(), PATRONI, ("b", "c")) == ""
    assert asked(five(), PATRONI, ("a", "b")) == ""
    assert "no data node would be left" in asked(five(), PATRONI, ("a", "b", "c"))


def test_nodes_of_two_clusters_are_judged_apart() -> None:
    healths = [FakeCluster().health(), five().health()]
    assert refuse(HOST, (W, "e"), healths) is None
    reason = refuse(HOST, (P1, P2, "a", "e"), healths) or ""
    assert "prod: etcd would go down on pg-node1 and pg-node2" in reason
    assert "large: etcd would go down on a and e" in reason
    assert reason.count(FORCE) == reason.count(BATCH) == 1


def test_one_at_a_time_is_offered_only_if_it_helps_every_cluster() -> None:
    broken = FakeCluster()
    lost_etcd(broken, W)
    healths = [broken.health(), five().health()]
    for order in (healths, healths[::-1]):
        reason = refuse(ETCD, (P1, P2, "a", "e"), order) or ""
        assert FORCE in reason
        assert BATCH not in reason


def test_of_many_clusters_a_few_are_told() -> None:
    reason = refuse(HOST, ALL, [FakeCluster().health()] * 10) or ""
    assert reason.count("prod: ") == 3
    assert "and 7 more clusters" in reason


def test_a_node_of_no_cluster_is_nobody_s_loss() -> None:
    assert refuse(HOST, ("db-9",), [FakeCluster().health()]) is None
    assert refuse(HOST, ("db-9",), []) is None


# ---- members by name


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("pg-node1", ""),
        ("pg-node2", ""),
        ("the leader", ""),
        ("every member", "no data node would be left"),
    ],
)
def test_patronictl_is_judged_by_the_members_it_names(member: str, words: str) -> None:
    reason = asked(FakeCluster(), frozenset({f"patroni of {member}"}), [W])
    assert words in reason
    assert (reason == "") == (words == "")
    assert BATCH not in reason


def test_a_restart_of_the_same_member_from_every_node_is_one_restart() -> None:
    assert asked(FakeCluster(), frozenset({"patroni of pg-node2"}), ALL) == ""


def test_a_switchover_needs_a_replica_that_may_take_over() -> None:
    fake = FakeCluster()
    fake.change(P2, "patroni", state="stopped")
    assert "no data node would be left" in asked(fake, frozenset({"patroni of the leader"}), [P2])


def test_a_failover_without_a_leader_is_let_through() -> None:
    fake = FakeCluster()
    fake.change(P1, "patroni", role="", state="stopped")
    assert asked(fake, frozenset({"patroni of the leader"}), [P2]) == ""


# ---- a cluster that has lost something


def lost_etcd(fake: FakeCluster, name: str) -> None:
    fake.change(name, "etcd", healthy=False, member_id="", is_leader=False)


def ill_etcd(fake: FakeCluster, name: str) -> None:
    fake.change(name, "etcd", healthy=False, is_leader=False)


def test_a_second_voter_may_not_follow_one_that_is_down() -> None:
    fake = FakeCluster()
    lost_etcd(fake, W)
    reason = asked(fake, ETCD, [P1])
    assert "1 of 3 members would be left, 2 are a majority (witness-node is down)" in reason
    assert BATCH not in reason


def test_a_silent_voter_counts_as_down_when_it_stays() -> None:
    fake = FakeCluster()
    fake.silence(W, 16)
    assert "(witness-node is silent)" in asked(fake, ETCD, [P1])


def test_a_silent_voter_counts_as_up_when_it_goes() -> None:
    fake = FakeCluster()
    lost_etcd(fake, P2)
    fake.silence(W, 16)
    assert "etcd would go down on witness-node: 1 of 3" in asked(fake, ETCD, [W])


@pytest.mark.parametrize("breaks", [lost_etcd, ill_etcd])
def test_the_broken_voter_may_be_restarted(breaks: Callable[[FakeCluster, str], None]) -> None:
    fake = FakeCluster()
    breaks(fake, W)
    assert asked(fake, ETCD, [W]) == ""


def test_without_a_quorum_what_is_broken_may_be_repaired_one_at_a_time() -> None:
    fake = FakeCluster()
    lost_etcd(fake, W)
    ill_etcd(fake, P1)
    ill_etcd(fake, P2)
    assert asked(fake, ETCD, [W]) == asked(fake, ETCD, [P1]) == asked(fake, ETCD, [W, P1]) == ""
    assert BATCH in asked(fake, ETCD, [P1, P2])


def test_the_last_healthy_voter_may_not_go_even_without_a_quorum() -> None:
    fake = FakeCluster()
    lost_etcd(fake, W)
    lost_etcd(fake, P2)
    assert "etcd would go down on pg-node1: 0 of 3" in asked(fake, ETCD, [P1])


def test_a_learner_has_no_vote_to_lose() -> None:
    fake = FakeCluster()
    members = tuple(EtcdMember(id=name, name=name, started=True, learner=name == W) for name in ALL)
    for name in ALL:
        fake.change(name, "etcd", members=members)
    assert asked(fake, ETCD, [W]) == ""
    assert "0 of 2 members would be left" in asked(fake, ETCD, [P1, P2])


def test_the_leader_may_not_go_while_the_replica_is_down() -> None:
    fake = FakeCluster()
    fake.change(P2, "patroni", state="stopped")
    reason = asked(fake, PATRONI, [P1])
    assert "PostgreSQL would go down on pg-node1: no data node would be left that serves (pg-node2 is stopped" in reason
    assert asked(fake, PATRONI, [P2]) == ""


def test_the_leader_may_not_go_while_the_replica_is_silent() -> None:
    fake = FakeCluster()
    fake.silence(P2, 16)
    assert "(pg-node2 is silent)" in asked(fake, PATRONI, [P1])


def test_the_leader_may_not_go_while_the_replica_lags() -> None:
    fake = FakeCluster()
    fake.change(P1, "patroni", wal_bytes=10**9, cluster_members=())
    reason = asked(fake, PATRONI, [P1])
    assert "it leads, and no replica is left that streams with less than 10 MiB of lag" in reason
    assert asked(fake, PATRONI, [P2]) == ""


def test_the_leader_may_not_go_while_patroni_is_paused() -> None:
    fake = FakeCluster()
    fake.change(P1, "patroni", paused=True)
    assert "Patroni is paused" in asked(fake, PATRONI, [P1])
    assert asked(fake, PATRONI, [P2]) == ""


def test_with_no_loss_allowed_a_synchronous_replica_must_be_left() -> None:
    fake = five(rpo="zero")
    assert "no synchronous replica is left" in asked(fake, PATRONI, ["a"])
    fake.change("b", "patroni", role="sync_standby")
    assert asked(fake, PATRONI, ["a"]) == asked(fake, PATRONI, ["b"]) == ""
    assert "no synchronous replica is left" in asked(fake, PATRONI, ["a", "b"])


def test_without_a_leader_nothing_that_serves_may_go() -> None:
    fake = five()
    fake.change("a", "patroni", role="", state="stopped")
    reason = asked(fake, PATRONI, ["b"])
    assert "it is not known who leads" in reason
    assert asked(fake, PATRONI, ["a"]) == ""


def test_where_everything_is_down_everything_may_be_restarted() -> None:
    fake = FakeCluster()
    for name in (P1, P2):
        fake.change(name, "patroni", reachable=False, role="", state="")
    assert asked(fake, PATRONI, ALL) == ""


def test_of_a_silent_cluster_nothing_may_go() -> None:
    fake = FakeCluster()
    for name in ALL:
        fake.silence(name, 16)
    for name in (P1, P2):
        for disrupts in (HOST, ETCD, PATRONI):
            assert asked(fake, disrupts, [name]) != ""


def test_bare_hosts_may_be_rebooted_together() -> None:
    fake = FakeCluster()
    for name in ALL:
        fake.bare(name)
    assert asked(fake, HOST, ALL) == ""


def test_the_only_data_node_goes_by_force_alone() -> None:
    cluster = Cluster.model_validate({"cluster": "one", "nodes": [{"name": P1, "address": "10.77.1.11"}]})
    reason = asked(FakeCluster(cluster), PATRONI, [P1])
    assert "no data node would be left that serves" in reason
    assert BATCH not in reason


# ---- between two batches


def test_a_whole_cluster_lets_the_next_batch_go() -> None:
    assert steady(FakeCluster().health()) == ""


def test_the_next_batch_waits_for_the_replica() -> None:
    fake = FakeCluster()
    fake.change(P2, "patroni", state="starting")
    assert "pg-node2 is starting" in steady(fake.health())


def test_the_next_batch_waits_for_etcd() -> None:
    fake = FakeCluster()
    lost_etcd(fake, W)
    assert "etcd on witness-node is not healthy" in steady(fake.health())


def test_a_sample_from_before_the_change_says_nothing() -> None:
    fake = FakeCluster()
    since = fake.now + 1
    assert steady(fake.health(), [P1, "db-9"], since) == "pg-node1 has not sent telemetry since it was changed"
    fake.later(5)
    assert steady(fake.health(), [P1, "db-9"], since) == ""


def test_bare_hosts_have_nothing_to_wait_for() -> None:
    fake = FakeCluster()
    for name in ALL:
        fake.bare(name)
    assert steady(fake.health()) == ""
    fake.silence(W, 16)
    assert "has sent no telemetry" in steady(fake.health(), [W], fake.now - 20)


# ---- whatever state it is in

STATES = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.sampled_from(["up", "ill", "down", "silent"]),
            st.sampled_from(["streaming", "running", "stopped", "starting", "down"]),
            st.sampled_from(["leader", "replica", "sync_standby", ""]),
        )
        for name in "abcde"
    }
)


def built(states: dict[str, tuple[str, str, str]], synchronous: bool) -> FakeCluster:
    fake = five(rpo="zero") if synchronous else five()
    for name, (etcd, state, role) in states.items():
        if name in "abc":
            fake.change(name, "patroni", state="" if state == "down" else state, role=role, reachable=state != "down")
        if etcd in ("ill", "down"):
            (ill_etcd if etcd == "ill" else lost_etcd)(fake, name)
        if etcd == "silent":
            fake.silence(name, 16)
    return fake


@given(STATES, st.booleans(), st.sets(st.sampled_from("abcde")), st.sampled_from([HOST, ETCD, PATRONI]))
def test_what_is_allowed_leaves_what_a_cluster_lives_of(
    states: dict[str, tuple[str, str, str]], synchronous: bool, at_once: set[str], disrupts: frozenset[str]
) -> None:
    health = built(states, synchronous).health()
    if refuse(disrupts, sorted(at_once), [health]) is not None:
        return
    if disrupts != PATRONI:
        up = {name for name, (etcd, _, _) in states.items() if etcd == "up"}
        assert len(up & at_once) <= 1
        assert not up & at_once or len(up - at_once) >= 3
    if disrupts != ETCD:
        leading = {health.leader} if health.leading and health.leading.state == "running" else set()
        serving = {node.name for node in health.data_nodes if node.streaming} | leading
        assert not serving & at_once or serving - at_once
        if leading & at_once:
            assert any(node.streaming and node.name not in at_once for node in health.data_nodes)


@given(STATES, st.booleans(), st.sets(st.sampled_from("abcde")), st.sets(st.sampled_from("abcde")))
def test_fewer_nodes_are_never_refused_where_more_are_allowed(
    states: dict[str, tuple[str, str, str]], synchronous: bool, some: set[str], more: set[str]
) -> None:
    health = built(states, synchronous).health()
    if refuse(HOST, sorted(some | more), [health]) is None:
        assert refuse(HOST, sorted(some), [health]) is None
