"""audit list | verify."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field

from ...common.clock import iso
from ...common.errors import UserError
from ..control import Arguments, Request
from ..keeping import audit
from ..operations.progress import End
from ..server import Master


class Of(Arguments):
    limit: int = Field(default=50, ge=1, le=10_000)
    who: str = ""


class Expected(Arguments):
    expect: str = ""


async def list_rows(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Of)
    rows = await master.store.newest_audit(wanted.limit, wanted.who)
    yield End(data={"rows": [{**row._asdict(), "detail": json.loads(row.detail)} for row in rows]})


async def verify(master: Master, request: Request) -> AsyncIterator[Any]:
    verdict = await audit.verify(master.store, noted(request.read(Expected).expect))
    data = {
        "rows": verdict.rows,
        "last": f"{verdict.rows}:{verdict.last}" if verdict.rows else "",
        "first_at": verdict.first_at,
        "last_at": verdict.last_at,
        "broken": verdict.broken,
        "why": verdict.why,
    }
    if verdict.broken:
        yield End(exit=1, message=f"the audit trail is broken at row {verdict.broken}: {verdict.why}", data=data)
        return
    span = f", from {iso(verdict.first_at)} to {iso(verdict.last_at)}" if verdict.first_at and verdict.last_at else ""
    yield End(message=f"the audit trail is whole: {verdict.rows} rows{span}", data=data)


def noted(text: str) -> tuple[int, str] | None:
    """`N:HASH` as the log has it. Raises UserError."""
    if not text:
        return None
    number, colon, digest = text.strip().partition(":")
    if not (colon and number.isascii() and number.isdigit() and int(number) > 0 and len(digest) == 64):
        raise UserError(f"{text[:80]!r} is not N:HASH; the log of pgha-master has it in its lines 'audit N:HASH'")
    return int(number), digest.lower()
