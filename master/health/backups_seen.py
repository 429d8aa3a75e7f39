"""What the nodes tell of a cluster's backups, put together. Pure; nothing here judges.

A repository is told of by every node that reaches it: who makes backups to it knows best, then who asked last. Times in
samples are by the clock of the node that tells them, so an age is by that clock, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...common.backup import S3, Azure, Gcs, Posix, Repository, Sftp
from ...common.telemetry_backup import ArchiverSample, BackupRun, BackupSample, BackupSet, DrillSample, RepositorySample
from .observed import ClusterHealth, NodeView

COPYABLE = ("ok", "no backups")  # states in which what the tool tells of a repository is all of it


@dataclass(frozen=True, slots=True)
class Told:
    """What one fresh node tells."""

    node: NodeView
    backup: BackupSample

    def age_s(self, at: float) -> float:
        """Of something at that time by the node's own clock."""
        assert self.node.sample is not None
        return max(0.0, self.node.sample.at - at) + (self.node.age_s or 0.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """`told`: by every fresh node with a part in backups, in the definition's order."""

    told: tuple[Told, ...]
    leader: str

    @property
    def leading(self) -> Told | None:
        return next((told for told in self.told if told.node.name == self.leader), None)

    @property
    def archiver(self) -> ArchiverSample | None:
        return self.leading.backup.archiver if self.leading else None

    def numbers(self) -> list[int]:
        return sorted({one.number for _, one in self.views()})

    def views(self, number: int | None = None) -> Iterator[tuple[Told, RepositorySample]]:
        """Every node's view of that repository, or of all."""
        for told in self.told:
            for one in told.backup.repositories:
                if number in (None, one.number):
                    yield told, one

    def repository(self, number: int) -> tuple[Told, RepositorySample] | None:
        """The best view of it; None when no node has told anything yet."""
        found = list(self.views(number))
        return max(found, key=lambda view: _worth(*view)) if found else None

    def behind_s(self) -> float | None:
        """How old the oldest write may be that is in no repository, by now."""
        told, archiver = self.leading, self.archiver
        if told is None or archiver is None or archiver.behind_s is None:
            return None
        return archiver.behind_s + (told.age_s(archiver.at) if archiver.behind_bytes else 0.0)

    def runs(self) -> list[tuple[Told, BackupRun]]:
        """Those that have ended, the latest last."""
        found = [(told, run) for told in self.told for run in told.backup.runs if run.ended is not None]
        return sorted(found, key=lambda pair: -pair[0].age_s(pair[1].ended or 0.0))

    def running(self) -> list[tuple[Told, BackupRun]]:
        return [(told, told.backup.running) for told in self.told if told.backup.running]

    def drill(self) -> tuple[Told, DrillSample] | None:
        found = [(told, told.backup.drill) for told in self.told if told.backup.drill]
        return min(found, key=lambda pair: pair[0].age_s(pair[1].began), default=None)

    def dropped(self) -> tuple[int, str]:
        """How many segments the nodes' tools threw away, as far as their logs go back, and the newest by its place."""
        newest = max((told.backup.last_dropped for told in self.told), key=lambda name: name[8:], default="")
        return sum(told.backup.dropped for told in self.told), newest

    def begun_after(self, number: int, segment: str) -> bool:
        """Whether that repository has a backup that needs no WAL up to that segment."""
        found = self.repository(number)
        return found is not None and any(b.wal_first[8:] > segment[8:] for b in found[1].backups)


def seen(health: ClusterHealth) -> Seen:
    return Seen(
        tuple(Told(n, n.sample.backup) for n in health.nodes if n.sample is not None and n.sample.backup is not None),
        health.leader,
    )


def _worth(told: Told, one: RepositorySample) -> tuple[bool, bool, float]:
    return one.state in COPYABLE, one.number in told.backup.operates, -told.age_s(one.at)


def newest(one: RepositorySample, *types: str) -> BackupSet | None:
    """The newest backup, of these types if any are given."""
    return max((b for b in one.backups if not types or b.type in types), key=lambda b: b.ended, default=None)


def place(repository: Repository) -> str:
    """Where it is, for a person."""
    match repository:
        case Posix():
            return f"{repository.on}:{repository.path}"
        case S3() | Gcs():
            return f"{repository.kind} {repository.bucket}"
        case Azure():
            return f"azure {repository.container}"
        case Sftp():
            return f"sftp {repository.host}"
        case _:
            return repository.kind
