"""Drift on simulated nodes: seen by itself, told once, mended only where that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgha.master.simulation.simulation import Simulation
from pgha.master.simulation.testing import three_nodes

CONFIG = "/etc/haproxy/haproxy.cfg"


def applied(simulation: Simulation, **reconcile: Any) -> Simulation:
    simulation.world.cluster = three_nodes(reconcile=reconcile)
    assert simulation.apply()[-1].exit == 0
    for node in simulation.world.nodes.values():
        node.jobs.clear()
        node.system.performed.clear()
    return simulation


def damage(simulation: Simulation, *, noticed: bool = True) -> Callable[[], None]:
    def act() -> None:
        node = simulation.world.nodes["pg-node2"]
        node.system.files[CONFIG] = replace(node.system.files[CONFIG], content="# by hand\n")
        node.touched = (CONFIG,) if noticed else ()

    return act


def performed(simulation: Simulation) -> list[str]:
    return [name for name, node in simulation.world.nodes.items() if node.system.performed]


def test_a_cluster_as_it_was_applied_has_no_drift_and_is_looked_at_once_in_an_interval(built: Simulation) -> None:
    seen = applied(built, interval=600).watch(1000)
    assert (seen.differences, seen.error) == ((), "")
    assert seen.checked is not None
    jobs = [job for node in built.world.nodes.values() for job in node.jobs]
    assert len(jobs) == 2 * len(built.world.nodes)
    assert all(job.startswith("plan ") for job in jobs)


def test_a_touched_file_is_looked_at_soon_and_nothing_is_changed(built: Simulation) -> None:
    seen = applied(built, interval=86400).watch(200, damage(built))
    assert [(one.node, one.resource) for one in seen.differences] == [("pg-node2", f"file:{CONFIG}")]
    assert performed(built) == []


def test_what_nobody_noticed_is_found_after_the_interval(built: Simulation) -> None:
    applied(built, interval=600)
    assert built.watch(300, damage(built, noticed=False)).differences == ()
    assert [one.resource for one in built.watch(700).differences] == [f"file:{CONFIG}"]


def test_what_is_to_be_enforced_is_mended_where_it_differs_and_nowhere_else(built: Simulation) -> None:
    seen = applied(built, interval=86400, policy="enforce").watch(400, damage(built))
    assert seen.differences == ()
    assert performed(built) == ["pg-node2"]
    assert built.world.nodes["pg-node2"].jobs.count("apply haproxy") == 1


def test_a_definition_that_was_applied_in_part_is_neither_drift_nor_finished_by_itself(built: Simulation) -> None:
    applied(built, interval=60, policy="enforce")
    built.world.cluster = three_nodes(reconcile={"interval": 60, "policy": "enforce"}, haproxy={"maxconn": 500})
    assert built.apply(nodes=("pg-node2",))[-1].exit == 0
    before = {name: node.system.files[CONFIG].content for name, node in built.world.nodes.items()}
    seen = built.watch(400)
    assert {name: node.system.files[CONFIG].content for name, node in built.world.nodes.items()} == before
    assert seen.error == "the definition has not been applied as a whole yet"
    assert seen.differences == ()


def test_a_cluster_that_cannot_be_planned_keeps_what_was_seen_and_says_why(built: Simulation) -> None:
    applied(built, interval=60)

    def vanish() -> None:
        for node in built.world.nodes.values():
            node.online = False

    seen = built.watch(400, vanish)
    assert seen.checked is not None
    assert seen.error == "no node is connected"
