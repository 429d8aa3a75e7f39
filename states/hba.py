"""pg_hba.conf: who may log in from where, and with what in hand. The first line that fits decides.

Rules:
1. Over the network only TLS, and a password always.
2. pgha's own roles come with a certificate in their own name, from where they belong, for what they are for, and
   from nowhere else.
3. The superuser comes with a certificate even where applications need none.

HAProxy passes TLS through, so a client's address is seen as that of the proxy it came by: addresses in the user's own
lines are those of proxies.
"""

from __future__ import annotations

import ipaddress

from ..common.cluster import Cluster
from .certificates import PROBE, REPLICATION, REWIND, SUPERUSER

_CERTIFICATE = {"none": "", "verify-ca": " clientcert=verify-ca", "verify-full": " clientcert=verify-full"}


def lines(cluster: Cluster) -> tuple[str, ...]:
    """The whole file, the user's lines right before the one for everybody."""
    required = cluster.tls.client_auth
    superuser = _CERTIFICATE["verify-ca" if required == "none" else required]
    own = "scram-sha-256 clientcert=verify-full"
    members = [_host(node.address) for node in cluster.data_nodes]
    return (
        f"local all {SUPERUSER} peer",
        f"local replication {SUPERUSER} peer",
        f"local replication {REPLICATION} scram-sha-256",
        f"local all {REWIND} scram-sha-256",
        *(f"hostssl replication {REPLICATION} {address} {own}" for address in members),
        *(f"hostssl all {REWIND} {address} {own}" for address in members),
        f"hostssl postgres {PROBE} all {own}",
        f"host all {REPLICATION},{REWIND},{PROBE} all reject",
        f"hostssl all {SUPERUSER} all scram-sha-256{superuser}",
        *cluster.postgresql.pg_hba,
        f"hostssl all all all scram-sha-256{_CERTIFICATE[required]}",
    )


def _host(address: str) -> str:
    return str(ipaddress.ip_network(address))
