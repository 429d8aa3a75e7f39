"""How far WAL is archived, asked of the server that leads; one query.

A segment is covered once archive_command has succeeded for it. What has been written behind the end of the last one is
in no repository.
"""

from __future__ import annotations

import json
import re

from pydantic import BaseModel, ConfigDict, ValidationError

from ...common.telemetry_backup import ArchiverSample
from ...states.system import Look

QUERY = """\
with f as (select name, modification from pg_ls_archive_statusdir())
select row_to_json(t) from (
  select extract(epoch from a.last_archived_time) as archived_at, extract(epoch from a.last_failed_time) as failed_at,
    a.failed_count, coalesce(a.last_archived_wal, '') as last_archived, coalesce(a.last_failed_wal, '') as last_failed,
    (select count(*) from f where name like '%.ready') as waiting,
    (select extract(epoch from min(modification)) from f where name like '%.ready') as oldest_ready,
    (select extract(epoch from modification) from f where name = a.last_archived_wal || '.done') as finished_at,
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint as wal_bytes,
    (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes,
    (select setting::bigint from pg_settings where name = 'archive_timeout') as timeout_s,
    extract(epoch from clock_timestamp()) as now
  from pg_stat_archiver a where not pg_is_in_recovery()
) t
"""
NO_SERVER = 2
_SEGMENT = re.compile(r"^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})(\.partial)?(\..+)?$")


class Row(BaseModel):
    """Times are Unix seconds. `finished_at`: when the last archived segment was full, while PostgreSQL remembers it."""

    model_config = ConfigDict(frozen=True)

    archived_at: float | None
    failed_at: float | None
    failed_count: int
    last_archived: str
    last_failed: str
    waiting: int
    oldest_ready: float | None
    finished_at: float | None
    wal_bytes: int
    segment_bytes: int
    timeout_s: int
    now: float


def probe(look: Look) -> ArchiverSample | None:
    """None where no server runs, or where it only follows another."""
    said = look.sql("postgres", QUERY)
    if said.rc == NO_SERVER or (said.rc == 0 and not said.stdout.strip()):
        return None
    try:
        return sample(Row.model_validate(json.loads(said.stdout))) if said.rc == 0 else _error(said.stderr)
    except (ValueError, ValidationError):
        return _error(f"unexpected answer about the archiver: {said.stdout}")


def sample(row: Row) -> ArchiverSample:
    return ArchiverSample(
        at=row.now,
        archived_at=row.archived_at,
        failed_at=row.failed_at,
        failed_count=row.failed_count,
        last_archived=row.last_archived,
        last_failed=row.last_failed,
        waiting=row.waiting,
        behind_bytes=behind_bytes(row),
        behind_s=behind_s(row),
    )


def behind_bytes(row: Row) -> int | None:
    """None when the last archived file is no segment, as right after a promotion."""
    match = _SEGMENT.match(row.last_archived)
    if match is None:
        return None
    number = int(match[1], 16) * (2**32 // row.segment_bytes) + int(match[2], 16)
    end = number if match[3] else number + 1  # a partial one does not count: its rest is on the next timeline
    return max(0, row.wal_bytes - end * row.segment_bytes)


def behind_s(row: Row) -> float | None:
    """At most. With nothing waiting, what is in the open segment is no older than archive_timeout lets it grow."""
    if behind_bytes(row) == 0:
        return 0.0
    since = row.finished_at or row.archived_at or row.oldest_ready
    if since is None:
        return None
    age = max(0.0, row.now - since)
    failing = (row.failed_at or 0.0) > (row.archived_at or 0.0)
    return age if row.waiting or failing or not row.timeout_s else min(age, float(row.timeout_s))


def _error(why: str) -> ArchiverSample:
    return ArchiverSample(error=why.strip() or "the archiver cannot be asked about")
