"""What was asked of the master and by whom, as a chain: each row's hash covers the row and the hash before it.

Rules:
1. A row is written before what it tells of is done. If it cannot be written, nothing is done.
2. A row holds no secret and no bulk: of an argument it keeps what it is known to be harmless, a digest of texts, and
   of everything else only how much it was.
3. Rows are never removed. Each hash goes to the log as well: there it is out of reach of who can change the store,
   which a chain alone is not; `verify --expect` compares with one that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...common.clock import Clock, SystemClock
from ..store.audit import AuditRow

log = logging.getLogger("pgha.audit")

BEGINNING = "pgha audit trail 1"  # stands where the first row's predecessor would
DETAIL_BYTES = 4096
_TEXT, _ITEMS = 200, 50  # what is kept of a text and of a list

KEPT = frozenset(
    [
        "all",
        "args",
        "argv",
        "att",
        "batch",
        "canary",
        "cluster",
        "expect",
        "failed",
        "fingerprint",
        "force",
        "force_unsafe",
        "function",
        "id",
        "jid",
        "job",
        "kind",
        "limit",
        "max_fail",
        "mode",
        "name",
        "names",
        "new",
        "node",
        "nodes",
        "old",
        "only",
        "operation",
        "path",
        "reason",
        "shell",
        "state",
        "target",
        "timeout_s",
        "ttl_s",
        "what",
        "who",
        "why",
    ]
)
DIGESTED = frozenset({"text", "csr", "definition"})
UNWRITTEN = frozenset({"run.upload"})  # pieces of a file: the run that pushes it is written, with the file's SHA-256


class Trail(Protocol):
    """Where the rows are; `store.Store` is one."""

    async def add_audit(
        self, at: float, who: str, act: str, detail: str, link: Callable[[str, AuditRow], str]
    ) -> AuditRow: ...

    async def audit_after(self, n: int, limit: int) -> list[AuditRow]: ...


def canonical(value: object) -> str:
    """One text for one value, whoever writes it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def link(before: str, row: AuditRow) -> str:
    """The hash of a row, from the hash of the one before it."""
    text = canonical([row.n, row.at, row.who, row.act, row.detail])
    return hashlib.sha256(f"{before or BEGINNING}\n{text}".encode()).hexdigest()


async def record(store: Trail, who: str, act: str, detail: Mapping[str, Any], clock: Clock | None = None) -> AuditRow:
    """Add a row for what is about to be done. Raises HostError when it cannot be written: then do not do it."""
    row = await store.add_audit((clock or SystemClock()).now(), who, act, told(detail), link)
    log.info("audit %d:%s %s: %s", row.n, row.hash, row.who, row.act)
    return row


# ---- what a row tells of the arguments


def told(arguments: Mapping[str, Any]) -> str:
    """The arguments as a row keeps them: canonical JSON of at most DETAIL_BYTES."""
    text = canonical({_cut(str(key)): _shown(str(key), value) for key, value in list(arguments.items())[:_ITEMS]})
    if len(text) <= DETAIL_BYTES:
        return text
    return canonical({"sha256": hashlib.sha256(text.encode()).hexdigest(), "not kept, characters": len(text)})


def _shown(key: str, value: Any) -> Any:  # Any: JSON as it was asked
    if value is None or isinstance(value, bool):
        return value
    if key in KEPT and isinstance(value, (int, float)):
        return value if abs(value) < 1e15 else _cut(str(value))
    if key in DIGESTED and isinstance(value, str):
        return {"sha256": hashlib.sha256(value.encode(errors="replace")).hexdigest(), "characters": len(value)}
    if key in KEPT and isinstance(value, str):
        return _cut(value)
    if key in KEPT and isinstance(value, (list, tuple)):
        kept = [_shown(key, item) for item in value[:_ITEMS]]
        return [*kept, f"and {len(value) - _ITEMS} more"] if len(value) > _ITEMS else kept
    return f"not kept: {len(value) if isinstance(value, (str, list, tuple, dict)) else type(value).__name__}"


def _cut(text: str) -> str:
    clean = text.encode(errors="replace").decode()
    return clean if len(clean) <= _TEXT else f"{clean[:_TEXT]}... ({len(clean)} characters)"


# ---- whether the chain is whole


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far the chain was walked. `broken` is the number of the first row that does not fit, 0 if all do."""

    rows: int = 0
    last: str = ""  # hash
    first_at: float | None = None
    last_at: float | None = None
    broken: int = 0
    why: str = ""


def walk(so_far: Verdict, rows: Iterable[AuditRow]) -> Verdict:
    """The verdict after these rows, which follow those that were walked. Stops at the first that does not fit."""
    verdict = so_far
    for row in rows:
        if verdict.broken:
            break
        due = verdict.rows + 1
        if row.n != due:
            missing = f"row {due}" if row.n == due + 1 else f"rows {due} to {row.n - 1}"
            return _broken(verdict, due, f"{missing} must have been there and were taken out")
        if row.hash != link(verdict.last, row):
            return _broken(verdict, due, f"row {due} is not as it was written, or the one before it was exchanged")
        first = row.at if verdict.first_at is None else verdict.first_at
        verdict = Verdict(rows=due, last=row.hash, first_at=first, last_at=row.at)
    return verdict


def _broken(verdict: Verdict, n: int, why: str) -> Verdict:
    return Verdict(verdict.rows, verdict.last, verdict.first_at, verdict.last_at, n, why)


async def verify(store: Trail, expect: tuple[int, str] | None = None) -> Verdict:
    """Walk all of it. `expect` is the number and hash of a row as they were noted elsewhere."""
    verdict, page = Verdict(), 1000
    while rows := await store.audit_after(verdict.rows, page):
        if expect and (noted := [row for row in rows if row.n == expect[0]]) and noted[0].hash != expect[1]:
            rows = [row for row in rows if row.n < expect[0]]
            verdict = walk(verdict, rows)
            why = f"row {expect[0]} has another hash than was noted: it, or one before it, was written anew"
            return verdict if verdict.broken else _broken(verdict, expect[0], why)
        verdict = walk(verdict, rows)
        if verdict.broken:
            return verdict
    if expect and expect[0] > verdict.rows:
        return _broken(verdict, verdict.rows + 1, f"row {expect[0]} was noted and is not there: the end was cut off")
    return verdict
