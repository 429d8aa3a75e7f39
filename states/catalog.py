"""Which documents there are, in the order in which a cluster is built, and the secrets they need.

A document is one file in `documents/` and one line here.
"""

from __future__ import annotations

from collections.abc import Collection

from ..common.cluster import Cluster
from ..common.errors import UserError
from .document import Builder, Context
from .documents import backup, database, etcd, firewall, haproxy, hardening, patroni, pgbackrest, pki, ssh
from .graph import order
from .resource import AnyResource
from .software import packages
from .versions import postgresql_major

DOCUMENTS: dict[str, Builder] = {
    "hardening": hardening.build,
    "pki": pki.build,
    "firewall": firewall.build,
    "etcd": etcd.build,
    "pgbackrest": pgbackrest.build,
    "patroni": patroni.build,
    "ssh": ssh.build,
    "haproxy": haproxy.build,
    "database": database.build,  # works only where a leader is
    "backup": backup.build,
}

_IN_DATABASE = ("postgresql/superuser", "postgresql/replication", "postgresql/rewind", "postgresql/probe")
_SECRETS: tuple[str, ...] = (*_IN_DATABASE, "patroni/restapi")
IN_BACKUPS: tuple[str, ...] = (*_IN_DATABASE, "backup/cipher")
"""Those that a cluster's backups are opened with, and that the data in them has."""


def secrets(cluster: Cluster) -> tuple[str, ...]:
    """What a cluster's vault must hold before its documents are built; `Context.secrets` has these names."""
    own = cluster.backup is not None and cluster.backup.encryption.generated
    return (*_SECRETS, "backup/cipher") if own else _SECRETS


def compile(context: Context, documents: Collection[str] | None = None) -> list[AnyResource]:
    """The node's resources of the named documents (None: all), in an order that keeps every requisite.

    A requisite in a document that is left out is dropped: it was met when that document was applied.

    Raises:
        UserError: a document that does not exist, two resources of one id, or a requisite that is nowhere.
    """
    unknown = sorted(set(documents or ()) - set(DOCUMENTS))
    if unknown:
        raise UserError(f"there is no document {', '.join(unknown)}; there are {', '.join(DOCUMENTS)}")
    built = {name: build(context) for name, build in DOCUMENTS.items()}
    everything = [
        resource.model_copy(update={"document": name}) for name, resources in built.items() for resource in resources
    ]
    ordered = order(everything)
    if documents is None:
        return ordered
    kept = [resource for resource in ordered if resource.document in documents]
    ids = {resource.id for resource in kept}
    return [
        resource.model_copy(
            update={
                "requires": tuple(needed for needed in resource.requires if needed in ids),
                "watches": tuple(watched for watched in resource.watches if watched in ids),
            }
        )
        for resource in kept
    ]


__all__ = ["DOCUMENTS", "compile", "packages", "postgresql_major", "secrets"]
