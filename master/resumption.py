"""What operations become when the master was restarted under them.

Rules:
1. A `run` goes on: what ended meanwhile is taken from the store, what is open is followed, what had not begun begins.
2. Everything else becomes `unknown`, and says how to start it again: what a procedure knew of its next step is gone,
   and it finds its way by looking at the nodes.
3. `recall` comes before the bus is opened and `go_on` after it. What is stored in between comes to `go_on` as news of
   the jobs that `recall` found open, and what was stored before is read by it: nothing is told twice or left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from ..common.results import Outcome
from .adhoc.runs import Base, Run, RunRequest
from .bus.flights import Flight, Output
from .operations.operations import RESTARTED, Operation, Operations, read_line
from .operations.progress import End, Note
from .orchestration.fleet import Answer, output
from .store import transitions
from .store.operations import OperationJob, OperationRow

log = logging.getLogger("pgha.resumption")

RECONNECT_S = 30.0


class Memory(Protocol):
    """As `store.Store`."""

    async def open_operations(self) -> list[OperationRow]: ...

    async def operation_jobs(self, operation: str) -> list[OperationJob]: ...

    async def told(self, operation: str) -> dict[tuple[str, str], int]: ...

    async def output_of(self, jid: str, skip: int) -> list[str]: ...

    async def lines(self, operation: str, first: int = 0, limit: int = -1) -> list[str]: ...

    async def count_lines(self, operation: str) -> int: ...

    async def end_operation(
        self, operation: str, state: str, exit_code: int, message: str, ended: float, first: int, lines: list[str]
    ) -> None: ...


class Headquarters(Base, Protocol):
    """As `server.Master`."""

    @property
    def operations(self) -> Operations: ...


@dataclass(frozen=True, slots=True)
class Recalled:
    """`untold`: output that is stored and that nobody was told of yet; `told`: nodes whose end was.

    `flights`: its open jobs, by node.
    """

    row: OperationRow
    request: RunRequest
    count: int
    jobs: tuple[OperationJob, ...]
    untold: tuple[tuple[str, Output], ...]
    told: frozenset[str]
    flights: Mapping[str, Flight]


async def recall(store: Memory, resume: Callable[[str], Sequence[Flight]], now: float) -> list[Recalled]:
    """Runs to go on with. All else that was under way is ended in the store. `resume` is the ledger's."""
    found = []
    for row in await store.open_operations():
        count = await store.count_lines(row.id)
        last = read_line((await store.lines(row.id, count - 1))[0]) if count else None
        request = _request(row)
        if isinstance(last, End):  # stored a moment before the state was
            state = "done" if last.exit in (0, 3) else "failed"
            await store.end_operation(row.id, state, last.exit, last.message, now, count, [])
        elif request is not None:
            found.append(await _recalled(store, row, request, count, resume(row.id)))
        else:
            end = End(at=now, exit=1, message=f"{RESTARTED}; resume: pgha-master jobs resume {row.id}")
            await store.end_operation(row.id, "unknown", 1, end.message, now, count, [end.model_dump_json()])
    return found


def _request(row: OperationRow) -> RunRequest | None:
    try:
        return RunRequest.model_validate_json(row.request) if row.kind == "run" else None
    except ValidationError:
        log.error("what %s (%s) was to do cannot be read; it is not gone on with", row.id, row.what)
        return None


async def _recalled(
    store: Memory, row: OperationRow, request: RunRequest, count: int, flights: Sequence[Flight]
) -> Recalled:
    told = await store.told(row.id)
    found = tuple(await store.operation_jobs(row.id))
    untold: list[tuple[str, Output]] = []
    for job in found:
        for body in await store.output_of(job.jid, told.get((job.node, "output"), 0)):
            said = json.loads(body)
            untold.append((job.node, Output(str(said["stream"]), str(said["text"]))))
    ended = frozenset(node for node, kind in told if kind == "node_done")
    return Recalled(row, request, count, found, tuple(untold), ended, {flight.node: flight for flight in flights})


def go_on(master: Headquarters, recalled: Sequence[Recalled]) -> None:
    for one in recalled:
        row = one.row
        operation = Operation(
            row.id, row.what, row.cluster, master.clock, kind=row.kind, began=row.started, blob=one.request.blob[0]
        )
        operation.first = operation.saved = one.count

        async def work(operation: Operation, one: Recalled = one) -> End:
            return await _work(master, operation, one)

        log.info("going on with %s: %s", row.id, row.what)
        master.operations.go_on(operation, work)


async def _work(master: Headquarters, operation: Operation, one: Recalled) -> End:
    await operation.emit(Note(text="the master was restarted; this goes on"))
    for node, said in one.untold:
        await operation.emit(output(node, said))
    answers, under_way = _standing(one)
    for answer in answers.values():
        if answer.node not in one.told:
            await operation.emit(answer.line())
    left = set(one.request.nodes) - answers.keys() - under_way.keys()
    await _connected(master, left)
    return await Run(master, operation, one.request, answers).carry_out(under_way)


async def _connected(master: Headquarters, nodes: Collection[str]) -> None:
    """Give them the time that minions take to find a master that was restarted."""
    hub, clock = master.hub, master.clock
    until = clock.monotonic() + RECONNECT_S
    while not all(hub.connected(node) for node in nodes) and clock.monotonic() < until:
        async with hub.telemetry:
            await hub.telemetry.wait()


def _standing(one: Recalled) -> tuple[dict[str, Answer], dict[str, tuple[Answer, Flight]]]:
    """The nodes that have had their turn, and those whose job is open."""
    answers: dict[str, Answer] = {}
    under_way: dict[str, tuple[Answer, Flight]] = {}
    for job in one.jobs:
        answer = answered(job)
        if job.state in transitions.OPEN and job.node in one.flights and job.node not in one.told:
            under_way[job.node] = (answer, one.flights[job.node])
        else:
            answers[job.node] = answer
    for node in one.told - answers.keys():
        answers[node] = Answer(node, "cancelled", message="nothing was sent")
    return answers, under_way


def answered(job: OperationJob) -> Answer:
    """What the store knows of a job."""
    try:
        outcome = Outcome.model_validate_json(job.outcome) if job.outcome else None
    except ValidationError:
        outcome = None
    return Answer(job.node, job.state, outcome=outcome, message=job.message)
