"""Who leads, what is lost, what is wrong: from samples alone."""

from __future__ import annotations

import json

import pytest
from pgha.common.telemetry import CertificateSample, EtcdMember, PatroniMember
from pgha.master.health.health import ClusterHealth, view
from pgha.master.simulation.testing import UNIX, WAL, FakeCluster, three_nodes


def texts(health: ClusterHealth, severity: str = "") -> list[str]:
    return [f.text for f in health.findings if severity in ("", f.severity)]


def test_a_whole_cluster_is_healthy_and_finds_nothing() -> None:
    health = FakeCluster().health()
    assert (health.verdict, health.findings, health.leader) == ("healthy", (), "pg-node1")


def test_the_status_holds_exactly_what_is_promised() -> None:
    status = json.loads(json.dumps(view(FakeCluster().health())))
    assert list(status) == [
        "cluster", "verdict", "as_of_s", "postgresql", "patroni", "etcd", "timeline", "leader", "leader_since", "rpo",
        "nodes", "quorum", "backup", "findings",
    ]  # fmt: skip
    assert (status["postgresql"], status["patroni"], status["etcd"]) == ("17.12", "4.0.7", "3.5.16")
    assert status["rpo"] == {"now_bytes": 0, "objective_bytes": 1024**2}
    assert status["quorum"] == {"voters": 3, "healthy": 3, "tolerates": 1}
    assert status["nodes"][1] == {
        "name": "pg-node2", "region": "us-east", "role": "replica", "state": "streaming", "lag_bytes": 0,
        "timeline": 7, "etcd": "leader", "haproxy_rw": "up->pg-node1", "haproxy_ro": "up->pg-node2", "minion": "ok",
        "seen_s": 0.0, "cert_days": None, "disk_percent": 41,
    }  # fmt: skip
    assert status["nodes"][2]["role"] == "witness"
    assert status["nodes"][2]["state"] == "-"


def test_without_any_fresh_sample_nothing_is_known() -> None:
    fake = FakeCluster()
    for node in fake.cluster.nodes:
        fake.silence(node.name, 16)
    health = fake.health()
    assert (health.verdict, health.leader, health.quorum.healthy) == ("unknown", "", 0)
    assert len(health.findings) == 3


def test_bare_hosts_are_not_built_rather_than_broken() -> None:
    fake = FakeCluster()
    for node in fake.cluster.nodes:
        fake.bare(node.name)
    health = fake.health()
    assert (health.verdict, health.findings) == ("not built", ())


def test_a_cluster_that_is_half_built_is_no_lost_leader() -> None:
    fake = FakeCluster()
    for name in ("pg-node1", "pg-node2"):
        fake.samples[name] = (fake.now, fake.sample(name).model_copy(update={"patroni": None}))
    assert "pg-node1 has no Patroni yet" in texts(fake.health())
    assert not [text for text in texts(fake.health()) if "no leader" in text]


@pytest.mark.parametrize(("age", "fresh"), [(15.0, True), (15.1, False)])
def test_a_sample_counts_for_three_intervals(age: float, fresh: bool) -> None:
    fake = FakeCluster()
    fake.silence("pg-node2", age)
    assert fake.health().node("pg-node2").fresh is fresh


def test_an_isolated_nodes_view_of_the_cluster_makes_nobody_the_leader() -> None:
    fake = FakeCluster()
    stale_view = (PatroniMember(name="pg-node1", role="leader", state="running"),)
    fake.change("pg-node1", "patroni", role="replica", state="running", cluster_members=stale_view)
    fake.change("pg-node2", "patroni", cluster_members=stale_view)
    assert fake.health().leader == ""


def test_a_silent_leader_is_not_the_leader_once_its_sample_is_stale() -> None:
    fake = FakeCluster()
    fake.silence("pg-node1", 20)
    health = fake.health()
    assert health.leader == ""
    assert "the leader is probably pg-node1: the proxies send writes there" in texts(health, "warning")
    assert health.verdict == "degraded"


def test_a_silent_leader_that_the_proxies_lost_too_is_critical() -> None:
    fake = FakeCluster()
    fake.silence("pg-node1", 20)
    for name in ("pg-node2", "witness-node"):
        fake.writers(name)
    health = fake.health()
    assert "no leader: no data node says that it leads" in texts(health, "critical")
    assert health.verdict == "critical"


def promote_node2(fake: FakeCluster) -> None:
    fake.change("pg-node2", "patroni", role="leader", state="running", timeline=8, wal_bytes=WAL)


def test_after_a_switchover_an_old_claim_is_no_second_leader() -> None:
    fake = FakeCluster()
    before = fake.health()
    fake.now += 3
    promote_node2(fake)
    after = fake.health(before)
    assert (after.leader, after.rivals) == ("pg-node2", ())


def test_two_nodes_that_go_on_saying_they_lead_are_critical_at_every_look() -> None:
    fake = FakeCluster()
    health = fake.health()
    fake.now += 3
    promote_node2(fake)
    health = fake.health(health)
    for node in ("pg-node1", "pg-node2", "pg-node1"):
        fake.now += 4
        fake.samples[node] = (fake.now, fake.sample(node))
        health = fake.health(health)
        assert (health.leader, health.rivals, health.verdict) == ("pg-node2", ("pg-node1",), "critical")
    assert any("more than one node says it is the leader: pg-node2, pg-node1" in t for t in texts(health, "critical"))


def test_a_crashed_old_primary_is_no_second_leader() -> None:
    fake = FakeCluster()
    health = fake.health()
    fake.now += 3
    promote_node2(fake)
    health = fake.health(health)
    fake.later(5)
    fake.change("pg-node1", "patroni", state="crashed", timeline=None, wal_bytes=None)
    health = fake.health(health)
    assert (health.leader, health.rivals) == ("pg-node2", ())


def test_since_when_it_leads_comes_from_patronis_history() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", leader_since=UNIX - 60)
    assert view(fake.health())["leader_since"] == "2027-01-15T07:59:00Z"


def test_since_when_it_leads_is_unknown_on_a_first_look_and_known_after_a_change() -> None:
    fake = FakeCluster()
    first = fake.health()
    assert first.leader_since is None
    fake.now += 3
    promote_node2(fake)
    second = fake.health(first)
    assert second.leader_since == UNIX
    fake.later(30)
    fake.change("pg-node1", "patroni", role="replica", state="streaming", timeline=8)
    assert fake.health(second).leader_since == UNIX


def test_the_lag_is_what_the_replica_has_not_replayed() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", replayed_bytes=WAL - 500, received_bytes=WAL)
    health = fake.health()
    assert health.node("pg-node2").lag_bytes == 500
    assert (health.node("pg-node1").lag_bytes, health.rpo_now_bytes) == (None, 500)


def test_a_leader_sample_that_is_younger_than_the_replicas_is_not_taken_for_lag() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", wal_bytes=WAL + 10**8)
    assert fake.health().node("pg-node2").lag_bytes == 0


def test_what_waits_for_replay_is_lag_although_it_is_received() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", wal_bytes=WAL + 10**8)
    fake.change("pg-node2", "patroni", replayed_bytes=WAL - 10**7)
    assert fake.health().node("pg-node2").lag_bytes == 10**7


def test_a_replica_that_was_ahead_when_the_leader_was_looked_at_has_no_negative_lag() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", received_bytes=WAL + 10, replayed_bytes=WAL + 10)
    assert fake.health().node("pg-node2").lag_bytes == 0


def test_without_a_leader_there_is_no_lag_to_tell() -> None:
    fake = FakeCluster()
    fake.silence("pg-node1", 20)
    health = fake.health()
    assert (health.node("pg-node2").lag_bytes, health.rpo_now_bytes) == (None, None)


def test_a_lag_beyond_the_limit_of_failover_degrades() -> None:
    fake = FakeCluster()
    behind = (PatroniMember(name="pg-node2", role="replica", state="streaming", lag_bytes=2 * 1024**2),)
    fake.change("pg-node1", "patroni", wal_bytes=WAL + 2 * 1024**2, cluster_members=behind)
    health = fake.health()
    assert health.verdict == "degraded"
    assert texts(health) == ["pg-node2 lags 2097152 bytes, more than the 1048576 within which it may take over"]


def test_a_lost_etcd_member_degrades_and_a_lost_quorum_is_critical() -> None:
    fake = FakeCluster()
    fake.change("witness-node", "etcd", healthy=False, member_id="", error="etcd does not answer: refused")
    health = fake.health()
    assert (health.verdict, health.quorum.healthy, health.quorum.tolerates) == ("degraded", 2, 0)
    assert texts(health) == ["etcd on witness-node is down: etcd does not answer: refused"]
    for name in ("pg-node1", "pg-node2"):
        fake.change(name, "etcd", healthy=False, is_leader=False)
    health = fake.health()
    assert health.verdict == "critical"
    assert "etcd has no quorum: pg-node1 unhealthy, pg-node2 unhealthy, witness-node down" in texts(health)


def test_silent_minions_do_not_make_a_quorum_lost_that_a_member_can_still_read_through() -> None:
    fake = FakeCluster()
    fake.silence("pg-node2", 20)
    fake.silence("witness-node", 20)
    health = fake.health()
    assert health.quorum.healthy < health.quorum.majority
    assert not [text for text in texts(health) if "quorum" in text]


def test_a_member_that_was_added_and_never_started_counts_as_a_voter() -> None:
    fake = FakeCluster()
    fourth = EtcdMember(id="a1", peer_urls=("https://10.77.4.14:2380",))
    etcd = fake.sample("pg-node2").etcd
    assert etcd is not None
    fake.change("pg-node2", "etcd", members=(*etcd.members, fourth))
    health = fake.health()
    assert (health.quorum.voters, health.quorum.tolerates) == (4, 0)
    assert "etcd member a1 (https://10.77.4.14:2380) has been added and never started" in texts(health)


@pytest.mark.parametrize(
    ("writers", "shown", "text", "verdict"),
    [
        (("pg-node1",), "up->pg-node1", "", "healthy"),
        ((), "none", "HAProxy on witness-node sees no server to send writes to", "degraded"),
        (
            ("pg-node2",),
            "up->pg-node2",
            "HAProxy on witness-node sends writes to pg-node2, the leader is pg-node1",
            "degraded",
        ),
        (
            ("pg-node1", "pg-node2"),
            "2 up!",
            "HAProxy on witness-node sends writes to several servers: pg-node1, pg-node2",
            "critical",
        ),
    ],
)
def test_every_proxy_must_send_writes_to_the_leader_alone(
    writers: tuple[str, ...], shown: str, text: str, verdict: str
) -> None:
    fake = FakeCluster()
    fake.writers("witness-node", *writers)
    health = fake.health()
    assert view(health)["nodes"][2]["haproxy_rw"] == shown
    assert texts(health) == ([text] if text else [])
    assert health.verdict == verdict


def test_a_dead_haproxy_is_down_and_one_of_a_silent_node_unknown() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "haproxy", backends=(), error="HAProxy does not answer")
    fake.silence("pg-node2", 60)
    rows = view(fake.health())["nodes"]
    assert [row["haproxy_rw"] for row in rows] == ["down", "unknown", "up->pg-node1"]
    assert [row["minion"] for row in rows] == ["ok", "offline", "ok"]


def test_a_replica_that_does_not_stream_is_named_with_its_error() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", reachable=False, role="", state="", error="Patroni does not answer: refused")
    health = fake.health()
    assert health.verdict == "degraded"
    assert texts(health) == [
        "no replica streams: pg-node1 holds the only current copy",
        "pg-node2 does not stream from the leader, it is down: Patroni does not answer: refused",
    ]


def test_a_replica_left_on_an_old_timeline_is_found_although_it_streams() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", timeline=6)
    assert texts(fake.health()) == ["pg-node2 is on timeline 6, the leader on 7"]


@pytest.mark.parametrize("state", ["starting", "crashed", ""])
def test_a_leader_whose_postgresql_does_not_run_is_critical(state: str) -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", state=state)
    assert fake.health().verdict == "critical"


def test_a_leader_that_has_not_reached_etcd_for_its_lease_is_critical() -> None:
    fake = FakeCluster()
    fake.change("pg-node1", "patroni", dcs_last_seen_s=31.0)
    assert texts(fake.health(), "critical") == ["Patroni on the leader pg-node1 last reached etcd 31 s ago"]


def test_a_paused_patroni_degrades_and_says_how_to_go_on() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", paused=True)
    (finding,) = fake.health().findings
    assert finding.degrades
    assert finding.fix.endswith("resume")


def test_what_will_only_need_a_person_some_day_leaves_the_cluster_healthy() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", pending_restart=True)
    fake.change("witness-node", "host", disk_percent=86.0, clock_synchronised=False)
    health = fake.health()
    assert health.verdict == "healthy"
    assert len(health.findings) == 3


def test_what_an_apply_mends_is_advised_as_one() -> None:
    """Of all documents: with pki alone no service is told to read its new certificate."""
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", pending_restart=True)
    ends = (CertificateSample(path="x", not_after=UNIX + 2 * 86400),)
    fake.samples["pg-node1"] = (fake.now, fake.sample("pg-node1").model_copy(update={"certificates": ends}))
    assert [finding.fix for finding in fake.health().findings] == ["pgha-master apply prod"] * 2


@pytest.mark.parametrize(
    ("days", "severity", "text"),
    [
        (13.5, "warning", "a certificate on pg-node1 ends in 13 days"),
        (2.5, "critical", "a certificate on pg-node1 ends in 2 days"),
        (-0.5, "critical", "a certificate on pg-node1 has ended"),
    ],
)
def test_the_certificate_that_ends_first_counts(days: float, severity: str, text: str) -> None:
    fake = FakeCluster()
    certificates = tuple(CertificateSample(path=str(d), not_after=UNIX + d * 86400) for d in (60.0, days))
    fake.samples["pg-node1"] = (fake.now, fake.sample("pg-node1").model_copy(update={"certificates": certificates}))
    assert texts(fake.health(), severity) == [text]


def test_zero_loss_is_the_objective_when_the_definition_says_so() -> None:
    status = view(FakeCluster(three_nodes(rpo="zero")).health())
    assert status["rpo"]["objective_bytes"] == 0


def test_a_node_without_any_sample_and_without_a_connection_is_a_finding() -> None:
    fake = FakeCluster()
    del fake.samples["witness-node"]
    del fake.connected["witness-node"]
    health = fake.health()
    assert texts(health) == ["witness-node has not sent telemetry yet; its minion is not connected"]
    assert view(health)["nodes"][2]["seen_s"] is None
