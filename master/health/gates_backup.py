"""What must hold before a cluster counts as backed up: pure questions to its health, as in `gates`."""

from __future__ import annotations

from collections.abc import Collection

from .backups_seen import COPYABLE, newest, seen
from .gates import OPEN, Closed, GateResult, every
from .observed import ClusterHealth


def wal_archived(health: ClusterHealth) -> GateResult:
    """On the node that leads: WAL has been archived, and the last try was no failure."""
    if health.leading is None:
        return Closed("no node leads, so nobody archives WAL")
    archiver, name = seen(health).archiver, health.leader
    if archiver is None:
        return Closed(f"{name} has not told yet how far WAL is archived")
    if archiver.error:
        return Closed(f"{name} does not tell how far WAL is archived: {archiver.error}")
    if archiver.failing:
        return Closed(f"{name} could not archive {archiver.last_failed}, {archiver.waiting} segments wait")
    if archiver.archived_at is None:
        return Closed(f"{name} has not archived any WAL yet")
    return OPEN


def repositories_filled(health: ClusterHealth, numbers: Collection[int]) -> GateResult:
    """Each of these repositories holds a backup that has ended, as a node tells that makes backups to it."""
    known = seen(health)
    for number in sorted(numbers):
        views = [(told, one) for told, one in known.views(number) if number in told.backup.operates]
        good = [one for _, one in views if one.state in COPYABLE and newest(one) is not None]
        if good:
            continue
        if not views:
            return Closed(f"no node that makes backups to repository {number} has told of it yet")
        told, one = views[0]
        running = any(run.repository == number for _, run in known.running())
        what = "a backup is being made" if running else f"it is {one.state}{': ' if one.why else ''}{one.why}"
        if one.state == "no backups" and not running:
            what = "it holds no backup yet"
        return Closed(f"repository {number}, as {told.node.name} sees it: {what}")
    return OPEN


def backed_up(health: ClusterHealth, numbers: Collection[int]) -> GateResult:
    """Were all nodes lost now, the cluster could be had back. `numbers`: of the definition's repositories."""
    return every(wal_archived, lambda now: repositories_filled(now, numbers))(health)
