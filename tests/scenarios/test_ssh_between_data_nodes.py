"""SSH between the data nodes, over whole applies: whose key is where, and when it is no longer."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common.results import Status
from pgha.master.operations.progress import End, Note, Plan, Resource, Step
from pgha.master.simulation.simulated import World
from pgha.master.simulation.simulation import Simulation
from pgha.master.simulation.testing import three_nodes
from pgha.states.documents.ssh import CONFIG, KNOWN_HOSTS
from pgha.states.halves import KEY

ON: dict[str, Any] = {"system": {"ssh_between_data_nodes": True}}
DATA = ("pg-node1", "pg-node2")
AUTHORIZED = "/var/lib/postgresql/.ssh/authorized_keys"


@pytest.fixture
def switched_on(built: Simulation) -> Simulation:
    built.world.cluster = three_nodes(**ON)
    assert end(built.apply()).exit == 0
    return built


def end(lines: list[Any]) -> End:
    last = lines[-1]
    assert isinstance(last, End)
    return last


def changed(lines: list[Any]) -> set[tuple[str, str]]:
    done = [line for line in lines if isinstance(line, Resource) and line.result.status is Status.CHANGED]
    return {(line.node, line.result.resource.split(":")[0]) for line in done}


def text(simulation: Simulation, node: str, path: str) -> str:
    facts = simulation.world.nodes[node].system.files.get(path)
    return facts.content or "" if facts else ""


def public(simulation: Simulation, node: str) -> str:
    return " ".join(text(simulation, node, f"{KEY}.pub").split()[:2])


def asked(simulation: Simulation) -> list[str]:
    return [node for node, function, _ in simulation.world.calls if function == "ssh.public"]


def lets_in(simulation: Simulation, node: str) -> list[str]:
    return text(simulation, node, AUTHORIZED).splitlines()


def line_of(simulation: Simulation, node: str) -> str:
    address = simulation.world.cluster.node(node).address
    return f'from="{address}",restrict,pty {public(simulation, node)} pgha:prod {node}'


def test_switched_on_each_data_node_lets_in_the_other_and_knows_its_host_and_the_next_apply_changes_nothing(
    switched_on: Simulation,
) -> None:
    assert public(switched_on, "pg-node1") != public(switched_on, "pg-node2")
    for node, other in (DATA, DATA[::-1]):
        assert lets_in(switched_on, node) == [line_of(switched_on, other)]
        host_key = " ".join(text(switched_on, other, "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
        address = switched_on.world.cluster.node(other).address
        assert text(switched_on, node, KNOWN_HOSTS).splitlines()[1:] == [f"{other},{address} {host_key}"]
        assert f"host {other},{address}\n" in text(switched_on, node, CONFIG)
    witness = switched_on.world.nodes["witness-node"].system
    assert {KNOWN_HOSTS, CONFIG, KEY, AUTHORIZED} & set(witness.files) == set()
    again = switched_on.apply()
    assert end(again).data["changed"] == 0
    assert [line for line in again if isinstance(line, Step) and line.step.startswith("ssh")] == []


def test_bare_hosts_get_it_with_the_first_apply() -> None:
    simulation = Simulation(World(three_nodes(**ON)))
    lines = simulation.apply()
    assert end(lines).exit == 0, end(lines).message
    steps = list(dict.fromkeys(line.step for line in lines if isinstance(line, Step)))
    assert steps.index("base") < steps.index("patroni") < steps.index("ssh keys") < steps.index("ssh")
    assert lets_in(simulation, "pg-node1") == [line_of(simulation, "pg-node2")]
    assert end(simulation.apply()).data["changed"] == 0


def test_a_plan_says_what_it_cannot_show_and_performs_nothing(built: Simulation) -> None:
    built.world.cluster = three_nodes(**ON)
    lines = built.plan()
    assert end(lines).exit == 0
    (note,) = [line.text for line in lines if isinstance(line, Note)]
    assert "by SSH once it knows their keys; not yet: pg-node1, pg-node2: user postgres has no key" in note
    (plan,) = [line for line in lines if isinstance(line, Plan)]
    planned = {r.resource for node in plan.nodes for r in node.results if r.status is Status.PLANNED}
    assert f"ssh_key:{KEY}" in planned
    assert not any(node.system.performed for node in built.world.nodes.values())


def test_nobody_is_asked_while_it_is_off_or_another_document_is_applied(built: Simulation) -> None:
    built.apply()
    built.world.cluster = three_nodes(**ON)
    built.apply(only=("firewall",))
    assert asked(built) == []


def test_the_firewall_opens_port_22_between_the_data_nodes_and_closes_it_again(switched_on: Simulation) -> None:
    def sources(node: str) -> list[str]:
        ufw = switched_on.world.nodes[node].system.ufw
        assert ufw is not None
        return [rule.words[2] for rule in ufw.rules if "22" in rule.words]

    assert {node: sources(node) for node in switched_on.world.nodes} == {
        "pg-node1": ["10.77.2.12"],
        "pg-node2": ["10.77.1.11"],
        "witness-node": [],
    }
    switched_on.world.cluster = three_nodes()
    switched_on.apply()
    assert sources("pg-node1") == sources("pg-node2") == []


def test_a_node_that_was_set_up_anew_has_a_new_key_and_its_old_one_is_taken_away(switched_on: Simulation) -> None:
    system = switched_on.world.nodes["pg-node1"].system
    facts = system.files[AUTHORIZED]
    own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi0nq3QSrVZ0vLrMPGx0TD6pdjvYyVgXJPCBkS0nL3s ada"
    system.files[AUTHORIZED] = type(facts)("file", f"{own}\n{facts.content}", "postgres", "postgres", 0o600)
    before = line_of(switched_on, "pg-node2")
    switched_on.world.wipe("pg-node2")
    lines = switched_on.apply()
    assert end(lines).exit == 0, end(lines).message
    after = line_of(switched_on, "pg-node2")
    assert after != before
    assert lets_in(switched_on, "pg-node1") == [own, after]
    assert lets_in(switched_on, "pg-node2") == [line_of(switched_on, "pg-node1")]
    assert ("pg-node1", "file") in changed(lines)  # known_hosts
    assert end(switched_on.apply()).data["changed"] == 0


def test_of_a_node_that_is_away_the_last_word_counts(switched_on: Simulation) -> None:
    before = lets_in(switched_on, "pg-node1")
    switched_on.world.nodes["pg-node2"].online = False
    switched_on.world.nodes["pg-node1"].system.files.pop(AUTHORIZED)
    lines = switched_on.apply(nodes=("pg-node1",))
    assert end(lines).exit == 0, end(lines).message
    assert changed(lines) == {("pg-node1", "authorized_keys")}
    assert lets_in(switched_on, "pg-node1") == before


def test_the_document_alone_waits_for_keys_that_only_hardening_makes(built: Simulation) -> None:
    built.world.cluster = three_nodes(**ON)
    assert end(built.apply(only=("ssh",))).message == (
        f"ssh: pg-node1: user postgres has no key {KEY} yet; the document hardening makes it"
    )
    assert end(built.apply(only=("hardening", "ssh"))).exit == 0
    assert lets_in(built, "pg-node1") == [line_of(built, "pg-node2")]


def test_a_node_without_an_ssh_server_stops_the_apply_and_is_told_what_to_do(built: Simulation) -> None:
    built.world.cluster = three_nodes(**ON)
    built.world.nodes["pg-node2"].system.files.pop("/etc/ssh/ssh_host_ed25519_key.pub")
    assert end(built.apply()).message == "ssh: pg-node2: there is no host key in /etc/ssh; install openssh-server"
    assert AUTHORIZED not in built.world.nodes["pg-node1"].system.files


def test_switched_off_nothing_of_it_stays_but_what_is_somebody_elses(switched_on: Simulation) -> None:
    system = switched_on.world.nodes["pg-node1"].system
    facts = system.files[AUTHORIZED]
    system.files[AUTHORIZED] = type(facts)("file", f"# mine\n{facts.content}", "postgres", "postgres", 0o600)
    switched_on.world.cluster = three_nodes()
    lines = switched_on.apply()
    assert end(lines).exit == 0, end(lines).message
    for node in DATA:
        left = {KEY, f"{KEY}.pub", CONFIG, KNOWN_HOSTS} & set(switched_on.world.nodes[node].system.files)
        assert left == set()
    assert lets_in(switched_on, "pg-node1") == ["# mine"]
    assert lets_in(switched_on, "pg-node2") == []
    assert end(switched_on.apply()).data["changed"] == 0
