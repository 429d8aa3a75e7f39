"""Converge: observe, plan, perform, look again; one resource after the other, each just before it runs.

Rules:
1. Plan and apply are this one program; `dry_run` leaves out the performing.
2. What is changed is looked at again; a plan that is not empty then is a failure ("did not converge").
3. A refresh that is owed (a watched resource changes) is written to `Debts` before the change and erased after
   the refresh, so a crash in between still reloads the unit on the next run. A restart that is owed is paid by any
   start of the unit after the change.
4. A resource whose requisite failed is skipped with the reason; all others still run.
5. What must be skipped is still refreshed when it owes a refresh and knows how: a unit that its Condition kept from
   starting gets a new attempt once its configuration is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from ..common.clock import Clock, SystemClock
from ..common.errors import ActionFailed, HostError
from ..common.results import ResourceResult, Status
from .action import Action
from .graph import order
from .resource import AnyResource, Change
from .system import System

NEVER = float("inf")


class Debts(Protocol):
    """Refreshes that are owed, by resource id; durable on a real minion.

    `owe` is called before what is watched changes, `changed` after it did, with the host's time (Unix s). `since` is
    that time, NEVER where nobody came to say it: then no start of the unit can be known to have paid.
    """

    def owe(self, resource_id: str) -> None: ...

    def changed(self, resource_id: str, at: float) -> None: ...

    def owed(self, resource_id: str) -> bool: ...

    def since(self, resource_id: str) -> float: ...

    def settle(self, resource_id: str) -> None: ...


class MemoryDebts:
    """Debts of one run, for dry runs and tests. `owed`: ids, or since when by id."""

    def __init__(self, owed: Collection[str] | Mapping[str, float] = ()) -> None:
        self.known = dict(owed) if isinstance(owed, Mapping) else dict.fromkeys(owed, NEVER)

    @property
    def ids(self) -> set[str]:
        return set(self.known)

    def owe(self, resource_id: str) -> None:
        self.known[resource_id] = NEVER

    def changed(self, resource_id: str, at: float) -> None:
        self.known[resource_id] = at

    def owed(self, resource_id: str) -> bool:
        return resource_id in self.known

    def since(self, resource_id: str) -> float:
        return self.known.get(resource_id, NEVER)

    def settle(self, resource_id: str) -> None:
        self.known.pop(resource_id, None)


@dataclass(frozen=True)
class _Run:
    system: System
    debts: Debts
    dry_run: bool
    clock: Clock
    watchers: dict[str, list[AnyResource]]  # id -> those that watch it
    allow_destroy: Collection[str]


def converge(
    resources: Sequence[AnyResource],
    system: System,
    debts: Debts,
    *,
    dry_run: bool = False,
    only: Collection[str] | None = None,
    allow_destroy: Collection[str] = (),
    clock: Clock | None = None,
    started: Callable[[AnyResource], None] = lambda resource: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[ResourceResult]:
    """One result per resource, in the order they ran. A cancelled run reports the rest as skipped.

    `only` names the documents to run. The others still take part in what watches what, so that a certificate
    renewed in one document's turn leaves its debt to the service of another. `allow_destroy`: ids of resources that may
    destroy what nobody keeps; any other one fails instead, whatever was planned before.

    Raises UserError before anything is done when the requisites make no order.
    """
    ordered = order(resources)
    watchers: dict[str, list[AnyResource]] = {}
    for resource in ordered:
        for watched in resource.watches:
            watchers.setdefault(watched, []).append(resource)
    clock = clock or SystemClock()
    run = _Run(system, debts, dry_run, clock, watchers, allow_destroy)
    failed: set[str] = set()
    pending: set[str] = set()  # planned in a dry run, so whatever needs it is only expected
    for resource in ordered:
        if only is not None and resource.document not in only:
            continue
        since, name = clock.monotonic(), resource.id
        needs = (*resource.requires, *resource.watches)
        broken = sorted(failed.intersection(needs))
        if cancelled():
            found = _Found(Status.SKIPPED, reason="cancelled")
        elif broken:
            found = _Found(Status.SKIPPED, reason=f"{broken[0]} failed")
        else:
            started(resource)
            found = _one(run, resource, name)
        if broken or found.status is Status.FAILED:
            failed.add(name)
        expected = not pending.isdisjoint(needs)
        if found.status is Status.PLANNED:
            pending.add(name)
        yield ResourceResult(
            resource=name,
            document=resource.document,
            status=found.status,
            changes=tuple([change.view() for change in found.changes]),
            reason=found.reason,
            seconds=clock.monotonic() - since,
            expected=expected,
        )


class _Found(NamedTuple):
    """What came of one resource: `changes` that came about, or that are planned."""

    status: Status
    changes: Sequence[Change] = ()
    reason: str = ""


def _one(run: _Run, resource: AnyResource, name: str) -> _Found:
    done: list[Change] = []
    try:
        facts = resource.observe(run.system)
        owed = _owed(run, resource, name, facts)
        if (reason := resource.skip(facts)) and not owed:
            return _Found(Status.SKIPPED, reason=reason)
        changes = _wanted(resource.plan(facts), owed)
        if not run.dry_run and name not in run.allow_destroy:
            _spare(name, changes)
        watchers = [(w.id, w.paid_by_start) for w in run.watchers.get(name, ())] if changes else []
        for watcher, _ in watchers:
            run.debts.owe(watcher)  # a dry run's debts live in memory: they show what would be reloaded
        if changes and not run.dry_run:
            _perform(run.system, changes, done)
            for watcher, by_start in watchers:
                if by_start:
                    run.debts.changed(watcher, run.system.now())
            facts = resource.observe(run.system)
            if left := resource.plan(facts):
                raise ActionFailed(f"did not converge: {_differences(left)}")
        if not run.dry_run:
            run.debts.settle(name)
    except HostError as error:
        return _Found(Status.FAILED, done, str(error))
    status = Status.UNCHANGED if not changes else Status.PLANNED if run.dry_run else Status.CHANGED
    return _Found(status, changes, resource.skip(facts) or resource.note(facts))


def _spare(name: str, changes: Sequence[Change]) -> None:
    """Raises ActionFailed for what would destroy data."""
    if lost := [change.destroys for change in changes if change.destroys]:
        raise ActionFailed(f"this would destroy {lost[0]}; if that is meant, add --allow-destroy '{name}'")


def _owed(run: _Run, resource: AnyResource, name: str, facts: Any) -> list[Change]:  # Any: its own facts
    """The refresh that is due; none when the unit has been started since the change, whoever did it."""
    if not run.debts.owed(name) or resource.started_at(facts) > run.debts.since(name):
        return []
    return [replace(change, follows=True) for change in resource.refresh(facts)]


def _perform(system: System, changes: Sequence[Change], done: list[Change]) -> None:
    """Perform each different action once; `done` grows by the changes that came about, also when a later one fails."""
    performed: list[Action] = []
    for change in changes:
        if change.action not in performed:
            system.perform(change.action)
            performed.append(change.action)
        done.append(change)


def _wanted(plan: list[Change], refresh: list[Change]) -> list[Change]:
    """The plan, and the refresh that is owed; a plan that acts already on the unit counts as its refresh."""
    return plan if not refresh or any(change.disruption.unit for change in plan) else [*plan, *refresh]


def _differences(changes: list[Change]) -> str:
    return "; ".join(f"{c.what}: {c.before or 'absent'} instead of {c.after}" if c.after else c.what for c in changes)
