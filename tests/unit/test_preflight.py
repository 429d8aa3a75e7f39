"""Before anything is changed: every problem has a sentence of its own, and it says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common.facts import HostFacts
from pgha.master.rollout import preflight
from pgha.master.simulation.simulated import bare_facts
from pgha.master.simulation.testing import FakeCluster, three_nodes
from pgha.master.store import MinionRow

CLUSTER = three_nodes()
NODES = [node.name for node in CLUSTER.nodes]
EVERYBODY = dict.fromkeys(NODES, True)


def row(name: str, state: str = "accepted") -> MinionRow:
    return MinionRow(name, f"key of {name}, {state}", state, "10.77.0.9", name, "", 0.0, 0.0, "")


def facts(**changed: dict[str, Any]) -> dict[str, HostFacts]:
    """Of all nodes; `pg_node1={"os_id": "fedora"}` is laid over those of pg-node1."""
    return {n.name: bare_facts(n, **changed.get(n.name.replace("-", "_"), {})) for n in CLUSTER.nodes}


def test_accepted_and_connected_nodes_that_are_as_they_should_be_have_no_problem() -> None:
    assert preflight.not_there(CLUSTER, [row(name) for name in NODES], EVERYBODY) == {}
    assert preflight.hosts(CLUSTER, facts()) == []


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "no minion has enrolled under that name; on that host: pgha-minion enrol"),
        (["pending"], "its key waits for you; compare it, then: pgha-master keys accept pg-node2"),
        (["rejected", "pending"], "its key waits for you"),
        (["accepted"], "its minion is not connected; on that host: systemctl status pgha-minion"),
        (["accepted", "conflict"], "if the host was set up anew: pgha-master keys revoke pg-node2"),
        (["revoked"], "its key has been revoked, and no other one has come; it must enrol with a new key"),
    ],
)
def test_a_node_that_is_not_there_is_told_why_and_what_to_do(states: list[str], said: str) -> None:
    keys = [row("pg-node1"), *(row("pg-node2", state) for state in states), row("witness-node")]
    problems = preflight.not_there(CLUSTER, keys, {**EVERYBODY, "pg-node2": False})
    assert [*problems] == ["pg-node2"]
    assert problems["pg-node2"].startswith("pg-node2: ")
    assert said in problems["pg-node2"]


def test_a_connected_minion_whose_key_is_not_accepted_does_not_count_as_there() -> None:
    keys = [row("pg-node1"), row("pg-node2", "pending"), row("witness-node")]
    assert [*preflight.not_there(CLUSTER, keys, EVERYBODY)] == ["pg-node2"]


def test_a_key_that_waits_under_a_name_that_works_disturbs_nobody() -> None:
    keys = [*(row(name) for name in NODES), row("pg-node1", "conflict")]
    assert preflight.not_there(CLUSTER, keys, EVERYBODY) == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"os_id": "fedora", "os_version": "43"}, "runs fedora 43, which pgha does not support; it supports debian 12"),
        ({"os_version": "14"}, "runs debian 14, which pgha does not support"),
        (
            {"addresses": ("10.77.1.99", "127.0.0.1")},
            "has no address 10.77.1.11; it has 10.77.1.99: mend nodes.pg-node1",
        ),
        ({"addresses": ()}, "has no address 10.77.1.11; it has none: mend"),
        ({"disk_free_bytes": 100 * 1024**2}, "has 100 MiB free under /var/lib, 2048 MiB are needed"),
    ],
)
def test_a_host_that_cannot_carry_its_node_is_told_what_is_wrong(changed: dict[str, Any], said: str) -> None:
    problems = preflight.hosts(CLUSTER, facts(pg_node1=changed))
    assert len(problems) == 1
    assert problems[0].startswith(f"pg-node1: {said}")


def test_a_postgresql_that_the_distribution_does_not_carry_is_refused_with_both_ways_out() -> None:
    wanted = three_nodes(postgresql={"version": 18})
    assert preflight.hosts(wanted, facts()) == [
        f"{name}: debian 13 itself offers PostgreSQL 17, not 18; set postgresql.version: 17, or postgresql.source: pgdg"
        for name in ("pg-node1", "pg-node2")
    ]
    assert preflight.hosts(three_nodes(postgresql={"version": 18, "source": "pgdg"}), facts()) == []


def test_a_cloned_host_is_found_by_its_machine_id() -> None:
    problems = preflight.hosts(CLUSTER, facts(pg_node2={"machine_id": "machine-pg-node1"}))
    assert problems == [
        "pg-node2: has the machine id of pg-node1; one is a clone. On it: rm /etc/machine-id && "
        "systemd-machine-id-setup, then reboot"
    ]


def test_a_node_that_told_nothing_has_no_problem_of_its_host() -> None:
    assert preflight.hosts(CLUSTER, {}) == []


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0.4, 0.41, ""),
        (0.6, 0.61, "0.6 s ahead of"),
        (-0.61, -0.6, "0.6 s behind"),
        (-4.1, 0.1, ""),  # the answer was four seconds on its way: the clock may well be right
        (-9.1, -4.1, "4.1 s behind"),
        (3600.0, 3600.1, "3600.0 s ahead"),
    ],
)
def test_a_clock_that_is_off_is_told_by_as_much_as_is_proved(least: float, most: float, said: str) -> None:
    problems = preflight.clocks({"pg-node1": preflight.Offset(least, most), "pg-node2": preflight.Offset(-0.01, 0.01)})
    assert len(problems) == (1 if said else 0)
    assert said in "".join(problems)


def test_the_ports_of_a_node_follow_from_what_it_is_for() -> None:
    witness = preflight.ports(CLUSTER, CLUSTER.node("witness-node"))
    assert set(witness) == {2379, 2380, 2381, 5433, 5434, 7000}
    assert set(preflight.ports(CLUSTER, CLUSTER.node("pg-node1"))) == {*witness, 5432, 8008}


@pytest.mark.parametrize(
    ("port", "holder", "said"),
    [
        (5433, "nginx", "port 5433 is for HAProxy but nginx listens there"),
        (2379, "", "port 2379 is for etcd but another program listens there"),
        (8008, "node", "port 8008 is for Patroni but node listens there"),
        (5432, "python3", "port 5432 is for PostgreSQL but python3 listens there"),
    ],
)
def test_a_port_of_ours_that_another_program_holds_is_told_with_that_program(port: int, holder: str, said: str) -> None:
    node = CLUSTER.node("pg-node1")
    problems = preflight.taken(node, preflight.ports(CLUSTER, node), {port: holder})
    assert len(problems) == 1
    assert problems[0].startswith(f"pg-node1: {said}; stop that program, or give another port")


def test_ports_that_our_own_daemons_or_nobody_of_interest_hold_are_fine() -> None:
    node = CLUSTER.node("pg-node1")
    listening = {
        2379: "etcd",
        2380: "etcd",
        5432: "postgres",
        8008: "python3",
        5433: "haproxy",
        22: "sshd",
        80: "nginx",
    }
    assert preflight.taken(node, preflight.ports(CLUSTER, node), listening) == []
    assert preflight.taken(node, preflight.ports(CLUSTER, node), {8008: "patroni"}) == []


def test_quorum_commit_is_refused_where_patroni_would_take_it_for_asynchronous() -> None:
    wanted = three_nodes(patroni={"synchronous_mode": "quorum"})
    old = {"os_version": "12", "os_codename": "bookworm"}
    found = preflight.hosts(wanted, facts(pg_node1=old))
    assert [text.partition(":")[0] for text in found] == ["pg-node1"]
    assert "takes synchronous_mode: quorum for off" in found[0]
    assert preflight.hosts(wanted, facts()) == []


def test_a_required_watchdog_is_not_dropped_in_silence_where_there_is_none() -> None:
    wanted = three_nodes(patroni={"watchdog": {"mode": "required"}})
    assert "has no watchdog" in preflight.hosts(wanted, facts(pg_node2={"container": True}))[0]


def test_a_postgresql_that_pgha_did_not_set_up_is_nobodys_to_stop() -> None:
    node = CLUSTER.nodes[0]
    living = FakeCluster().sample("pg-node1")
    bare = living.model_copy(update={"patroni": None, "haproxy": None})
    for port in (5432, 5439):
        (problem,) = preflight.foreign(node, bare, {port: "postgres", 22: "sshd"})
        assert f"PostgreSQL runs here on port {port}, and pgha did not set it up" in problem
    assert "HAProxy runs here on port 443" in preflight.foreign(node, bare, {443: "haproxy"})[0]
    assert preflight.foreign(node, living, {5432: "postgres", 5433: "haproxy"}) == []


def test_an_sshd_that_the_firewall_would_cut_off_is_found() -> None:
    cluster = three_nodes()
    node = cluster.node("pg-node1")
    (problem,) = preflight.locked_out(cluster, node, {2222: "sshd", 9100: "node_exporter"})
    assert problem.startswith("pg-node1: its sshd listens on port 2222")
    assert preflight.locked_out(cluster, node, {22: "sshd", 2222: "sshd"}) == []
    assert preflight.locked_out(three_nodes(firewall={"backend": "none"}), node, {2222: "sshd"}) == []
