"""The engine: order, dry runs, refreshes that are owed, and what becomes of failures."""

from __future__ import annotations

from typing import Literal

import pytest
from pgha.common.errors import UserError
from pgha.common.results import ResourceResult, Status
from pgha.states.action import Run, Unit
from pgha.states.converge import MemoryDebts, converge
from pgha.states.graph import order
from pgha.states.resource import AnyResource, Change, Resource
from pgha.states.resources.files import Absent, Directory, File
from pgha.states.resources.packages import LISTS_STAMP, Packages, Upgrade
from pgha.states.resources.service import Service
from pgha.states.system import FileFacts, Look, UnitFacts
from pgha.states.testing import FakeSystem

CONF = File(path="/etc/app.conf", content="new\n")
APP = Service(unit="app", watches=("file:/etc/app.conf",))
RUNNING = {"app.service": UnitFacts("loaded", "active", "enabled", 1.0)}


def run(
    *resources: AnyResource, on: FakeSystem, debts: MemoryDebts | None = None, dry: bool = False
) -> list[ResourceResult]:
    return list(converge(resources, on, debts or MemoryDebts(), dry_run=dry))


def verbs(system: FakeSystem) -> list[str]:
    return [action.verb for action in system.performed if isinstance(action, Unit)]


def test_a_changed_file_restarts_the_service_that_watches_it() -> None:
    system = FakeSystem(units=dict(RUNNING))
    results = run(APP, CONF, on=system)
    assert [r.resource for r in results] == ["file:/etc/app.conf", "service:app"]
    assert verbs(system) == ["restart"]
    assert str(results[1].changes[0].disruption) == "restart app"


def test_an_unchanged_file_restarts_nothing() -> None:
    system = FakeSystem(units=dict(RUNNING), files={"/etc/app.conf": FileFacts("file", "new\n", "root", "root", 0o644)})
    assert [r.status for r in run(CONF, APP, on=system)] == [Status.UNCHANGED, Status.UNCHANGED]
    assert verbs(system) == []


def test_a_service_that_is_started_anyway_is_not_restarted_as_well() -> None:
    system = FakeSystem(units={"app.service": UnitFacts("loaded", "inactive", "enabled")})
    run(CONF, APP, on=system)
    assert verbs(system) == ["start"]


def test_a_refresh_that_a_crash_kept_from_happening_is_done_by_the_next_run() -> None:
    system, debts = FakeSystem(units=dict(RUNNING)), MemoryDebts()
    assert next(converge([CONF, APP], system, debts)).status is Status.CHANGED  # and no further
    assert verbs(system) == []
    run(CONF, APP, on=system, debts=debts)
    assert verbs(system) == ["restart"]
    run(CONF, APP, on=system, debts=debts)
    assert verbs(system) == ["restart"]


def broken_off(debts: MemoryDebts, service: Service = APP) -> FakeSystem:
    """The file is written; whoever wrote it died before the service was refreshed, some seconds ago."""
    system = FakeSystem(units=dict(RUNNING))
    assert next(converge([CONF, service], system, debts)).status is Status.CHANGED
    system.clock += 10.0
    return system


def test_a_restart_that_somebody_did_after_the_change_pays_what_is_owed() -> None:
    debts = MemoryDebts()
    system = broken_off(debts)
    system.perform(Unit("restart", "app"))
    assert [r.status for r in run(CONF, APP, on=system, debts=debts)] == [Status.UNCHANGED, Status.UNCHANGED]
    assert (verbs(system), debts.ids) == (["restart"], set())


def test_a_start_with_an_old_unit_file_pays_nothing() -> None:
    debts = MemoryDebts()
    system = broken_off(debts)
    system.units["app.service"] = UnitFacts("loaded", "active", "enabled", system.clock, needs_daemon_reload=True)
    run(CONF, APP, on=system, debts=debts)
    assert verbs(system) == ["daemon-reload", "restart"]


def test_a_restart_before_the_change_pays_nothing() -> None:
    debts = MemoryDebts()
    system = broken_off(debts)
    system.units["app.service"] = UnitFacts("loaded", "active", "enabled", system.clock - 11.0)
    run(CONF, APP, on=system, debts=debts)
    assert verbs(system) == ["restart"]


def test_a_start_pays_nothing_where_nobody_knows_when_the_change_was_made() -> None:
    """Whoever was to change it died before that was done, or before it could be written down."""
    debts = MemoryDebts(["service:app"])
    units = {"app.service": UnitFacts("loaded", "active", "enabled", 2_000_000_000.0)}
    system = FakeSystem(units=units, files={"/etc/app.conf": FileFacts("file", "new\n", "root", "root", 0o644)})
    run(CONF, APP, on=system, debts=debts)
    assert verbs(system) == ["restart"]


def test_a_reload_that_is_owed_is_done_whenever_the_unit_was_started() -> None:
    debts, reloading = MemoryDebts(), APP.model_copy(update={"on_change": "reload"})
    system = broken_off(debts, reloading)
    system.perform(Unit("restart", "app"))
    run(CONF, reloading, on=system, debts=debts)
    assert verbs(system) == ["restart", "reload"]


def test_what_only_follows_from_another_change_says_so() -> None:
    changed, refreshed = run(CONF, APP, on=FakeSystem(units=dict(RUNNING)))
    assert [change.follows for change in (*changed.changes, *refreshed.changes)] == [False, True]


TREE = Absent(path="/srv/old", tree=True)


def with_tree() -> FakeSystem:
    return FakeSystem(files={"/srv/old": FileFacts("directory"), "/srv/old/data": FileFacts("file", "x")})


def test_what_would_destroy_data_fails_and_stays_until_it_is_named() -> None:
    system = with_tree()
    (refused,) = converge([TREE], system, MemoryDebts(), allow_destroy=["absent:/srv/other"])
    assert refused.status is Status.FAILED
    assert refused.reason == (
        "this would destroy /srv/old with all that is in it; if that is meant, add --allow-destroy 'absent:/srv/old'"
    )
    assert system.performed == []
    (done,) = converge([TREE], system, MemoryDebts(), allow_destroy=["absent:/srv/old"])
    assert done.status is Status.CHANGED
    assert "/srv/old/data" not in system.files


def test_a_dry_run_shows_what_would_be_destroyed() -> None:
    (planned,) = converge([TREE], with_tree(), MemoryDebts(), dry_run=True)
    assert planned.status is Status.PLANNED
    assert planned.changes[0].destroys == "/srv/old with all that is in it"


def test_a_refresh_that_failed_is_still_owed() -> None:
    system, debts = FakeSystem(units=dict(RUNNING), broken={"Unit": "the unit does not start"}), MemoryDebts()
    assert run(CONF, APP, on=system, debts=debts)[1].status is Status.FAILED
    system.broken.clear()
    assert run(CONF, APP, on=system, debts=debts)[1].status is Status.CHANGED


def test_a_dry_run_shows_the_restart_and_owes_nothing_afterwards() -> None:
    system, durable = FakeSystem(units=dict(RUNNING)), {"service:other"}
    results = run(CONF, APP, on=system, debts=MemoryDebts(set(durable)), dry=True)
    assert [r.status for r in results] == [Status.PLANNED, Status.PLANNED]
    assert results[1].expected
    assert system.performed == []


def test_a_service_whose_condition_was_not_met_is_tried_again_when_its_configuration_comes() -> None:
    kept_off = UnitFacts("loaded", "inactive", "enabled", condition_met=False)
    system = FakeSystem(units={"app.service": kept_off})
    assert run(CONF, APP, on=system)[1].status is Status.CHANGED
    assert system.unit("app").active == "active"


def test_a_service_whose_condition_is_never_met_is_skipped_with_the_reason() -> None:
    system = FakeSystem(unmet={"app.service"})
    service = Service(unit="app")
    first = run(service, on=system)[0]
    assert (first.status, "Condition" in first.reason) == (Status.CHANGED, True)
    second = run(service, on=system)[0]
    assert (second.status, "Condition" in second.reason) == (Status.SKIPPED, True)
    assert verbs(system) == ["enable", "start"]


def test_what_needs_a_failed_resource_is_skipped_and_the_rest_runs() -> None:
    packages = Packages(name="base", names=("etcd",))
    service = Service(unit="etcd", requires=("packages:base",))
    after = Service(unit="after", requires=("service:etcd",))
    other = Directory(path="/var/other")
    system = FakeSystem(broken={"InstallPackages": "cannot reach the package mirror"})
    results = {r.resource: r for r in run(packages, service, after, other, on=system)}
    assert results["packages:base"].reason == "cannot reach the package mirror"
    assert results["service:etcd"].reason == "packages:base failed"
    assert results["service:after"].reason == "service:etcd failed"
    assert results["directory:/var/other"].status is Status.CHANGED


def test_changes_with_one_action_perform_it_once() -> None:
    system = FakeSystem(
        upgrades=["Inst a [1] (2 Debian:13/stable [all])", "Inst b [1] (2 Debian:13/stable [all])"],
        files={LISTS_STAMP: FileFacts("file", mtime=1_800_000_000.0)},
    )
    result = run(Upgrade(scope="all"), on=system)[0]
    assert [change.what for change in result.changes] == ["a", "b"]
    assert len(system.performed) == 1


class Stubborn(Resource[str]):
    kind: Literal["stubborn"] = "stubborn"

    def key(self) -> str:
        return "x"

    def observe(self, look: Look) -> str:
        return "60"

    def plan(self, facts: str) -> list[Change]:
        return [Change("value", Run(("sysctl", "-qw", "vm.x=10")), facts, "10")]


def test_what_does_not_take_is_a_failure_that_names_the_difference() -> None:
    result = run(Stubborn(), on=FakeSystem())[0]
    assert (result.status, result.reason) == (Status.FAILED, "did not converge: value: 60 instead of 10")


def test_a_cancelled_run_reports_the_rest_as_skipped() -> None:
    system = FakeSystem()
    wanted = [Directory(path="/a"), Directory(path="/b")]
    results = list(converge(wanted, system, MemoryDebts(), cancelled=lambda: bool(system.performed)))
    assert [(r.status, r.reason) for r in results] == [(Status.CHANGED, ""), (Status.SKIPPED, "cancelled")]


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ([Directory(path="/a"), Directory(path="/a", mode=0o700)], "two resources are both directory:/a"),
        ([Directory(path="/a", requires=("file:/b",))], "requires file:/b"),
        (
            [Directory(path="/a", requires=("directory:/b",)), Directory(path="/b", requires=("directory:/a",))],
            "directory:/a -> directory:/b -> directory:/a",
        ),
    ],
)
def test_requisites_that_make_no_order_stop_the_run_before_it_begins(resources: list[AnyResource], said: str) -> None:
    system = FakeSystem()
    with pytest.raises(UserError, match=said):
        run(*resources, on=system)
    assert system.performed == []


def test_a_chain_of_requisites_may_be_long_and_stand_in_any_order() -> None:
    links = [File(path=f"/{n}", content="", requires=(f"file:/{n + 1}",)) for n in range(3000)]
    last = File(path="/3000", content="")
    assert [link.key() for link in order([*links, last])] == [f"/{n}" for n in range(3000, -1, -1)]
    with pytest.raises(UserError, match="circle: file:/0 -> file:/1 -> "):
        order([*links, last.model_copy(update={"requires": ("file:/0",)})])


def test_a_unit_that_is_not_waited_for_may_still_be_stopping_after_its_restart() -> None:
    stopping = UnitFacts(load="loaded", active="deactivating", enabled="enabled")
    assert Service(unit="etcd", wait=False).plan(stopping) == []
    assert [change.what for change in Service(unit="etcd").plan(stopping)] == ["state"]
