"""What must hold between the keys of a definition that are about backups. As `rules`, of which this is a part."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.backup import Backup
from ...common.clock import moment
from ...common.cluster import Cluster
from ...common.errors import Problem
from ...common.yamltext import Document, KeyPath

SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr")
Wrong = tuple[KeyPath, str, str]  # place, message, hint


def judge(document: Document, cluster: Cluster) -> list[Problem]:
    found = [*_bootstrap(cluster)]
    if cluster.backup is not None:
        found += [*_repositories(cluster, cluster.backup), *_credentials(document, cluster.backup)]
    return [document.problem("C060", path, message, hint, key=True) for path, message, hint in found]


def _bootstrap(cluster: Cluster) -> Iterator[Wrong]:
    wanted = cluster.bootstrap.from_backup
    if wanted is None:
        return
    if cluster.backup is None:
        yield ("bootstrap", "from_backup"), "bootstrap.from_backup needs a backup section", "say where the backups are"
    if wanted.to != "latest":
        try:
            moment(wanted.to)
        except ValueError as error:
            yield ("bootstrap", "from_backup", "to"), f"bootstrap.from_backup.to: {error}", "or  latest"


def _repositories(cluster: Cluster, backup: Backup) -> Iterator[Wrong]:
    names, known = [node.name for node in cluster.nodes], ", ".join(node.name for node in cluster.nodes)
    if not backup.repositories:
        yield ("backup",), "backup has no repository", "add one of  s3, azure, gcs, sftp, posix: {on: NODE}"
    holders = {one.node for _, one in backup.repositories if one.node}
    for node in sorted(holders - set(names)):
        yield ("backup", "posix"), f"backup.posix.on: '{node}' is no node", f"nodes are: {known}"
    for node in sorted(holders & {node.name for node in cluster.data_nodes}):
        message = f"backup.posix.on: {node} has a database, and would take its backups with it when it is lost"
        yield ("backup", "posix"), message, "have it on a node without one, such as the witness"
    for one in backup.posix:
        if one.path.count("/") < 2 or one.path.split("/")[1] in SYSTEM:
            message = f"backup.posix.path: {one.path} is no folder of its own, and would be given to postgres"
            yield ("backup", "posix"), message, "have one such as /var/lib/pgbackrest or /srv/pgbackrest"
    if len(holders) > 1:
        message = f"backup.posix is on two nodes ({', '.join(sorted(holders))})"
        yield ("backup", "posix"), message, "have one of them, and another repository elsewhere"
    if len({(one.node, one.path) for one in backup.posix}) < len(backup.posix):
        yield ("backup", "posix"), "two of backup.posix are in the same folder", "give each a path of its own"
    if backup.drill.on is not None and backup.drill.on not in names:
        yield ("backup", "drill", "on"), f"backup.drill.on: '{backup.drill.on}' is no node", f"nodes are: {known}"


def _credentials(document: Document, backup: Backup) -> Iterator[Wrong]:
    for _, one in backup.repositories:
        given = backup.credentials_of(one)
        needs = one.needs or (("key", "secret") if one.kind == "s3" and given else ())
        if missing := [name for name in needs if name not in given]:
            place: KeyPath = ("backup", one.kind) if document.has(("backup", one.kind)) else ("backup",)
            hint = f'add  credentials: {{{missing[0]}: "file:/etc/pgha/secrets/{missing[0]}"}}'
            yield place, f"backup.{one.kind} needs credentials: {', '.join(missing)}", hint
