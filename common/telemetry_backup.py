"""What a node sees of the cluster's backups: the repositories, the archive of WAL, what runs and what was proved.

Times are Unix seconds by the node's clock; sizes are bytes; LSNs are absolute byte positions. A repository is asked
less often than the rest, so what is said of it may be a minute old: `at` tells when it was asked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .telemetry_parts import Part, Text

SET_LIMIT = 32  # backups of a repository, the newest
RUN_LIMIT = 8


class BackupSet(Part):
    """One backup in a repository. `size`: of the database; `repo_size`: what it added to the repository."""

    label: Text
    type: Literal["full", "diff", "incr"]
    began: float
    ended: float
    size: int
    repo_size: int
    wal_first: Text = ""
    wal_last: Text = ""
    error: bool = False  # pages whose checksum was wrong were found in it


class RepositorySample(Part):
    """`state`: ok, no backups, no stanza, another cluster's, unreachable, damaged. `why`: the tool's own words.

    `system_id` and `version`: of the database that the stanza is for. `backups` oldest first.
    """

    number: int
    state: Text
    why: Text = ""
    at: float
    system_id: Text = ""
    version: Text = ""
    wal_min: Text = ""
    wal_max: Text = ""
    encrypted: bool = False
    backups: Annotated[tuple[BackupSet, ...], Field(max_length=SET_LIMIT)] = ()


class ArchiverSample(Part):
    """Of the node that leads: how far WAL is archived. `waiting`: segments that are finished and not archived yet.

    `behind_bytes`: what has been written since the last archived segment, so what no repository has. `behind_s`: how
    old the oldest of it may have been at most, at the time `at`. None where this server has not archived anything yet.
    """

    at: float = 0.0

    archived_at: float | None = None
    failed_at: float | None = None
    failed_count: int = 0
    last_archived: Text = ""
    last_failed: Text = ""
    waiting: int = 0
    behind_bytes: int | None = None
    behind_s: float | None = None
    error: Text = ""

    @property
    def failing(self) -> bool:
        """Whether the last file that was to be archived was refused."""
        return (self.failed_at or 0.0) > (self.archived_at or 0.0)


class BackupRun(Part):
    """A run of the tool on this node. `ended` None: it is running; `done` of `total` bytes, None when not told."""

    type: Text
    repository: int
    began: float
    ended: float | None = None
    ok: bool = False
    label: Text = ""
    error: Text = ""
    done: int | None = None
    total: int | None = None


class DrillSample(Part):
    """The last proof by restoring. `seconds`: from the start of the restore to the answer of the restored server.

    `repository`: number of the one that it was restored from; None when it did not come so far.
    `age_s`: how old the newest row was that came back, when the restore began; None when none was looked for, and
    `note` tells why. `bytes`: of the backup.
    """

    began: float
    ok: bool
    seconds: float
    repository: int | None = None
    label: Text = ""
    age_s: float | None = None
    bytes: int | None = None
    error: Text = ""
    note: Text = ""


class BackupSample(Part):
    """`operates`: numbers of the repositories to which this node makes backups when it is its turn.

    `dropped`: segments that the tool threw away here because its queue was full, as the end of its log tells;
    `last_dropped` is the newest of them. They were lost before a failover, too, so each node tells its own.
    """

    driver: Text
    operates: tuple[int, ...] = ()
    kept: bool = False  # a restore has put data aside, and until it is let go no backup is expired
    repositories: tuple[RepositorySample, ...] = ()
    archiver: ArchiverSample | None = None
    dropped: int = 0
    last_dropped: Text = ""
    running: BackupRun | None = None
    runs: Annotated[tuple[BackupRun, ...], Field(max_length=RUN_LIMIT)] = ()  # the latest, oldest first
    drill: DrillSample | None = None
    error: Text = ""
