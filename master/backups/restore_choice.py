"""Whether a restore can go well, and on which node it recovers. Pure; each refusal says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...common.clock import instant
from ...common.telemetry_backup import SET_LIMIT, RepositorySample
from ..health.observed import ClusterHealth
from ..orchestration.fleet import Failed
from .backing import size
from .restore_order import Left, NodeLook, Wanted

ROOM, MARGIN = 1.2, 1024**3  # the backup's size times this, and bytes: for WAL and for what is written meanwhile


def insist_on_time(asked: Wanted, left: Sequence[Left]) -> None:
    """Raises Failed for a time of which the newest history knows nothing."""
    if asked.kind != "time" or asked.timeline:
        return
    for one in left:
        if one.holds(asked.value):
            raise Failed(
                f"restore: what was written between {one.back_to} and {one.ended} was left by a restore, and is on a "
                "timeline of its own: name it with --timeline (WAL files begin with it, in hexadecimal)"
            )


def insist_on_hosts(looks: Mapping[str, NodeLook], health: ClusterHealth) -> None:
    """Raises Failed where data could not change places, or PostgreSQL would not stop."""
    for name, look in looks.items():
        if look.tablespaces:
            raise Failed(f"restore: {name} has tablespaces, which would be overwritten where they are; restore by hand")
        if look.mounted:
            raise Failed(
                f"restore: the data directory of {name} is a mount point, so nothing can take its place; restore by "
                "hand, or have the data in a folder below it (data_dir)"
            )
    for node in health.data_nodes:
        if node.sample and node.sample.patroni and node.sample.patroni.paused:
            raise Failed(
                f"restore: Patroni is paused, so it would leave PostgreSQL running; resume it first: pgha-master run "
                f"{node.name} -- patronictl -c /etc/patroni/config.yml resume"
            )


def source(repositories: Sequence[RepositorySample], asked: Wanted) -> tuple[int, RepositorySample]:
    """The repository that all of it comes from, and what it is; 0 for whichever it is found in.

    The tool would wait for each that does not answer, at every file. It is the one that has WAL up to the latest, and
    of equals the oldest backups. Which of several has a backup from before an LSN only the tool knows. Raises Failed.
    """
    usable = [one for one in repositories if one.backups and one.state == "ok"]
    if not usable:
        told = "; ".join(f"repository {one.number} is {one.state} {one.why}".rstrip() for one in repositories)
        raise Failed(f"restore: there is no backup to restore from: {told}")
    fitting = [one for one in usable if _reaches(one, asked)]
    if fitting:
        best = max(fitting, key=lambda one: (one.wal_max, -one.backups[0].ended, -one.number))
        return (0 if asked.kind == "lsn" and len(fitting) > 1 else best.number), best
    what = f"is the backup {asked.label}" if asked.label else f"is a backup that ended before {asked.value}"
    raise Failed(f"restore: in no repository that answers {what}")


def _reaches(one: RepositorySample, asked: Wanted) -> bool:
    """As far as is known: of many backups only the newest are."""
    if len(one.backups) >= SET_LIMIT:
        return True
    if asked.label:
        return any(backup.label == asked.label for backup in one.backups)
    return asked.kind != "time" or one.backups[0].ended <= instant(asked.value)


def choose(looks: Mapping[str, NodeLook], leader: str, backup: int, on: str) -> str:
    """The node that recovers: `on`, else one that does not lead, as copying is work for a disk. Raises Failed."""
    needed = int(backup * ROOM) + MARGIN
    names = [on] if on else sorted(looks, key=lambda name: name == leader)
    fitting = [name for name in names if looks[name].free >= needed]
    if fitting:
        return fitting[0]
    free = ", ".join(f"{name} {size(looks[name].free)}" for name in names)
    raise Failed(
        f"restore: {size(needed)} must be free beside the data, which is kept, and there is: {free}; make room"
    )
