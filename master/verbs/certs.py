"""certs list | client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ...common.cluster import Cluster
from ...common.errors import UserError
from ..control import Arguments, Request
from ..operations.progress import End
from ..server import Master


class Of(Arguments):
    cluster: str


class Client(Arguments):
    cluster: str
    name: str
    csr: str


async def list_certificates(master: Master, request: Request) -> AsyncIterator[Any]:
    """What the newest telemetry saw on the nodes' disks."""
    cluster = _cluster(master, request.read(Of).cluster)
    rows = []
    for node in cluster.nodes:
        peer = master.hub.peers.get(node.name)
        for certificate in peer.sample.certificates if peer and peer.sample else ():
            left = None if certificate.not_after is None else (certificate.not_after - master.clock.now()) / 86400
            rows.append(
                {
                    "node": node.name,
                    "path": certificate.path,
                    "common_name": certificate.common_name,
                    "not_after": certificate.not_after,
                    "days": None if left is None else int(left),
                }
            )
    yield End(data={"certificates": rows})


async def client(master: Master, request: Request) -> AsyncIterator[Any]:
    """Sign an application's request. Its private key stays where it was made."""
    wanted = request.read(Client)
    cluster = _cluster(master, wanted.cluster)
    authority = master.authority(cluster.name)
    certificate = await asyncio.to_thread(authority.sign_client, wanted.csr, wanted.name, cluster.tls.leaf_days)
    entry = {"hosts": entrances(cluster), "port": cluster.haproxy.rw_port}
    yield End(data={"certificate": certificate, "ca": authority.ca_pem, **entry})


def entrances(cluster: Cluster) -> list[str]:
    """Where applications connect: the names of `entrypoint`, without one the addresses of all nodes with HAProxy."""
    return list(cluster.entrypoint) or [node.address for node in cluster.proxy_nodes]


def _cluster(master: Master, name: str) -> Any:
    if name not in master.clusters:
        known = ", ".join(sorted(master.clusters)) or "none yet"
        raise UserError(f"no cluster {name!r} has been applied by this master; applied: {known}")
    return master.clusters[name]
