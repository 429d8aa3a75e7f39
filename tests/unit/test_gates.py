"""A gate opens on what is seen and never on what is not; its reason names the node."""

from __future__ import annotations

from functools import partial

import pytest
from pgha.common.telemetry import EtcdMember, PatroniMember
from pgha.master.health.gates import (
    OPEN,
    Closed,
    Gate,
    GateResult,
    all_connected,
    all_seen_since,
    cluster_steady,
    etcd_healthy,
    etcd_quorum,
    every,
    leader_running,
    one_writer_up,
    replica_backend_up,
    replicas_streaming,
    takeover_ready,
)
from pgha.master.simulation.testing import WAL, FakeCluster, three_nodes

NODES = ("pg-node1", "pg-node2", "witness-node")
MIB = 1024**2
STREAMING = partial(replicas_streaming, max_lag_bytes=MIB)
STEADY = partial(cluster_steady, max_lag_bytes=MIB)
GATES: list[Gate] = [
    partial(all_connected, nodes=NODES),
    partial(all_seen_since, nodes=NODES, since=999.0),
    etcd_quorum,
    etcd_healthy,
    leader_running,
    STREAMING,
    one_writer_up,
    replica_backend_up,
    STEADY,
]


def reason(result: GateResult) -> str:
    assert isinstance(result, Closed)
    return result.reason


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_is_open_on_a_whole_cluster(gate: Gate) -> None:
    assert gate(FakeCluster().health()) == OPEN


@pytest.mark.parametrize("gate", GATES)
def test_no_gate_is_open_when_every_node_is_silent(gate: Gate) -> None:
    fake = FakeCluster()
    for name in NODES:
        fake.silence(name, 16)
    assert isinstance(gate(fake.health()), Closed)


@pytest.mark.parametrize("gate", GATES[1:])
def test_no_gate_that_looks_at_a_service_is_open_on_bare_hosts(gate: Gate) -> None:
    fake = FakeCluster(now=998.0)
    for name in NODES:
        fake.bare(name)
    assert isinstance(gate(fake.health()), Closed)


def test_a_minion_that_is_not_connected_is_named() -> None:
    fake = FakeCluster()
    fake.connected["pg-node2"] = False
    assert reason(all_connected(fake.health(), NODES)) == "the minion of pg-node2 is not connected"
    assert all_connected(fake.health(), ("pg-node1",)) == OPEN


def test_a_sample_from_before_the_change_opens_nothing() -> None:
    fake = FakeCluster()
    gate = partial(all_seen_since, nodes=("pg-node1",), since=fake.now)
    assert reason(gate(fake.health())) == "pg-node1 has not sent telemetry since it was changed"
    fake.later(1)
    assert gate(fake.health()) == OPEN


def test_a_gate_of_several_tells_the_first_that_is_closed() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", state="starting")
    fake.writers("witness-node")
    both = every(etcd_healthy, leader_running, one_writer_up)
    assert reason(both(fake.health())) == "the leader pg-node1 is starting, not running"


def test_a_quorum_is_more_than_half_of_the_members() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "etcd", healthy=False)
    assert etcd_quorum(fake.health()) == OPEN
    fake.silence("pg-node2", 20)
    told = reason(etcd_quorum(fake.health()))
    assert told == "etcd: 1 of 3 members healthy (pg-node1 unhealthy, pg-node2 unknown, witness-node follower)"


def test_one_unhealthy_member_keeps_etcd_from_being_whole() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, error="etcd does not answer: refused")
    assert reason(etcd_healthy(fake.health())) == "etcd on witness-node is not healthy: etcd does not answer: refused"


def test_an_election_closes_the_gate() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "etcd", is_leader=False)
    assert reason(etcd_healthy(fake.health())) == "etcd has 0 leaders (an election is on)"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ((), "etcd has not told its list of members yet"),
        (
            (EtcdMember(id="1", name="pg-node1", started=True), EtcdMember(id="2", name="pg-node2", started=True)),
            "etcd's members: missing witness-node",
        ),
        (
            tuple(EtcdMember(id=n, name=n, started=True) for n in (*NODES, "old-node")),
            "etcd's members: unexpected old-node",
        ),
        (
            (EtcdMember(id="a1", peer_urls=("https://10.77.4.14:2380",)),),
            "etcd member a1 (https://10.77.4.14:2380) has been added and not started yet",
        ),
    ],
)
def test_the_membership_must_be_the_definitions(members: tuple[EtcdMember, ...], told: str) -> None:
    fake = FakeCluster()
    for name in NODES:
        fake.change(name, "etcd", members=members)
    assert reason(etcd_healthy(fake.health())) == told


def test_without_a_leader_the_reason_tells_what_each_data_node_does() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", role="replica", state="starting")
    fake.silence("pg-node2", 20)
    told = reason(leader_running(fake.health()))
    assert told == "no leader yet: pg-node1 is starting; pg-node2 has sent no telemetry for 20 s"
    assert reason(STREAMING(fake.health())) == told


def test_a_second_leader_closes_the_gate() -> None:
    fake = FakeCluster()
    health = fake.health()
    fake.later(5)
    fake.change("pg-node2", "patroni", role="leader", state="running", timeline=6)
    assert reason(leader_running(fake.health(health))) == "pg-node2 says it is the leader, and pg-node1 does, too"


@pytest.mark.parametrize(
    ("update", "told"),
    [
        ({"state": "creating replica"}, "pg-node2 is creating replica, not streaming yet"),
        ({"state": "running"}, "pg-node2 is running as a replica, not streaming yet"),
        ({"state": "in archive recovery"}, "pg-node2 is in archive recovery, not streaming yet"),
        ({"state": "", "role": ""}, "pg-node2 is down, not streaming yet"),
        ({"timeline": 6}, "pg-node2 is on timeline 6, the leader pg-node1 on 7"),
        ({"timeline": None}, "the timeline of pg-node2 is not known yet"),
        ({"replayed_bytes": None}, "the lag of pg-node2 is not known yet"),
        ({"replayed_bytes": WAL - MIB - 1}, "pg-node2 lags 1048577 bytes, at most 1048576 are allowed"),
    ],
)
def test_a_replica_must_stream_on_the_leaders_timeline_and_keep_up(update: dict[str, object], told: str) -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", **update)
    assert reason(STREAMING(fake.health())) == told
    assert reason(STEADY(fake.health())) == told


def test_a_lag_at_the_limit_is_allowed() -> None:
    fake = FakeCluster()
    behind = (PatroniMember(name="pg-node2", role="replica", state="streaming", lag_bytes=MIB),)
    fake.change("pg-node1", "patroni", wal_bytes=WAL + MIB, cluster_members=behind)
    assert STREAMING(fake.health()) == OPEN


def test_a_synchronous_replica_is_a_replica() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", role="sync_standby")
    assert STREAMING(fake.health()) == OPEN


@pytest.mark.parametrize(
    ("writers", "told"),
    [
        ((), "HAProxy on witness-node has no server up for writes, one is wanted"),
        (
            ("pg-node1", "pg-node2"),
            "HAProxy on witness-node has 2 servers (pg-node1, pg-node2) up for writes, one is wanted",
        ),
        (("pg-node2",), "HAProxy on witness-node sends writes to pg-node2, the leader is pg-node1"),
    ],
)
def test_each_proxy_must_have_the_leader_as_its_one_writer(writers: tuple[str, ...], told: str) -> None:
    fake = FakeCluster()
    fake.writers("witness-node", *writers)
    assert reason(one_writer_up(fake.health())) == told


def test_each_proxy_must_have_somebody_to_read_from() -> None:
    fake = FakeCluster()
    fake.writers("pg-node1", "pg-node1", "pg-node2")
    assert reason(replica_backend_up(fake.health())) == "HAProxy on pg-node1 has no server up for reads"


def test_a_dead_haproxy_closes_the_gate_with_its_error() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "haproxy", error="HAProxy does not answer on /run/haproxy/admin.sock")
    told = "pg-node1: HAProxy does not answer on /run/haproxy/admin.sock"
    assert (reason(one_writer_up(fake.health())), reason(replica_backend_up(fake.health()))) == (told, told)


def test_a_cluster_that_may_lose_nothing_is_not_steady_until_a_replica_is_synchronous() -> None:
    fake = FakeCluster(three_nodes(rpo="zero"))
    fake.change("pg-node2", "patroni", role="replica")
    assert "no replica is synchronous yet" in reason(takeover_ready(fake.health()))
    assert "no replica is synchronous yet" in reason(STEADY(fake.health()))
    assert fake.health().verdict != "healthy"
    fake.change("pg-node2", "patroni", role="sync_standby")
    assert STEADY(fake.health()) == OPEN
    assert fake.health().verdict == "healthy"


def test_a_cluster_that_accepts_some_loss_needs_no_synchronous_replica() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", role="replica")
    assert takeover_ready(fake.health()) == OPEN
