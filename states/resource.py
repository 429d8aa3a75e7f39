"""Resource: what is wanted of a host, as data; and the three pure questions the engine asks of it.

    observe(look) -> facts     reads only; absence is a fact
    plan(facts) -> changes     pure; [] means converged
    refresh(facts) -> changes  pure; what to do when something it watches has changed

A kind is a frozen model with a literal `kind`, listed in `kinds.py`. It holds no side effect: a change carries one
inert action. One law binds every kind: perform(plan(observe)), then plan(observe) == [].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from ..common.results import ChangeView, Disruption
from .action import Action
from .system import Look

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference and the action that removes it. `before`, `after` and `diff` never hold a secret's text.

    Changes of one plan that carry equal actions are removed by it together: it is performed once.
    """

    what: str
    action: Action
    before: str = ""
    after: str = ""
    diff: str = ""
    disruption: Disruption = field(default_factory=Disruption)
    destroys: str = ""  # what would be lost and nobody keeps, in words
    follows: bool = False  # a refresh: nothing differs by itself, something it watches has changed

    def view(self) -> ChangeView:
        return ChangeView(
            what=self.what,
            before=self.before,
            after=self.after,
            diff=self.diff,
            disruption=self.disruption,
            destroys=self.destroys,
            follows=self.follows,
        )


class Resource(BaseModel, Generic[F]):
    """`requires`: ids that must have succeeded first. `watches`: ids whose change owes this one a refresh.

    Both order the run; a watched resource is also a required one. `document` is filled in by the catalog.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    requires: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    document: str = ""

    @property
    def id(self) -> str:
        """`kind:name`, unique within a node's documents."""
        return f"{self.kind}:{self.key()}"

    def key(self) -> str:
        """What names this resource within its kind: a path, a unit, a rule."""
        raise NotImplementedError

    def observe(self, look: Look) -> F:
        raise NotImplementedError

    def plan(self, facts: F) -> list[Change]:
        raise NotImplementedError

    def refresh(self, facts: F) -> list[Change]:
        """Nothing to do, unless the kind says otherwise."""
        return []

    @property
    def paid_by_start(self) -> bool:
        """Whether a start of what it is about makes up for a refresh."""
        return False

    def started_at(self, facts: F) -> float:
        """Unix time of that start; 0.0 when it proves nothing."""
        return 0.0

    def files(self) -> tuple[str, ...]:
        """Paths of which this resource has a say; when somebody touches one, the host is looked at soon."""
        path = getattr(self, "path", "")
        return (path,) if isinstance(path, str) and path else ()

    def skip(self, facts: F) -> str:
        """Why this cannot or must not be set on this host; empty when it can."""
        return ""

    def note(self, facts: F) -> str:
        """What a person should know of a resource that is as wanted; empty when there is nothing to say."""
        return ""


AnyResource = Resource[Any]
