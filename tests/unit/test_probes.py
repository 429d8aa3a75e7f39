"""Each probe turns what a daemon really says into a sample, and a silent daemon into an error, never an exception."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pgha.common.errors import HostError
from pgha.common.telemetry import TEXT_LIMIT, EtcdSample, HaproxySample, PatroniSample, Sample
from pgha.master.simulation.simulated import bare_facts
from pgha.master.simulation.testing import three_nodes
from pgha.minion.probes import certificates, etcd, haproxy, host, patroni, units
from pgha.minion.telemetry import SLOW_EVERY, Sampler, changed
from pgha.states.document import Context
from pgha.states.documents import etcd as etcd_document
from pgha.states.render import to_yaml
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem
from pydantic import ValidationError

NOW = 1_800_000_000.0

LEADER = {
    "state": "running",
    "postmaster_start_time": "2026-11-20 09:14:02.123456+00:00",
    "role": "primary",
    "server_version": 170012,
    "xlog": {"location": 67108960},
    "timeline": 7,
    "replication": [{"usename": "replicator", "application_name": "pg-node2", "state": "streaming"}],
    "dcs_last_seen": NOW - 4,
    "database_system_identifier": "7400000000000000000",
    "patroni": {"version": "4.0.7", "scope": "prod", "name": "pg-node1"},
}
REPLICA = {
    "state": "running",
    "role": "replica",
    "server_version": 170012,
    "xlog": {"received_location": 67108960, "replayed_location": 67108000, "paused": False},
    "timeline": 7,
    "replication_state": "streaming",
    "sync_standby": True,
    "pause": True,
    "pending_restart": True,
    "dcs_last_seen": NOW,
    "patroni": {"version": "4.0.7", "scope": "prod", "name": "pg-node2"},
}
CLUSTER = {
    "members": [
        {"name": "pg-node1", "role": "leader", "state": "running", "timeline": 7},
        {"name": "pg-node2", "role": "sync_standby", "state": "streaming", "timeline": 7, "lag": 512},
        {"name": "pg-node3", "role": "replica", "state": "stopped", "lag": "unknown"},
    ],
    "scope": "prod",
}
HISTORY = [[6, 25623960, "no recovery target specified", "2026-11-20T09:14:00+00:00", "pg-node1"]]

CRASHED = {"state": "crashed", "role": "primary", "dcs_last_seen": NOW, "patroni": {"version": "4.0.7"}}

METRICS = """\
# HELP etcd_server_has_leader Whether or not a leader exists. 1 is existence, 0 is not.
# TYPE etcd_server_has_leader gauge
etcd_server_has_leader 1
etcd_server_id{server_id="8e9e05c52164694d"} 1
etcd_server_is_leader 1
etcd_server_version{server_version="3.5.16"} 1
etcd_mvcc_db_total_size_in_bytes 2.0480e+04
etcd_mvcc_db_total_size_in_use_in_bytes 1.6384e+04
"""
MEMBERS = {
    "header": {"cluster_id": 1, "member_id": 10276657743932975437, "raft_term": 2},
    "members": [
        {"ID": 10276657743932975437, "name": "pg-node1", "peerURLs": ["https://10.77.1.11:2380"]},
        {"ID": 17, "name": "", "peerURLs": ["https://10.77.3.13:2380"]},
    ],
}
ETCDCTL = (
    "etcdctl",
    "--endpoints=https://127.0.0.1:2379",
    "--cacert=/etc/etcd/tls/ca.crt",
    "--cert=/etc/etcd/tls/etcd-server.crt",
    "--key=/etc/etcd/tls/etcd-server.key",
    "--command-timeout=2s",
    "--dial-timeout=2s",
    "member",
    "list",
    "-w",
    "json",
)
HEALTH = "http://127.0.0.1:2381/health"
SYSTEMCTL = ("systemctl", "show", "-p", "LoadState", "-p", "ActiveState", *(f"{u}.service" for u in units.UNITS))


def stats(writer: str = "pg-node1") -> str:
    """HAProxy 3.0's answer, with the columns that matter among some of the 100 others."""
    rows = ["# pxname,svname,qcur,status,check_status,last_chk,"]
    for server in ("pg-node1", "pg-node2"):
        primary = "UP,L7OK" if server == writer else "DOWN,L7STS"
        replica = "DOWN,L7STS" if server == writer else "UP 2/3,* L7OK"
        rows.append(f'pg_primary_nodes,{server},0,{primary},"HTTP status, checked",')
        rows.append(f"pg_replica_nodes,{server},0,{replica},,")
    rows += ["pg_primary_nodes,BACKEND,0,UP,,,", "pg_writes,FRONTEND,,OPEN,,,", "stats,BACKEND,0,UP,,,"]
    return "Name: HAProxy\nVersion: 3.0.11-1+deb13u5\nUptime: 0d 1h\n\n" + "\n".join(rows) + "\n\n"


@dataclass
class Node(FakeSystem):
    """A host whose Patroni answers from `rest`; `asked` counts what costs something."""

    rest: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def patroni(self, path: str) -> tuple[int, str]:
        self.asked.append(path)
        return self.rest.get(path, (0, "connection refused"))

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        self.asked.append(argv[0])
        return super().ask(argv, stdin=stdin, timeout_s=timeout_s)

    def say(self, own: dict[str, object]) -> None:
        self.rest["/patroni"] = (200, json.dumps(own))


def built() -> Node:
    node = Node(clock=NOW)
    for path, content in {
        etcd.CONFIG: "name: pg-node1\ndata-dir: /var/lib/etcd/pgha\n",
        "/var/lib/etcd/pgha/member/wal/0.wal": "",
        patroni.CONFIG: "",
        haproxy.CONFIG: "backend pg_primary_nodes\n",
        "/var/lib/postgresql/17/main/PG_VERSION": "17\n",
    }.items():
        node.files[path] = FileFacts("file", content)
    node.pages = {HEALTH: (200, '{"health":"true","reason":""}'), "http://127.0.0.1:2381/metrics": (200, METRICS)}
    node.sockets = {(haproxy.SOCKET, "show info;show stat\n"): stats()}
    node.answers = {
        ETCDCTL: Output(0, json.dumps(MEMBERS)),
        etcd.JOURNAL: Output(0),
        SYSTEMCTL: Output(0, "LoadState=loaded\nActiveState=active\n\nLoadState=loaded\nActiveState=failed\n"),
    }
    node.say(LEADER)
    node.rest["/cluster"] = (200, json.dumps(CLUSTER))
    node.rest["/history"] = (200, json.dumps(HISTORY))
    return node


def patroni_of(node: Node) -> PatroniSample:
    sample = patroni.probe(node)
    assert sample is not None
    return sample


def etcd_of(node: Node) -> EtcdSample:
    sample = etcd.probe(node)
    assert sample is not None
    return sample


def test_a_bare_host_has_none_of_the_daemons() -> None:
    bare = FakeSystem()
    assert (etcd.probe(bare), patroni.probe(bare), haproxy.probe(bare)) == (None, None, None)


def test_the_leader_tells_its_wal_position_and_since_when_it_leads() -> None:
    sample = patroni_of(built())
    assert (sample.role, sample.state, sample.timeline, sample.wal_bytes) == ("leader", "running", 7, 67108960)
    assert sample.leader_since == datetime(2026, 11, 20, 9, 14, tzinfo=timezone.utc).timestamp()
    assert (sample.version, sample.server_version, sample.dcs_last_seen_s) == ("4.0.7", 170012, 4.0)


def test_the_history_of_another_timeline_does_not_date_this_one() -> None:
    assert patroni.from_history(json.dumps(HISTORY), 8) is None
    assert patroni.from_history("[]", 1) is None
    assert patroni.from_history('[[6, 1, "reason"]]', 7) is None
    assert patroni.from_history("no JSON", 7) is None


def test_a_synchronous_replica_tells_that_it_streams_and_what_it_replayed() -> None:
    node = built()
    node.say(REPLICA)
    sample = patroni_of(node)
    assert (sample.role, sample.state, sample.lag_bytes) == ("sync_standby", "streaming", 512)
    assert (sample.received_bytes, sample.replayed_bytes, sample.wal_bytes) == (67108960, 67108000, None)
    assert (sample.paused, sample.pending_restart) == (True, True)


def test_an_unknown_lag_is_not_zero() -> None:
    assert [m.lag_bytes for m in patroni.from_cluster(json.dumps(CLUSTER))] == [None, 512, None]


@pytest.mark.parametrize(
    ("own", "role", "state"),
    [
        ({"role": "master", "state": "running"}, "leader", "running"),
        ({"role": "replica", "state": "creating replica"}, "replica", "creating replica"),
        ({"role": "replica", "state": "running", "quorum_standby": True}, "quorum_standby", "running"),
        ({"role": "replica", "state": "stopped", "replication_state": "streaming"}, "replica", "stopped"),
        ({"role": "uninitialized", "state": "stopped"}, "", "stopped"),
        ({}, "", ""),
    ],
)
def test_roles_and_states_of_all_patroni_versions_become_one_vocabulary(
    own: dict[str, object], role: str, state: str
) -> None:
    sample = patroni.from_own(own, NOW)
    assert (sample.role, sample.state) == (role, state)


def test_a_silent_patroni_is_a_sample_with_an_error() -> None:
    node = built()
    node.rest.clear()
    sample = patroni_of(node)
    assert not sample.reachable
    assert sample.error == "Patroni does not answer: connection refused"


def test_a_crashed_primary_still_calls_itself_the_leader_without_a_timeline() -> None:
    sample = patroni.from_own(CRASHED, NOW)
    assert (sample.role, sample.state, sample.timeline, sample.wal_bytes) == ("leader", "crashed", None, None)


def test_an_answer_that_is_no_json_is_an_error_and_no_exception() -> None:
    node = built()
    node.rest["/patroni"] = (502, "<html>")
    assert patroni_of(node).error == "Patroni answers 502 and no JSON on /patroni"


def test_etcd_tells_its_id_in_hex_and_who_has_not_started() -> None:
    sample = etcd_of(built())
    assert sample.healthy
    assert (sample.member_id, sample.leader_id, sample.is_leader) == ("8e9e05c52164694d", "8e9e05c52164694d", True)
    assert (sample.version, sample.db_bytes, sample.data_present) == ("3.5.16", 20480, True)
    assert [(m.id, m.name, m.started) for m in sample.members] == [
        ("8e9e05c52164694d", "pg-node1", True),
        ("11", "", False),
    ]


def test_etcd_without_quorum_is_unhealthy_and_etcdctl_is_not_started() -> None:
    node = built()
    node.pages[HEALTH] = (503, '{"health":"false","reason":"RAFT NO LEADER"}')
    sample = etcd_of(node)
    assert not sample.healthy
    assert sample.error == "etcd is not healthy: RAFT NO LEADER"
    assert "etcdctl" not in node.asked


def test_what_a_refused_start_of_etcd_leaves_behind_is_no_data_of_a_member() -> None:
    node = built()
    del node.files["/var/lib/etcd/pgha/member/wal/0.wal"]
    node.files["/var/lib/etcd/pgha/member/snap/db"] = FileFacts("file", "")
    node.files["/var/lib/etcd/pgha/member/wal/0.tmp"] = FileFacts("file", "")
    assert not etcd_of(node).data_present


def test_an_alarm_of_etcd_is_named() -> None:
    node = built()
    node.pages[HEALTH] = (503, '{"health":"false","reason":"ALARM NOSPACE"}')
    assert etcd_of(node).alarms == ("NOSPACE",)


def test_a_dead_etcd_says_so_and_keeps_the_members_known_before() -> None:
    node = built()
    known = etcd_of(node).members
    node.pages.clear()
    sample = etcd.probe(node, known)
    assert sample == EtcdSample(data_present=True, members=known, error="etcd does not answer: connection refused")


REMOVED = '{"level":"warn","msg":"server error","error":"the member has been permanently removed from the cluster"}'
GARBLED = '{"level":"fatal","msg":"discovery failed","error":"walpb: crc mismatch","stacktrace":"go.etcd.io/etcd"}'
MISREAD = (
    '{"level":"fatal","msg":"discovery failed","error":"proto: illegal wireType 6","stacktrace":"go.etcd.io/etcd"}'
)
TRUNCATED = "panic: tocommit(42) is out of range [lastIndex(15)]. Was the raft log corrupted, truncated, or lost?"
HEADLESS = "panic: cannot use none as id"
NO_DATABASE = '{"level":"panic","msg":"failed to open database","path":"/p/db","error":"invalid database"}'
FORGOTTEN = '{"level":"fatal","msg":"discovery failed","error":"member 37e9bc8b4bf9f442 has already been bootstrapped"}'
NOT_ALLOWED = '{"level":"panic","msg":"failed to open database","path":"/p/db","error":"permission denied"}'
PEER_DOWN = '{"level":"warn","msg":"prober detected unhealthy status","error":"connection refused"}'


def starts(*ends: str) -> str:
    """The journal of so many starts of etcd, each with its last words; one more is under way."""
    return "".join(f"Starting etcd.service - etcd...\n{end}\n" for end in (*ends, ""))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (REMOVED, "the member has been permanently removed from the cluster"),
        (GARBLED, "crc mismatch"),
        (MISREAD, "proto: illegal wireType 6"),
        (TRUNCATED, "Was the raft log corrupted, truncated, or lost?"),
        (HEADLESS, "cannot use none as id"),
        (NO_DATABASE, "invalid database"),
        (FORGOTTEN, "member 37e9bc8b4bf9f442 has already been bootstrapped"),
    ],
)
def test_a_member_that_cannot_go_on_with_its_data_says_so_in_etcds_words(words: str, said: str) -> None:
    node = built()
    node.pages.clear()
    node.answers[etcd.JOURNAL] = Output(0, starts(PEER_DOWN, words, words))
    sample = etcd_of(node)
    assert sample.lost == said
    assert sample.data_present
    assert sample.error == f"it cannot go on with its data: {said}"


@pytest.mark.parametrize(
    "journal",
    [
        "",
        starts(PEER_DOWN, PEER_DOWN),
        starts(NOT_ALLOWED, NOT_ALLOWED),
        starts(GARBLED),
        starts(GARBLED, REMOVED),
        starts(f"{TRUNCATED}\n{TRUNCATED}"),
        starts(REMOVED, REMOVED, "ready to serve client requests"),
    ],
    ids=["nothing", "peers down", "not allowed", "once", "two reasons", "twice in one start", "well since then"],
)
def test_a_member_that_does_not_start_for_any_other_reason_is_not_lost(journal: str) -> None:
    assert etcd.lost_words(journal) == ""


def test_a_member_that_was_removed_is_lost_also_while_it_answers_for_a_moment() -> None:
    node = built()
    node.answers[etcd.JOURNAL] = Output(0, starts(REMOVED, REMOVED))
    node.pages[HEALTH] = (503, '{"health":"false","reason":"RAFT NO LEADER"}')
    assert etcd_of(node).lost == "the member has been permanently removed from the cluster"


def test_the_journal_of_a_healthy_member_is_not_read() -> None:
    node = built()
    node.answers[etcd.JOURNAL] = Output(0, starts(REMOVED, REMOVED))
    assert etcd_of(node).lost == ""
    assert "journalctl" not in node.asked


def test_a_journal_that_cannot_be_read_says_nothing() -> None:
    node = built()
    node.pages.clear()
    node.answers[etcd.JOURNAL] = Output(1, starts(REMOVED, REMOVED))
    assert etcd_of(node).lost == ""


def test_etcdctl_that_fails_leaves_the_members_unknown() -> None:
    node = built()
    node.answers[ETCDCTL] = Output(1, "", "context deadline exceeded")
    assert etcd_of(node).members == ()


def test_haproxy_tells_who_gets_writes_and_who_gets_reads() -> None:
    sample = haproxy.probe(built())
    assert sample is not None
    assert sample.version == "3.0.11-1+deb13u5"
    up = {(b.name, b.server) for b in sample.backends if b.up}
    assert up == {("pg_primary_nodes", "pg-node1"), ("pg_replica_nodes", "pg-node2")}
    assert {b.check for b in sample.backends} == {"L7OK", "L7STS"}


def test_a_server_on_its_way_down_still_gets_connections_and_one_on_its_way_up_does_not() -> None:
    answer = "# pxname,svname,status,check_status,\npg_primary_nodes,a,UP 1/3,,\npg_primary_nodes,b,DOWN 2/3,,\n"
    assert [b.up for b in haproxy.from_stats(answer).backends] == [True, False]


def test_a_server_without_a_check_gets_connections_and_one_in_maintenance_does_not() -> None:
    answer = "# pxname,svname,status,check_status,\npg_primary_nodes,a,no check,,\npg_primary_nodes,b,MAINT,,\n"
    assert [b.up for b in haproxy.from_stats(answer).backends] == [True, False]


def test_the_distributions_own_haproxy_is_not_ours() -> None:
    node = FakeSystem(files={haproxy.CONFIG: FileFacts("file", "global\n  daemon\n")})
    assert haproxy.probe(node) is None


def test_a_silent_haproxy_is_a_sample_with_an_error() -> None:
    node = built()
    node.sockets.clear()
    assert haproxy.probe(node) == HaproxySample(error="HAProxy does not answer on /run/haproxy/admin.sock")
    assert haproxy.from_stats("Version: 3.0.1\n").error == "HAProxy's answer holds no statistics"


def test_units_that_do_not_exist_are_left_out() -> None:
    shown = "LoadState=loaded\nActiveState=active\n\nLoadState=not-found\nActiveState=inactive\n"
    assert units.states(shown) == {"patroni": "active"}


def test_a_filled_data_directory_is_seen_and_an_empty_one_is_not() -> None:
    assert units.data_directory_present(built())
    empty = FakeSystem(files={"/var/lib/postgresql/17/main": FileFacts("directory")})
    assert not units.data_directory_present(empty)


def test_a_data_directory_of_the_users_own_is_seen_too() -> None:
    config = FileFacts("file", 'postgresql:\n  data_dir: "/srv/pg/main"\n')
    node = FakeSystem(files={"/etc/patroni/config.yml": config})
    assert not units.data_directory_present(node)
    node.files["/srv/pg/main/PG_VERSION"] = FileFacts("file", "17\n")
    assert units.data_directory_present(node)


def test_etcd_is_asked_on_the_port_of_its_configuration() -> None:
    config = etcd_document.configuration(
        Context(three_nodes(etcd={"client_port": 12379}), three_nodes().nodes[0], bare_facts(three_nodes().nodes[0]))
    )
    assert etcd.client_port(to_yaml(config)) == 12379
    assert etcd.client_port("") == 2379
    node = FakeSystem(files={etcd.CONFIG: FileFacts("file", to_yaml(config))})
    node.answers[("etcdctl", "--endpoints=https://127.0.0.1:12379", *ETCDCTL[2:])] = Output(0, json.dumps(MEMBERS))
    assert len(etcd.list_members(node, 12379)) == len(MEMBERS["members"])


def certificate(common_name: str, ends: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=1))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_every_certificate_tells_its_end_and_no_key_is_read() -> None:
    ends = datetime(2027, 1, 1, tzinfo=timezone.utc)
    node = FakeSystem()
    node.files["/etc/patroni/tls/api.crt"] = FileFacts("file", certificate("pg-node1", ends))
    node.files["/etc/patroni/tls/api.key"] = FileFacts("file", "a key")
    node.files["/etc/etcd/tls/ca.crt"] = FileFacts("file", "not a certificate")
    broken, api = certificates.probe(node)
    assert (broken.path, broken.not_after) == ("/etc/etcd/tls/ca.crt", None)
    assert (api.common_name, api.not_after) == ("pg-node1", ends.timestamp())


LOAD = host.Load(1.0, 0.5, 40.0, 41.0, 10**9, NOW - 60, clock_kept=False)


@pytest.mark.parametrize(
    ("kept", "virtual", "answer"), [(True, "none", True), (False, "none", False), (False, "lxc", None)]
)
def test_an_unkept_clock_is_only_wrong_where_it_could_be_kept(kept: bool, virtual: str, answer: bool | None) -> None:
    sample = host.probe(FakeSystem(virtual=virtual, clock=NOW), lambda: replace(LOAD, clock_kept=kept))
    assert sample.clock_synchronised is answer
    assert sample.uptime_s == 60.0


def test_the_real_host_can_be_measured() -> None:
    load = host.measure()
    assert load.disk_free_bytes > 0
    assert 0 < load.memory_percent <= 100


def test_a_long_complaint_is_cut_to_one_short_line() -> None:
    error = EtcdSample(error="first line\n" + "x" * 5000).error
    assert len(error) == TEXT_LIMIT
    assert "\n" not in error


def test_a_sample_survives_the_wire_and_refuses_what_it_does_not_know() -> None:
    sample = Sampler(built()).sample()
    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    with pytest.raises(ValidationError):
        Sample.model_validate({"at": 1.0, "surprise": 1})


@dataclass
class HandClock:
    time: float = 100.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return NOW + self.time


def polls(sampler: Sampler, clock: HandClock, times: Sequence[float]) -> list[bool]:
    taken = []
    for at in times:
        clock.time = at
        taken.append(sampler.poll() is not None)
    return taken


def test_a_quiet_node_is_sampled_once_an_interval() -> None:
    clock = HandClock()
    sampler = Sampler(built(), 5.0, clock)
    assert polls(sampler, clock, [100, 101, 104, 105, 106, 110]) == [True, False, False, True, False, True]


@pytest.mark.parametrize("change", ["patroni", "etcd", "haproxy"])
def test_a_change_of_role_health_or_writer_is_told_at_the_next_poll(change: str) -> None:
    node, clock = built(), HandClock()
    sampler = Sampler(node, 5.0, clock)
    assert polls(sampler, clock, [100, 101]) == [True, False]
    if change == "patroni":
        node.say(REPLICA)
    elif change == "etcd":
        node.pages[HEALTH] = (503, '{"health":"false","reason":"RAFT NO LEADER"}')
    else:
        node.sockets[(haproxy.SOCKET, "show info;show stat\n")] = stats(writer="pg-node2")
    assert polls(sampler, clock, [102, 103]) == [True, False]


def test_between_two_samples_no_program_is_started() -> None:
    node, clock = built(), HandClock()
    sampler = Sampler(node, 5.0, clock)
    polls(sampler, clock, [100])
    node.asked.clear()
    polls(sampler, clock, [101, 102, 103])
    assert set(node.asked) == {"/patroni"}


def started() -> Output:
    """What etcdctl lists when every member has started."""
    return Output(0, json.dumps({"members": [{"ID": n, "name": f"node{n}", "clientURLs": []} for n in (1, 2, 3)]}))


def test_the_members_are_looked_up_at_every_sample_while_one_has_not_started() -> None:
    node = built()
    sampler = Sampler(node)
    assert sampler.sample().etcd == sampler.sample().etcd
    assert node.asked.count("etcdctl") == 2
    node.answers[ETCDCTL] = started()
    sample = sampler.sample().etcd
    assert sample is not None
    assert [m.name for m in sample.members] == ["node1", "node2", "node3"]


def test_the_members_are_looked_up_every_sixth_sample_only() -> None:
    node = built()
    node.answers[ETCDCTL] = started()
    sampler = Sampler(node)
    for _ in range(2 * SLOW_EVERY):
        assert sampler.sample().etcd is not None
    assert node.asked.count("etcdctl") == 2


def test_the_members_are_looked_up_at_once_when_etcd_turns_healthy() -> None:
    node = built()
    sampler = Sampler(node)
    sampler.sample()
    node.pages[HEALTH] = (503, '{"health":"false","reason":"RAFT NO LEADER"}')
    sampler.sample()
    node.pages[HEALTH] = (200, '{"health":"true","reason":""}')
    node.answers[ETCDCTL] = Output(0, json.dumps({"members": MEMBERS["members"][:1]}))  # type: ignore[index]
    sample = sampler.sample().etcd
    assert sample is not None
    assert [m.name for m in sample.members] == ["pg-node1"]


def test_since_when_it_leads_is_kept_between_the_slow_looks_and_looked_up_on_a_new_timeline() -> None:
    node = built()
    sampler = Sampler(node)
    first, second = sampler.sample().patroni, sampler.sample().patroni
    assert first and second and first.leader_since == second.leader_since is not None
    assert node.asked.count("/history") == 1
    node.say({**LEADER, "timeline": 8})
    node.rest["/history"] = (200, json.dumps([[7, 1, "why", "2026-11-21T00:00:00+00:00", "pg-node1"]]))
    third = sampler.sample().patroni
    assert third and third.leader_since == datetime(2026, 11, 21, tzinfo=timezone.utc).timestamp()


def test_numbers_alone_are_no_change() -> None:
    old = Sampler(built()).sample()
    assert old.patroni is not None
    moved = old.model_copy(update={"patroni": old.patroni.model_copy(update={"wal_bytes": 1}), "at": 1.0})
    assert not changed(old, moved)
    assert changed(old, old.model_copy(update={"units": {"patroni": "failed"}}))


class Unaskable(Node):
    def http(self, url: str, timeout_s: float = 2.0) -> tuple[int, str]:
        raise HostError("the host is out of file descriptors")


def test_a_host_that_cannot_be_asked_still_sends_a_sample_that_says_so() -> None:
    node = built()
    broken = Unaskable(**{name: getattr(node, name) for name in node.__dataclass_fields__})
    sample = Sampler(broken).sample()
    assert sample.etcd == EtcdSample(error="the host is out of file descriptors")
    assert sample.patroni is not None
    assert sample.patroni.reachable
