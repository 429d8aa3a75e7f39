"""What a cluster that lives does not let an apply change, because nobody would carry the data over. Pure.

Configuration files would be written without complaint, and the cluster would go on until the next restart of a node:
then Patroni would look for its data where none is, or start it with the programs of another major, and an etcd member
would be dialled where it does not listen. So it is refused before anything is written, one sentence per problem.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.facts import HostFacts
from ...states.render import endpoint
from ...states.versions import postgresql_major
from ..health.observed import ClusterHealth


def standing(
    cluster: Cluster,
    facts: Mapping[str, HostFacts],
    health: ClusterHealth,
    applied: Cluster | None,
    leaving: Collection[str] = (),
) -> list[str]:
    """`applied`: the definition that was applied last, None when there is none. Nothing is said of unbuilt nodes.

    `leaving`: nodes that left the definition and are taken out; see `departure`.
    """
    return [
        *_majors(cluster, facts, health, applied),
        *_data_directories(cluster, health, applied),
        *_etcd(cluster, health, applied),
        *_new_members(cluster, health),
        *_former_members(cluster, health, leaving),
    ]


def _majors(
    cluster: Cluster, facts: Mapping[str, HostFacts], health: ClusterHealth, applied: Cluster | None
) -> list[str]:
    found = []
    for node in cluster.data_nodes:
        sample, known = health.node(node.name).sample, facts.get(node.name)
        if sample is None or known is None:
            continue
        wanted = _major(cluster, known)
        runs = (sample.patroni.server_version or 0) // 10000 if sample.patroni else 0
        if not runs and sample.data_directory_present and applied is not None:
            runs = _major(applied, known)
        if runs and wanted and runs != wanted:
            found.append(
                f"{node.name}: its data is of PostgreSQL {runs}, the definition means {wanted}; an apply upgrades no "
                f"major: set postgresql.version: {runs}, and postgresql.source to where that comes from"
            )
    return found


def _major(cluster: Cluster, facts: HostFacts) -> int:
    """0 when there is none for such a host; `preflight.hosts` says so."""
    try:
        return postgresql_major(cluster, facts)
    except UserError:
        return 0


def _data_directories(cluster: Cluster, health: ClusterHealth, applied: Cluster | None) -> list[str]:
    before = {node.name: node.data_dir for node in applied.data_nodes} if applied else {}
    found = []
    for node in cluster.data_nodes:
        sample = health.node(node.name).sample
        if node.name not in before or before[node.name] == node.data_dir or not (sample and sample.patroni):
            continue
        was = before[node.name] or "the distribution's"
        found.append(
            f"{node.name}: data_dir was {was}, and its data is there; an apply moves no data: put the old value back"
        )
    return found


def _etcd(cluster: Cluster, health: ClusterHealth, applied: Cluster | None) -> list[str]:
    found = []
    for node in cluster.etcd_nodes:
        url = f"https://{endpoint(node.address, cluster.etcd.peer_port)}"
        known = next((m for m in health.members if m.name == node.name and m.peer_urls), None)
        if known is not None and url not in known.peer_urls and health.node(node.name).etcd in ("leader", "follower"):
            found.append(
                f"{node.name}: is a member of etcd at {' '.join(known.peer_urls)}, the definition means {url}; an "
                "apply moves no member: put the old address and etcd.peer_port back"
            )
    if health.members and applied is not None and applied.etcd.client_port != cluster.etcd.client_port:
        found.append(
            f"etcd.client_port: etcd serves port {applied.etcd.client_port}; an apply does not move it to "
            f"{cluster.etcd.client_port}, since Patroni would lose etcd on the way: put the old value back"
        )
    return found


def _new_members(cluster: Cluster, health: ClusterHealth) -> list[str]:
    """One vote at a time: a second new member, which nobody has added yet, would found a cluster of its own."""
    urls = {url for member in health.members for url in member.peer_urls}
    names = {member.name for member in health.members}
    new = [
        node.name
        for node in cluster.etcd_nodes
        if node.name not in names and f"https://{endpoint(node.address, cluster.etcd.peer_port)}" not in urls
    ]
    if not health.members or len(new) < 2:
        return []
    return [
        f"{', '.join(new)}: are no members of etcd yet, and an apply adds one; leave all but {new[0]} out of the "
        "definition, apply, and go on with the next"
    ]


def _former_members(cluster: Cluster, health: ClusterHealth, leaving: Collection[str]) -> list[str]:
    """A node that left the definition still votes in etcd, and in Patroni it may still become the leader."""
    voters = {node.name for node in cluster.etcd_nodes} | {*leaving}
    found = [
        f"{member.name}: is a member of etcd and no etcd node of the definition; put it back, or take it out first: "
        f"stop and disable etcd there, then on another node: etcdctl member remove {member.id}"
        for member in health.members
        if member.started and member.name not in voters
    ]
    data = {node.name for node in cluster.data_nodes} | {*leaving}
    leading = health.leading.sample if health.leading else None
    told = leading.patroni.cluster_members if leading and leading.patroni else ()
    return found + [
        f"{member.name}: is a member of Patroni and no data node of the definition; put it back, or take it out first: "
        f"on it: systemctl disable --now patroni"
        for member in told
        if member.name not in data and member.state != "stopped"  # Patroni remembers who has stopped for its ttl
    ]
