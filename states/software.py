"""Which software a node needs, and in which version of PostgreSQL, decided from its roles and its system."""

from __future__ import annotations

from ..common.cluster import AptSource, Cluster, Node
from ..common.errors import UserError
from ..common.facts import DISTRIBUTION_POSTGRESQL, HostFacts, supported

PGDG_NEWEST = 18
"""The newest major that apt.postgresql.org carries as a release. Source: https://www.postgresql.org/support/versioning"""

BASE = ("ca-certificates", "curl", "wget")
TIME = {"chrony": "chrony", "timesyncd": "systemd-timesyncd"}


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


def stack(cluster: Cluster, node: Node, facts: HostFacts) -> tuple[str, ...]:
    """The packages of the database, etcd and the proxy on this node: those that only a procedure may upgrade."""
    major = postgresql_major(cluster, facts)
    names: list[str] = []
    if node.is_etcd:
        names += ["etcd-client", "etcd-server"]
    if node.is_data:
        # python3-etcd is only recommended by patroni, which without it knows no etcd3 either
        names += ["patroni", f"postgresql-{major}", "postgresql-common", "python3-etcd", "python3-psycopg2"]
    if node.is_data or node.is_proxy:
        names.append(f"postgresql-client-{major}")
    if node.is_proxy:
        names.append("haproxy")
    return tuple(names)


def packages(cluster: Cluster, node: Node, facts: HostFacts) -> tuple[str, ...]:
    """Everything the node's documents need, sorted: one apt transaction installs it all."""
    names = {*BASE, TIME[cluster.system.time.service], *stack(cluster, node, facts)}
    if cluster.firewall.backend == "ufw":
        names.add("ufw")
    if cluster.system.ssh_between_data_nodes and node.is_data:
        names.add("openssh-client")
    return tuple(sorted(names))
