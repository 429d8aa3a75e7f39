"""What came of a resource, as it crosses the bus, is stored, and is shown to a person.

Nothing here may hold a secret: `before` and `after` are made by the resource kinds, which mask by type.
"""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict, NonNegativeFloat


class Impact(str, Enum):
    """What a change does to the service it belongs to, mildest first."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"
    REBOOT = "reboot"


IMPACT_ORDER = list(Impact)


class Disruption(BaseModel):
    """The impact of one change and the unit it falls on. Starting a stopped unit is impact none on that unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    impact: Impact = Impact.NONE
    unit: str = ""

    def __str__(self) -> str:
        return self.impact.value if not self.unit or self.impact is Impact.NONE else f"{self.impact.value} {self.unit}"


class Status(str, Enum):
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    PLANNED = "planned"  # a dry run would change it
    FAILED = "failed"
    SKIPPED = "skipped"  # `reason` says why


class ChangeView(BaseModel):
    """One difference, for a person. `before` and `after` are short values, or a unified diff in `diff`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    before: str = ""
    after: str = ""
    diff: str = ""
    disruption: Disruption = Disruption()
    destroys: str = ""  # what would be lost and nobody keeps, in words
    follows: bool = False  # nothing differs by itself: a reload or restart, since something else changes


class ResourceResult(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    resource: str  # "file:/etc/haproxy/haproxy.cfg"
    document: str  # "haproxy"
    status: Status
    changes: tuple[ChangeView, ...] = ()
    reason: str = ""
    seconds: NonNegativeFloat = 0.0
    expected: bool = False  # a dry run's guess: something it requires is itself not there yet


class Outcome(BaseModel):
    """The end of one job on one minion."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ok: bool
    message: str = ""
    unchanged: int = 0
    changed: int = 0
    planned: int = 0
    failed: int = 0
    skipped: int = 0
    exit_code: int | None = None  # of an ad-hoc command
    data: dict[str, object] = {}  # of an ad-hoc function
    seconds: NonNegativeFloat = 0.0
