"""TimeSync: something keeps this host's clock right. Leases, certificates and replication lag all rest on it.

pgha never sets a clock. It sees to it that the service runs, and reads back what systemd and the service themselves
say; that a command to switch it on succeeded proves nothing, because it also succeeds where the unit is skipped.
A clock that is not synchronised yet is a fact to report, not a failure: it takes minutes after a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..resource import Change, Resource
from ..system import Look, UnitFacts
from .service import Service

UNITS = {"chrony": "chrony.service", "timesyncd": "systemd-timesyncd.service"}
ASK_TIMEDATECTL = ("timedatectl", "show", "-p", "NTP", "-p", "NTPSynchronized", "-p", "CanNTP")
ASK_CHRONY = ("chronyc", "-n", "tracking")


@dataclass(frozen=True, slots=True)
class TimeFacts:
    unit: UnitFacts
    container: str
    synchronised: bool


class TimeSync(Resource[TimeFacts]):
    kind: Literal["time_sync"] = "time_sync"
    service: Literal["chrony", "timesyncd"] = "chrony"

    def key(self) -> str:
        return self.service

    def _service(self) -> Service:
        return Service(unit=UNITS[self.service])

    def observe(self, look: Look) -> TimeFacts:
        said = look.ask(ASK_TIMEDATECTL).stdout
        synchronised = "NTPSynchronized=yes" in said.splitlines()
        if self.service == "chrony" and not synchronised:
            leap = [line for line in look.ask(ASK_CHRONY).stdout.splitlines() if line.startswith("Leap status")]
            synchronised = bool(leap) and leap[0].split(":", 1)[1].strip() == "Normal"
        return TimeFacts(look.unit(UNITS[self.service]), look.container(), synchronised)

    def plan(self, facts: TimeFacts) -> list[Change]:
        return self._service().plan(facts.unit)

    def refresh(self, facts: TimeFacts) -> list[Change]:
        return [] if facts.container != "none" else self._service().refresh(facts.unit)

    def skip(self, facts: TimeFacts) -> str:
        if facts.container != "none":
            return f"in a container ({facts.container}) the clock belongs to the host"
        return self._service().skip(facts.unit)

    def note(self, facts: TimeFacts) -> str:
        return "" if facts.synchronised else "the clock is not synchronised yet; timedatectl says more"
