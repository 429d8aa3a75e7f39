"""Whole rollouts on simulated nodes: what is done where, in which order, and what a person reads of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.results import Status
from pgha.master.operations.progress import End, Gate, Note, Plan, Resource, Step
from pgha.master.rollout.plan_file import Expected
from pgha.master.simulation.simulated import World, bare_facts
from pgha.master.simulation.simulation import SimulatedHub, Simulation
from pgha.master.simulation.testing import three_nodes

Compare = Callable[[str, str], None]
Narrate = Callable[[Iterable[Any]], str]
NODES = ("pg-node1", "pg-node2", "witness-node")


def end(lines: list[Any]) -> End:
    last = lines[-1]
    assert isinstance(last, End)
    return last


def began(lines: list[Any]) -> list[tuple[str, list[str]]]:
    """Which nodes each step began on together, in order; a wave ends with the next gate or result."""
    steps = [line if isinstance(line, Step) and line.state == "started" else None for line in lines if shown(line)]
    groups = [[step for step in group if step] for _, group in itertools.groupby(steps, key=bool)]
    return [(wave[0].step, [step.node for step in wave]) for wave in groups if wave]


def shown(line: Any) -> bool:
    return isinstance(line, (Step, Gate))


def changed(lines: list[Any]) -> list[tuple[str, str]]:
    done = [line for line in lines if isinstance(line, Resource) and line.result.status is Status.CHANGED]
    return [(line.node, line.result.resource) for line in done]


def untouched(simulation: Simulation) -> bool:
    return not any(node.system.performed for node in simulation.world.nodes.values())


def redefine(simulation: Simulation, **sections: Any) -> None:
    simulation.world.cluster = three_nodes(**sections)


# the way there


def test_bare_hosts_become_a_cluster_in_the_documented_order(
    bare: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    lines = bare.apply()
    assert end(lines).exit == 0
    assert began(lines) == [
        ("base", [*NODES]),
        ("etcd", [*NODES]),
        ("patroni", ["pg-node1"]),
        ("patroni", ["pg-node2"]),
        ("database", ["pg-node1"]),
        ("haproxy", [*NODES]),
    ]
    assert bare.world.leader == "pg-node1"
    transcript("bare", narrate(lines))


def test_a_second_apply_changes_nothing_and_says_so(built: Simulation, transcript: Compare, narrate: Narrate) -> None:
    lines = built.apply()
    assert untouched(built)
    assert end(lines).exit == 0
    assert end(lines).data["changed"] == 0
    assert began(lines) == []
    transcript("again", narrate(lines))


def test_a_plan_of_bare_hosts_performs_nothing_and_calls_nothing(bare: Simulation) -> None:
    lines = bare.plan()
    assert untouched(bare)
    assert bare.world.calls == []
    assert end(lines).data["changes"] == sum(line.change_count for line in lines if isinstance(line, Plan)) > 50


def test_a_plan_of_a_built_cluster_has_no_change(built: Simulation) -> None:
    assert end(built.plan()).data == {"changes": 0}


def test_what_every_haproxy_gives_is_proved_by_a_write_at_the_end(bare: Simulation) -> None:
    bare.apply()
    probes = [call for call in bare.world.calls if call[1] == "write_probe"]
    assert [(node, args[0], args[3]) for node, _, args in probes] == [(name, name, "yes") for name in NODES]


def shaped(*roles: str) -> Simulation:
    nodes = [{"name": f"node{i}", "address": f"10.77.{i}.1", "role": role} for i, role in enumerate(roles, 1)]
    return Simulation(World(three_nodes(nodes=nodes)))


@pytest.mark.parametrize(
    "roles",
    [
        ("data",),
        ("data", "data", "data"),
        ("data", "data", "witness", "witness", "proxy"),
        ("witness", "data", "etcd", "data", "data"),
    ],
    ids="-".join,
)
def test_every_shape_of_cluster_is_built_and_then_left_alone(roles: tuple[str, ...]) -> None:
    simulation = shaped(*roles)
    first, second = simulation.apply(), simulation.apply()
    assert end(first).exit == 0, end(first).message
    assert end(second).exit == 0, end(second).message
    assert end(second).data["changed"] == 0
    assert simulation.world.leader == f"node{roles.index('data') + 1}"


@pytest.mark.parametrize("role", ["data", "witness", "proxy"])
def test_a_node_is_added_to_a_running_cluster_and_no_vote_is_risked_before_it_can_start(
    built: Simulation, role: str
) -> None:
    old = [node.model_dump() for node in built.world.cluster.nodes]
    wanted = three_nodes(nodes=[*old, {"name": "node4", "address": "10.77.4.14", "region": "asia", "role": role}])
    reshape(built, wanted)
    grown = Simulation(built.world, now=4000.0)
    lines = grown.apply()
    assert end(lines).exit == 0, end(lines).message
    assert end(grown.apply()).data["changed"] == 0
    steps = [line.step for line in lines if isinstance(line, Step) and line.state == "done"]
    assert role == "proxy" or steps.index("base") < steps.index("etcd member") < steps.index("etcd")


def grown(built: Simulation) -> Simulation:
    """A fourth node has been added."""
    old = [node.model_dump() for node in built.world.cluster.nodes]
    wanted = three_nodes(nodes=[*old, {"name": "node4", "address": "10.77.4.14", "region": "asia", "role": "data"}])
    reshape(built, wanted)
    simulation = Simulation(built.world, now=4000.0)
    assert end(simulation.apply()).exit == 0
    built.world.calls.clear()
    return simulation


def reshape(simulation: Simulation, wanted: Cluster) -> None:
    """Other nodes: the authority signs for them, too."""
    for name, node in World(wanted).nodes.items():
        simulation.world.nodes.setdefault(name, node).system.issue = node.system.issue
    simulation.world.cluster = wanted


TAKING_OUT = ("service.retire", "patroni.reset", "etcd.remove", "etcd.reset")


def test_a_node_that_left_the_definition_is_taken_out_only_by_its_name(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    simulation = grown(built)
    member = next(m.id for m in simulation.world.members if m.name == "node4")
    reshape(simulation, three_nodes())
    refused = end(simulation.apply())
    assert refused.exit == 6
    assert "node4: is part of the cluster and no node of the definition any more; put it back" in refused.message
    assert simulation.world.calls == []
    plan = next(line for line in simulation.plan(allow_destroy=("node4",)) if isinstance(line, Plan))
    assert (plan.leaving, plan.order[0]) == (("node4",), "take node4 out of the cluster")
    lines = simulation.apply(allow_destroy=("node4",))
    assert end(lines).exit == 0, end(lines).message
    acts = [call for call in simulation.world.calls if call[1] in TAKING_OUT]
    assert [act[1:] for act in acts] == [
        ("service.retire", ("patroni", "haproxy")),
        ("patroni.reset", ()),
        ("etcd.remove", (member,)),
        ("service.retire", ("etcd",)),
        ("etcd.reset", ("/var/lib/etcd/pgha",)),
    ]
    assert [act[0] == "node4" for act in acts] == [True, True, False, True, True]
    assert "node4" not in {m.name for m in simulation.world.members}
    again = end(simulation.apply())
    assert (again.exit, again.data.get("changed")) == (0, 0), again.message
    transcript("departure", narrate(lines))


@pytest.mark.parametrize("death", TAKING_OUT)
def test_a_departure_that_came_to_an_end_anywhere_is_finished_by_the_next_apply(built: Simulation, death: str) -> None:
    simulation = grown(built)
    node = simulation.world.nodes["node4"]
    reshape(simulation, three_nodes())
    simulation.world.refusals[death] = "it has died"
    failed = end(simulation.apply(allow_destroy=("node4",)))
    assert failed.exit == 1
    assert f"{death}: it has died" in failed.message
    simulation.world.refusals.clear()
    assert end(simulation.apply(allow_destroy=("node4",))).exit == 0
    assert "node4" not in {m.name for m in simulation.world.members}
    assert (node.member_id, "/etc/patroni/config.yml" in node.system.files) == ("", False)
    assert not any(node.runs(unit) for unit in ("patroni", "haproxy", "etcd"))


def test_a_node_that_was_taken_out_comes_back_like_a_new_one(built: Simulation) -> None:
    simulation = grown(built)
    four = simulation.world.cluster
    reshape(simulation, three_nodes())
    assert end(simulation.apply(allow_destroy=("node4",))).exit == 0
    reshape(simulation, four)
    assert end(simulation.apply()).exit == 0
    assert "node4" in {m.name for m in simulation.world.members}
    assert simulation.world.nodes["node4"].runs("patroni")


def test_who_leads_hands_over_before_it_is_taken_out(built: Simulation) -> None:
    simulation = grown(built)
    nodes = [node.model_dump() for node in simulation.world.cluster.nodes if node.name != "pg-node1"]
    reshape(simulation, three_nodes(nodes=nodes))
    lines = simulation.apply(allow_destroy=("pg-node1",))
    assert end(lines).exit == 0, end(lines).message
    plan = next(line for line in lines if isinstance(line, Plan))
    assert plan.impact[0].startswith("1 switchover, pg-node1 -> ")
    assert "writes are refused for about 5.0 s" in plan.impact[0]
    assert simulation.world.leader in ("pg-node2", "node4")
    assert "pg-node1" not in {m.name for m in simulation.world.members}


# drift and change


def test_a_drifted_file_is_the_only_thing_that_changes_and_its_service_is_reloaded(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    files = built.world.nodes["pg-node2"].system.files
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], content="# by hand\n")
    lines = built.apply()
    assert changed(lines) == [("pg-node2", "file:/etc/haproxy/haproxy.cfg"), ("pg-node2", "service:haproxy")]
    assert end(lines).data["changed"] == 2
    assert built.world.nodes["pg-node1"].system.performed == []
    transcript("drift", narrate(lines))


def test_a_change_that_restarts_etcd_goes_node_by_node_and_the_leader_is_last(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    redefine(built, etcd={"election_timeout": 2000})
    lines = built.apply()
    assert end(lines).exit == 0
    assert began(lines) == [("etcd", ["witness-node"]), ("etcd", ["pg-node2"]), ("etcd", ["pg-node1"])]
    steady = [line for line in lines if isinstance(line, Gate) and line.step == "etcd" and line.state == "open"]
    assert [gate.gate for gate in steady][:2] == ["the cluster is steady"] * 2
    transcript("etcd_restart", narrate(lines))


def test_a_member_that_does_not_come_back_stops_the_restarts_before_the_next_member(built: Simulation) -> None:
    redefine(built, etcd={"election_timeout": 2000})
    witness = built.world.nodes["witness-node"]
    witness.fragile["etcd"] = witness.unit("etcd").started_at
    lines = built.apply()
    assert end(lines).exit == 1
    assert "etcd on witness-node is not healthy" in end(lines).message
    assert began(lines) == [("etcd", ["witness-node"])]
    assert not [job for name in NODES[:2] for job in built.world.nodes[name].jobs if job.startswith("apply")]


def test_no_member_of_etcd_is_restarted_while_another_one_is_down(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    """pg-node2 hangs for a reason of its own: it is restarted first, and as long as that is no cure, nobody else is."""
    built.world.nodes["pg-node2"].fragile["etcd"] = 0.0
    redefine(built, etcd={"election_timeout": 2000})
    lines = built.apply()
    assert end(lines).exit == 1
    assert began(lines) == [("etcd", ["pg-node2"])]
    transcript("etcd_member_hangs", narrate(lines))


def test_a_restart_that_would_cost_the_quorum_is_not_begun(built: Simulation) -> None:
    built.world.nodes["pg-node2"].fragile["etcd"] = 0.0
    redefine(built, etcd={"election_timeout": 2000})
    lines = built.apply(nodes=("witness-node",))
    assert "without witness-node etcd would have no quorum, since pg-node2 is not healthy" in end(lines).message
    assert untouched(built)


def test_one_document_of_bare_hosts_waits_for_nothing_that_was_not_asked_for(bare: Simulation) -> None:
    for document in ("hardening", "pki", "firewall", "etcd", "patroni", "haproxy", "database"):
        last = end(bare.apply(only=(document,)))
        assert last.exit == 0, last.message
    assert end(bare.apply()).data["changed"] == 0


def test_only_the_named_document_on_the_named_node_is_touched(bare: Simulation) -> None:
    bare.apply()
    for node in bare.world.nodes.values():
        node.jobs.clear()
        node.system.performed.clear()
        assert node.system.ufw is not None
        node.system.ufw.rules.clear()
    lines = bare.apply(nodes=("pg-node1",), only=("firewall",))
    assert end(lines).exit == 0
    assert changed(lines) == [("pg-node1", "firewall:ufw")]
    assert bare.world.nodes["pg-node1"].jobs == ["plan firewall", "apply firewall"]
    assert [bare.world.nodes[name].jobs for name in NODES[1:]] == [[], []]


def test_a_parameter_of_the_whole_cluster_is_changed_on_the_leader_only(built: Simulation) -> None:
    redefine(built, postgresql={"parameters": {"work_mem": "8MB"}})
    lines = built.apply(only=("database",))
    assert changed(lines) == [("pg-node1", "patroni_config:dcs")]
    assert end(lines).exit == 0


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"nodes": ("pg-node9",)}, "pg-node9 is no node of prod; it has pg-node1, pg-node2, witness-node"),
        ({"only": ("haproxi",)}, "there is no document 'haproxi'; there are hardening, pki"),
    ],
)
def test_what_does_not_exist_is_refused_as_wrong_usage(bare: Simulation, wanted: dict[str, Any], said: str) -> None:
    last = end(bare.apply(**wanted))
    assert last.exit == 2
    assert said in last.message


# settings that wait for a restart


def grow(simulation: Simulation, connections: int = 200) -> None:
    redefine(simulation, postgresql={"parameters": {"max_connections": connections}})


def acts(simulation: Simulation) -> list[tuple[str, str]]:
    return [(node, name) for node, name, _ in simulation.world.calls if name.startswith("patroni.")]


def test_a_setting_that_needs_a_restart_restarts_the_replica_and_hands_over_the_lead(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    grow(built)
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert acts(built) == [("pg-node2", "patroni.restart"), ("pg-node1", "patroni.switchover")]
    assert built.world.leader == "pg-node2"
    assert "writes were refused for 4.6 s, expected 5.0 s" in end(lines).message
    transcript("grown_connections", narrate(lines))
    built.world.calls.clear()
    again = built.apply()
    assert (end(again).data["changed"], acts(built)) == (0, [])


def test_what_a_switchover_cost_is_what_the_next_plan_expects(built: Simulation) -> None:
    grow(built)
    built.apply()
    grow(built, 300)
    plan = next(line for line in built.plan() if isinstance(line, Plan))
    assert plan.restarts == NODES[:2]
    assert "1 switchover, pg-node2 -> pg-node1: writes are refused for about 4.6 s" in plan.impact


@pytest.mark.parametrize("tells", [True, False], ids=["Patroni 4", "older"])
def test_a_setting_that_is_lowered_restarts_the_leader_in_place_and_then_the_replica(
    built: Simulation, tells: bool
) -> None:
    """An older Patroni does not tell what waits; there the replica shows it by waiting still after a restart."""
    built.world.patroni_tells = tells
    grow(built)
    built.apply()
    built.world.calls.clear()
    grow(built, 120)
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    in_vain = [] if tells else [("pg-node1", "patroni.restart")]
    assert acts(built) == [*in_vain, ("pg-node2", "patroni.restart"), ("pg-node1", "patroni.restart")]
    assert built.world.leader == "pg-node2"
    assert end(built.plan()).data["changes"] == 0


def test_without_restarts_settings_wait_until_an_apply_may_do_them(built: Simulation) -> None:
    grow(built)
    lines = built.apply(restart=False)
    assert acts(built) == []
    (warning,) = [line.text for line in lines if isinstance(line, Note)]
    assert warning == (
        "settings wait for a restart of PostgreSQL on pg-node1, pg-node2: an apply of prod without --no-restart does it"
    )
    plan = next(line for line in built.plan() if isinstance(line, Plan))
    assert (plan.change_count, plan.restarts) == (0, NODES[:2])
    assert end(built.apply()).exit == 0
    assert acts(built) == [("pg-node2", "patroni.restart"), ("pg-node1", "patroni.switchover")]


def test_a_switchover_that_patroni_refuses_stops_the_apply_and_the_next_one_goes_on_from_there(
    built: Simulation,
) -> None:
    grow(built)
    built.world.refusals["patroni.switchover"] = "Patroni refuses /switchover with HTTP 412: candidate is too far"
    lines = built.apply()
    assert end(lines).exit == 1
    assert "candidate is too far" in end(lines).message
    assert built.world.leader == "pg-node1"
    built.world.refusals.clear()
    built.world.calls.clear()
    assert end(built.apply()).exit == 0
    assert acts(built) == [("pg-node1", "patroni.switchover")]


def test_a_single_data_node_is_restarted_while_it_leads() -> None:
    simulation = shaped("data")
    simulation.apply()
    node = [{"name": "node1", "address": "10.77.1.1", "role": "data"}]
    redefine(simulation, nodes=node, postgresql={"parameters": {"max_connections": 200}})
    assert end(simulation.apply()).exit == 0
    assert acts(simulation) == [("node1", "patroni.restart")]


# a plan that was kept


def test_a_kept_plan_is_carried_out_while_nothing_has_changed_and_refused_afterwards(built: Simulation) -> None:
    files = built.world.nodes["pg-node2"].system.files
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], content="# by hand\n")
    plan = next(line for line in built.plan() if isinstance(line, Plan))
    expected = Expected(at=plan.at, plan=plan)
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], owner="bob")
    last = end(built.apply(expect=expected))
    assert last.exit == 6
    assert "pg-node2: file:/etc/haproxy/haproxy.cfg differs in another way now" in last.message
    assert untouched(built)
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], owner="root")
    assert end(built.apply(expect=expected)).exit == 0
    assert end(built.apply(expect=expected)).exit == 6


# what goes wrong on the way


def test_a_resource_that_fails_stops_the_apply_before_the_next_stage_and_is_named(
    bare: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    bare.world.nodes["pg-node2"].system.broken["InstallPackages"] = "E: Unable to locate package patroni"
    lines = bare.apply()
    last = end(lines)
    assert last.exit == 1
    assert last.message == "base: pg-node2: packages:base: E: Unable to locate package patroni"
    assert [step for step, _ in began(lines)] == ["base"]
    assert not [job for node in bare.world.nodes.values() for job in node.jobs if "apply etcd" in job]
    transcript("failing_resource", narrate(lines))


def test_an_apply_that_stopped_in_the_middle_is_finished_by_the_next_one(bare: Simulation) -> None:
    broken = bare.world.nodes["pg-node2"].system.broken
    broken["IssueCertificate"] = "the master cannot be reached"
    assert end(bare.apply()).exit == 1
    broken.clear()
    assert end(bare.apply()).exit == 0
    assert end(bare.apply()).data["changed"] == 0


def test_a_gate_that_never_opens_fails_at_its_deadline_with_what_was_seen_last(
    bare: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    bare.world.nodes["witness-node"].fragile["etcd"] = 0.0
    lines = bare.apply()
    last = end(lines)
    assert last.exit == 1
    assert last.message == (
        "etcd: waited 90 s until etcd has a leader and its members are healthy: "
        "etcd on witness-node is not healthy: connection refused"
    )
    failed = next(line for line in lines if isinstance(line, Gate) and line.state == "failed")
    assert 90 < failed.seconds <= 95
    assert [step for step, _ in began(lines)] == ["base", "etcd"]
    transcript("gate_never_opens", narrate(lines))


def test_what_a_gate_waits_for_is_told_once_for_each_reason(bare: Simulation) -> None:
    lines = bare.apply()
    reasons = [line.reason for line in lines if isinstance(line, Gate) and line.state == "waiting"]
    assert reasons == ["pg-node2 is creating replica, not streaming yet"]


def test_a_node_that_goes_silent_is_named_and_nothing_more_is_begun(
    bare: Simulation, transcript: Compare, narrate: Narrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    bare.world.nodes["witness-node"].dies_at = "service:etcd"
    lines = bare.apply()
    last = end(lines)
    assert last.exit == 1
    assert last.message == "etcd: witness-node: its minion has been silent since 08:01:08; the job may still run there"
    assert [step for step, _ in began(lines)] == ["base", "etcd"]
    transcript("silent", narrate(lines))


def test_a_node_that_came_back_is_brought_in_by_the_next_apply(bare: Simulation) -> None:
    witness = bare.world.nodes["witness-node"]
    witness.dies_at = "service:etcd"
    bare.apply()
    witness.dies_at, witness.online = "", True
    assert end(bare.apply()).exit == 0
    assert end(bare.apply()).data["changed"] == 0


# nothing is changed unless everything is right


def refused(simulation: Simulation, *said: str) -> None:
    lines = simulation.apply()
    last = end(lines)
    assert last.exit == 6, last.message
    assert last.message.startswith("nothing was changed:\n")
    for text in said:
        assert text in last.message
    assert untouched(simulation)
    assert simulation.clusters == {}


def test_with_one_node_offline_nothing_is_changed_on_any_node(
    bare: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    bare.world.nodes["pg-node2"].online = False
    lines = bare.apply()
    assert end(lines).exit == 6
    assert untouched(bare)
    assert [node.jobs for node in bare.world.nodes.values()] == [[], [], []]
    transcript("offline", narrate(lines))


def test_every_problem_of_every_node_is_told_at_once(bare: Simulation) -> None:
    nodes = bare.world.nodes
    bare.store.rows[0] = replace(bare.store.rows[0], state="pending")
    nodes["pg-node2"].clock_offset_s = 7.0
    nodes["witness-node"].facts = bare_facts(bare.world.cluster.node("witness-node"), os_id="fedora", os_version="43")
    refused(bare, "keys accept pg-node1", "pg-node2: its clock is at least 6.8 s ahead", "witness-node: runs fedora 43")


def test_a_port_that_another_program_holds_is_found_before_anything_is_changed(bare: Simulation) -> None:
    bare.world.nodes["pg-node2"].listening = {"5432": "mysqld", "22": "sshd"}
    refused(bare, "pg-node2: port 5432 is for PostgreSQL but mysqld listens there")


def test_a_database_that_pgha_did_not_make_is_not_taken_over(bare: Simulation) -> None:
    bare.world.nodes["pg-node1"].listening = {"5432": "postgres"}
    lines = bare.apply()
    assert end(lines).exit == 6
    assert "pg-node1: PostgreSQL runs here on port 5432, and pgha did not set it up" in end(lines).message
    assert untouched(bare)


def test_a_plan_refuses_what_a_running_cluster_cannot_become(built: Simulation) -> None:
    built.apply()
    redefine(built, etcd={"client_port": 2389})
    assert end(built.plan()).exit == 6
    assert "etcd.client_port: etcd serves port 2379" in end(built.apply()).message
    assert untouched(built)


def test_an_unreachable_package_mirror_is_found_before_anything_is_changed(bare: Simulation) -> None:
    bare.world.nodes["witness-node"].mirror = "E: Failed to fetch http://deb.debian.org/debian"
    refused(bare, "witness-node: the package mirror cannot be reached: E: Failed to fetch")


def test_a_node_of_another_cluster_is_not_taken_over(bare: Simulation) -> None:
    other = three_nodes(cluster="test")
    bare.clusters["test"] = other
    last = end(bare.apply())
    assert last.exit == 6
    assert "pg-node1: is a node of the cluster test already" in last.message
    assert untouched(bare)


# nodes that lost everything


def test_a_wiped_witness_is_a_new_member_of_etcd_and_never_its_old_one(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    old = next(m.id for m in built.world.members if m.name == "witness-node")
    built.world.wipe("witness-node")
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert ("etcd.replace", (old, "witness-node", "https://10.77.3.13:2380")) in [c[1:] for c in built.world.calls]
    assert sorted(m.name for m in built.world.members) == sorted(NODES)
    assert old not in {m.id for m in built.world.members}
    assert {node for node, _ in changed(lines)} == {"witness-node"}
    transcript("wiped_witness", narrate(lines))


def test_a_member_that_lost_only_its_data_is_stopped_before_it_is_replaced(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    """Its configuration says `new` and systemd starts it again and again: removed, it would found a cluster anew."""
    built.world.nodes["witness-node"].member_id = ""
    assert "etcd on witness-node is no member with its data" in narrate(built.plan())
    assert untouched(built)
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    called = [(node, function) for node, function, _ in built.world.calls]
    assert called[:2] == [("witness-node", "etcd.reset"), ("pg-node1", "etcd.replace")]
    assert [m.id for m in built.world.members if m.name == "witness-node"] == ["added-1"]
    assert end(built.apply()).data["changed"] == 0
    transcript("lost_data", narrate(lines))


def test_a_member_with_damaged_data_is_replaced_and_its_data_is_kept(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    built.world.nodes["witness-node"].damaged = "crc mismatch"
    plan = built.plan()
    assert end(plan).data["changes"] == 2
    assert "cannot go on with its data (crc mismatch); an apply keeps that data aside" in narrate(plan)
    assert untouched(built)
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert [m.id for m in built.world.members if m.name == "witness-node"] == ["added-1"]
    assert end(built.apply()).data["changed"] == 0
    transcript("damaged_data", narrate(lines))


def test_a_member_that_was_removed_by_hand_is_added_again(built: Simulation) -> None:
    world = built.world
    world.members = [m for m in world.members if m.name != "witness-node"]
    world.nodes["witness-node"].damaged = "the member has been permanently removed from the cluster"
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    replaced = [args for _, function, args in world.calls if function == "etcd.replace"]
    assert replaced == [("-", "witness-node", "https://10.77.3.13:2380")]
    assert sorted(m.name for m in world.members if m.started) == sorted(NODES)


# some nodes, while others are away


def drift(simulation: Simulation, name: str) -> None:
    files = simulation.world.nodes[name].system.files
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], content="# by hand\n")


def applied(simulation: Simulation) -> Simulation:
    """The same cluster under a master that has applied it."""
    simulation.clusters[simulation.world.cluster.name] = simulation.world.cluster
    return simulation


def told_why_not(simulation: Simulation, *nodes: str) -> str:
    last = end(simulation.apply(nodes=nodes))
    assert last.exit == 6, last.message
    assert last.message.startswith("nothing was changed:\n")
    assert untouched(simulation)
    return last.message


def test_a_node_is_changed_while_another_one_is_away_and_that_is_said(
    built: Simulation, transcript: Compare, narrate: Narrate
) -> None:
    drift(applied(built), "pg-node2")
    built.world.nodes["witness-node"].online = False
    lines = built.apply(nodes=("pg-node2",))
    assert end(lines).exit == 0, end(lines).message
    assert changed(lines) == [("pg-node2", "file:/etc/haproxy/haproxy.cfg"), ("pg-node2", "service:haproxy")]
    assert "goes on without witness-node: its minion is not connected" in narrate(lines)
    assert built.world.nodes["witness-node"].jobs == []
    assert {node for node, function, _ in built.world.calls if function == "write_probe"} == {"pg-node1", "pg-node2"}
    transcript("without_the_witness", narrate(lines))


def test_the_leader_is_changed_while_the_only_replica_is_away(built: Simulation) -> None:
    drift(applied(built), "pg-node1")
    built.world.nodes["pg-node2"].online = False
    lines = built.apply(nodes=("pg-node1",))
    assert end(lines).exit == 0, end(lines).message
    assert ("pg-node1", "service:haproxy") in changed(lines)
    assert [args[3] for _, function, args in built.world.calls if function == "write_probe"] == ["no", "no"]


def test_a_node_that_was_asked_for_must_be_there(built: Simulation) -> None:
    applied(built).world.nodes["pg-node2"].online = False
    assert "pg-node2: its minion is not connected" in told_why_not(built, "pg-node1", "pg-node2")


def test_without_names_every_node_must_be_there(built: Simulation) -> None:
    applied(built).world.nodes["witness-node"].online = False
    assert "witness-node: its minion is not connected" in told_why_not(built)


def test_a_cluster_is_not_founded_while_nodes_are_away(bare: Simulation) -> None:
    bare.world.nodes["witness-node"].online = False
    assert "the cluster has not been applied yet, of which witness-node must know" in told_why_not(bare, "pg-node1")


def test_nodes_do_not_come_or_move_while_others_are_away(built: Simulation) -> None:
    applied(built).world.nodes["witness-node"].online = False
    asia = {"name": "node4", "address": "10.77.4.14", "region": "asia", "role": "proxy"}
    wanted = three_nodes(nodes=[*(node.model_dump() for node in built.world.cluster.nodes), asia])
    built.world.nodes["node4"] = World(wanted).nodes["node4"]
    built.world.cluster = wanted
    grown = Simulation(built.world, now=4000.0)
    grown.clusters.update(built.clusters)
    assert "nodes have come, gone or moved, of which witness-node must know" in told_why_not(grown, "pg-node1", "node4")


def test_while_the_leader_may_be_away_nothing_is_changed(built: Simulation) -> None:
    applied(built).world.nodes["pg-node1"].online = False
    assert "no connected node leads, and pg-node1 may" in told_why_not(built, "pg-node2")


def test_etcd_is_not_restarted_where_those_away_would_be_needed(built: Simulation, narrate: Narrate) -> None:
    applied(built).world.nodes["witness-node"].online = False
    redefine(built, etcd={"election_timeout": 2000})
    said = "pg-node2: etcd would be restarted; without pg-node2 etcd would have no quorum, since witness-node"
    assert said in told_why_not(built, "pg-node2")
    assert f"an apply would be refused: {said}" in narrate(built.plan(nodes=("pg-node2",)))


def test_the_membership_of_etcd_does_not_change_while_others_are_away() -> None:
    simulation = shaped("data", "data", "data", "witness", "witness")
    simulation.apply()
    simulation.world.wipe("node4")
    simulation.world.nodes["node5"].online = False
    for node in simulation.world.nodes.values():
        node.system.performed.clear()
    assert "etcd's membership would change" in told_why_not(simulation, "node4")


def test_of_five_members_two_that_were_lost_come_back_one_after_the_other() -> None:
    simulation = shaped("data", "data", "data", "witness", "witness")
    simulation.apply()
    for name in ("node4", "node5"):
        simulation.world.wipe(name)
    ends = [end(simulation.apply()) for _ in range(2)]
    assert ends[-1].exit == 0, [last.message for last in ends]
    assert all(member.started for member in simulation.world.members)
    assert len(simulation.world.members) == 5


def test_a_cluster_whose_hosts_are_all_set_up_anew_is_founded_anew(built: Simulation) -> None:
    """Members that were replaced in its first life must not wait for a cluster that is no more."""
    for name in ("witness-node", "pg-node2"):
        built.world.wipe(name)
        assert end(built.apply()).exit == 0
    for name in NODES:
        built.world.wipe(name)
    built.world.members, built.world._dcs = [], None
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    for name in NODES:
        config = built.world.nodes[name].system.files["/etc/etcd/etcd.conf.yml"].content or ""
        assert "initial-cluster-state: new\n" in config


def test_a_wiped_replica_is_built_anew_and_the_leader_is_left_alone(built: Simulation) -> None:
    built.world.wipe("pg-node2")
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert built.world.leader == "pg-node1"
    assert built.world.nodes["pg-node1"].system.performed == []
    assert end(built.apply()).data["changed"] == 0


def test_a_wiped_leader_comes_back_as_a_replica_of_the_one_that_took_over(built: Simulation) -> None:
    built.world.wipe("pg-node1")
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert built.world.leader == "pg-node2"
    assert built.world.nodes["pg-node2"].system.performed == []
    assert sorted(m.name for m in built.world.members if m.started) == sorted(NODES)


def test_a_lost_member_of_etcd_is_left_alone_when_its_node_was_not_asked_for(built: Simulation) -> None:
    built.world.wipe("witness-node")
    built.apply(nodes=("pg-node1",))
    assert "etcd.replace" not in [function for _, function, _ in built.world.calls]


def test_after_a_power_cut_of_everything_the_nodes_come_up_together(built: Simulation) -> None:
    """With data on two nodes it is not for pgha to say who leads: neither may start alone."""
    for node in built.world.nodes.values():
        for name, unit in list(node.system.units.items()):
            node.system.units[name] = replace(unit, active="inactive", started_at=0.0)
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert ("patroni", ["pg-node1", "pg-node2"]) in began(lines)


# what is asked before anything is changed


def test_a_disk_that_has_filled_up_since_the_minion_connected_is_found(
    bare: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {name: node.facts for name, node in bare.world.nodes.items()}
    monkeypatch.setattr(SimulatedHub, "facts", lambda hub, name: told[name])
    node = bare.world.nodes["pg-node2"]
    node.facts = node.facts.model_copy(update={"disk_free_bytes": 5 * 1024**2})
    lines = bare.apply()
    assert end(lines).exit == 6
    assert "pg-node2: has 5 MiB free under /var/lib, 2048 MiB are needed; make room there" in end(lines).message
    assert untouched(bare)
