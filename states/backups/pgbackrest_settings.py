"""pgBackRest's settings. Replaces the guide's backup chapter, section 5.

Where it differs, and why:
- A data node's file has its own PostgreSQL as pg1, local; with the guide's `pg1-host` on the database's own host no WAL
  is ever archived. Backups are made with a second file, in which its peers are pg2 and on, over pgBackRest's own TLS.
- Backups are encrypted, in bundles, block by block.
- The queue has no limit unless the definition sets one: at its limit pgBackRest drops WAL and reports success.
- What Patroni runs to make a replica asks first, for a short time, whether there is a backup to be had: pgBackRest
  tries an unreachable repository again for minutes. restore_command has such a limit, too.
- A repository's certificate authority has a file of its own, so that a new one for the cluster breaks no archiving.
- `--type=standby` for replicas: recovery.signal would stay behind for ever.

Source: pgBackRest 2.55, configuration reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...common.backup import Backup, Remote, Repository
from ...common.cluster import Cluster, Node
from ...common.secret import Secret
from ..certificates import PGBACKREST_TLS, certificate_ids
from ..document import PACKAGES, Context
from ..render import Yaml, managed
from ..resource import AnyResource
from ..resources.files import Directory, File
from ..resources.service import Service
from ..resources.stanza import Stanza
from ..versions import postgresql_major
from .driver import NO_RESTORE, USER
from .pgbackrest import BACKUPS, PgBackRest, wide
from .pgbackrest_repositories import FOLDER, ca_file, key_file, repository_options, tls, version_on

CONFIG = f"{FOLDER}/pgbackrest.conf"
REPLICA = "/usr/local/lib/pgha/pgbackrest-replica"
SPOOL = "/var/spool/pgbackrest"
ASK_S = 20  # for a repository to answer, before a replica is made by another method
GET_S = 20  # for a WAL segment, before PostgreSQL looks for it elsewhere
SOCKETS = "/var/run/postgresql"
QUIET, BRIEF = "--log-level-console=off", "--log-level-console=error"
KEEP_ALIVE: dict[str, str | int] = {"tcp-keep-alive-idle": 60, "tcp-keep-alive-interval": 10, "tcp-keep-alive-count": 6}
"""A peer that lost its power says no goodbye, and a backup must not wait for it for hours."""
PATIENCE = "--archive-timeout=150"
"""PostgreSQL's archiver rests for a minute after three failures, and some there are until all repositories know it."""
PUSH_S, PUSHERS = 5, 8
"""With several repositories one that does not answer holds each file up, on its way to the others, too, for nine times
so many seconds; so many files are then pushed side by side. PostgreSQL tries again what was not pushed everywhere."""
LAST_WAL_S = 300  # a backup waits for its last WAL, which may have to wait for a repository that is not its own
TOOL = PgBackRest()


class PgBackRestSettings:
    def configuration(self, context: Context) -> list[AnyResource]:
        backup = _backup(context.cluster)
        folder = Directory(path=FOLDER, requires=(PACKAGES,))
        files = _repository_files(context, backup)
        needed = (folder.id, *(file.id for file in files))
        config = _file(context, CONFIG, everything(context, backup), needed)
        wide = _file(context, BACKUPS, reached(context, backup), needed) if operates(context, backup) else None
        # the archiver and Patroni read the file each time; only the server must be told
        server = Service(
            unit="pgbackrest",
            on_change="reload",
            requires=(PACKAGES,),
            watches=(config.id, *certificate_ids(context.cluster, context.node, PGBACKREST_TLS)),
        )
        spool = Directory(path=SPOOL, owner=USER, group=USER, mode=0o750, requires=(PACKAGES,))
        held = [
            Directory(path=repository.path, owner=USER, group=USER, mode=0o750, requires=(PACKAGES,))
            for _, repository in backup.repositories
            if repository.node == context.node.name
        ]
        replica = File(
            path=REPLICA, content=managed(context.cluster.name, "#!/bin/sh\n#") + _replica(context), mode=0o755
        )
        return [
            folder,
            *files,
            config,
            *([wide] if wide else []),
            *held,
            *([spool, replica] if context.node.is_data else []),
            *([server] if _serves(backup, context.node) else []),
        ]

    def ready(self, context: Context) -> list[AnyResource]:
        backup, node = _backup(context.cluster), context.node
        numbers = backup.operated_at(node.name, data=node.is_data)
        if not numbers:
            return []
        return [
            Stanza(
                stanza=context.cluster.name,
                numbers=numbers,
                create=(*wide(context.cluster.name, "stanza-create"), BRIEF),
                upgrade=(*wide(context.cluster.name, "stanza-upgrade"), BRIEF),
                check=(*TOOL.check(context.cluster.name), PATIENCE, BRIEF),
                local=node.is_data,
                driver=TOOL.name,
            )
        ]

    def parameters(self, cluster: Cluster) -> dict[str, Yaml]:
        return {
            "archive_mode": "on",
            "archive_command": f'pgbackrest --stanza={cluster.name} archive-push "%p"',
            "archive_timeout": f"{int(_backup(cluster).archive_timeout)}s",
        }

    def restore_command(self, cluster: Cluster) -> str:
        # an exit code above 125, such as that of a program which is not there, would end the recovery
        return f'timeout {GET_S} pgbackrest --stanza={cluster.name} --archive-timeout=5 archive-get %f "%p" || exit 1'

    def replica_method(self, cluster: Cluster) -> dict[str, Yaml]:
        return {"command": REPLICA, "keep_data": True, "no_params": True}


def _backup(cluster: Cluster) -> Backup:
    if cluster.backup is None:
        raise ValueError(f"{cluster.name} has no backup section")
    return cluster.backup


@dataclass(frozen=True)
class Scope:
    """What one file is about: databases of these nodes, this node's own first, and these repositories."""

    nodes: tuple[Node, ...]
    repositories: tuple[tuple[int, Repository], ...]


def everything(context: Context, backup: Backup) -> Scope:
    """Of the file that PostgreSQL, restores and a person use. Other nodes' databases: where they may."""
    cluster, node = context.cluster, context.node
    if not node.is_data:  # a restore there is into a folder of its own
        numbers = backup.reached_from(node.name, data=False)
        return Scope((), tuple(one for one in backup.repositories if one[0] in numbers))
    away = any(one.node not in ("", node.name) for _, one in backup.repositories)
    return Scope((node,) if away else _own_first(cluster, node), backup.repositories)


def reached(context: Context, backup: Backup) -> Scope:
    """Of the file by which backups are made."""
    numbers = backup.operated_at(context.node.name, data=context.node.is_data)
    here = tuple((number, one) for number, one in backup.repositories if number in numbers)
    return Scope(_own_first(context.cluster, context.node), here)


def operates(context: Context, backup: Backup) -> bool:
    return bool(backup.operated_at(context.node.name, data=context.node.is_data))


def _serves(backup: Backup, node: Node) -> bool:
    """Whether others ask its pgBackRest: for the database or the repository that it has."""
    return node.is_data or bool(backup.numbers_at(node.name))


def _own_first(cluster: Cluster, node: Node) -> tuple[Node, ...]:
    return tuple(sorted(cluster.data_nodes, key=lambda one: one.name != node.name))


# ---- the files


def _file(context: Context, path: str, scope: Scope, needed: tuple[str, ...]) -> File:
    content = managed(context.cluster.name) + text(context, scope)
    held = secrets(context, scope)
    return File(path=path, content=content, group=USER, mode=0o640, secrets=held, requires=needed)


def text(context: Context, scope: Scope) -> str:
    """A pgbackrest.conf; what is secret is `{{marks}}`, see `secrets`."""
    cluster, node, backup = context.cluster, context.node, _backup(context.cluster)
    options: dict[str, str | int] = {}
    version = version_on(cluster, context.facts)
    for number, repository in scope.repositories:
        options |= {
            f"repo{number}-{key}": value
            for key, value in repository_options(backup, node.name, number, repository, version).items()
        }
    options |= {
        "process-max": backup.process_max or max(1, context.facts.cpus // 2),
        "compress-type": backup.compress,
        "start-fast": "y",
        **KEEP_ALIVE,
        "log-level-console": "info",
        "log-level-file": "detail",
    }
    if node.is_data:
        options |= {"archive-async": "y" if backup.archive_async else "n", "spool-path": SPOOL}
        if backup.archive_push_queue_max is not None:
            options["archive-push-queue-max"] = backup.archive_push_queue_max
    lines = _lines("global", options)
    if _serves(backup, node):
        lines += _server(cluster, node, backup)
    if len(backup.repositories) > 1:
        push = {"io-timeout": PUSH_S, "job-retry": 0, "process-max": max(PUSHERS, int(options["process-max"]))}
        lines += ["", *_lines("global:archive-push", push)] if node.is_data else []
        lines += ["", *_lines("global:backup", {"archive-timeout": LAST_WAL_S})]
    lines += ["", *_lines(cluster.name, _databases(context, scope))]
    return "\n".join(lines) + "\n"


def secrets(context: Context, scope: Scope) -> dict[str, Secret]:
    """Mark -> secret: the passphrase, and of the repositories that this node reaches itself the credentials."""
    backup, found = _backup(context.cluster), dict[str, Secret]()
    for number, repository in scope.repositories:
        if backup.encryption.cipher != "none":
            found[f"cipher{number}"] = context.secrets["backup/cipher"]
        if repository.node not in ("", context.node.name):
            continue
        if repository.kind not in ("gcs", "sftp"):  # theirs are files
            found |= {
                f"repo{number}-{name}": context.secrets[f"backup/repo{number}-{name}"]
                for name in backup.credentials_of(repository)
            }
    return found


def _lines(section: str, options: Mapping[str, str | int]) -> list[str]:
    return [f"[{section}]", *(f"{key}={value}" for key, value in options.items())]


def _repository_files(context: Context, backup: Backup) -> list[AnyResource]:
    """Authorities and keys that pgBackRest reads from files of their own."""
    found: list[AnyResource] = []
    for number, repository in everything(context, backup).repositories:
        if isinstance(repository, Remote) and repository.ca:
            found.append(File(path=ca_file(number), content=context.files[repository.ca], requires=(PACKAGES,)))
        if repository.kind in ("gcs", "sftp") and "key" in backup.credentials_of(repository):
            secret = context.secrets[f"backup/repo{number}-key"]
            path, owner = key_file(number), USER
            found.append(
                File(path=path, content="{{key}}\n", owner=owner, group=owner, mode=0o600, secrets={"key": secret})
            )
    return found


def _server(cluster: Cluster, node: Node, backup: Backup) -> list[str]:
    """Who may speak to this node's server, by the name in its certificate."""
    proves = backup.drill.on if backup.numbers_at(node.name) else None
    others = [
        n.name
        for n in cluster.nodes
        if n.name != node.name and (n.is_data or backup.numbers_at(n.name) or n.name == proves)
    ]
    stanzas = ",".join(filter(None, (cluster.name, cluster.bootstrap.of_another(cluster.name))))
    options = {
        "tls-server-address": "::" if ":" in node.address else "0.0.0.0",  # noqa: S104 - the firewall says who may come
        "tls-server-port": backup.port,
        "tls-server-ca-file": f"{PGBACKREST_TLS}/ca.crt",
        "tls-server-cert-file": f"{PGBACKREST_TLS}/pgbackrest.crt",
        "tls-server-key-file": f"{PGBACKREST_TLS}/pgbackrest.key",
    }
    return [
        *(f"{key}={value}" for key, value in options.items()),
        *(f"tls-server-auth={name}={stanzas}" for name in others),  # of a name that comes again the last line counts
    ]


def _databases(context: Context, scope: Scope) -> dict[str, str | int]:
    """This node's own PostgreSQL first, then the others' over TLS."""
    cluster, major = context.cluster, postgresql_major(context.cluster, context.facts)
    backup, options = _backup(cluster), dict[str, str | int]()
    for number, node in enumerate(scope.nodes, start=1):
        if node.name != context.node.name:
            options[f"pg{number}-host"] = node.name
            options |= {f"pg{number}-host-type": "tls", f"pg{number}-host-port": backup.port}
            options |= tls(f"pg{number}-host")
        options[f"pg{number}-path"] = node.data_dir or f"/var/lib/postgresql/{major}/main"
        options[f"pg{number}-socket-path"] = SOCKETS
        options[f"pg{number}-port"] = cluster.postgresql.port
    return options


# ---- what Patroni and a restore run


def _replica(context: Context) -> str:
    stanza = context.cluster.name
    return (
        "# Patroni makes a replica with this; when it fails, by pg_basebackup.\n"
        f"said=$(timeout {ASK_S} pgbackrest --stanza={stanza} {QUIET} --io-timeout=5 info --output=json) || exit 1\n"
        """case "$said" in *'"status":{"code":0,'*) ;; *) exit 1 ;; esac\n"""
        f"[ ! -e {NO_RESTORE} ] || exit 1\n"
        f"exec pgbackrest --stanza={stanza} --delta --type=standby restore\n"
    )
