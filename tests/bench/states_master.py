"""The real master's daemon with one verb more: it applies a folder of files on one minion. Used by `states.py` only.

What a person applies is a cluster; that would measure packages and databases. From the verb on all is the product's
own: operation, job, bus, store, local socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pgha.common.paths import Paths
from pgha.master.control import Arguments, Request
from pgha.master.daemon import serve
from pgha.master.operations.operations import Operation
from pgha.master.operations.progress import End
from pgha.master.orchestration.fleet import Fleet
from pgha.master.server import Master
from pgha.master.verbs import VERBS
from pgha.tests.bench.converging import DOCUMENT, files

VERB = "bench.files"


class Wanted(Arguments):
    node: str
    folder: str
    count: int


async def apply(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Wanted)
    resources = files(Path(wanted.folder), wanted.count)

    async def work(operation: Operation) -> End:
        fleet = Fleet(master.hub, operation)
        answers = await fleet.converge("apply", {wanted.node: resources}, {wanted.node: [DOCUMENT]}, DOCUMENT)
        answer = answers[wanted.node]
        outcome = answer.outcome.model_dump(mode="json") if answer.outcome else {}
        return End(exit=0 if answer.ok else 1, message="" if answer.ok else answer.why(), data=outcome)

    operation = await master.operations.start("apply files", "", request.who, work, (wanted.node,))
    async for line in master.operations.follow(operation):
        yield line


if __name__ == "__main__":
    VERBS[VERB] = (apply, "admin")
    serve(Paths.from_environment())
