"""A plan for a person: what would change on each node, what it costs, in which order. Pure: a plan in, lines out.

Nodes with the same changes are shown once. `+` is new, `~` is changed, `-` is removed.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from .screen import Look

if TYPE_CHECKING:
    from ...common.results import ChangeView, ResourceResult
    from ..operations.progress import NodePlan, Plan

_STYLE = {"+": "green", "~": "yellow", "-": "red"}
MAX_DIFF_LINES = 40


def render_plan(plan: Plan, look: Look, verbose: bool = False) -> list[str]:
    """The plan as lines, without the hint at what to do next. `verbose`: long diffs whole, and what is skipped."""
    counts = f"{len(plan.nodes)} node{'' if len(plan.nodes) == 1 else 's'}"
    lines = [f"Cluster {look.paint(plan.cluster, 'bold')}   definition {plan.definition}   {counts}", ""]
    shown: dict[tuple[object, ...], str] = {}
    for node in plan.nodes:
        lines += _node(node, shown, look, verbose)
    skipped = sum(result.status == "skipped" for node in plan.nodes for result in node.results)
    if skipped and not verbose:
        lines += [look.paint(f"Skipped  {skipped} that cannot be set on their hosts: add -v to see why", "dim"), ""]
    lines += consequences(plan)
    removed = [(node.node, result) for node in plan.nodes for result, change in node.changes if sign(change) == "-"]
    for name, result in dict.fromkeys((name, result.resource) for name, result in removed):
        lines.append(look.paint(f"removes  {name}  {result}", "red"))
    return [*lines, look.paint(summary(plan), "bold")]


def consequences(plan: Plan) -> list[str]:
    """The order of the work and what it means to the users of the cluster."""
    lines = _wrapped("Order", " -> ".join(plan.order)) if plan.order else []
    for index, sentence in enumerate(plan.impact):
        lines.append(f"{'Impact' if index == 0 else '':<9}{sentence}")
    return [*lines, ""] if lines else []


def summary(plan: Plan) -> str:
    """`Plan: 7 to change, 412 unchanged.` with nodes to restart, and what failed to be planned."""
    failed = sum(result.status == "failed" for node in plan.nodes for result in node.results)
    unchanged = sum(node.unchanged for node in plan.nodes)
    told = f", {len(plan.leaving)} to take out" if plan.leaving else ""
    told += f", {len(plan.restarts)} to restart PostgreSQL" if plan.restarts else ""
    told += f", {failed} could not be looked at" if failed else ""
    return f"Plan: {plan.change_count} to change, {unchanged} unchanged{told}."


def sign(change: ChangeView) -> str:
    """`+` for what was not there, `-` for what goes, `~` for the rest."""
    nothing = ("", "absent", "missing", "none")
    if change.before.lower() in nothing and change.after.lower() not in nothing:
        return "+"
    return "-" if change.after.lower() == "absent" else "~"


def _node(node: NodePlan, shown: dict[tuple[object, ...], str], look: Look, verbose: bool) -> list[str]:
    others = [r for r in node.results if r.status == "failed" or (r.status == "skipped" and verbose)]
    count = node.change_count
    told = f"{count} change{'' if count == 1 else 's'}" if count else "no change"
    name = f"{node.node}  ({node.role})" if node.role else node.node
    head = look.paint(name, "bold") + " " * max(48 - len(name), 2)
    signature = _signature(node)
    if signature in shown and (count or others):
        return [f"{head}{told}, same as {shown[signature]}", ""]
    shown.setdefault(signature, node.node)
    lines = [f"{head}{told}"]
    for result, change in node.changes:
        lines += _change(result, change, look, verbose)
    for result in others:
        style = "red" if result.status == "failed" else "dim"
        lines.append("  " + look.paint(f"! {result.status.value:<8} {result.resource}  {result.reason}", style))
    return [*lines, ""]


def _signature(node: NodePlan) -> tuple[object, ...]:
    return tuple((result.resource, result.status, result.reason, result.changes) for result in node.results)


def _change(result: ResourceResult, change: ChangeView, look: Look, verbose: bool) -> list[str]:
    mark = sign(change)
    kind, _, key = result.resource.partition(":")
    told = f"{change.what}  " if change.what and change.what != key else ""
    values = "" if change.diff else f"{change.before} -> {change.after}" if change.before else change.after
    impact = "" if change.disruption.impact == "none" else look.paint(str(change.disruption), "yellow")
    guess = "(expected)" if result.expected else ""
    lost = look.paint(f"destroys {change.destroys}", "red") if change.destroys else ""
    text = "  ".join(part for part in (f"{kind:<9} {key}", f"{told}{values}".strip(), impact, lost, guess) if part)
    head = f"  {look.paint(mark, _STYLE[mark])} {text}"
    if mark == "+" and change.diff and not verbose:
        return [f"{head}  {change.diff.count(chr(10)) or 1} lines: add -v to see them"]
    return [head, *_diff(change.diff, look, verbose)]


def _diff(diff: str, look: Look, whole: bool) -> list[str]:
    lines = [line for line in diff.splitlines() if not line.startswith(("--- ", "+++ "))]
    kept = lines if whole else lines[:MAX_DIFF_LINES]
    styles = {"+": "green", "-": "red", "@": "cyan"}
    shown = [f"      {look.paint(line, styles.get(line[:1], ''))}" for line in kept]
    if len(kept) < len(lines):
        shown.append(f"      ... {len(lines) - len(kept)} more lines: add -v")
    return shown


def _wrapped(label: str, text: str, width: int = 100) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=f"{label:<9}", subsequent_indent=" " * 9)
