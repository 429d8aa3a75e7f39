"""What a rollout tells while it runs, and what it has counted and timed in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...common.clock import Clock
from ..operations.operations import Operation
from ..operations.progress import Gate, Note, Step
from .fleet import Answer

StepState = Literal["done", "failed"]
GateState = Literal["waiting", "open", "failed"]


@dataclass
class Report:
    """`timings`: {step, node, seconds}. `critical_path_s`: the slowest node of each wave, the gates and the
    verification; not pgha's own looks before the first change.
    """

    operation: Operation
    clock: Clock
    since: float
    timings: list[dict[str, object]] = field(default_factory=list)
    critical_path_s: float = 0.0
    counts: dict[str, int] = field(default_factory=lambda: {"changed": 0, "unchanged": 0, "failed": 0})

    async def begin(self, step: str, detail: str) -> None:
        await self.operation.emit(Step(step=step, state="started", detail=detail))

    async def step(self, step: str, state: StepState, *, since: float, detail: str = "") -> None:
        """A step of the whole cluster has ended."""
        seconds = self.clock.monotonic() - since
        self._time(step, "", seconds)
        await self.operation.emit(Step(step=step, state=state, detail=detail, seconds=seconds))

    async def node(self, step: str, node: str, *, ok: bool, detail: str) -> None:
        await self.operation.emit(Step(step=step, node=node, state="done" if ok else "failed", detail=detail))

    async def warn(self, text: str) -> None:
        await self.operation.emit(Note(level="warning", text=text))

    async def settle(self, step: str, answer: Answer) -> None:
        """A node has ended its part of a stage."""
        outcome = answer.outcome
        seconds = outcome.seconds if outcome else 0.0
        self._time(step, answer.node, seconds)
        for result in answer.results:
            if result.seconds >= 0.5:
                self._time(f"{step}/{result.document}", answer.node, result.seconds, result.resource)
        changed = outcome.changed if outcome else 0
        if outcome:
            self.counts["changed"] += outcome.changed
            self.counts["failed"] += outcome.failed
        detail = f"{changed} changed" if answer.ok else answer.why()
        await self.operation.emit(
            Step(
                step=step,
                node=answer.node,
                state="failed" if not answer.ok else "done" if changed else "unchanged",
                detail=detail,
                seconds=seconds,
            )
        )

    async def gate(self, step: str, gate: str, state: GateState, waited: float, reason: str = "") -> None:
        if state == "open":
            self.critical_path_s += waited
            self._time(f"{step}: gate", "", waited)
        await self.operation.emit(Gate(step=step, gate=gate, state=state, reason=reason, seconds=waited))

    def closing(self, cluster: str) -> str:
        counts = ", ".join(f"{count} {word}" for word, count in self.counts.items())
        return f"Applied {cluster} in {spoken(self.clock.monotonic() - self.since)}: {counts}."

    def data(self) -> dict[str, object]:
        """For the End."""
        return {
            **self.counts,
            "seconds": round(self.clock.monotonic() - self.since, 2),
            "timings": self.timings,
            "critical_path_s": round(self.critical_path_s, 2),
        }

    def _time(self, step: str, node: str, seconds: float, resource: str = "") -> None:
        row: dict[str, object] = {"step": step, "node": node, "seconds": round(seconds, 2)}
        self.timings.append({**row, "resource": resource} if resource else row)


def counted(number: int, what: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def spoken(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} m {rest:.0f} s" if minutes else f"{rest:.1f} s"
