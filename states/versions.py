"""Which major of PostgreSQL a cluster has on a host."""

from __future__ import annotations

from ..common.cluster import AptSource, Cluster
from ..common.errors import UserError
from ..common.facts import DISTRIBUTION_POSTGRESQL, HostFacts, supported

PGDG_NEWEST = 18
"""The newest major that apt.postgresql.org carries as a release. Source: https://www.postgresql.org/support/versioning"""


def postgresql_major(cluster: Cluster, facts: HostFacts) -> int:
    """The major of this cluster on such a host: the one asked for, or the newest that its source offers.

    Raises:
        UserError: the distribution carries another major than the one asked for, or is none that pgha knows.
    """
    source, wanted = cluster.postgresql.source, cluster.postgresql.version
    if source == "pgdg":
        return wanted or PGDG_NEWEST
    if isinstance(source, AptSource) and wanted:
        return wanted
    system = f"{facts.os_id} {facts.os_version}"
    if not supported(facts):
        known = ", ".join(" ".join(pair) for pair in DISTRIBUTION_POSTGRESQL)
        raise UserError(
            f"{facts.hostname} runs {system}, whose PostgreSQL version pgha does not know (it knows {known});"
            " set postgresql.version, and postgresql.source: pgdg"
        )
    own = DISTRIBUTION_POSTGRESQL[facts.os_id, facts.os_version]
    if wanted not in (None, own) and source == "distribution":
        raise UserError(
            f"{facts.hostname} runs {system}, which carries PostgreSQL {own}, not {wanted};"
            " set postgresql.source: pgdg, or leave postgresql.version out"
        )
    return wanted or own
