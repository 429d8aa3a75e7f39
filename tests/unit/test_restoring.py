"""A whole cluster's restore as the master orders it: in which order, what happens when a step fails, how it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pgha.common.clock import moment
from pgha.common.cluster import Bootstrap, Cluster
from pgha.common.results import Outcome
from pgha.common.telemetry_backup import SET_LIMIT, BackupSet, RepositorySample
from pgha.master.backups import backing, restore_choice, restore_nodes, restoring
from pgha.master.backups.restore_order import RESUME, Wanted
from pgha.master.backups.restoring import Restoring
from pgha.master.orchestration.fleet import Answer, Failed, Fleet
from pgha.master.orchestration.gatekeeper import Gatekeeper
from pgha.master.orchestration.report import Report
from pgha.master.orchestration.seams import Headquarters

NODES = [
    {"name": "a", "address": "10.0.0.1"},
    {"name": "b", "address": "10.0.0.2"},
    {"name": "w", "address": "10.0.0.3", "role": "witness"},
]
CLUSTER = Cluster.model_validate({"cluster": "prod", "nodes": NODES, "backup": {"s3": {"bucket": "x"}}})
ASKED = Wanted(kind="time", value="2026-01-01 00:00:00.000000+00")
GIB = 1024**3


@dataclass
class World:
    """Nodes a and b; what is called on them changes them. `fails`: step -> why the node says it cannot be."""

    leader: str = "a"
    phases: dict[str, tuple[str, str]] = field(default_factory=dict)  # node -> (id, phase)
    running: set[str] = field(default_factory=lambda: {"a", "b"})
    fails: dict[str, str] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=lambda: {"a": 100 * GIB, "b": 100 * GIB})
    tablespaces: int = 0
    mounted: bool = False
    archived: str = "000000010000000000000008"
    paused: bool = False
    backups: bool = True
    errors: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    noted: dict[str, str] = field(default_factory=dict)
    made: int = 0
    asked_of: list[str] = field(default_factory=list)  # stanzas; empty: the cluster's own
    orders: list[tuple[str, ...]] = field(default_factory=list)

    async def call(
        self, function: str, arguments: Mapping[str, Sequence[str]], *_: Any, **__: Any
    ) -> dict[str, Answer]:
        found = {}
        for node, words in arguments.items():
            if not function.endswith(".look"):
                self.calls.append((function.removeprefix("restore."), node))
            if function == "restore.begin":
                self.orders.append(tuple(words))
            data: dict[str, Any] = getattr(
                self, function.replace(".", "_").replace("restore_", "_"), lambda node, *words: {}
            )(node, *words)
            ok = "refused" not in data
            outcome = Outcome(ok=ok, exit_code=0 if ok else 1, message=str(data.get("refused", "")), data=data)
            found[node] = Answer(node, "done" if ok else "failed", outcome=outcome)
        return found

    def _look(self, node: str) -> dict[str, Any]:
        identity, phase = self.phases.get(node, ("", ""))
        restore = {"id": identity, "phase": phase, "error": self.errors.get(node, "")} if identity else None
        active = node in self.running
        return {
            "restore": restore,
            "patroni": "active" if active else "inactive",
            "serving": active,
            "free": self.free[node],
            "tablespaces": self.tablespaces,
            "mounted": self.mounted,
            "wal": "000000010000000000000009",
        }

    def _begin(self, node: str, step: str, identity: str, *_: str) -> dict[str, Any]:
        if step in self.fails:
            self.phases[node], self.errors[node] = (
                (identity, {"copy": "copying", "recover": "recovering"}[step]),
                self.fails[step],
            )
        else:
            self.phases[node] = (identity, {"copy": "copied", "recover": "recovered"}[step])
        return {}

    def _stop(self, node: str) -> dict[str, Any]:
        self.running.discard(node)
        self.leader = "" if self.leader == node else self.leader
        return {}

    def _start(self, node: str) -> dict[str, Any]:
        self.running.add(node)
        self.leader = self.leader or node
        return {}

    def _swap(self, node: str, identity: str) -> dict[str, Any]:
        self.phases[node] = (identity, "swapped")
        return {"kept": "/data.before"}

    def _forget(self, node: str, scope: str) -> dict[str, Any]:
        return {"refused": "somebody still leads prod"} if self.leader else {}

    def backup_look(self, node: str, stanza: str = "") -> dict[str, Any]:
        self.asked_of.append(stanza)
        one = {"label": "F", "type": "full", "began": 1, "ended": 2, "size": GIB, "repo_size": 1}
        state = "ok" if self.backups else "no backups"
        repository = {
            "number": 1,
            "state": state,
            "at": 3,
            "backups": [one] if self.backups else [],
            "wal_max": self.archived,
        }
        runs = [{"type": "full", "repository": 1, "began": 9, "ended": 10 + self.made, "ok": True, "label": "N"}]
        return {"turn": "b", "operates": [1], "repositories": [repository], "runs": runs if self.made else []}

    def backup_start(self, node: str, kind: str) -> dict[str, Any]:
        self.made += 1
        return {"running": []}


class Line:
    async def emit(self, line: object) -> None:
        pass


class Keeper:
    def __init__(self, world: World) -> None:
        self.world, self.gates = world, list[str]()

    def health(self) -> Any:
        sample = SimpleNamespace(patroni=SimpleNamespace(paused=self.world.paused))
        return SimpleNamespace(leader=self.world.leader, data_nodes=[SimpleNamespace(name="a", sample=sample)])

    async def wait(self, step: str, name: str, *_: Any) -> None:
        self.gates.append(name)


class Store:
    def __init__(self, world: World) -> None:
        self.world = world

    async def notes(self, cluster: str) -> dict[str, str]:
        return dict(self.world.noted)

    async def note(self, cluster: str, key: str, value: str | None) -> None:
        if value is None:
            self.world.noted.pop(key, None)
        else:
            self.world.noted[key] = value


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "POLL_S", 0.0)
    monkeypatch.setattr(restore_nodes, "POLL_S", 0.0)
    monkeypatch.setattr(backing, "POLL_S", 0.0)


def restorer(world: World) -> Restoring:
    clock = SimpleNamespace(monotonic=lambda: 0.0, now=lambda: 1000.0)
    hub = SimpleNamespace(connected=lambda name: True)
    master = cast(Headquarters, SimpleNamespace(hub=hub, store=Store(world), clock=clock))
    report = Report(cast(Any, Line()), cast(Any, clock), 0.0)
    return Restoring(master, cast(Fleet, world), CLUSTER, report, cast(Gatekeeper, Keeper(world)))


def over(world: World, asked: Wanted = ASKED, on: str = "") -> Wanted:
    return asyncio.run(restorer(world).over(asked, on))


def test_the_cluster_stops_after_the_copy_and_the_replica_that_recovered_leads() -> None:
    world = World()
    done = over(world)
    assert (done.node, world.leader, world.running) == ("b", "b", {"a", "b"})
    order = [call for call in world.calls if call[0] not in ("hold", "settle")]
    assert order == [
        ("begin", "b"),  # copy, while everybody runs
        ("stop", "b"),
        ("stop", "a"),  # who leads ends last
        ("begin", "b"),  # recover
        ("stop", "a"),  # somebody may have come back meanwhile
        ("stop", "b"),
        *(("keep", name) for name in ("a", "b")),
        ("aside", "a"),
        ("swap", "b"),
        ("forget", "a"),
        ("start", "b"),
        ("start", "a"),
        ("backup.start", "b"),
    ]
    assert "restore" not in world.noted


def test_replicas_are_not_made_from_backups_of_the_history_that_was_left() -> None:
    world = World()
    over(world)
    names = [name for name, _ in world.calls]
    assert names.index("hold") < names.index("start", names.index("hold")) < names.index("backup.start")
    assert names.index("backup.start") < names.index("settle")


@pytest.mark.parametrize("step", ["copy", "recover"])
def test_a_step_that_cannot_be_leaves_the_cluster_running_with_the_data_it_had(step: str) -> None:
    world = World(fails={step: "the target was not reached"})
    with pytest.raises(Failed, match="the target was not reached; the cluster goes on with the data it had"):
        over(world)
    assert world.running == {"a", "b"} and "restore" not in world.noted
    assert not {"swap", "aside", "forget"} & {name for name, _ in world.calls}


def test_one_that_was_interrupted_goes_on_where_it_was() -> None:
    noted = ASKED.model_copy(update={"id": "r1", "node": "b"})
    world = World(leader="", phases={"b": ("r1", "swapped")}, running=set(), noted={"restore": noted.model_dump_json()})
    done = over(world, Wanted(kind="latest", value=RESUME))
    assert (done.id, world.leader) == ("r1", "b")
    assert [name for name, _ in world.calls if name in ("begin", "forget", "start")] == ["forget", "start", "start"]
    assert "restore" not in world.noted


def test_another_wish_is_refused_while_one_is_under_way() -> None:
    noted = ASKED.model_copy(update={"id": "r1", "node": "b"})
    world = World(noted={"restore": noted.model_dump_json()})
    with pytest.raises(Failed, match="has begun and not ended"):
        over(world, Wanted(kind="latest"))
    assert world.calls == []
    with pytest.raises(Failed, match="has not ended; end it first"):
        asyncio.run(restorer(world).commit())


@pytest.mark.parametrize(
    ("world", "said"),
    [
        (World(backups=False), "there is no backup to restore from"),
        (World(tablespaces=1), "has tablespaces"),
        (World(mounted=True), "is a mount point"),
        (World(paused=True), "Patroni is paused"),
        (World(free={"a": GIB, "b": GIB}), "must be free beside the data"),
    ],
    ids=["no backup", "tablespaces", "mount point", "paused", "no room"],
)
def test_what_cannot_go_well_is_refused_before_anything_is_done(world: World, said: str) -> None:
    with pytest.raises(Failed, match=said):
        over(world)
    assert world.calls == [] and world.noted == {} and world.running == {"a", "b"}


def test_there_is_nothing_to_resume_when_nothing_has_begun() -> None:
    with pytest.raises(Failed, match="no restore of prod is under way"):
        over(World(), Wanted(kind="latest", value=RESUME))


def test_a_node_may_be_named_to_recover() -> None:
    assert over(World(), on="a").node == "a"


def test_bare_nodes_get_their_data_before_patroni_is_there() -> None:
    world = World(leader="", running=set())
    done = asyncio.run(restorer(world).bare(Wanted(kind="latest")))
    assert done.bare and done.node == "a"
    assert [name for name, _ in world.calls] == [
        *("stop", "stop", "begin", "begin", "swap", "hold", "forget", "lift", "lift")
    ]
    assert "restore" in world.noted  # until the cluster runs and has a backup of its own


def test_bare_nodes_get_the_data_of_another_cluster_and_their_first_backup_is_their_own() -> None:
    world = World(leader="", running=set())
    done = asyncio.run(restorer(world).bare(Wanted(kind="latest", stanza="old")))
    assert world.asked_of == ["old"]
    assert [(*order[:1], *order[2:]) for order in world.orders] == [
        (step, "latest", "-", "-", "-", "1", "old") for step in ("copy", "recover")
    ]
    assert "of old" in str(done)
    world._start("a")
    asyncio.run(restorer(world).settle(done))
    assert set(world.asked_of[1:]) == {""}


def test_what_a_cluster_begins_with_counts_until_it_has_lived() -> None:
    def first(lived: bool, **wanted: str) -> Wanted | None:
        return Wanted.first(
            CLUSTER.model_copy(update={"bootstrap": Bootstrap.model_validate({"from_backup": wanted})}), lived=lived
        )

    assert Wanted.first(CLUSTER, lived=False) is None
    assert first(False, to="latest", label="F") == Wanted(kind="latest", label="F")
    assert first(True, to="latest") == Wanted(kind="latest")
    then = Wanted(kind="time", value="2026-01-01 00:00:00.000000+00")
    assert first(False, to="2026-01-01 00:00:00+00") == then
    assert first(True, to="2026-01-01 00:00:00+00") is None
    assert first(False, stanza="old", label="F") == Wanted(kind="latest", stanza="old", label="F")
    assert first(True, stanza="old", label="F") == Wanted(kind="latest", stanza="old", label="F")
    assert first(False, stanza="prod") == Wanted(kind="latest")


def test_on_bare_nodes_what_cannot_be_recovered_is_told_and_can_be_tried_again() -> None:
    world = World(leader="", running=set(), fails={"recover": "a segment is missing"})
    with pytest.raises(Failed, match="a segment is missing; nothing was built yet"):
        asyncio.run(restorer(world).bare(Wanted(kind="latest")))
    assert "restore" not in world.noted


def test_one_that_was_interrupted_can_be_given_up_while_its_data_is_not_in_place() -> None:
    noted = ASKED.model_copy(update={"id": "r1", "node": "b", "leader": "a"})
    world = World(
        leader="", phases={"b": ("r1", "recovering")}, running=set(), noted={"restore": noted.model_dump_json()}
    )
    assert "goes on with the data it had" in asyncio.run(restorer(world).cancel())
    assert world.running == {"a", "b"} and "restore" not in world.noted
    assert next(node for name, node in world.calls if name == "start") == "a"  # who led, before the others
    assert ("drop", "b") in world.calls and ("lift", "a") in world.calls


def test_one_whose_data_has_begun_to_change_places_can_only_be_gone_on_with() -> None:
    noted = ASKED.model_copy(update={"id": "r1", "node": "b", "leader": "a", "placing": True})
    late = World(phases={"b": ("r1", "recovered")}, noted={"restore": noted.model_dump_json()})
    with pytest.raises(Failed, match="has begun to change places on a, b; go on with"):
        asyncio.run(restorer(late).cancel())
    assert late.calls == [] and late.noted


def test_what_goes_wrong_once_the_cluster_is_stopped_says_how_to_go_on() -> None:
    world = World()
    world._swap = lambda node, identity: {"refused": "the disk is read-only"}  # type: ignore[method-assign]
    with pytest.raises(Failed, match="the disk is read-only; go on with: pgha-master restore prod --resume"):
        over(world)
    assert "restore" in world.noted


def test_for_the_newest_what_is_in_no_repository_is_told_and_not_lost() -> None:
    world = World(archived="000000010000000000000004")
    with pytest.raises(Failed, match="4 segments of WAL of a are not in repository 1"):
        over(world, Wanted(kind="latest"))
    assert world.running == {"a", "b"} and "restore" not in world.noted
    assert over(World(archived="000000010000000000000004")).node == "b"  # for a time of before it does not matter


def test_a_step_that_ends_without_a_word_is_begun_again_a_few_times_only() -> None:
    world = World()
    world._begin = lambda node, step, identity, *_: world.phases.update({node: (identity, "copying")}) or {}  # type: ignore[method-assign]
    with pytest.raises(Failed, match="ends again and again without a word"):
        over(world)
    assert len([name for name, _ in world.calls if name == "begin"]) == 1 + restore_nodes.TRIES


def test_why_a_restore_failed_is_told_also_when_the_cluster_does_not_come_back() -> None:
    world = World(fails={"recover": "THE REASON"})
    world._start = lambda node: {"refused": "no disk"}  # type: ignore[method-assign]
    with pytest.raises(
        Failed, match=r"THE REASON; and the cluster could not be started as it was: .*no disk.*--cancel"
    ):
        over(world)
    assert "restore" in world.noted


def repository(number: int, *, since: float = 2.0, wal: str = "9", state: str = "ok") -> RepositorySample:
    backup = BackupSet(label=f"F{number}", type="full", began=since - 1, ended=since, size=1, repo_size=1)
    wal_max = f"0000000100000000{wal.zfill(8)}"
    return RepositorySample(number=number, state=state, at=9.0, backups=(backup,), wal_max=wal_max)


NEWEST, AT_FOUR = Wanted(kind="latest"), Wanted(kind="time", value=moment("1970-01-01 00:00:04"))


@pytest.mark.parametrize(
    ("found", "asked", "number"),
    [
        ([repository(1), repository(2)], NEWEST, 1),
        ([repository(1, state="unreachable"), repository(2)], NEWEST, 2),
        ([repository(1, wal="8"), repository(2)], NEWEST, 2),
        ([repository(1, since=5.0), repository(2)], NEWEST, 2),
        ([repository(1), repository(2)], Wanted(kind="latest", label="F2"), 2),
        ([repository(1, since=5.0), repository(2, wal="8")], AT_FOUR, 2),
    ],
    ids=["the first", "one that answers", "with the latest WAL", "with the oldest backup", "by label", "by time"],
)
def test_all_of_a_restore_comes_from_one_repository(found: list[RepositorySample], asked: Wanted, number: int) -> None:
    assert restore_choice.source(found, asked)[0] == number


def test_which_of_several_reaches_back_to_an_lsn_the_tool_finds_out() -> None:
    asked = Wanted(kind="lsn", value="0/9000000")
    assert restore_choice.source([repository(1), repository(2)], asked)[0] == 0
    assert restore_choice.source([repository(1, state="unreachable"), repository(2)], asked)[0] == 2


def test_of_a_repository_with_many_backups_the_old_ones_are_not_known_and_may_be_there() -> None:
    many = repository(1).model_copy(update={"backups": repository(1, since=50.0).backups * SET_LIMIT})
    assert restore_choice.source([many], AT_FOUR)[0] == 1
    assert restore_choice.source([many], Wanted(kind="latest", label="F-old"))[0] == 1


def test_for_the_newest_a_repository_that_has_just_gone_is_not_taken_for_whole() -> None:
    world = World()
    stop = world._stop

    def gone(node: str) -> dict[str, Any]:
        world.backups = False
        return stop(node)

    world._stop = gone  # type: ignore[method-assign]
    with pytest.raises(Failed, match="nobody knows which WAL of a is in repository 1: it is no backups"):
        over(world, Wanted(kind="latest"))
    assert world.running == {"a", "b"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Wanted(kind="latest", label="F3"), "in no repository that answers is the backup F3"),
        (Wanted(kind="time", value=moment("1970-01-01 00:00:01")), "is a backup that ended before 1970-01-01 00:00:01"),
    ],
)
def test_what_no_repository_holds_is_told_before_anything_is_stopped(asked: Wanted, said: str) -> None:
    with pytest.raises(Failed, match=said):
        restore_choice.source([repository(1), repository(2)], asked)


def test_a_time_that_an_earlier_restore_has_left_needs_its_timeline() -> None:
    world = World()
    over(world, Wanted(kind="time", value="1970-01-01 00:00:03.000000+00"))  # it ends at second 1000
    again = Wanted(kind="time", value="1970-01-01 00:10:00.000000+00")
    with pytest.raises(Failed, match="was left by a restore, and is on a timeline of its own"):
        over(world, again)
    assert over(world, again.model_copy(update={"timeline": "1"})).timeline == "1"
