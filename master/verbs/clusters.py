"""plan, apply, status: what is asked of a cluster as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ...common.cluster import Cluster
from ...common.errors import Refused, UserError
from ..backups.restore_notes import NOTE
from ..bus import limits
from ..control import Arguments, Request
from ..definition import inventory
from ..health.health import finding_view, view
from ..health.observed import Finding
from ..operations.operations import Operation
from ..operations.progress import End, Note
from ..rollout import drift
from ..rollout.drifting import MENDING
from ..rollout.plan_file import Expected
from ..rollout.rollout import Rollout
from ..server import Master


class Definition(Arguments):
    """`text` is the definition as the CLI read it, `path` where from: for errors only."""

    path: str
    text: str
    nodes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    restart: bool = True  # PostgreSQL, where settings wait for it
    allow_destroy: tuple[str, ...] = ()
    expect: Expected | None = None  # an apply is refused when it would do anything else


class Status(Arguments):
    cluster: str = ""


async def plan(master: Master, request: Request) -> AsyncIterator[Any]:
    async for line in _start(master, request, "plan"):
        yield line


async def apply(master: Master, request: Request) -> AsyncIterator[Any]:
    async for line in _start(master, request, "apply"):
        yield line


async def _start(master: Master, request: Request, what: str) -> AsyncIterator[Any]:
    wanted = request.read(Definition)
    cluster, warnings = inventory.load(wanted.path, wanted.text)
    key = f"{wanted.text} {wanted.nodes} {wanted.only} {wanted.restart} {wanted.allow_destroy} {wanted.expect}"
    running = master.operations.changing(cluster.name)
    while running is not None and running.key == MENDING and running.task is not None and what == "apply":
        await asyncio.wait({running.task})
        running = master.operations.changing(cluster.name)
    if running is not None and what == "apply":
        if running.key != key:
            raise Refused(
                f"{_other(running, cluster)} runs already; "
                f"follow it with: pgha-master jobs show {running.id} --follow, and apply yours when it has ended"
            )
        async for line in master.operations.follow(running, joined=True):
            yield line
        return

    async def work(operation: Operation) -> End:
        for warning in warnings:
            await operation.emit(Note(level="warning", text=f"{wanted.path}:{warning.line}: {warning.message}"))
        asked = (wanted.nodes, wanted.only, wanted.restart, wanted.expect, wanted.allow_destroy)
        rollout = Rollout(master, operation, cluster, wanted.text, inventory.digest(wanted.text), *asked)
        return await (rollout.plan() if what == "plan" else rollout.apply())

    nodes = tuple(node.name for node in cluster.nodes)
    operation = await master.operations.start(
        f"{what} {cluster.name}",
        cluster.name,
        request.who,
        work,
        nodes,
        key,
        request=wanted.model_dump_json(),
    )
    async for line in master.operations.follow(operation):
        yield line


def _other(running: Operation, cluster: Cluster) -> str:
    if running.kind != "apply":
        return running.what
    return f"an apply of {cluster.name}, of another definition or with other --node or --only,"


async def status(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Status).cluster
    if wanted and wanted not in master.clusters:
        known = ", ".join(sorted(master.clusters)) or "none yet"
        raise UserError(f"no cluster {wanted!r} has been applied by this master; applied: {known}")
    for text in limits.warnings(len(master.hub.accepted())):
        yield Note(level="warning", text=text)
    if wanted:
        yield End(data=await _view(master, wanted))
    else:
        yield End(data={"clusters": [await _view(master, name) for name in sorted(master.clusters)]})


async def _view(master: Master, name: str) -> dict[str, Any]:
    running, seen = master.operations.changing(name), master.drifts.of(name)
    shown = view(master.health(master.clusters[name]))
    shown["findings"] += [finding_view(finding) for finding in drift.findings(name, seen)]
    if NOTE in await master.store.notes(name):
        fix = f"pgha-master restore {name} --resume"
        shown["findings"].insert(0, finding_view(Finding("warning", "a restore has begun and not ended", fix)))
    return {
        **shown,
        "applying": running.id if running else None,
        "drift": drift.view(seen, master.clock.monotonic()),
    }
