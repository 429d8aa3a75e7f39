"""A cluster's backups as `status --json` and `backup list` tell them: plain JSON values, null for what is not known."""

from __future__ import annotations

from typing import Any

from ...common.telemetry_backup import BackupRun, BackupSet, RepositorySample
from .backups_seen import Seen, Told, newest, seen
from .observed import ClusterHealth


def view(health: ClusterHealth) -> dict[str, Any] | None:
    """None when no fresh node has a part in backups."""
    known = seen(health)
    if not known.told:
        return None
    return {
        "repositories": [_repository(*view) for n in known.numbers() if (view := known.repository(n))],
        "archiver": _archiver(known),
        "lost_now": _lost(known),
        "drill": _drill(known),
        "running": [_running(told, run) for told, run in known.running()],
    }


def sets(health: ClusterHealth) -> list[dict[str, Any]]:
    """Every backup that is known, repository by repository, oldest first."""
    known = seen(health)
    views = [view for n in known.numbers() if (view := known.repository(n))]
    return [{"repository": one.number, **_set(told, backup)} for told, one in views for backup in one.backups]


def _repository(told: Told, one: RepositorySample) -> dict[str, Any]:
    full, latest = newest(one, "full"), newest(one)
    return {
        "number": one.number,
        "state": one.state,
        "why": one.why,
        "seen_by": told.node.name,
        "seen_s": round(told.age_s(one.at), 1),
        "encrypted": one.encrypted,
        "backups": len(one.backups),
        "full": _set(told, full) if full else None,
        "newest": _set(told, latest) if latest else None,
        "wal_min": one.wal_min or None,
        "wal_max": one.wal_max or None,
    }


def _set(told: Told, backup: BackupSet) -> dict[str, Any]:
    return {
        "label": backup.label,
        "type": backup.type,
        "began": backup.began,
        "ended": backup.ended,
        "age_s": round(told.age_s(backup.ended), 1),
        "seconds": round(backup.ended - backup.began, 1),
        "size": backup.size,
        "repo_size": backup.repo_size,
        "wal_first": backup.wal_first or None,
        "wal_last": backup.wal_last or None,
        "damaged_pages": backup.error,
    }


def _archiver(known: Seen) -> dict[str, Any] | None:
    archiver, leading = known.archiver, known.leading
    if archiver is None or leading is None:
        return None
    return {
        "node": leading.node.name,
        "ok": not archiver.failing and not archiver.error,
        "last_archived": archiver.last_archived or None,
        "archived_s": None if archiver.archived_at is None else round(leading.age_s(archiver.archived_at), 1),
        "last_failed": archiver.last_failed or None,
        "failed_count": archiver.failed_count,
        "waiting": archiver.waiting,
        "dropped": known.dropped()[0],
        "error": archiver.error,
    }


def _lost(known: Seen) -> dict[str, Any] | None:
    """Were every database lost now: what could not be had back. Null when not even one backup is there.

    Null, too, when WAL was thrown away behind every backup: what came after it is in a repository and of no use.
    """
    archiver = known.archiver
    last = known.dropped()[1]
    useful = any(known.begun_after(number, last) for number in known.numbers())
    if archiver is None or archiver.behind_bytes is None or not useful:
        return None
    seconds = known.behind_s()
    return {"bytes": archiver.behind_bytes, "seconds": None if seconds is None else round(seconds, 1)}


def _drill(known: Seen) -> dict[str, Any] | None:
    found = known.drill()
    if found is None:
        return None
    told, drill = found
    return {
        "ok": drill.ok,
        "node": told.node.name,
        "age_s": round(told.age_s(drill.began), 1),
        "seconds": round(drill.seconds, 1),
        "repository": drill.repository,
        "label": drill.label or None,
        "error": drill.error,
    }


def _running(told: Told, run: BackupRun) -> dict[str, Any]:
    return {
        "node": told.node.name,
        "type": run.type or None,
        "repository": run.repository or None,
        "seconds": round(told.age_s(run.began), 1),
        "done_bytes": run.done,
        "total_bytes": run.total,
    }
