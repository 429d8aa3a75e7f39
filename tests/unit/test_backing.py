"""Backups as the master orders them: where, when nothing may go on, and what a person is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pgha.common.cluster import Cluster
from pgha.common.results import Outcome
from pgha.master.backups import backing, drilling
from pgha.master.backups.backing import Backing, size
from pgha.master.backups.drilling import Drilling
from pgha.master.orchestration.fleet import Answer, Failed, Fleet
from pgha.master.orchestration.report import Report
from pgha.master.orchestration.seams import Headquarters

NODES = [
    {"name": "a", "address": "10.0.0.1"},
    {"name": "b", "address": "10.0.0.2"},
    {"name": "w", "address": "10.0.0.3", "role": "witness"},
]
BOTH = {"s3": {"bucket": "x"}, "posix": {"on": "w"}}
FULL = {"label": "F", "type": "full", "began": 1, "ended": 2, "size": 1, "repo_size": 1}


@dataclass
class World:
    """Each node tells of the repositories it reaches; a backup that is started has ended at the next look."""

    states: dict[int, str] = field(default_factory=lambda: {1: "no backups", 2: "no backups"})
    turn: str = "b"
    fails: str = ""
    ends: bool = True
    drill: dict[str, Any] | None = None
    started: list[tuple[str, str]] = field(default_factory=list)

    async def call(
        self, function: str, arguments: Mapping[str, Sequence[str]], *_: Any, **__: Any
    ) -> dict[str, Answer]:
        found = {}
        for node, words in arguments.items():
            data = getattr(self, function.replace(".", "_"))(node, *words)
            found[node] = Answer(node, "done", outcome=Outcome(ok=True, exit_code=0, data=data))
        return found

    def backup_look(self, node: str) -> dict[str, Any]:
        numbers = {"w": [2]}.get(node, [1])
        reached = [2] if node == "w" else [1, 2]
        repositories = [
            {
                "number": n,
                "state": self.states[n],
                "why": "no answer" if self.states[n] == "unreachable" else "",
                "at": 1,
            }
            | {"backups": [FULL] if self.states[n] == "ok" else [], "system_id": "7" if self.states[n] == "ok" else ""}
            for n in reached
        ]
        runs = [
            {
                "type": kind,
                "repository": n,
                "began": 5,
                "ended": 6,
                "ok": not self.fails,
                "label": "N",
                "error": self.fails,
            }
            for where, kind in self.started
            for n in numbers
            if where == node and self.ends
        ]
        return {"turn": self.turn, "operates": numbers, "repositories": repositories, "runs": runs}

    def backup_start(self, node: str, kind: str) -> dict[str, Any]:
        self.started.append((node, kind))
        return {"running": []}

    def drill_look(self, node: str) -> dict[str, Any]:
        return {"running": False, "drill": self.drill if self.started else None}

    def drill_start(self, node: str) -> dict[str, Any]:
        self.started.append((node, "drill"))
        return {}


@dataclass
class Said:
    lines: list[Any] = field(default_factory=list)

    async def emit(self, line: Any) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "POLL_S", 0.0)
    monkeypatch.setattr(drilling, "POLL_S", 0.0)


def parts(world: World, backup: dict[str, Any] | None = None) -> tuple[Any, ...]:
    cluster = Cluster.model_validate({"cluster": "prod", "nodes": NODES, "backup": backup or BOTH})
    clock = SimpleNamespace(monotonic=lambda: 0.0, now=lambda: 0.0)
    master = SimpleNamespace(hub=SimpleNamespace(connected=lambda name: True), clock=clock)
    said = Said()
    report = Report(cast(Any, said), cast(Any, clock), 0.0)
    return cast(Headquarters, master), cast(Fleet, world), cluster, report, said


def backs(world: World, backup: dict[str, Any] | None = None) -> tuple[Backing, Said]:
    *rest, said = parts(world, backup)
    return Backing(*rest), said


def test_the_first_backup_is_made_whose_turn_it_is_and_by_who_holds_a_repository() -> None:
    world = World()
    asyncio.run(backs(world)[0].first(insist=True))
    assert sorted(world.started) == [("b", "full"), ("w", "full")]


def test_a_repository_that_has_a_backup_gets_no_first_one() -> None:
    world = World(states={1: "ok", 2: "no backups"})
    asyncio.run(backs(world)[0].first(insist=True))
    assert world.started == [("w", "full")]


def test_a_repository_that_cannot_be_used_is_an_error_where_backups_were_just_set_up_and_else_a_warning() -> None:
    world = World(states={1: "unreachable", 2: "ok"})
    with pytest.raises(Failed, match="b: repository 1 is unreachable: no answer"):
        asyncio.run(backs(world)[0].first(insist=True))
    made, said = backs(world)
    asyncio.run(made.first(insist=False))
    assert [line.text for line in said.lines if getattr(line, "level", "") == "warning"]
    assert world.started == []


def test_a_new_cluster_is_not_founded_beside_the_backups_of_an_old_one() -> None:
    world = World(states={1: "ok", 2: "no backups"})
    with pytest.raises(Failed, match=r"holds backups of a cluster prod already, .*restore prod --to latest"):
        asyncio.run(backs(world)[0].reachable(founding=True))
    asyncio.run(backs(world)[0].reachable(founding=False))
    with pytest.raises(Failed, match="PostgreSQL was left as it is"):
        asyncio.run(backs(World(states={1: "unreachable", 2: "ok"}))[0].reachable(founding=False))


def test_a_backup_that_fails_is_told_in_the_tools_words() -> None:
    with pytest.raises(Failed, match="b: incr backup to repository 1 failed: the disk is full"):
        asyncio.run(backs(World(fails="the disk is full"), {"s3": {"bucket": "x"}})[0].now("incr"))


def test_the_backup_to_one_repository_does_not_wait_for_that_to_another() -> None:
    world = World(fails="the disk is full")
    with pytest.raises(Failed, match=r"repository 2 failed: the disk is full; .*repository 1 failed: the disk is full"):
        asyncio.run(backs(world)[0].now("incr"))
    assert sorted(world.started) == [("b", "incr"), ("w", "incr")]


def test_a_run_that_ends_without_a_word_is_not_taken_for_a_backup() -> None:
    with pytest.raises(Failed, match="it ended without a backup; pgha-master run b -- journalctl"):
        asyncio.run(backs(World(ends=False), {"s3": {"bucket": "x"}})[0].now("full"))


def test_a_node_that_makes_no_backups_cannot_be_named_for_one() -> None:
    world = World()
    with pytest.raises(Failed, match="a makes no backups of prod"):
        asyncio.run(backs(world, {"posix": {"on": "w"}})[0].now("full", "a"))
    assert world.started == []
    assert [run.label for run in asyncio.run(backs(world, {"s3": {"bucket": "x"}})[0].now("full", "a"))] == ["N"]


def test_a_drill_is_made_where_the_definition_says_and_its_finding_is_told() -> None:
    world = World(drill={"began": 1.0, "ok": False, "seconds": 2.0, "error": "damaged"})
    *rest, _ = parts(world, {**BOTH, "drill": {"on": "w"}})
    node, found = asyncio.run(Drilling(*rest).run())
    assert (node, found.ok, found.error) == ("w", False, "damaged")
    *rest, _ = parts(World(), BOTH)
    with pytest.raises(Failed, match="it ended without a word"):
        asyncio.run(Drilling(*rest).run())


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (2048, "2 KiB"), (3 * 1024**2, "3 MiB"), (1.5 * 1024**3, "1.5 GiB")]
)
def test_a_size_is_spelt_for_people(count: float, text: str) -> None:
    assert size(count) == text
