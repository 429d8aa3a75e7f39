"""Who holds which certificate, decided in one place.

The `pki` document asks for these on a node, and the master signs only these: a name or an address in a request of a
node is never looked at, so a node that was broken into cannot ask for the identity of another.

Rules:
1. One certificate per purpose: what PostgreSQL holds opens nothing in etcd's place, and the other way round.
2. A certificate used by a server names everything that a client may rightly have dialled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..common.cluster import Cluster, Node

Usage = Literal["server", "client"]

ETCD_TLS = "/etc/etcd/tls"
PATRONI_TLS = "/etc/patroni/tls"
HAPROXY_TLS = "/etc/haproxy/tls"
PGHA_TLS = "/etc/pgha/tls"
PGBACKREST_TLS = "/etc/pgbackrest/tls"
CLIENTS_CA = f"{PATRONI_TLS}/clients.crt"

SUPERUSER = "postgres"
REPLICATION = "replicator"
REWIND = "rewind_user"
PROBE = "pgha_probe"


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """`sans`: DNS names and IP addresses as text. `bundle`: also BASENAME.pem with certificate and key in one."""

    name: str
    common_name: str
    sans: tuple[str, ...]
    usages: tuple[Usage, ...]
    directory: str
    basename: str
    owner: str = "root"
    group: str = "root"
    bundle: bool = False

    @property
    def cert(self) -> str:
        return f"{self.directory}/{self.basename}.crt"

    @property
    def key(self) -> str:
        return f"{self.directory}/{self.basename}.key"


def certificates(cluster: Cluster, node: Node) -> tuple[CertificateSpec, ...]:
    """Every certificate the node may hold, by service: etcd, Patroni, PostgreSQL, HAProxy, pgha, pgBackRest."""
    held: list[CertificateSpec] = []
    if node.is_etcd:
        held.append(_etcd_server(node))
    if node.is_data:
        held += _data(cluster, node)
    if node.is_proxy:
        held.append(_client("haproxy-client", "haproxy", HAPROXY_TLS, "client", "root", bundle=True))
        held.append(_client("pgha-probe", PROBE, PGHA_TLS, "pgha-probe", "root"))
    if cluster.backup is not None and cluster.backup.has_part(node.name, data=node.is_data):
        held.append(_pgbackrest(node))
    return tuple(held)


def certificate(cluster: Cluster, node: Node, name: str) -> CertificateSpec | None:
    """The certificate of that name, None when this node may not hold it."""
    return next((spec for spec in certificates(cluster, node) if spec.name == name), None)


def certificate_ids(cluster: Cluster, node: Node, directory: str) -> tuple[str, ...]:
    """The ids of this node's certificates in that folder, and of the authorities' they are checked against."""
    ids = [f"certificate:{spec.name}" for spec in certificates(cluster, node) if spec.directory == directory]
    return (*ids, *authority_ids(directory))


def authority_ids(directory: str) -> tuple[str, ...]:
    own = (f"file:{directory}/ca.crt",)
    return (*own, f"file:{CLIENTS_CA}") if directory == PATRONI_TLS else own


def _own_names(node: Node) -> tuple[str, ...]:
    return (node.name, "localhost", node.address, "127.0.0.1")


def _etcd_server(node: Node) -> CertificateSpec:
    """Server and client at once: members dial each other with it, and so does etcd's own gateway."""
    return CertificateSpec(
        name="etcd-server",
        common_name=node.name,
        sans=_own_names(node),
        usages=("server", "client"),
        directory=ETCD_TLS,
        basename="etcd-server",
        group="etcd",
    )


def _pgbackrest(node: Node) -> CertificateSpec:
    """Server and client at once: each node's pgBackRest asks the others' servers, and knows them by this name."""
    return CertificateSpec(
        name="pgbackrest",
        common_name=node.name,
        sans=_own_names(node),
        usages=("server", "client"),
        directory=PGBACKREST_TLS,
        basename="pgbackrest",
        group="postgres",
    )


def _data(cluster: Cluster, node: Node) -> list[CertificateSpec]:
    return [
        CertificateSpec(
            name="patroni-api",
            common_name=node.name,
            sans=_own_names(node),
            usages=("server", "client"),
            directory=PATRONI_TLS,
            basename="api",
            group="postgres",
        ),
        _client("patroni-etcd", "patroni-client", PATRONI_TLS, "etcd-client", "postgres"),
        CertificateSpec(
            name="postgres-server",
            common_name=node.name,
            sans=_database_names(cluster, node),
            usages=("server",),
            directory=PATRONI_TLS,
            basename="postgres-server",
            group="postgres",
        ),
        _client("postgres-superuser", SUPERUSER, PATRONI_TLS, "postgres", "postgres"),
        _client("postgres-replication", REPLICATION, PATRONI_TLS, "replicator", "postgres"),
        _client("postgres-rewind", REWIND, PATRONI_TLS, "rewind_user", "postgres"),
    ]


def _database_names(cluster: Cluster, node: Node) -> tuple[str, ...]:
    """TLS goes through HAProxy untouched, so PostgreSQL answers for every name under which a proxy is reached."""
    names = [*_own_names(node), *cluster.entrypoint]
    for proxy in cluster.proxy_nodes:
        names += [proxy.name, proxy.address]
    return tuple(dict.fromkeys(names))


def _client(
    name: str, common_name: str, directory: str, basename: str, group: str, *, bundle: bool = False
) -> CertificateSpec:
    return CertificateSpec(name, common_name, (), ("client",), directory, basename, group=group, bundle=bundle)
