"""What is wrong with a cluster, each with what to do about it; and the verdict that follows.

Every check is a small function from the health to findings, listed in CHECKS. A check that needs what is not known
says nothing: `_unseen` says already that it is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...common.cluster import Cluster
from . import findings_backup
from .observed import STANDBY, ClusterHealth, Finding, NodeView, Verdict

DISK_WARNING, DISK_CRITICAL = 85.0, 95.0  # percent
CERT_WARNING, CERT_CRITICAL = 14, 3  # days

Check = Callable[[Cluster, ClusterHealth], Iterator[Finding]]


def judge(cluster: Cluster, health: ClusterHealth) -> tuple[tuple[Finding, ...], Verdict]:
    """Findings, critical ones first, and the verdict."""
    if not any(node.fresh for node in health.nodes):
        return tuple(_unseen(cluster, health)), "unknown"
    if not any(_built(node) for node in health.nodes):
        return tuple(_unseen(cluster, health)), "not built"
    found = [finding for check in CHECKS for finding in check(cluster, health)]
    found.sort(key=lambda f: f.severity != "critical")
    if any(f.severity == "critical" for f in found):
        return tuple(found), "critical"
    return tuple(found), "degraded" if any(f.degrades for f in found) else "healthy"


def _built(node: NodeView) -> bool:
    s = node.sample
    return s is not None and (s.data_directory_present or any(p is not None for p in (s.etcd, s.patroni, s.haproxy)))


def unseen_writer(health: ClusterHealth) -> str:
    """The silent node that the proxies, which ask Patroni themselves, send writes to; "" when they do not agree."""
    seen = {node.writers for node in health.proxy_nodes if node.writers is not None}
    silent = {(node.name,) for node in health.data_nodes if not node.fresh}
    return next(iter(seen))[0] if len(seen) == 1 and seen <= silent else ""


def _unseen(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    for node in health.nodes:
        if not node.fresh:
            link = "its minion is connected" if node.connected else "its minion is not connected"
            fix = f"on {node.name}: systemctl status pgha-minion"
            yield Finding("warning", f"{node.missing()}; {link}", fix)


def _leader(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    name, leading = health.leader, health.leading
    alive = [n.name for n in health.data_nodes if n.fresh] or [n.name for n in health.data_nodes]
    logs = f"pgha-master run {name or alive[0]} -- journalctl -u patroni -n 50"
    if health.rivals:
        both = ", ".join((name, *health.rivals))
        yield Finding(
            "critical",
            f"more than one node says it is the leader: {both}; {name} has the highest timeline",
            f"pgha-master run {health.rivals[0]} -- systemctl stop patroni",
        )
    if leading is None:
        if writer := unseen_writer(health):
            yield Finding("warning", f"the leader is probably {writer}: the proxies send writes there", "")
        elif any(n.sample and n.sample.patroni for n in health.data_nodes):
            yield Finding("critical", "no leader: no data node says that it leads", logs)
    elif leading.state != "running":
        yield Finding("critical", f"PostgreSQL on the leader {name} is {leading.state}", logs)
    elif (
        leading.sample and leading.sample.patroni and (leading.sample.patroni.dcs_last_seen_s or 0) > cluster.timers.ttl
    ):
        age = leading.sample.patroni.dcs_last_seen_s
        yield Finding("critical", f"Patroni on the leader {name} last reached etcd {age:.0f} s ago", logs)


def _quorum(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    quorum = health.quorum
    if not quorum.proven and any(node.fresh for node in health.etcd_nodes):
        states = ", ".join(f"{node.name} {node.etcd}" for node in health.etcd_nodes)
        fix = f"pgha-master run 'cluster:{health.cluster}' -- systemctl status etcd"
        yield Finding("critical", f"etcd has no quorum: {states}", fix)
        return
    for node in health.etcd_nodes:
        if node.etcd in ("down", "unhealthy", "-"):
            sample = node.sample.etcd if node.sample else None
            error = sample.error if sample else "not configured"
            lost = sample is not None and bool(sample.lost)
            fix = f"pgha-master run {node.name} -- journalctl -u etcd -n 50"
            fix = f"pgha-master apply {health.cluster}" if lost else fix
            yield Finding("warning", f"etcd on {node.name} is {node.etcd.replace('-', 'not there')}: {error}", fix)
        if node.sample and node.sample.etcd and node.sample.etcd.alarms:
            alarms = ", ".join(node.sample.etcd.alarms)
            fix = f"pgha-master run {node.name} -- journalctl -u etcd -n 50"
            yield Finding("critical", f"etcd on {node.name} raises an alarm: {alarms}", fix)
    for member in health.members:
        if not member.started:
            urls = " ".join(member.peer_urls)
            yield Finding("warning", f"etcd member {member.id} ({urls}) has been added and never started", "")


def _replicas(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    leading, limit = health.leading, max(cluster.maximum_lag_on_failover, 1)
    if leading and not health.takeover_ready:
        yield Finding("warning", "no replica is synchronous now, so none may take over without losing writes", "")
    if leading and len(health.data_nodes) > 1 and not any(n.streaming for n in health.data_nodes):
        yield Finding("warning", f"no replica streams: {leading.name} holds the only current copy", "")
    for node in health.data_nodes:
        if not node.fresh or node.name in (health.leader, *health.rivals):
            continue
        logs = f"pgha-master run {node.name} -- journalctl -u patroni -n 50"
        if node.state == "not built":
            yield Finding("warning", f"{node.name} has no Patroni yet", f"pgha-master apply {health.cluster}")
        elif node.role not in STANDBY or node.state != "streaming":
            error = node.sample.patroni.error if node.sample and node.sample.patroni else ""
            why = f": {error}" if error else ""
            yield Finding("warning", f"{node.name} does not stream from the leader, it is {node.state}{why}", logs)
        elif leading and node.timeline and leading.timeline and node.timeline < leading.timeline:
            text = f"{node.name} is on timeline {node.timeline}, the leader on {leading.timeline}"
            yield Finding("warning", text, logs)
        elif node.lag_bytes is not None and node.lag_bytes > limit:
            text = f"{node.name} lags {node.lag_bytes} bytes, more than the {limit} within which it may take over"
            yield Finding("warning", text, logs)


def _proxies(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    for node in health.proxy_nodes:
        if node.sample is None:
            continue
        fix = f"pgha-master run {node.name} -- journalctl -u haproxy -n 50"
        if node.sample.haproxy is None:
            yield Finding("warning", f"{node.name} has no HAProxy yet", f"pgha-master apply {health.cluster}")
        elif node.writers is None:
            yield Finding("warning", f"{node.name}: {node.sample.haproxy.error}", fix)
        elif len(node.writers) > 1:
            writers = ", ".join(node.writers)
            yield Finding("critical", f"HAProxy on {node.name} sends writes to several servers: {writers}", fix)
        elif not node.writers:
            yield Finding("warning", f"HAProxy on {node.name} sees no server to send writes to", fix)
        elif health.leader and node.writers != (health.leader,):
            text = f"HAProxy on {node.name} sends writes to {node.writers[0]}, the leader is {health.leader}"
            yield Finding("warning", text, fix)


def _patroni(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    seen = [(n, n.sample.patroni) for n in health.data_nodes if n.sample and n.sample.patroni]
    if any(p.paused for _, p in seen):
        fix = f"pgha-master run {seen[0][0].name} -- patronictl -c /etc/patroni/config.yml resume"
        yield Finding("warning", "Patroni is paused: there is no failover until it is resumed", fix)
    for node, patroni in seen:
        if patroni.pending_restart:
            text = f"PostgreSQL on {node.name} must be restarted for settings to take effect"
            yield Finding("warning", text, f"pgha-master apply {health.cluster}", degrades=False)
    versions = sorted({p.version for _, p in seen if p.version})
    if len(versions) > 1:
        yield Finding("warning", f"different Patroni versions: {', '.join(versions)}", "", degrades=False)


def _hosts(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    for node in health.nodes:
        host = node.sample.host if node.sample else None
        if host and host.disk_percent >= DISK_WARNING:
            full = host.disk_percent >= DISK_CRITICAL
            text = f"the disk of /var/lib on {node.name} is {host.disk_percent:.0f} % full"
            fix = f"pgha-master run {node.name} -- du -xsh /var/lib/postgresql /var/lib/etcd /var/log"
            yield Finding("critical" if full else "warning", text, fix, degrades=False)
        if host and host.clock_synchronised is False:
            fix = f"pgha-master run {node.name} -- timedatectl timesync-status"
            yield Finding("warning", f"nothing corrects the clock of {node.name}", fix, degrades=False)
        if node.cert_days is not None and node.cert_days < CERT_WARNING:
            when = f"ends in {node.cert_days} days" if node.cert_days >= 0 else "has ended"
            yield Finding(
                "critical" if node.cert_days < CERT_CRITICAL else "warning",
                f"a certificate on {node.name} {when}",
                f"pgha-master apply {health.cluster}",  # all of it: with pki alone no service is told to read it
                degrades=False,
            )


CHECKS: tuple[Check, ...] = (_leader, _quorum, _replicas, _proxies, _unseen, _patroni, _hosts, findings_backup.check)
