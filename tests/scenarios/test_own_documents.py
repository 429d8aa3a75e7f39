"""Documents of the user's own in whole rollouts on simulated nodes: after all others, in waves, without a surprise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pgha.common.results import Status
from pgha.master.operations.progress import End, Note, Plan, Resource, Step
from pgha.master.rollout.plan_file import Expected
from pgha.master.simulation.simulation import Simulation
from pgha.master.simulation.testing import three_nodes
from pgha.master.userstates.folder import discover
from pgha.states.system import UnitFacts

NODES = ["pg-node1", "pg-node2", "witness-node"]
MOTD = "schema: pgha/states/v1\n{target}resources:\n  - kind: file\n    path: /etc/motd\n    content: |\n      {text}\n"
SERVICE = """schema: pgha/states/v1
resources:
  - {kind: file, path: /etc/app.conf, content: "of {node.name}\\n"}
  - {kind: service, unit: app, watches: ["file:/etc/app.conf"]}
"""

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(simulation, motd=text)`: the master's folder of states from now on."""

    def put(simulation: Simulation, **files: str) -> None:
        for name, text in files.items():
            (tmp_path / f"{name}.yml").write_text(text)
        simulation.states = discover(tmp_path)

    return put


def motd(text: str, target: str = "") -> str:
    return MOTD.format(text=text, target=f"target: {target}\n" if target else "")


def end(lines: list[Any]) -> End:
    last = lines[-1]
    assert isinstance(last, End)
    return last


def began(lines: list[Any], step: str = "own") -> list[str]:
    return [line.node for line in lines if isinstance(line, Step) and line.step == step and line.state == "started"]


def changed(lines: list[Any]) -> list[tuple[str, str]]:
    done = [line for line in lines if isinstance(line, Resource) and line.result.status is Status.CHANGED]
    return [(line.node, line.result.resource) for line in done]


def planned(lines: list[Any]) -> list[str]:
    (plan,) = (line for line in lines if isinstance(line, Plan))
    return [node.node for node in plan.nodes if any(r.document == "motd" for r in node.results)]


def content(simulation: Simulation, node: str, path: str = "/etc/motd") -> str | None:
    return simulation.world.nodes[node].system.file(path).content


def test_a_document_is_planned_applied_and_then_left_alone(built: Simulation, write: Write) -> None:
    write(built, motd=motd("{node.name} of {cluster.name} in {node.region}"))
    plan = built.plan()
    assert planned(plan) == NODES
    assert end(plan).data == {"changes": 3}
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert began(lines) == NODES
    assert content(built, "pg-node2") == "pg-node2 of prod in us-east\n"
    again = built.apply()
    assert (end(again).data["changed"], began(again)) == (0, [])


def test_it_comes_after_all_that_is_built_in(bare: Simulation, write: Write) -> None:
    write(bare, motd=motd("hello"))
    lines = bare.apply()
    assert end(lines).exit == 0, end(lines).message
    order = [step.step for step in lines if isinstance(step, Step) and step.node and step.state == "started"]
    assert list(dict.fromkeys(order)) == ["base", "etcd", "patroni", "database", "haproxy", "own"]
    assert end(bare.apply()).data["changed"] == 0


def test_only_its_name_applies_it_alone(built: Simulation, write: Write) -> None:
    write(built, motd=motd("hello"), other=motd("x").replace("/etc/motd", "/etc/other"))
    lines = built.apply(only=("motd",))
    assert end(lines).exit == 0, end(lines).message
    assert changed(lines) == [(node, "file:/etc/motd") for node in NODES]
    assert content(built, "pg-node1", "/etc/other") is None


def test_a_name_that_is_no_document_is_told_with_those_of_yours(built: Simulation, write: Write) -> None:
    write(built, motd=motd("hello"))
    last = end(built.apply(only=("modt",)))
    assert (last.exit, "backup, motd" in last.message) == (2, True)


def test_what_restarts_a_service_goes_node_by_node_and_the_leader_is_last(built: Simulation, write: Write) -> None:
    write(built, app=SERVICE)
    assert end(built.apply()).exit == 0
    write(built, app=SERVICE.replace("of {", "for {"))
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    starts = [(line.node, line.state) for line in lines if isinstance(line, Step) and line.step == "own" and line.node]
    assert starts == [
        (node, state) for node in ("witness-node", "pg-node2", "pg-node1") for state in ("started", "done")
    ]


def test_the_plan_shows_the_waves_and_what_is_restarted(built: Simulation, write: Write) -> None:
    write(built, app=SERVICE)
    built.apply()
    write(built, app=SERVICE.replace("of {", "for {"))
    (plan,) = (line for line in built.plan() if isinstance(line, Plan))
    assert plan.order[0] == "own: witness-node, then pg-node2, then pg-node1"
    assert "restart app on 3 nodes" in plan.impact


def test_a_restart_of_yours_goes_node_by_node_on_a_cluster_that_has_just_been_founded_as_planned(
    bare: Simulation, write: Write
) -> None:
    for node in bare.world.nodes.values():
        node.system.units["app.service"] = UnitFacts("loaded", "active", enabled="enabled", started_at=1.0)
    write(bare, app=SERVICE)
    (plan,) = (line for line in bare.plan() if isinstance(line, Plan))
    assert plan.order[-1] == "own: witness-node, then pg-node1, then pg-node2"
    lines = bare.apply()
    assert end(lines).exit == 0, end(lines).message
    assert began(lines) == ["witness-node", "pg-node2", "pg-node1"]


@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        ("role:leader", ["pg-node1"]),
        ("role:replica", ["pg-node2"]),
        ("region:us-* and not role:data", ["witness-node"]),
        ("prod and (pg-node1 or role:witness)", ["pg-node1", "witness-node"]),
        ("os:debian and cpus>=2", NODES),
        ("cluster:other", []),
    ],
)
def test_a_target_selects_nodes(built: Simulation, write: Write, target: str, nodes: list[str]) -> None:
    write(built, motd=motd("hello", target))
    assert planned(built.plan()) == nodes
    assert changed(built.apply()) == [(node, "file:/etc/motd") for node in nodes]


@pytest.mark.parametrize(("target", "node"), [("role:leader", "pg-node1"), ("role:replica", "pg-node2")])
def test_who_leads_is_asked_again_when_the_cluster_has_just_been_founded(
    bare: Simulation, write: Write, target: str, node: str
) -> None:
    write(bare, motd=motd("hello", target))
    lines = bare.apply()
    assert end(lines).exit == 0, end(lines).message
    assert [changed for changed in changed(lines) if changed[1] == "file:/etc/motd"] == [(node, "file:/etc/motd")]
    assert end(bare.apply()).data["changed"] == 0


def test_a_service_of_yours_is_restarted_when_a_file_of_pghas_changes(built: Simulation, write: Write) -> None:
    """The debt is made in one stage and paid in the last."""
    watching = "  - {kind: service, unit: exporter, watches: ['file:/etc/haproxy/haproxy.cfg']}\n"
    write(built, app="schema: pgha/states/v1\ntarget: pg-node2\nresources:\n" + watching)
    assert end(built.apply()).exit == 0
    unit = built.world.nodes["pg-node2"].system.units["exporter.service"].started_at
    built.world.nodes["pg-node2"].system.files.pop("/etc/haproxy/haproxy.cfg")
    lines = built.apply()
    assert end(lines).exit == 0, end(lines).message
    assert ("pg-node2", "service:exporter") in changed(lines)
    assert built.world.nodes["pg-node2"].system.units["exporter.service"].started_at > unit


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (motd("hello").replace("file", "fiel"), "S001"),
        (motd("hello").replace("/etc/motd", "/etc/haproxy/haproxy.cfg"), "is wanted by haproxy, too"),
        (SERVICE.replace("unit: app", "unit: haproxy.service"), "is wanted by haproxy, too, as service:haproxy"),
        (SERVICE.replace("file:/etc/app.conf", "file:/etc/ap.conf", 1), "S003"),
        (motd("hello", "role:leader").replace("content:", "secrets: {x: 'secret:none'}\n    content:"), "S009"),
    ],
)
def test_a_document_that_cannot_be_used_fails_the_plan_and_nothing_is_changed(
    built: Simulation, write: Write, text: str, told: str
) -> None:
    write(built, motd=text)
    for last in (end(built.plan()), end(built.apply())):
        assert last.exit == 2
        assert told in last.message
        assert "motd.yml" in last.message
    assert not any(node.system.performed for node in built.world.nodes.values())


def test_a_secret_that_only_the_leader_will_need_is_missed_before_a_cluster_is_founded(
    bare: Simulation, write: Write
) -> None:
    write(bare, motd=motd("hello", "role:leader").replace("content:", "secrets: {x: 'secret:none'}\n    content:"))
    assert "the cluster prod has no secret none" in end(bare.apply()).message
    assert not any(node.system.performed for node in bare.world.nodes.values())


def test_a_document_for_a_role_in_another_cluster_stands_in_nobodys_way(built: Simulation, write: Write) -> None:
    elsewhere = motd("hello", "cluster:other and role:replica")
    write(built, motd=elsewhere.replace("content:", "secrets: {x: 'secret:none'}\n    content:"))
    assert end(built.apply()).exit == 0


def test_after_a_switchover_what_is_for_the_leader_is_on_who_leads_now(built: Simulation, write: Write) -> None:
    write(built, motd=motd("hello", "role:leader"))
    built.world.cluster = three_nodes(postgresql={"parameters": {"max_connections": 400}})
    assert end(built.apply()).exit == 0
    assert built.world.leader == "pg-node2"
    assert content(built, "pg-node2") == "hello\n"
    assert end(built.apply()).data["changed"] == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema: no\n", "the document motd cannot be used and is left out"),
        (motd("hello").replace("/etc/motd", "/etc/haproxy/haproxy.cfg"), "documents of your own cannot be built"),
    ],
)
def test_a_broken_document_does_not_keep_one_from_repairing_what_is_built_in(
    built: Simulation, write: Write, text: str, told: str
) -> None:
    write(built, motd=text)
    files = built.world.nodes["pg-node2"].system.files
    files["/etc/haproxy/haproxy.cfg"] = replace(files["/etc/haproxy/haproxy.cfg"], content="# by hand\n")
    lines = built.apply(only=("haproxy",))
    assert end(lines).exit == 0, end(lines).message
    assert ("pg-node2", "file:/etc/haproxy/haproxy.cfg") in changed(lines)
    warnings = [line.text for line in lines if isinstance(line, Note) and line.level == "warning"]
    assert [text for text in warnings if told in text]
    assert end(built.apply(only=("motd",))).exit == 2


# ---- drift, and plans that were kept


def test_what_drifts_from_a_document_of_yours_is_seen_and_mended_where_that_was_asked_for(
    built: Simulation, write: Write
) -> None:
    write(built, motd=motd("hello"))
    built.world.cluster = three_nodes(reconcile={"interval": 600, "policy": "enforce"})
    assert end(built.apply()).exit == 0
    files = built.world.nodes["pg-node2"].system.files
    files["/etc/motd"] = replace(files["/etc/motd"], content="by hand\n")
    assert built.watch(100).differences == ()
    assert content(built, "pg-node2") == "hello\n"


@pytest.mark.parametrize("later", [motd("other"), "schema: no\n"])
def test_what_was_written_since_the_last_apply_is_nobodys_drift_and_is_never_applied_by_itself(
    built: Simulation, write: Write, later: str
) -> None:
    write(built, motd=motd("hello"))
    built.world.cluster = three_nodes(reconcile={"interval": 60, "policy": "enforce"})
    assert end(built.apply()).exit == 0
    write(built, motd=later, new=motd("x").replace("/etc/motd", "/etc/new"))
    seen = built.watch(400)
    assert (seen.differences, seen.error) == ((), "")
    assert (content(built, "pg-node2"), content(built, "pg-node2", "/etc/new")) == ("hello\n", None)


def test_a_kept_plan_does_not_change_what_is_not_in_it(bare: Simulation, write: Write) -> None:
    """Who would lead was not known when it was made."""
    write(bare, motd=motd("hello", "role:leader"))
    (plan,) = (line for line in bare.plan() if isinstance(line, Plan))
    last = end(bare.apply(expect=Expected(at=0.0, plan=plan)))
    assert last.exit == 1
    assert "pg-node1: file:/etc/motd would be changed, too, which is not in the plan; plan again" in last.message
    assert content(bare, "pg-node1") is None


def test_a_kept_plan_with_a_document_of_yours_is_carried_out(built: Simulation, write: Write) -> None:
    write(built, motd=motd("hello"))
    (plan,) = (line for line in built.plan() if isinstance(line, Plan))
    last = end(built.apply(expect=Expected(at=0.0, plan=plan)))
    assert (last.exit, last.data["changed"]) == (0, 3), last.message
