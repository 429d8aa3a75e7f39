"""What a follower of the master sees while something runs: one JSON line each over the local socket.

The same values are stored with the rollout, printed by the CLI, and given out by `--json`. The last is always an `End`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...common.results import ChangeView, ResourceResult, Status


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    at: float = 0.0  # Unix time


class Started(_Line):
    """Something with an id began (or was joined: it had begun already)."""

    kind: Literal["started"] = "started"
    id: str  # rollout or job id
    what: str  # "apply prod"
    nodes: tuple[str, ...] = ()
    joined: bool = False


class Step(_Line):
    """A step of a procedure, as a whole (`node` empty) or on one node."""

    kind: Literal["step"] = "step"
    step: str
    node: str = ""
    state: Literal["waiting", "started", "done", "unchanged", "failed", "skipped"]
    detail: str = ""
    seconds: float = 0.0


class Gate(_Line):
    kind: Literal["gate"] = "gate"
    step: str
    gate: str
    state: Literal["waiting", "open", "failed"]
    reason: str = ""
    seconds: float = 0.0


class Resource(_Line):
    """A resource on a node that changed, failed, was planned or skipped; unchanged ones are counted in `Step`."""

    kind: Literal["resource"] = "resource"
    node: str
    step: str = ""
    result: ResourceResult


class Output(_Line):
    """Lines of an ad-hoc command, as they are produced."""

    kind: Literal["output"] = "output"
    node: str
    stream: Literal["stdout", "stderr", "bytes"]  # bytes: a piece of a file, in base64
    text: str


class NodeDone(_Line):
    """The end of an ad-hoc job on one node. `state` is the job's one true state."""

    kind: Literal["node_done"] = "node_done"
    node: str
    state: str
    exit_code: int | None = None
    message: str = ""
    data: dict[str, object] = {}
    seconds: float = 0.0


class NodePlan(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    node: str
    role: str = ""  # leader, replica, witness, or "" while there is none
    unchanged: int = 0
    results: tuple[ResourceResult, ...] = ()  # planned, skipped and failed ones only

    @property
    def change_count(self) -> int:
        """How many resources an apply would change; each may differ in several things."""
        return sum(result.status is Status.PLANNED for result in self.results)

    @property
    def changes(self) -> list[tuple[ResourceResult, ChangeView]]:
        return [(r, c) for r in self.results if r.status is Status.PLANNED for c in r.changes]


class Plan(_Line):
    kind: Literal["plan"] = "plan"
    cluster: str
    definition: str  # first 6 hex digits of the file's SHA-256
    nodes: tuple[NodePlan, ...]
    order: tuple[str, ...] = ()  # what would happen, step by step, in words
    impact: tuple[str, ...] = ()  # what it means for the cluster's users, in words
    own: dict[str, str] = {}  # documents of the user's own and what they were, as a digest
    leaving: tuple[str, ...] = ()  # nodes that left the definition and would be taken out of the cluster
    restarts: tuple[str, ...] = ()  # nodes whose PostgreSQL waits, or will wait, for a restart that an apply does

    @property
    def change_count(self) -> int:
        return sum(node.change_count for node in self.nodes)

    @property
    def failures(self) -> list[str]:
        """What could not be looked at; an apply on such a plan would change what nobody has seen."""
        failed = ((n.node, r) for n in self.nodes for r in n.results if r.status is Status.FAILED)
        return [f"{node}: {result.resource}: {result.reason}" for node, result in failed]


def destroying(plan: Plan, allowed: Collection[str]) -> list[str]:
    """What would destroy data and was not named by whoever asks for it."""
    found = [(n.node, r.resource, c.destroys) for n in plan.nodes for r, c in n.changes if c.destroys]
    return [
        f"{node}: {resource} would destroy {what}; if that is meant, add --allow-destroy '{resource}'"
        for node, resource, what in found
        if resource not in allowed
    ]


class Note(_Line):
    kind: Literal["note"] = "note"
    level: Literal["info", "warning"] = "info"
    text: str


class End(_Line):
    """The last line. `exit` is the CLI's exit code; `data` is the verb's answer."""

    kind: Literal["end"] = "end"
    exit: int = 0
    message: str = ""
    data: dict[str, object] = {}


Line = Annotated[Started | Step | Gate | Resource | Output | NodeDone | Plan | Note | End, Field(discriminator="kind")]
