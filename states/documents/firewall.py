"""Who may talk to whom, and nothing else. Replaces the guide's section 3, step 1.

The rules follow from the roles of the nodes, so a node that is added or moved changes every firewall with it. Where
it differs from the guide, and why:
- Every HAProxy may reach every PostgreSQL. The guide lets only data nodes in, and then its witness passes all health
  checks and hangs on each connection.
- The port for reads is open beside the one for writes.
- A node has no rules about itself: what it sends to its own address never leaves the loopback interface.
- Nothing is opened for pgha: minions dial out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ...common.backup import Backup
from ...common.cluster import Cluster, Node
from ..document import PACKAGES, Context
from ..resource import AnyResource
from ..resources.firewall import Firewall, FirewallRule, canonical

SSH = 22


def build(context: Context) -> list[AnyResource]:
    if context.cluster.firewall.backend == "none":
        return []
    return [
        Firewall(
            rules=flows(context.cluster, context.node),
            confirm_s=context.cluster.firewall.confirm_timeout,
            requires=(PACKAGES,),
        )
    ]


def flows(cluster: Cluster, node: Node) -> tuple[FirewallRule, ...]:
    """What this node lets in, in the order of the services; one rule for each port and source."""
    rules = _from_networks(SSH, cluster.access.admin, "SSH admin access")
    if node.is_etcd:
        rules += _etcd(cluster, node)
    if node.is_data:
        rules += _data(cluster, node)
    if node.is_proxy:
        rules += _proxy(cluster)
    if cluster.backup is not None:
        rules += _backup(cluster, cluster.backup, node)
    unique: dict[tuple[int, str], FirewallRule] = {}
    for rule in rules:
        unique.setdefault((rule.port, canonical(rule.source)), rule)
    return tuple(unique.values())


def _etcd(cluster: Cluster, node: Node) -> list[FirewallRule]:
    clients = [peer for peer in cluster.nodes if peer.is_etcd or peer.is_data]
    return [
        *_from_nodes(cluster.etcd.client_port, clients, node, "etcd client"),
        *_from_nodes(cluster.etcd.peer_port, cluster.etcd_nodes, node, "etcd peer"),
    ]


def _data(cluster: Cluster, node: Node) -> list[FirewallRule]:
    port = cluster.patroni.restapi.port
    callers = [peer for peer in cluster.nodes if peer.is_data or peer.is_proxy]
    between = cluster.data_nodes if cluster.system.ssh_between_data_nodes else ()
    return [
        *_from_nodes(SSH, between, node, "SSH"),
        *_from_nodes(port, callers, node, "Patroni API"),
        *_from_networks(port, cluster.access.monitoring, "Patroni metrics"),
        *_from_nodes(cluster.postgresql.port, callers, node, "PostgreSQL"),
    ]


def _proxy(cluster: Cluster) -> list[FirewallRule]:
    haproxy, clients = cluster.haproxy, cluster.access.clients
    rules = _from_networks(haproxy.rw_port, clients, "HAProxy writes")
    rules += _from_networks(haproxy.ro_port, clients, "HAProxy reads")
    if not ipaddress.ip_address(haproxy.stats.listen).is_loopback:
        rules += _from_networks(haproxy.stats.port, cluster.access.monitoring, "HAProxy statistics")
    return rules


def _backup(cluster: Cluster, backup: Backup, node: Node) -> list[FirewallRule]:
    """Those with a database and those with a repository ask one another; one that proves restores asks repositories."""
    parties = [peer for peer in cluster.nodes if peer.is_data or backup.numbers_at(peer.name)]
    if node not in parties:
        return []
    proves = [peer for peer in cluster.nodes if peer.name == backup.drill.on and backup.numbers_at(node.name)]
    return _from_nodes(backup.port, dict.fromkeys([*parties, *proves]), node, "backups")


def _from_nodes(port: int, peers: Iterable[Node], node: Node, what: str) -> list[FirewallRule]:
    return [
        FirewallRule(port=port, source=peer.address, comment=f"pgha: {what} {peer.name}")
        for peer in peers
        if peer.name != node.name
    ]


def _from_networks(port: int, networks: Iterable[str], what: str) -> list[FirewallRule]:
    return [FirewallRule(port=port, source=canonical(network), comment=f"pgha: {what}") for network in networks]
