"""pgBackRest's command lines. Whether a standby is copied from, and the repository, are said with each command.

Source: pgBackRest 2.55, command reference.
"""

from __future__ import annotations

from ...common.backup import BackupType
from ...common.telemetry_backup import BackupSet, RepositorySample
from . import pgbackrest_answers as answers
from .driver import Argv, Target, Verified
from .pgbackrest_verify import verified

BACKUPS = "/etc/pgbackrest/backups.conf"
"""What makes backups knows every node's database and the repositories that are reached without another node between.

pgBackRest takes no file in which both a database and a repository are on other hosts.
"""
LOCK_ACQUIRE, HOST_CONNECT = 50, 56  # exit codes. Source: pgBackRest, src/build/error/error.yaml


class PgBackRest:
    name = "pgbackrest"
    busy: tuple[int, ...] = (LOCK_ACQUIRE,)

    def packages(self) -> tuple[str, ...]:
        return ("pgbackrest",)

    def info(self, stanza: str, number: int) -> Argv:
        # it tries a host that does not answer nine times, each as long as this
        return (*command(stanza, "info"), "--output=json", "--io-timeout=5", f"--repo={number}")

    def read_info(self, stanza: str, number: int, rc: int, out: str, err: str, now: float) -> RepositorySample:
        return answers.repository(stanza, number, rc, out, err, now)

    def running(self, out: str) -> tuple[int, int] | None:
        return answers.running(out)

    def backup(self, stanza: str, kind: BackupType, number: int, *, standby: bool, expire: bool) -> Argv:
        source = "--backup-standby" if standby else "--no-backup-standby"
        return (
            *wide(stanza, "backup"),
            f"--type={kind}",
            f"--repo={number}",
            source,
            *(() if expire else ("--no-expire-auto",)),
        )

    def no_standby(self, rc: int, out: str, err: str) -> bool:
        return rc == HOST_CONNECT and "unable to find standby" in out + err

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
        options = [f"--pg1-path={directory}", *_until(target)]
        if not archive:
            options.append("--archive-mode=off")
        if delta:
            options.append("--delta")
        if tablespaces:
            options.append(f"--tablespace-map-all={tablespaces}")
        if repository:
            options += [
                f"--repo={repository}",
                f"--recovery-option=restore_command={_get(stanza, repository, directory)}",
            ]
        return (*command(stanza, "restore"), *options)

    def check(self, stanza: str) -> Argv:
        return (*wide(stanza, "check"), "--io-timeout=10")

    def verify(self, stanza: str, number: int) -> Argv:
        told = ("--output=text", "--verbose", "--log-level-console=detail")
        return (*wide(stanza, "verify"), f"--repo={number}", *told)

    def read_verify(self, rc: int, out: str, err: str, backups: tuple[BackupSet, ...], fulls: int) -> Verified:
        return verified(rc, out, err, backups, fulls)

    def push_log(self, stanza: str) -> str:
        return f"{stanza}-archive-push-async.log"

    def dropped(self, log: str) -> tuple[str, ...]:
        return answers.dropped(log)

    def why(self, rc: int, out: str, err: str) -> str:
        return answers.why(rc, out, err)


def command(stanza: str, name: str) -> Argv:
    return ("pgbackrest", f"--stanza={stanza}", name)


def wide(stanza: str, name: str) -> Argv:
    """A command that has to do with all nodes' databases."""
    return (*command(stanza, name), f"--config={BACKUPS}")


def _get(stanza: str, repository: int, directory: str) -> str:
    """The restore_command of a recovery from one repository. Only 1 means that a segment is not there.

    PostgreSQL takes other codes up to 125 for that, too, and would end a recovery to the newest where the repository
    went away, as if nothing came after; with 255 it gives up.
    """
    get = " ".join(command(stanza, "archive-get"))
    return f'{get} --repo={repository} --pg1-path={directory} %f "%p" || {{ [ $? = 1 ] && exit 1; exit 255; }}'


def _until(target: Target) -> list[str]:
    options = [f"--set={target.label}"] if target.label else []
    options += [f"--target-timeline={target.timeline}"] if target.timeline else []
    if target.kind == "latest":
        return [*options, "--type=default"]
    return [*options, f"--type={target.kind}", f"--target={target.value}", "--target-action=promote"]
