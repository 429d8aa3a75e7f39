"""jobs list | show | log | cancel | resume | rerun."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from ...common.errors import Refused, UserError
from ...common.results import Outcome
from ..adhoc.runs import RunRequest, tally
from ..bus.flights import Flight, Output, is_last
from ..bus.following import SILENT
from ..control import Arguments, Request
from ..operations.progress import End, NodeDone, Note
from ..operations.progress import Output as OutputLine
from ..orchestration.fleet import output
from ..server import Master
from ..store import transitions
from ..store.operations import OperationJob, OperationRow
from . import clusters
from .run import begin

_ID = re.compile(r"[0-9A-Z]{1,26}")
_NEVER_RAN = ("expired", "refused", "cancelled")


class Limit(Arguments):
    limit: int = 20


class Id(Arguments):
    """`id`: as much of it as is needed to mean only one."""

    id: str


class Show(Id):
    follow: bool = False


class Log(Id):
    node: str = ""


class Rerun(Id):
    """`failed`: only where it is not done."""

    failed: bool = False


async def list_jobs(master: Master, request: Request) -> AsyncIterator[Any]:
    rows = await master.store.operations(max(1, min(request.read(Limit).limit, 10_000)))
    yield End(data={"jobs": [_summary(master, row) for row in rows]})


async def show(master: Master, request: Request) -> AsyncIterator[Any]:
    """What was said, and how each node stands; with `follow` on to the End."""
    wanted = request.read(Show)
    row = await find(master, wanted.id)
    lines = master.operations.replay(row.id) if wanted.follow else master.operations.so_far(row.id)
    async for line in _and_since(master, row.id, lines):
        yield line
    if not wanted.follow:
        yield await _closing(master, row.id)


async def log(master: Master, request: Request) -> AsyncIterator[Any]:
    """All that is kept of it, or of one of its nodes."""
    wanted = request.read(Log)
    row = await find(master, wanted.id)
    async for line in _and_since(master, row.id, master.operations.so_far(row.id)):
        if not wanted.node or getattr(line, "node", wanted.node) == wanted.node:
            yield line
    end = await _closing(master, row.id, wanted.node)
    yield end.model_copy(update={"exit": 0})


async def cancel(master: Master, request: Request) -> AsyncIterator[Any]:
    """End all that is open of it, and tell what became of each."""
    row = await find(master, request.read(Id).id)
    ledger = master.hub.ledger
    operation, flights = master.operations.running(row.id), ledger.flights(row.id)
    if operation is None and not flights:
        yield End(message=f"{row.id} has ended already: {row.state}", data={"state": row.state})
        return
    if operation is not None:
        seen = operation.count
        master.operations.stop(operation, request.who, lambda: not ledger.flights(row.id))
    for flight in flights:
        await ledger.cancel(flight)
    if operation is not None:
        async for line in master.operations.follow(operation, first=seen):
            if not isinstance(line, End):
                yield line
    else:
        async for flight, news in ledger.follow(flights):
            if news == SILENT or is_last(news):
                yield NodeDone(node=flight.node, state=flight.state, message=flight.message)
    after = await _closing(master, row.id)
    job, nodes = after.data["job"], after.data["nodes"]
    assert isinstance(job, dict) and isinstance(nodes, list)
    states = tally(node["state"] for node in nodes)
    counts = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in states.items())
    yield End(message=f"{row.id} is {job['state']}: {counts}", data={**states, "state": job["state"]})


async def resume(master: Master, request: Request) -> AsyncIterator[Any]:
    """A plan or an apply once more, as it was asked for; a run on the nodes where it never ran."""
    row = await _ended(master, request.read(Id).id)
    if row.kind in ("plan", "apply"):
        again = dataclasses.replace(request, args=_stored(row))
        async for line in (clusters.plan if row.kind == "plan" else clusters.apply)(master, again):
            yield line
        return
    order = _order(row)
    ran = {job.node: job.state for job in await _newest(master, row.id) if job.state not in _NEVER_RAN}
    async for line in _again(master, request, row, order, [node for node in order.nodes if node not in ran], ran):
        yield line


async def rerun(master: Master, request: Request) -> AsyncIterator[Any]:
    """A run once more, on all its nodes or on those where it is not done."""
    wanted = request.read(Rerun)
    row = await _ended(master, wanted.id)
    order = _order(row)
    states = {job.node: job.state for job in await _newest(master, row.id)}
    nodes = [node for node in order.nodes if not wanted.failed or states.get(node) != "done"]
    async for line in _again(master, request, row, order, nodes, states):
        yield line


async def _again(
    master: Master, request: Request, row: OperationRow, order: RunRequest, nodes: list[str], states: dict[str, str]
) -> AsyncIterator[Any]:
    """On these nodes, but never beside a job of the same run that is still open."""
    for node in nodes:
        if states.get(node) in transitions.OPEN:
            text = f"{node} is left out: its job is still {states[node]}; see: pgha-master jobs show {row.id}"
            yield Note(level="warning", text=text)
    nodes = [node for node in nodes if states.get(node) not in transitions.OPEN]
    if not nodes:
        yield End(message=f"{row.id}: there is no node left to run it on")
        return
    async for line in begin(master, request, order.model_copy(update={"nodes": tuple(nodes)})):
        yield line


async def _and_since(master: Master, identity: str, lines: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """These lines and, before their End, what was put out by nodes that had been given up as silent by then."""
    told: Counter[str] = Counter()
    silent, end = set(), None
    async for line in lines:
        if isinstance(line, End):
            end = line
            continue
        if isinstance(line, OutputLine):
            told[line.node] += 1
        elif isinstance(line, NodeDone) and line.state in (*transitions.OPEN, "unknown"):
            silent.add(line.node)
        yield line
    for job in await _newest(master, identity) if silent else ():
        if job.node in silent:
            for body in await master.store.output_of(job.jid, told[job.node]):
                said = json.loads(body)
                late = output(job.node, Output(str(said["stream"]), str(said["text"])))
                yield late.model_copy(update={"at": job.ended or master.clock.now()})
    if end is not None:
        yield end


# ---- looking things up


async def find(master: Master, text: str) -> OperationRow:
    """By its id or the beginning of it. Raises UserError when none is meant, or more than one."""
    prefix = text.strip().upper()
    ids = await master.store.operation_ids(prefix) if _ID.fullmatch(prefix) else []
    if len(ids) > 1:
        raise UserError(f"several jobs have an id that begins with {text!r}: {', '.join(ids)}")
    row = await master.store.operation(ids[0]) if ids else None
    if row is None:
        raise UserError(f"no job has the id {text!r}; see: pgha-master jobs list")
    return row


async def _ended(master: Master, text: str) -> OperationRow:
    row = await find(master, text)
    if master.operations.running(row.id) is not None:
        raise Refused(f"{row.id} still runs; follow it with: pgha-master jobs watch {row.id}")
    return row


def _stored(row: OperationRow) -> dict[str, Any]:
    try:
        stored = json.loads(row.request)
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"what {row.id} ({row.what}) was to do is not known any more; give the command again")
    return stored


def _order(row: OperationRow) -> RunRequest:
    """Raises UserError for what is no run."""
    if row.kind != "run":
        raise UserError(f"{row.id} is no run but {row.what!r}; start it again with: pgha-master jobs resume {row.id}")
    return RunRequest.model_validate(_stored(row))


async def _newest(master: Master, identity: str) -> list[OperationJob]:
    """Of each node the newest job: an apply has several."""
    newest = {job.node: job for job in await master.store.operation_jobs(identity)}
    return list(newest.values())


def _summary(master: Master, row: OperationRow) -> dict[str, Any]:
    nodes = len(_stored(row).get("nodes", ())) if row.kind == "run" and row.request else 0
    return {
        "id": row.id,
        "when": row.started,
        "who": row.who,
        "what": row.what,
        "state": row.state,
        "nodes": max(nodes, row.nodes),
        "done": row.done,
        "seconds": round((row.ended or master.clock.now()) - row.started, 2),
        "message": row.message,
    }


async def _closing(master: Master, identity: str, node: str = "") -> End:
    """The exit code it had and how its nodes stand."""
    row = await find(master, identity)
    open_ = {flight.job.jid: flight for flight in master.hub.ledger.flights(row.id)}
    newest = [job for job in await _newest(master, row.id) if node in ("", job.node)]
    nodes = [_standing(master, job, open_.get(job.jid)) for job in newest]
    known = {one["node"] for one in nodes}
    if row.kind == "run" and row.request:
        waiting = "queued" if row.state == "started" else "cancelled"
        left = [name for name in _stored(row).get("nodes", ()) if name not in known and node in ("", name)]
        nodes += [{"node": name, "state": waiting, "message": "nothing was sent"} for name in left]
    ended = row.ended is not None
    data: dict[str, object] = {"job": _summary(master, row), "nodes": nodes}
    return End(exit=row.exit or 0 if ended else 0, message=row.message if ended else "", data=data)


def _standing(master: Master, job: OperationJob, flight: Flight | None) -> dict[str, Any]:
    """One node of it; `step` is what its minion does now and for how long."""
    outcome = Outcome.model_validate_json(job.outcome) if job.outcome else None
    running = master.hub.running(flight) if flight is not None else None
    since = job.started or job.accepted or job.created
    return {
        "node": job.node,
        "job": job.jid,
        "what": job.what,
        "state": job.state,
        "step": running[0] if running else "",
        "step_seconds": running[1] if running else None,
        "seconds": outcome.seconds if outcome else round((job.ended or master.clock.now()) - since, 2),
        "exit": outcome.exit_code if outcome else None,
        "message": (outcome.message if outcome else "") or job.message,
        "queued": job.created,
        "accepted": job.accepted,
        "started": job.started,
        "ended": job.ended,
    }
