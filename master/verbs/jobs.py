"""jobs list | show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ..control import Arguments, Request
from ..progress import End
from ..server import Master


class Limit(Arguments):
    limit: int = 20


class Id(Arguments):
    id: str


async def list_jobs(master: Master, request: Request) -> AsyncIterator[Any]:
    rows = await master.store.operations(request.read(Limit).limit)
    now = master.clock.now()
    jobs = [
        {
            "id": row["id"],
            "when": row["started"],
            "who": row["who"],
            "what": row["what"],
            "state": row["state"],
            "nodes": row["nodes"],
            "seconds": round((row["ended"] or now) - row["started"], 2),
        }
        for row in rows
    ]
    yield End(data={"jobs": jobs})


async def show(master: Master, request: Request) -> AsyncIterator[Any]:
    async for line in master.operations.replay(request.read(Id).id):
        yield line
