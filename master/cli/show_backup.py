"""Backups for a person. Pure: the daemon's answer in, lines out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .screen import Look, duration, moment, size, table

View = Mapping[str, Any]  # JSON as the daemon sent it
_HEADS = ("REPOSITORY", "LABEL", "TYPE", "WHEN", "TOOK", "SIZE", "IN REPOSITORY")


def render_list(answer: View, look: Look) -> list[str]:
    """A row for each backup, and a line for each repository whose backups are not all known."""
    places = {one.get("number"): one for one in answer.get("repositories") or ()}
    rows = [_row(one, places) for one in answer.get("backups") or ()]
    lines = table(_HEADS, rows, look.width, ("TOOK", "SIZE")) if rows else ["No backup is known."]
    for one in places.values():
        if one.get("state") != "ok":
            why = f": {one['why']}" if one.get("why") else ""
            lines.append(f"Repository {one.get('number')} ({one.get('where')}): {one.get('state')}{why}")
    return lines


def _row(one: View, places: Mapping[Any, View]) -> tuple[str, ...]:
    number = one.get("repository")
    damaged = ", damaged pages" if one.get("damaged_pages") else ""
    return (
        f"{number} {places.get(number, {}).get('where', '')}".rstrip(),
        str(one.get("label", "-")),
        f"{one.get('type', '-')}{damaged}",
        moment(one.get("ended")),
        _span(one.get("seconds")),
        _size(one.get("size")),
        _size(one.get("repo_size")),
    )


def render_line(backup: object) -> list[str]:
    """The line of `status`; none for a cluster without backups."""
    if not isinstance(backup, dict):
        return []
    told = [_full(backup.get("repositories") or ()), *_wal(backup.get("archiver")), *_drill(backup.get("drill"))]
    told += [_run(run) for run in backup.get("running") or ()]
    would = _lost(backup.get("lost_now"), backup.get("repositories") or ())
    return [f"Backup    {', '.join(told)}", f"{'':<10}were every database lost now, what would be gone: {would}"]


def _lost(lost: object, repositories: Sequence[View]) -> str:
    if isinstance(lost, dict) and lost.get("bytes") == 0:
        return "nothing"
    if isinstance(lost, dict):
        return f"{_size(lost.get('bytes'))}, at most the last {_span(lost.get('seconds'))}"
    empty = all(one.get("state") in ("no backups", "no stanza") for one in repositories)
    return "everything, there is no backup" if empty else "unknown"


def _full(repositories: Sequence[View]) -> str:
    """Of the repository whose last full backup is the oldest: the others are no worse."""
    if not repositories:
        return "no repository seen yet"
    for one in repositories:
        if not one.get("full"):
            state = "" if one.get("state") == "ok" else f": {one.get('state')}"
            return f"no full in repository {one.get('number')}{state}"
    oldest = max((one["full"] for one in repositories), key=lambda full: full.get("age_s") or 0.0)
    return f"last full {moment(oldest.get('ended'))} ({_span(oldest.get('age_s'))})"


def _wal(archiver: object) -> list[str]:
    if not isinstance(archiver, dict):
        return []
    state = (
        f"last WAL {_span(archiver.get('archived_s'))} ago" if archiver.get("archived_s") is not None else "no WAL yet"
    )
    state += "" if archiver.get("ok") else ", ARCHIVING FAILS"
    waiting = archiver.get("waiting")
    return [state, f"{waiting} waiting"] if waiting else [state]


def _drill(drill: object) -> list[str]:
    if not isinstance(drill, dict):
        return ["no drill yet"]
    return [f"drill {'ok' if drill.get('ok') else 'FAILED'} {_span(drill.get('age_s'))} ago"]


def _run(run: View) -> str:
    done, total = run.get("done_bytes"), run.get("total_bytes")
    how = f": {_size(done)} of {_size(total)}" if total else ""
    return f"{run.get('type') or 'a run'} on {run.get('node')} for {_span(run.get('seconds'))}{how}"


def _span(seconds: object) -> str:
    return duration(seconds) if isinstance(seconds, (int, float)) else "-"


def _size(count: object) -> str:
    return size(count) if isinstance(count, int) else "-"
