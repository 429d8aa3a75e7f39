"""Service: a systemd unit's state, now and at boot, and what is done when its configuration changes.

Rules:
1. A daemon-reload comes first, else systemd would act on the unit as it was.
2. Starting what was stopped is no disruption; stopping or restarting what runs is.
3. A unit that one of its own Conditions kept from starting is neither started again nor called failed: it says why
   it does not belong on this host. A changed configuration gives it a new attempt, see `converge`, rule 5.
"""

from __future__ import annotations

from typing import Literal

from ...common.results import Disruption, Impact
from ..action import Unit
from ..resource import Change, Resource
from ..system import Look, UnitFacts

# what `systemctl enable` cannot or need not change
_ENABLED = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}


class Service(Resource[UnitFacts]):
    """`enabled=None` leaves the boot alone. `wait=False` is for units that become ready only with their peers."""

    kind: Literal["service"] = "service"
    unit: str
    running: bool = True
    enabled: bool | None = True
    masked: bool = False
    on_change: Literal["restart", "reload"] = "restart"
    wait: bool = True

    def key(self) -> str:
        return self.unit

    def observe(self, look: Look) -> UnitFacts:
        return look.unit(self.unit)

    def plan(self, facts: UnitFacts) -> list[Change]:
        changes: list[Change] = []
        if facts.needs_daemon_reload:
            changes.append(Change("unit file", Unit("daemon-reload"), "changed on disk", "loaded"))
        masked = facts.load == "masked" or facts.enabled.startswith("masked")
        if self.masked:
            if self._runs(facts):
                changes.append(self._stop(facts))
            if not masked:
                changes.append(Change("masked", Unit("mask", self.unit), "no", "yes"))
            return changes
        if masked and (self.running or self.enabled):
            changes.append(Change("masked", Unit("unmask", self.unit), "yes", "no"))
        if self.enabled is True and (masked or facts.enabled not in _ENABLED):
            changes.append(Change("at boot", Unit("enable", self.unit), facts.enabled or "disabled", "enabled"))
        if self.enabled is False and facts.enabled.startswith("enabled"):
            changes.append(Change("at boot", Unit("disable", self.unit), facts.enabled, "disabled"))
        if self.running and not self._runs(facts) and not _kept_off(facts):
            changes.append(self._start(facts))
        if not self.running and self._runs(facts):
            changes.append(self._stop(facts))
        return changes

    def refresh(self, facts: UnitFacts) -> list[Change]:
        if not self.running or self.masked:
            return []
        if not self._runs(facts):
            return [self._start(facts)]
        impact = Impact.RESTART if self.on_change == "restart" else Impact.RELOAD
        return [
            Change(
                self.on_change,
                Unit(self.on_change, self.unit, self.wait),
                "runs with what was there before",
                "runs with the changes",
                disruption=Disruption(impact=impact, unit=self.unit),
            )
        ]

    @property
    def paid_by_start(self) -> bool:
        return self.on_change == "restart"

    def started_at(self, facts: UnitFacts) -> float:
        if facts.needs_daemon_reload:
            return 0.0  # it was started as systemd knew it then
        return facts.started_at if self.paid_by_start and self._runs(facts) else 0.0

    def skip(self, facts: UnitFacts) -> str:
        if self.running and _kept_off(facts) and not self.plan(facts):
            return f"a Condition of {self.unit} is not met on this host; systemctl status {self.unit} names it"
        return ""

    def _runs(self, facts: UnitFacts) -> bool:
        # what need not be waited for counts as running as soon as it is on its way
        underway = () if self.wait else ("activating", "deactivating")  # a restart that is not waited for
        return facts.active in ("active", "reloading", *underway)

    def _start(self, facts: UnitFacts) -> Change:
        return Change(
            "state", Unit("start", self.unit, self.wait), facts.active, "active", disruption=Disruption(unit=self.unit)
        )

    def _stop(self, facts: UnitFacts) -> Change:
        disruption = Disruption(impact=Impact.RESTART, unit=self.unit)
        return Change("state", Unit("stop", self.unit), facts.active, "inactive", disruption=disruption)


def _kept_off(facts: UnitFacts) -> bool:
    return facts.active == "inactive" and not facts.condition_met
