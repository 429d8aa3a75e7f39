"""What must be right before anything is changed: pure checks over what the nodes told. One sentence per problem."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...common.cluster import Cluster, Node
from ...common.facts import DISTRIBUTION_POSTGRESQL, HostFacts, supported
from ...common.telemetry import Sample
from ...states.documents.etcd import METRICS_PORT
from ..store import MinionRow

SSH_PORT = 22
MIN_DISK_BYTES = 2 * 1024**3
MAX_CLOCK_S = 0.5

OLD_PATRONI = {("debian", "12"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
"""Systems whose own Patroni is 2 or 3; pgdg has 4 for all of them."""

SERVICES = {"etcd": "etcd", "postgres": "PostgreSQL", "haproxy": "HAProxy", "patroni": "Patroni"}


def not_there(cluster: Cluster, keys: Sequence[MinionRow], connected: Mapping[str, bool]) -> dict[str, str]:
    """The nodes that are not accepted and connected, each with the sentence that says so."""
    problems = {}
    for node in cluster.nodes:
        states = {row.state for row in keys if row.name == node.name}
        if not ("accepted" in states and connected.get(node.name, False)):
            problems[node.name] = f"{node.name}: {_not_there(node.name, states)}"
    return problems


def _not_there(name: str, states: set[str]) -> str:
    if "accepted" in states and "conflict" in states:
        return (
            "a host with another key asks to be it, and the one that was accepted is not connected; if the host was "
            f"set up anew: pgha-master keys revoke {name}, then: pgha-master keys accept {name}"
        )
    if "accepted" in states:
        return "its minion is not connected; on that host: systemctl status pgha-minion"
    if states & {"pending", "conflict"}:
        return f"its key waits for you; compare it, then: pgha-master keys accept {name}"
    if states:
        return (
            f"its key has been {' and '.join(sorted(states))}, and no other one has come; it must enrol with a new key"
        )
    return (
        "no minion has enrolled under that name; on that host: pgha-minion enrol --master ADDR --fingerprint F "
        "(pgha-master keys list shows F)"
    )


def hosts(cluster: Cluster, facts: Mapping[str, HostFacts]) -> list[str]:
    """Every host is one that pgha knows, is who the definition says, and has room."""
    problems = []
    for node in cluster.nodes:
        known = facts.get(node.name)
        if known is not None:
            said = (*_host(cluster, node, known), *_disk(known.disk_free_bytes))
            problems += [f"{node.name}: {text}" for text in said]
    seen: dict[str, str] = {}
    for name, known in facts.items():
        if known.machine_id in seen:
            problems.append(
                f"{name}: has the machine id of {seen[known.machine_id]}; one is a clone. On it: rm /etc/machine-id && "
                "systemd-machine-id-setup, then reboot"
            )
        seen.setdefault(known.machine_id, name)
    return problems


def _host(cluster: Cluster, node: Node, facts: HostFacts) -> list[str]:
    problems = []
    if not supported(facts):
        known = ", ".join(f"{os} {version}" for os, version in DISTRIBUTION_POSTGRESQL)
        problems.append(f"runs {facts.os_id} {facts.os_version}, which pgha does not support; it supports {known}")
    elif node.is_data and cluster.postgresql.source == "distribution" and cluster.postgresql.version is not None:
        offered = DISTRIBUTION_POSTGRESQL[facts.os_id, facts.os_version]
        if cluster.postgresql.version != offered:
            problems.append(
                f"{facts.os_id} {facts.os_version} itself offers PostgreSQL {offered}, not "
                f"{cluster.postgresql.version}; set postgresql.version: {offered}, or postgresql.source: pgdg"
            )
    if node.is_data:
        problems += _patroni(cluster, facts)
    if node.address not in facts.addresses:
        local = ", ".join(a for a in facts.addresses if not ipaddress.ip_address(a).is_loopback) or "none"
        problems.append(f"has no address {node.address}; it has {local}: mend nodes.{node.name}.address")
    return problems


def _patroni(cluster: Cluster, facts: HostFacts) -> list[str]:
    """What the Patroni or the hardware of that host cannot do; left in, it would be ignored without a word."""
    problems = []
    old = (facts.os_id, facts.os_version) in OLD_PATRONI and cluster.postgresql.source == "distribution"
    if old and cluster.synchronous_mode == "quorum":
        problems.append(
            f"{facts.os_id} {facts.os_version} has a Patroni before 4.0, which takes synchronous_mode: quorum for off; "
            "set patroni.synchronous_mode: on, or postgresql.source: pgdg"
        )
    if facts.container and cluster.patroni.watchdog.mode == "required":
        problems.append("is a container, which has no watchdog; set patroni.watchdog.mode: automatic, or off")
    return problems


def _disk(free_bytes: int) -> list[str]:
    if free_bytes >= MIN_DISK_BYTES:
        return []
    mib = 1024**2
    return [f"has {free_bytes // mib} MiB free under /var/lib, {MIN_DISK_BYTES // mib} MiB are needed; make room there"]


class Offset(NamedTuple):
    """A node's clock minus the master's, in s: between these two.

    The node read its clock at some moment between being asked and having answered, nobody knows when: an answer that
    was long on its way proves little, and never what is not so (RFC 5905, the bounds of a sample).
    """

    least: float
    most: float


def clocks(offsets: Mapping[str, Offset]) -> list[str]:
    return [
        f"{name}: its clock is at least {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} the master's; "
        f"at most {MAX_CLOCK_S} s are allowed. Set the clock, or let a time service do it, and apply again"
        for name, (least, most) in offsets.items()
        if abs(off := max(least, 0.0) + min(most, 0.0)) > MAX_CLOCK_S
    ]


def ports(cluster: Cluster, node: Node) -> dict[int, str]:
    """Which port on that node is for whom: number -> process name that may hold it."""
    wanted: dict[int, str] = {}
    if node.is_etcd:
        wanted |= {cluster.etcd.client_port: "etcd", cluster.etcd.peer_port: "etcd", METRICS_PORT: "etcd"}
    if node.is_data:
        wanted |= {cluster.postgresql.port: "postgres", cluster.patroni.restapi.port: "patroni"}
    if node.is_proxy:
        wanted |= {
            cluster.haproxy.rw_port: "haproxy",
            cluster.haproxy.ro_port: "haproxy",
            cluster.haproxy.stats.port: "haproxy",
        }
    return wanted


def taken(node: Node, wanted: Mapping[int, str], listening: Mapping[int, str]) -> list[str]:
    """`listening`: port -> name of the process that holds it ("" when it is not known)."""
    return [
        f"{node.name}: port {port} is for {SERVICES[owner]} but {listening[port] or 'another program'} listens there; "
        "stop that program, or give another port in the definition"
        for port, owner in sorted(wanted.items())
        if port in listening
        and owner not in listening[port]
        and not (owner == "patroni" and "python" in listening[port])
    ]


def locked_out(cluster: Cluster, node: Node, listening: Mapping[int, str]) -> list[str]:
    """An sshd that the firewall would cut off: it lets in port 22 alone."""
    if cluster.firewall.backend == "none":
        return []
    return [
        f"{node.name}: its sshd listens on port {port}, and the firewall would let in port 22 only; "
        "let sshd listen on 22, too, or set firewall.backend: none and keep a firewall of yours"
        for port, owner in sorted(listening.items())
        if owner == "sshd" and port != SSH_PORT and "sshd" not in listening.get(SSH_PORT, "")
    ]


def foreign(node: Node, sample: Sample | None, listening: Mapping[int, str]) -> list[str]:
    """Servers that run on a node which pgha has not set up yet: they are somebody's, and an apply would take them over.

    `sample` is the node's newest; what it says is configured by pgha is pgha's.
    """
    ours = {
        "postgres": sample is not None and sample.patroni is not None,
        "haproxy": sample is not None and sample.haproxy is not None,
    }
    concerned = {"postgres": node.is_data, "haproxy": node.is_proxy}
    return [
        f"{node.name}: {SERVICES[program]} runs here on port {port}, and pgha did not set it up; an apply would stop "
        "it or replace its configuration: move what it serves away, stop and disable it, and apply again"
        for port, program in sorted(listening.items())
        if program in ours and concerned[program] and not ours[program]
    ]
