"""What `pgha-minion apply --local` says: lines for a person, or JSON lines as those of `pgha-master apply --json`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict

from ..common.errors import DefinitionError, PghaError
from ..common.results import ChangeView, Impact, ResourceResult, Status
from .local import Outcome, Wanted

_ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what is in a file gives no orders to a terminal


def resource_lines(wanted: Wanted, result: ResourceResult) -> Iterator[str]:
    """`HH:MM:SS node document state resource`, and each difference below it; of what is as wanted only its reason."""
    if _silent(result):
        return
    impacts = dict.fromkeys(str(c.disruption) for c in result.changes if c.disruption.impact is not Impact.NONE)
    head = f"{time.strftime('%H:%M:%S')} {wanted.node:<14}{wanted.file.name:<14}{result.status.value:<9}"
    guess = "(expected)" if result.expected else ""
    yield _plain("  ".join(part for part in (head, result.resource, ", ".join(impacts), result.reason, guess) if part))
    for change in result.changes:
        yield from map(_plain, _change(change))


def _change(change: ChangeView) -> Iterator[str]:
    values = f"{change.before} -> {change.after}" if change.before else change.after
    told = change.what if change.diff or not values else f"{change.what}: {values}"
    yield f"    {told}" + (f"  destroys {change.destroys}" if change.destroys else "")
    yield from (f"      {line}" for line in change.diff.splitlines())


def _plain(text: str) -> str:
    return _ORDERS.sub("?", text)


def summary(wanted: Wanted, outcome: Outcome, *, plan: bool) -> str:
    counts = outcome.counts
    skipped = f", {counts[Status.SKIPPED]} skipped" if counts[Status.SKIPPED] else ""
    rest = f"{counts[Status.UNCHANGED]} unchanged, {counts[Status.FAILED]} failed{skipped}"
    if plan:
        return f"Plan of {wanted.file.path}: {counts[Status.PLANNED]} to change, {rest}."
    begun = "Interrupted" if outcome.cancelled else "Applied"
    return f"{begun} {wanted.file.path} in {outcome.seconds:.1f} s: {counts[Status.CHANGED]} changed, {rest}."


def error_lines(error: PghaError) -> Iterator[str]:
    """Every mistake with its place and what to do."""
    if not isinstance(error, DefinitionError):
        yield f"error: {error}"
        return
    for problem in error.problems:
        place = f"{error.path}:{problem.line}:{problem.column}" if problem.line else error.path
        yield f"error[{problem.code}]  {place}  {problem.message}" + (f"; {problem.hint}" if problem.hint else "")


def _silent(result: ResourceResult) -> bool:
    return result.status is Status.UNCHANGED and not result.reason


def resource_json(wanted: Wanted, result: ResourceResult) -> Iterator[str]:
    if _silent(result):
        return
    step, told = wanted.file.name, result.model_dump(mode="json")
    yield json.dumps({"kind": "resource", "at": time.time(), "node": wanted.node, "step": step, "result": told})


def end_json(code: int, message: str, outcome: Outcome | None = None, error: PghaError | None = None) -> str:
    data: dict[str, object] = {}
    if outcome:
        data = {status.value: outcome.counts[status] for status in Status} | {"seconds": round(outcome.seconds, 2)}
    if isinstance(error, DefinitionError):
        data = {"path": error.path, "problems": [asdict(problem) for problem in error.problems]}
    return json.dumps({"kind": "end", "at": time.time(), "exit": code, "message": message, "data": data})
