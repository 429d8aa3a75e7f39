"""The secrets with which one cluster's documents are built: those pgha makes, and those of the user's own.

A cluster may begin with the data of another one (`bootstrap.from_backup.stanza`). What that data and its repository are
opened with is the other's: it is only looked up until the data is really taken, and this cluster's own from then on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.secret import Secret
from ...states import catalog
from .vault import Vault

log = logging.getLogger("pgha.master")


@dataclass(frozen=True)
class ClusterSecrets:
    vault: Vault

    def of(self, cluster: Cluster, *, lived: bool) -> dict[str, Secret]:
        """All of them by name; what pgha needs is made when it is missing.

        `lived`: the cluster has been built, so where its first data came from counts no more.
        Raises: UserError when what another cluster's data is opened with is not known, or not clear.
        """
        found: dict[str, Secret] = {}
        for name in self.vault.names(cluster.name):  # those of the user's own, for documents of the user's own
            if (secret := self.vault.get(cluster.name, name)) is not None:
                found[name] = secret
        other = "" if lived else cluster.bootstrap.of_another(cluster.name)
        for name in catalog.secrets(cluster):
            borrowed = bool(other) and name in catalog.IN_BACKUPS
            found[name] = (
                self._borrowed(cluster.name, name, other) if borrowed else self.vault.get_or_create(cluster.name, name)
            )
        return found

    def take_over(self, cluster: Cluster) -> None:
        """Keep what the other cluster's data is opened with as this one's own."""
        other = cluster.bootstrap.of_another(cluster.name)
        for name in catalog.secrets(cluster):
            theirs = self.vault.get(other, name) if other and name in catalog.IN_BACKUPS else None
            if theirs is not None and self.vault.get(cluster.name, name) is None:
                self.vault.set(cluster.name, name, theirs)
                log.info("%s/%s is now that of %s, whose data %s begins with", cluster.name, name, other, cluster.name)

    def _borrowed(self, cluster: str, name: str, other: str) -> Secret:
        own, theirs = self.vault.get(cluster, name), self.vault.get(other, name)
        put = f"pgha-master secrets set {cluster}/{name}"
        if own is not None and theirs is not None and own != theirs:
            raise UserError(
                f"bootstrap.from_backup.stanza: {cluster}/{name} is there already and is not that of {other}, with "
                f"which its data is opened: pgha-master secrets reveal {other}/{name} | {put}"
            )
        if secret := own or theirs:
            return secret
        raise UserError(
            f"bootstrap.from_backup.stanza: this master has no secret {other}/{name}, with which the data of {other} "
            f"is opened. Reveal it on the master of {other}, and here: {put}"
        )
