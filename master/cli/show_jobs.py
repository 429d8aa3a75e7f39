"""How `pgha-master jobs` looks: the list, the nodes of one job, its log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .follow import clock, event, resource
from .screen import Look, duration, moment, table

if TYPE_CHECKING:
    from ..operations.progress import End, Line

SHORT = 10  # characters of an id that are shown at least: those that tell its time


def shortest(ids: Sequence[str]) -> dict[str, str]:
    """As much of each id as tells it from the others."""
    found = {}
    for identity in ids:
        length = SHORT
        while length < len(identity) and sum(other.startswith(identity[:length]) for other in ids) > 1:
            length += 1
        found[identity] = identity[:length]
    return found


def row(job: Any, short: str) -> tuple[str, ...]:  # Any: JSON as the daemon sent it
    return (
        short,
        moment(job.get("when")),
        str(job.get("who") or "-"),
        str(job.get("what") or "-"),
        str(job.get("state") or "-"),
        f"{job.get('done', 0)}/{job.get('nodes', 0)}",
        duration(float(job.get("seconds") or 0)),
    )


def job_of(end: End) -> dict[str, Any]:
    job = end.data.get("job")
    return job if isinstance(job, dict) else {}


def _nodes(end: End) -> list[dict[str, Any]]:
    nodes = end.data.get("nodes")
    return nodes if isinstance(nodes, list) else []


def render_nodes(end: End, look: Look) -> list[str]:
    """What it is, and a row for each node."""
    job, nodes = job_of(end), _nodes(end)
    if not job:
        return []
    head = f"{job.get('id')}   {job.get('what')}   {job.get('state')}   by {job.get('who')}, {moment(job.get('when'))}"
    rows = [
        (
            str(node.get("node")),
            state(node),
            _spent(node.get("seconds")),
            "-" if node.get("exit") is None else str(node.get("exit")),
            str(node.get("message") or ""),
        )
        for node in nodes
    ]
    return ["", head, *(table(("NODE", "STATE", "TIME", "EXIT", "WHY"), rows, look.width, ("WHY",)) if rows else ())]


def state(node: dict[str, Any]) -> str:
    """`done`, or for what is open what it does and for how long: `started: patroni-primary, 31 m 00 s`."""
    word = str(node.get("state"))
    if not node.get("step"):
        return word
    return f"{word}: {node['step']}, {_spent(node.get('step_seconds'))}"


def _spent(seconds: object) -> str:
    return duration(seconds) if isinstance(seconds, (int, float)) else "-"


def render_times(end: End, look: Look) -> list[str]:
    """When each node got it, began and ended."""
    times = ("queued", "accepted", "started", "ended")
    rows = [
        (str(node.get("node")), *(_clock(node.get(word)) for word in times), str(node.get("state")))
        for node in _nodes(end)
    ]
    heads = ("NODE", *(word.upper() for word in times), "STATE")
    return ["", *table(heads, rows, look.width, ("ACCEPTED", "QUEUED"))] if rows else []


def log_lines(line: Line, look: Look) -> list[str]:
    """`HH:MM:SS.mmm NODE stream text`, one for each line of an output."""
    at = clock(line.at, parts=True)
    if line.kind == "output":
        if line.stream == "bytes":
            return [f"{at} {line.node}  bytes   {len(line.text) * 3 // 4} or a few less"]
        return [f"{at} {line.node}  {line.stream}  {text}" for text in line.text.splitlines()]
    if line.kind == "node_done":
        code = f", exit code {line.exit_code}" if line.exit_code else ""
        return [f"{at} {line.node}  {line.state}{code}  {line.message}".rstrip()]
    if line.kind == "step" or line.kind == "gate":
        return [f"{at} {event(line, look)}"]
    if line.kind == "resource":
        return [f"{at} {resource(line, look)}"]
    if line.kind == "started":
        return [f"{at} {line.what} started   nodes: {' '.join(line.nodes)}"]
    if line.kind == "note":
        return [f"{at} {line.level}: {line.text}"]
    return [f"{at} {line.kind}"]


def _clock(at: object) -> str:
    return clock(at, parts=True) if isinstance(at, (int, float)) else "-"
