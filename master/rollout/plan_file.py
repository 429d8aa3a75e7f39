"""A plan that is kept in a file, and whether it is still what an apply would do.

Rule: what was observed must not have changed. Only how long ago or how soon something is may differ: time passes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...common.clock import iso
from ...common.errors import UserError
from ...common.results import ResourceResult, Status
from ..health.observed import LEADING
from ..operations.progress import Plan

SCHEMA = "pgha/plan/v1"
PASSES = ("validity", "package lists")  # differences whose `before` tells a time

Seen = dict[tuple[str, str], tuple[tuple[str, str, str, str], ...]]


class Expected(BaseModel):
    """What an apply is to be. `at`: Unix time at which it was planned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float
    plan: Plan


class PlanFile(BaseModel):
    """`at` is Unix time; `path` and `text` are of the definition; `nodes` and `only` as the plan was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["pgha/plan/v1"] = Field("pgha/plan/v1", alias="schema")
    at: float
    path: str
    text: str
    nodes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    plan: Plan


def write(path: Path, kept: PlanFile) -> None:
    """Replace the file whole; only its owner may read it. Raises UserError when it cannot be written."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as file:
            file.write(kept.model_dump_json(by_alias=True, indent=1) + "\n")
        Path(temporary).replace(path)
    except OSError as error:
        raise UserError(f"the plan cannot be written to {path}: {error.strerror}") from None


def read(path: Path) -> PlanFile | None:
    """None when the file is something else, such as a definition. Raises UserError for a plan that cannot be used."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    try:
        schema = json.loads(text)["schema"] if text.lstrip().startswith("{") else ""
    except (ValueError, LookupError, TypeError):
        return None
    if not str(schema).startswith("pgha/plan/"):
        return None
    try:
        return PlanFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is no plan that this version of pgha can apply ({where}: {first['msg']}); plan again"
        ) from None


def stale(expected: Expected, now: Plan) -> list[str]:
    """What is no longer as it was when the plan was made, each as a sentence; empty when the plan still holds."""
    found = list(_differences(expected.plan, now))
    return [f"the plan of {iso(expected.at)} is out of date, plan again:", *found] if found else []


def _differences(then: Plan, now: Plan) -> Iterator[str]:
    was, is_ = _leader(then), _leader(now)
    if was != is_:
        yield f"{was or 'nobody'} led the cluster, now {is_ or 'nobody'} does"
    for name in sorted({*then.own, *now.own}):
        if then.own.get(name) != now.own.get(name):
            yield f"the document {name} has been changed"
    old, new = _seen(then), _seen(now)
    for node, resource in sorted({*old, *new}):
        before, after = old.get((node, resource), ()), new.get((node, resource), ())
        if before and not after:
            yield f"{node}: {resource} needs no change any more"
        elif after and not before:
            yield f"{node}: {resource} would be changed, too: {', '.join(what for what, *_ in after)}"
        elif before != after:
            yield f"{node}: {resource} differs in another way now: {_what(before, after)}"
    if now.restarts != then.restarts and set(old) == set(new):
        yield f"PostgreSQL waits for a restart on {', '.join(now.restarts) or 'no node'} now"


def _leader(plan: Plan) -> str:
    return next((node.node for node in plan.nodes if node.role == LEADING), "")


def _seen(plan: Plan) -> Seen:
    wanted = (Status.PLANNED, Status.FAILED)
    return {(node.node, r.resource): _rows(r) for node in plan.nodes for r in node.results if r.status in wanted}


def _rows(result: ResourceResult) -> tuple[tuple[str, str, str, str], ...]:
    changes = ((c.what, "" if c.what in PASSES else c.before, c.after, c.diff) for c in result.changes)
    return tuple(changes) or (("failed", "", result.reason, ""),)


def _what(old: tuple[tuple[str, str, str, str], ...], new: tuple[tuple[str, str, str, str], ...]) -> str:
    for what, before, after, diff in new:
        for other, before_then, after_then, diff_then in old:
            if what == other and (before, after, diff) != (before_then, after_then, diff_then):
                return f"{what}: was {before_then}, is {before}" if before != before_then else what
    return ", ".join(sorted({row[0] for row in new} ^ {row[0] for row in old})) or new[0][0]
