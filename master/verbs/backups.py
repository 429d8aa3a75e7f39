"""backup now | drill | list | check | verify: what is asked of a cluster's backups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from ...common.backup import Backup, BackupType
from ...common.cluster import Cluster
from ...common.errors import Refused, UserError
from ..backups.backing import Backing
from ..backups.drilling import Drilling
from ..control import Arguments, Request
from ..health import backup_view
from ..health.backups_seen import Seen, Told, place, seen
from ..health.observed import ClusterHealth
from ..operations.operations import Operation
from ..operations.progress import End, Step
from ..orchestration.fleet import Answer, Failed, Fleet
from ..orchestration.report import Report
from ..server import Master

CHECK_S = 600.0
VERIFY_S = 86400.0  # the most that a call may take


class Of(Arguments):
    cluster: str


class Now(Of):
    type: BackupType = "diff"
    on: str = ""


class Verify(Of):
    """`repository` None: all of the definition's."""

    repository: Annotated[int, Field(ge=1)] | None = None


async def list_backups(master: Master, request: Request) -> AsyncIterator[Any]:
    """What the newest telemetry saw; nobody is asked anything."""
    cluster, backup = wanted(master, request.read(Of).cluster)
    health = master.health(cluster)
    shown = backup_view.view(health)
    known = {one["number"]: one for one in shown["repositories"]} if shown else {}
    repositories = [
        {"where": place(repository), **known.get(number, {"number": number, "state": "unknown", "why": ""})}
        for number, repository in backup.repositories
    ]
    yield End(data={**(shown or {}), "repositories": repositories, "backups": backup_view.sets(health)})


async def now(master: Master, request: Request) -> AsyncIterator[Any]:
    asked = request.read(Now)
    cluster, _ = wanted(master, asked.cluster)
    _insist_on_node(cluster, asked.on)

    async def work(operation: Operation) -> End:
        report = Report(operation, master.clock, master.clock.monotonic())
        backing = Backing(master, Fleet(master.hub, operation), cluster, report)
        try:
            made = await backing.now(asked.type, asked.on)
        except Failed as error:
            return End(exit=1, message=str(error))
        told = ", ".join(f"{run.label} in repository {run.repository}" for run in made)
        return End(message=f"Backed up {cluster.name}: {told}.", data={"labels": [run.label for run in made]})

    async for line in begin(master, request, cluster, f"backup now {cluster.name}", work, ()):
        yield line


async def drill(master: Master, request: Request) -> AsyncIterator[Any]:
    asked = request.read(Now)
    cluster, _ = wanted(master, asked.cluster)
    _insist_on_node(cluster, asked.on)

    async def work(operation: Operation) -> End:
        report = Report(operation, master.clock, master.clock.monotonic())
        try:
            node, found = await Drilling(master, Fleet(master.hub, operation), cluster, report).run(asked.on)
        except Failed as error:
            return End(exit=1, message=str(error))
        data = {"node": node, **found.model_dump(mode="json")}
        if not found.ok:
            return End(
                exit=1, message=f"{found.label or 'The newest backup'} does not restore: {found.error}", data=data
            )
        row = f", the newest row in it was {found.age_s:.0f} s old" if found.age_s is not None else ""
        what = f"{found.label} of repository {found.repository}"
        told = f"{what} was restored and read on {node} in {found.seconds:.0f} s{row}."
        return End(message=f"{told} {found.note}".rstrip(), data=data)

    async for line in begin(master, request, cluster, f"backup drill {cluster.name}", work, ()):
        yield line


async def check(master: Master, request: Request) -> AsyncIterator[Any]:
    cluster, backup = wanted(master, request.read(Of).cluster)
    nodes = checks(master.health(cluster), [number for number, _ in backup.repositories])

    async def work(operation: Operation) -> End:
        wrong = []
        for node in nodes:
            call = partial(_call, master, operation, "backup.check", node, (), CHECK_S)
            answer = await _step(operation, "check", node, call)
            if not answer.ok:
                wrong.append(f"{node}: {answer.why()}")
        if wrong:
            return End(exit=1, message="\n".join(wrong))
        return End(message=f"WAL of {cluster.name} is archived, and found in every repository by {', '.join(nodes)}.")

    async for line in begin(master, request, cluster, f"backup check {cluster.name}", work, nodes):
        yield line


async def verify(master: Master, request: Request) -> AsyncIterator[Any]:
    asked = request.read(Verify)
    cluster, backup = wanted(master, asked.cluster)
    numbers = [number for number, _ in backup.repositories]
    if asked.repository is not None and asked.repository not in numbers:
        known = ", ".join(f"{number} ({place(one)})" for number, one in backup.repositories)
        raise UserError(f"{cluster.name} has no repository {asked.repository}; there are: {known}")
    chosen = [asked.repository] if asked.repository is not None else numbers
    nodes = {number: reads(master.health(cluster), number) for number in chosen}

    async def work(operation: Operation) -> End:
        problems: dict[str, list[str]] = {}
        for number, node in nodes.items():
            words = (str(number), str(_fulls(backup, number)))
            call = partial(_call, master, operation, "backup.verify", node, words, VERIFY_S)
            answer = await _step(operation, f"repository {number}", node, call)
            if not answer.ok:
                problems[str(number)] = _problems(answer)
        lines = [f"repository {number}: {text}" for number, texts in problems.items() for text in texts]
        if lines:
            return End(exit=1, message="\n".join(lines), data={"problems": problems})
        was = "repository was" if len(nodes) == 1 else "repositories were"
        return End(message=f"{len(nodes)} {was} read whole, nothing is missing or damaged.", data={"problems": {}})

    what = f"backup verify {cluster.name}"
    async for line in begin(master, request, cluster, what, work, tuple(dict.fromkeys(nodes.values()))):
        yield line


# ---- shared by what else is asked of backups


def wanted(master: Master, name: str) -> tuple[Cluster, Backup]:
    """Raises UserError for a cluster that is not known or has no backups."""
    if name not in master.clusters:
        known = ", ".join(sorted(master.clusters)) or "none yet"
        raise UserError(f"no cluster {name!r} has been applied by this master; applied: {known}")
    cluster = master.clusters[name]
    if cluster.backup is None:
        raise UserError(f"no backups are made of {name}: its definition has no section backup")
    return cluster, cluster.backup


def checks(health: ClusterHealth, numbers: Collection[int]) -> tuple[str, ...]:
    """Connected nodes that make backups to all of these repositories together, the leader first. Raises Refused."""
    known, found = seen(health), list[str]()
    for number in numbers:
        able = _able(known, number, health.cluster)
        found.append(max(able, key=lambda told: told.node.name == health.leader).node.name)
    return tuple(sorted(dict.fromkeys(found), key=lambda name: name != health.leader))


def reads(health: ClusterHealth, number: int) -> str:
    """A connected node that makes backups to that repository, the leader last. Raises Refused."""
    able = _able(seen(health), number, health.cluster)
    return min(able, key=lambda told: told.node.name == health.leader).node.name


def _insist_on_node(cluster: Cluster, name: str) -> None:
    """Raises UserError for a name that is given and no node of that cluster."""
    if name and name not in [node.name for node in cluster.nodes]:
        known = ", ".join(node.name for node in cluster.nodes)
        raise UserError(f"{name} is no node of {cluster.name}; there are {known}")


def _able(known: Seen, number: int, cluster: str) -> list[Told]:
    able = [told for told in known.told if number in told.backup.operates and told.node.connected]
    if not able:
        raise Refused(f"no node that makes backups to repository {number} of {cluster} is known and connected")
    return able


def _problems(answer: Answer) -> list[str]:
    found = answer.outcome.data.get("problems") if answer.outcome else None
    return [str(one) for one in found] if isinstance(found, list) and found else [answer.why()]


def _fulls(backup: Backup, number: int) -> int:
    kept = backup.retention_of(dict(backup.repositories)[number])
    return kept.archive or kept.full


async def begin(
    master: Master,
    request: Request,
    cluster: Cluster,
    what: str,
    work: Callable[[Operation], Awaitable[End]],
    nodes: tuple[str, ...],
) -> AsyncIterator[Any]:
    """Start it, and follow it."""
    operation = await master.operations.start(what, cluster.name, request.who, work, nodes)
    async for line in master.operations.follow(operation):
        yield line


async def _call(
    master: Master, operation: Operation, function: str, node: str, words: tuple[str, ...], timeout_s: float
) -> Answer:
    """The tool may say nothing for as long as it takes."""
    fleet = Fleet(master.hub, operation)
    return (await fleet.call(function, {node: words}, timeout_s, silence_s=timeout_s))[node]


async def _step(operation: Operation, name: str, node: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
    since = operation.clock.monotonic()
    await operation.emit(Step(step=name, node=node, state="started"))
    answer = await call()
    seconds = operation.clock.monotonic() - since
    state = "done" if answer.ok else "failed"
    await operation.emit(Step(step=name, node=node, state=state, seconds=seconds))
    return answer
