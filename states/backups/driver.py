"""What pgha asks of a backup tool on a node: command lines, and what the tool's answers mean.

A tool is two files beside this one: its command lines, named in `tools.py`, and its settings, named in `settings.py`.
Both are pure. Who runs a command, where and when, is the minion's business (`minion/backups`); all commands run as the
user of the database, and none of them carries a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ...common.backup import BackupType
from ...common.telemetry_backup import BackupSet, RepositorySample

USER = "postgres"
WAIT = "/var/lib/pgha/patroni-waits"
"""While this file is there, Patroni does not start: a restore is changing the data."""
KEEP = "/var/lib/pgha/backups-kept"
"""While this file is there, no backup expires an older one: a restore has put data aside that nobody has let go yet."""
NO_RESTORE = "/var/lib/pgha/backups-lead-elsewhere"
"""While this file is there, replicas are copied from the leader: what is in the repository is of another timeline."""
Argv = tuple[str, ...]
TargetKind = Literal["latest", "time", "xid", "lsn", "name"]


@dataclass(frozen=True, slots=True)
class Target:
    """Up to where a restore goes. `value`: a time with its offset from UTC, a transaction, an LSN, a restore point.

    `label`: the backup to begin with; empty: the newest that ended before the target. `timeline`: the history to
    follow, in decimal digits; empty: the newest.
    """

    kind: TargetKind = "latest"
    value: str = ""
    label: str = ""
    timeline: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the tool found when it read a repository whole. `problems`: a sentence each; none means sound."""

    problems: tuple[str, ...]
    text: str = ""


class Driver(Protocol):
    """`stanza` is the tool's name for the cluster; it is the cluster's own name."""

    name: str
    busy: tuple[int, ...]
    """Exit codes of a command that gave up because another one is at work."""

    def packages(self) -> tuple[str, ...]: ...

    def info(self, stanza: str, number: int) -> Argv: ...

    def read_info(self, stanza: str, number: int, rc: int, out: str, err: str, now: float) -> RepositorySample:
        """Also when the tool has failed."""
        ...

    def running(self, out: str) -> tuple[int, int] | None:
        """Bytes done and in all of the backup that runs on this node, out of `info`; None when there is none."""
        ...

    def backup(self, stanza: str, kind: BackupType, number: int, *, standby: bool, expire: bool) -> Argv: ...

    def no_standby(self, rc: int, out: str, err: str) -> bool:
        """Whether a backup failed for want of a standby to copy from."""
        ...

    def restore(
        self,
        stanza: str,
        target: Target,
        directory: str,
        *,
        archive: bool,
        delta: bool,
        tablespaces: str = "",
        repository: int = 0,
    ) -> Argv:
        """Into `directory`, so that the server recovers to the target when it is started there, and opens for writes.

        `archive` False: it must not archive what it writes, as that is not the cluster's. `tablespaces`: a folder for
        all of them; empty: each where it was. `repository`: where all of it is to come from, WAL too; 0: from any.
        """
        ...

    def check(self, stanza: str) -> Argv: ...

    def verify(self, stanza: str, number: int) -> Argv: ...

    def read_verify(self, rc: int, out: str, err: str, backups: tuple[BackupSet, ...], fulls: int) -> Verified:
        """`backups`: of the repository before it was read. `fulls`: full ones for which all WAL is kept."""
        ...

    def push_log(self, stanza: str) -> str:
        """The file, in the tool's folder of logs, that `dropped` reads."""
        ...

    def dropped(self, log: str) -> tuple[str, ...]:
        """The WAL segments that the tool says, in its log, to have thrown away, oldest first."""
        ...

    def why(self, rc: int, out: str, err: str) -> str:
        """One sentence on why a command failed, with what to do where that is known."""
        ...
