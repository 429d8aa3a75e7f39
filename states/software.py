"""Which software a node needs, and in which version of PostgreSQL, decided from its roles and its system."""

from __future__ import annotations

from ..common.cluster import Cluster, Node
from ..common.facts import HostFacts
from .backups.tools import driver
from .versions import postgresql_major

BASE = ("ca-certificates", "curl", "wget")
TIME = {"chrony": "chrony", "timesyncd": "systemd-timesyncd"}


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
    backup = cluster.backup
    if backup is not None and backup.has_part(node.name, data=node.is_data):
        names += driver(backup.driver).packages()  # of one version on all nodes, or they do not speak
        if backup.drill.on == node.name:
            names += [f"postgresql-{major}", f"postgresql-client-{major}", "postgresql-common"]
    return tuple(dict.fromkeys(names))


def packages(cluster: Cluster, node: Node, facts: HostFacts) -> tuple[str, ...]:
    """Everything the node's documents need, sorted: one apt transaction installs it all."""
    names = {*BASE, TIME[cluster.system.time.service], *stack(cluster, node, facts)}
    if cluster.firewall.backend == "ufw":
        names.add("ufw")
    if cluster.system.ssh_between_data_nodes and node.is_data:
        names.add("openssh-client")
    return tuple(sorted(names))
