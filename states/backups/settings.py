"""What the documents ask of a backup tool: its settings on a node, and the settings by which PostgreSQL uses it."""

from __future__ import annotations

from typing import Protocol

from ...common.cluster import Cluster
from ..document import Context
from ..render import Yaml
from ..resource import AnyResource
from .pgbackrest_settings import PgBackRestSettings


class Settings(Protocol):
    def configuration(self, context: Context) -> list[AnyResource]:
        """The tool's files, services and folders on this node; none where it has no part."""
        ...

    def ready(self, context: Context) -> list[AnyResource]:
        """What makes the repositories ready for this cluster: acts on one node, is skipped on the others."""
        ...

    def parameters(self, cluster: Cluster) -> dict[str, Yaml]:
        """PostgreSQL's, by which WAL is archived."""
        ...

    def restore_command(self, cluster: Cluster) -> str:
        """PostgreSQL's restore_command: ends with an error soon when a repository does not answer."""
        ...

    def replica_method(self, cluster: Cluster) -> dict[str, Yaml]:
        """Patroni's section for creating a replica with the tool."""
        ...


SETTINGS: dict[str, Settings] = {"pgbackrest": PgBackRestSettings()}


def settings(cluster: Cluster) -> Settings | None:
    """Those of the cluster's tool; None when it makes no backups."""
    return SETTINGS[cluster.backup.driver] if cluster.backup is not None else None
