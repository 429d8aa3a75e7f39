"""What must hold between the keys of a cluster's definition: pure, one function for each concern.

Each rule takes the cluster, with every default filled in, and the document for the places; it gives back problems and
never raises. Errors are what would not work or would lose data or shut people out; what merely deserves a second
thought is a warning. docs/reference/cluster-file.md lists the codes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import date

from ...common.cluster import Cluster, Node
from ...common.errors import Problem
from ...common.yamltext import Document, KeyPath
from . import parameters, rules_backup

SSH_PORT = 22
ELECTION_MAX_MS = 50_000

_SECRET_KEY = re.compile(r"(?:.*_)?(?:password|passwd|passphrase|secret|pass)", re.IGNORECASE)
_REFERENCE = re.compile(r"generated|(?:env|file|exec|vault|sops):.+")
_IN_TEXT = re.compile(r"\bpassword\s*=\s*\S", re.IGNORECASE)


def judge(document: Document, cluster: Cluster, today: date, whole: bool) -> list[Problem]:
    """Everything wrong between keys. `whole` is false when a node was left out, so that counts prove nothing."""
    problems = [
        *_addresses(document, cluster),
        *_timers(document, cluster),
        *_loss(document, cluster),
        *_elections(document, cluster),
        *_ports(document, cluster),
        *_access(document, cluster),
        *_version(document, cluster, today),
        *_parameters(document, cluster),
        *rules_backup.judge(document, cluster),
    ]
    return [*problems, *_voters(document, cluster), *_data_nodes(document, cluster)] if whole else problems


def secrets(document: Document) -> list[Problem]:
    """Passwords written in clear: any key that is called so, all credentials, and connection strings."""
    found = []
    for path, value in _scalars(document.data, ()):
        named = any(part == "credentials" or _SECRET_KEY.fullmatch(str(part)) for part in path)
        if (named and not _REFERENCE.fullmatch(value)) or _IN_TEXT.search(value):
            hint = "use  generated, env:NAME, file:PATH, exec:COMMAND, vault:PATH#KEY or sops:FILE#KEY"
            found.append(document.problem("C040", path, "a password is written in clear text", hint))
    return found


def _scalars(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text and number in the file as text, with its path; neither true, false nor nothing is a secret."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _scalars(inner, (*path, index))
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield path, str(value)


def _addresses(document: Document, cluster: Cluster) -> list[Problem]:
    seen: dict[str, str] = {}
    found = []
    for node in cluster.nodes:
        first = seen.setdefault(node.address, node.name)
        if first != node.name:
            message = f"nodes.{node.name} has the address {node.address} of {first}"
            found.append(document.problem("C010", ("nodes", node.name, "address"), message, "each node has its own"))
        source = node.tags.replicatefrom
        if source and (source == node.name or source not in [n.name for n in cluster.data_nodes]):
            names = [n.name for n in cluster.data_nodes if n.name != node.name]
            message = f"nodes.{node.name}.tags.replicatefrom: '{source}' is no other data node"
            hint = f"data nodes are: {', '.join(names)}" if names else "there is no other data node"
            found.append(document.problem("C016", ("nodes", node.name, "tags", "replicatefrom"), message, hint))
    return found


def _voters(document: Document, cluster: Cluster) -> list[Problem]:
    voters = cluster.etcd_nodes
    count = len(voters)
    place: KeyPath = ("nodes",)
    if count < 3:
        message = f"etcd would have {count} voter{'' if count == 1 else 's'}: no failure is survivable"
        return [document.problem("C012", place, message, "have three: add a node with  role: witness", key=True)]
    found = []
    if count % 2 == 0:
        message = f"etcd would have {count} voters, which survive no more than {count - 1} do"
        hint = "add or remove a voter: 3 survive one failure, 5 survive two"
        found.append(document.problem("C012", place, message, hint, key=True, warning=True))
    regions = Counter(node.region for node in voters)
    majority = count // 2 + 1
    for region, lost in regions.items() if len(regions) > 1 else ():
        if count - lost < majority:
            names = ", ".join(node.name for node in voters if node.region == region)
            message = f"losing region '{region}' takes {lost} of {count} etcd voters ({names})"
            hint = "the cluster could not elect a leader: move a voter to a region of its own"
            first = next(node.name for node in voters if node.region == region)
            found.append(document.problem("C013", ("nodes", first), message, hint, key=True))
    return found


def _data_nodes(document: Document, cluster: Cluster) -> list[Problem]:
    count = len(cluster.data_nodes)
    place: KeyPath = ("nodes",)
    if count == 0:
        return [document.problem("C014", place, "no node has the role data", "give one node  role: data", key=True)]
    if count > 1:
        return []
    if cluster.rpo == "zero":
        hint = "add a node with the role data, or allow a loss, such as  rpo: 1MiB"
        message = "rpo: zero needs a second data node: nobody could confirm a write"
        return [document.problem("C015", ("rpo",), message, hint)]
    message = "only one data node: nothing can take over when it fails"
    return [document.problem("C014", place, message, "add a node with the role data", key=True, warning=True)]


def _timers(document: Document, cluster: Cluster) -> list[Problem]:
    timers = cluster.timers
    found = []
    for key, least in (("ttl", 20), ("loop_wait", 1), ("retry_timeout", 3)):
        value = getattr(timers, key)
        if value < least:
            message = f"patroni.{key}: {value} is less than Patroni's minimum {least}"
            found.append(document.problem("C021", ("patroni", key), message, f"raise it to {least}, or set rto"))
    needed = timers.loop_wait + 2 * timers.retry_timeout
    if timers.ttl < needed:
        keys = [key for key in ("ttl", "retry_timeout", "loop_wait") if document.has(("patroni", key))]
        message = (
            f"patroni.ttl: {timers.ttl} is less than loop_wait {timers.loop_wait} "
            f"+ 2 x retry_timeout {timers.retry_timeout} = {needed}"
        )
        hint = f"raise ttl to {needed}, or use rto instead of raw timers"
        found.append(document.problem("C021", ("patroni", *keys[:1]), message, hint))
    return found


def _loss(document: Document, cluster: Cluster) -> list[Problem]:
    if cluster.rpo != "zero" or cluster.synchronous_mode != "off":
        return []
    message = "patroni.synchronous_mode: off loses what was acknowledged, while rpo: zero allows no loss"
    hint = "leave synchronous_mode out, or allow a loss, such as  rpo: 1MiB"
    return [document.problem("C017", ("patroni", "synchronous_mode"), message, hint)]


def _elections(document: Document, cluster: Cluster) -> list[Problem]:
    """etcd refuses to start outside of these. Source: etcd, server/embed/config.go, Validate."""
    beat, election = cluster.etcd.heartbeat_interval, cluster.etcd.election_timeout
    key = "election_timeout" if document.has(("etcd", "election_timeout")) else "heartbeat_interval"
    if election < 5 * beat:
        message = f"etcd.election_timeout: {election} ms is less than 5 x heartbeat_interval {beat} ms"
        return [
            document.problem("C022", ("etcd", key), message, f"raise it to at least {5 * beat}, or lower the other")
        ]
    if election > ELECTION_MAX_MS:
        message = f"etcd.election_timeout: {election} ms is more than etcd's maximum {ELECTION_MAX_MS}"
        return [document.problem("C022", ("etcd", key), message, "ten times the round trip between regions is enough")]
    return []


def _listeners(cluster: Cluster, node: Node) -> list[tuple[int, KeyPath]]:
    """Every TCP port that the node would listen on, with the key that sets it."""
    ports: list[tuple[int, KeyPath]] = [(SSH_PORT, ("ssh",))]
    if node.is_data:
        ports += [(cluster.postgresql.port, ("postgresql", "port"))]
        ports += [(cluster.patroni.restapi.port, ("patroni", "restapi", "port"))]
    if node.is_etcd:
        ports += [(cluster.etcd.client_port, ("etcd", "client_port"))]
        ports += [(cluster.etcd.peer_port, ("etcd", "peer_port"))]
    if node.is_proxy:
        ports += [(cluster.haproxy.rw_port, ("haproxy", "rw_port"))]
        ports += [(cluster.haproxy.ro_port, ("haproxy", "ro_port"))]
        ports += [(cluster.haproxy.stats.port, ("haproxy", "stats", "port"))]
    if cluster.backup is not None and cluster.backup.has_part(node.name, data=node.is_data):
        ports += [(cluster.backup.port, ("backup", "port"))]
    return ports


def _ports(document: Document, cluster: Cluster) -> list[Problem]:
    clashes: dict[tuple[KeyPath, KeyPath], tuple[int, str]] = {}
    for node in cluster.nodes:
        seen: dict[int, KeyPath] = {}
        for port, key in _listeners(cluster, node):
            first = seen.setdefault(port, key)
            if first != key:
                clashes.setdefault((first, key), (port, node.name))
    found = []
    for (first, second), (port, node_name) in clashes.items():
        here, other = (second, first) if document.has(second) or not document.has(first) else (first, second)
        names = ".".join(map(str, here)), ".".join(map(str, other))
        message = f"{names[0]}: port {port} is also {names[1]} on {node_name}"
        found.append(document.problem("C030", here, message, "give one of them another port"))
    return found


def _access(document: Document, cluster: Cluster) -> list[Problem]:
    if cluster.firewall.backend == "none":
        return []
    found = []
    if not cluster.access.admin:
        message = "access.admin is empty: nobody could log in by SSH any more"
        hint = "add the networks you log in from, such as  access: {admin: [192.0.2.0/24]}"
        found.append(document.problem("C031", ("access", "admin"), message, hint))
    if not cluster.access.clients:
        ports = f"{cluster.haproxy.rw_port} and {cluster.haproxy.ro_port}"
        message = f"access.clients is empty: nobody outside the nodes can reach the ports {ports}"
        hint = "add the networks of the applications, such as  access: {clients: [192.0.2.0/24]}"
        found.append(document.problem("C032", ("access", "clients"), message, hint, warning=True))
    return found


def _version(document: Document, cluster: Cluster, today: date) -> list[Problem]:
    major = cluster.postgresql.version
    path: KeyPath = ("postgresql", "version")
    newest = parameters.SUPPORTED[-1]
    if major is None:
        return []
    if major not in parameters.SUPPORTED:
        message = f"postgresql.version: PostgreSQL {major} is not supported"
        hint = f"supported are {parameters.SUPPORTED[0]} to {newest}"
        return [document.problem("C050", path, message, hint)]
    end = parameters.END_OF_LIFE[major]
    if today <= end:
        return []
    message = f"PostgreSQL {major} ended on {end}; no more security fixes"
    return [document.problem("C070", path, message, f"use {newest}", warning=True)]


def _parameters(document: Document, cluster: Cluster) -> list[Problem]:
    major = cluster.postgresql.version
    if major not in parameters.SUPPORTED:
        major = None
    found = []
    for section in ("parameters", "local_parameters"):
        for name, value in getattr(cluster.postgresql, section).items():
            path: KeyPath = ("postgresql", section, name)
            label = f"postgresql.{section}.{name}"
            owner = _owner(cluster, section, name.lower(), value)
            if unknown := parameters.unknown(name, major):
                found.append(document.problem("C055", path, f"{label} {unknown[0]}", unknown[1], key=True))
            elif owner:
                found.append(document.problem("C056", path, f"{label} is not free to set", owner, key=True))
            elif expected := parameters.wrong_value(name, value):
                found.append(document.problem("C057", path, f"{label}: {expected}, found '{value}'"))
    return found


def _owner(cluster: Cluster, section: str, name: str, value: object) -> str:
    if section == "local_parameters" and name in parameters.ALIKE_EVERYWHERE:
        return f"it must be the same on every node: set postgresql.parameters.{name}"
    if name == "wal_level" and str(value).lower() not in ("replica", "logical"):
        return "replication needs  replica  or  logical"
    return parameters.owner(name, backup=cluster.backup is not None)
