"""HAProxy: every node is an entry, one port for writes and one for reads. Replaces the guide's section 3, step 2.

The file is the same on all nodes. Where it differs from the guide, and why:
- The check is a real HTTP request over TLS, and the certificate must name the node it is asked of. The guide's line
  sends a literal `\\r\\n`, so its request never ends and no server is ever up.
- `on-marked-down shutdown-sessions`: sessions to a demoted or isolated primary end within seconds, not after an hour.
- The port for writes takes no connection while more than one server counts as primary. That is so in the first moment
  after a start, when every server is taken to be up until its first check, and for a moment of a switchover: a client
  that is refused tries again, one that lands on a replica stays there. It is no proof of a single primary, which is
  Patroni's; `target_session_attrs=read-write` in a client closes what is left of the gap.
- The port for reads reaches replicas only. With none of them up it refuses, so that reads never burden the primary
  without being asked to.
- A change is a reload: sessions that are open stay open. What is known of the servers is kept over it (`show servers
  state`), or every node would refuse writes until its first checks; at a start nothing that is old may be believed.

Accepted by HAProxy 2.4 to 3.0.
"""

from __future__ import annotations

from ...common.cluster import Cluster
from ..certificates import HAPROXY_TLS, certificate_ids
from ..document import PACKAGES, Context
from ..render import endpoint, managed
from ..resource import AnyResource
from ..resources.files import File
from ..resources.service import Service

CONFIG = "/etc/haproxy/haproxy.cfg"
SOCKET = "/run/haproxy/admin.sock"
KEEPER, KEPT = "/etc/haproxy/keep-server-state", "/run/haproxy/server-state"
DROP_IN = "/etc/systemd/system/haproxy.service.d/pgha.conf"
WRITES, READS = "pg_primary_nodes", "pg_replica_nodes"


_KEEPER = f"""\
#!/usr/bin/python3
# Written by pgha. Keeps what HAProxy knows of its servers for the process that takes over at a reload. A server that
# is to be reached or checked on another port than before is left out: what is kept would count more than the new file.
import contextlib
import os
import socket

with contextlib.suppress(FileNotFoundError):
    os.unlink("{KEPT}")
SERVER, CHECK = "%d", "%d"

with socket.socket(socket.AF_UNIX) as line:
    line.settimeout(2)
    line.connect("{SOCKET}")
    line.sendall(b"show servers state\\n")
    said = b"".join(iter(lambda: line.recv(65536), b"")).decode()
head, *rows = said.splitlines()
names = rows[0].lstrip("# ").split() if rows else []
port, check = names.index("srv_port"), names.index("srv_check_port")
kept = [row for row in rows[1:] if row and row.split()[port] == SERVER and row.split()[check] in ("0", CHECK)]
with open("{KEPT}.new", "w") as file:
    file.write("\\n".join([head, rows[0], *kept, ""]))
os.replace("{KEPT}.new", "{KEPT}")
"""
_DROP_IN = f"""\
[Service]
ExecStartPre=-/bin/rm -f {KEPT}
ExecReload=
ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS
ExecReload=-{KEEPER}
ExecReload=/bin/kill -USR2 $MAINPID
"""


def build(context: Context) -> list[AnyResource]:
    if not context.node.is_proxy:
        return []
    held = certificate_ids(context.cluster, context.node, HAPROXY_TLS)
    config = File(
        path=CONFIG,
        content=managed(context.cluster.name) + configuration(context.cluster),
        check=("haproxy", "-c", "-f", "%s"),
        requires=(PACKAGES, *held),
    )
    ports = (context.cluster.postgresql.port, context.cluster.patroni.restapi.port)
    keeper = File(path=KEEPER, content=_KEEPER % ports, mode=0o755, requires=(PACKAGES,))
    drop_in = File(path=DROP_IN, content=managed(context.cluster.name) + _DROP_IN, requires=(keeper.id,))
    # a changed drop-in is not watched: it is for the next reload
    service = Service(unit="haproxy", on_change="reload", requires=(drop_in.id,), watches=(config.id, *held))
    return [keeper, drop_in, config, service]


def configuration(cluster: Cluster) -> str:
    """haproxy.cfg without its first line; depends on the cluster alone, never on the node."""
    haproxy = cluster.haproxy
    several = f"tcp-request connection reject if {{ nbsrv({WRITES}) gt 1 }}"
    return "\n".join(
        [
            *_global(cluster),
            *_defaults(cluster),
            *_frontend(cluster, "pg_writes", haproxy.rw_port, WRITES, several),
            *_frontend(cluster, "pg_reads", haproxy.ro_port, READS),
            *_backend(cluster, WRITES, "/primary", "roundrobin"),
            *_backend(cluster, READS, "/replica", "leastconn"),
            *_stats(cluster),
        ]
    )


def _global(cluster: Cluster) -> list[str]:
    maxconn = cluster.haproxy.maxconn
    return [
        "global",
        "    log /dev/log local0",
        "    log /dev/log local1 notice",
        "    chroot /var/lib/haproxy",
        f"    stats socket {SOCKET} mode 660 level admin expose-fd listeners",
        "    stats timeout 30s",
        f"    server-state-file {KEPT}",
        "    user haproxy",
        "    group haproxy",
        "    daemon",
        f"    ssl-default-server-options ssl-min-ver TLSv{cluster.tls.min_version}",
        *([] if maxconn is None else [f"    maxconn {maxconn}"]),
        "",
    ]


def _defaults(cluster: Cluster) -> list[str]:
    timeouts = cluster.haproxy.timeouts
    return [
        "defaults",
        "    log global",
        "    mode tcp",
        "    option tcplog",
        "    option dontlognull",
        "    option clitcpka",
        "    option srvtcpka",
        "    load-server-state-from-file global",
        f"    timeout connect {_ms(timeouts.connect)}",
        f"    timeout client {_ms(timeouts.client)}",
        f"    timeout server {_ms(timeouts.server)}",
        f"    timeout check {_ms(timeouts.check)}",
        "    retries 2",
        "",
    ]


def _frontend(cluster: Cluster, name: str, port: int, backend: str, *conditions: str) -> list[str]:
    # a host without IPv6 cannot bind `::`, so it is asked for only where the nodes have such addresses
    bind = f":::{port} v4v6" if any(":" in node.address for node in cluster.nodes) else f"*:{port}"
    lines = [f"    {condition}" for condition in conditions]
    return [f"frontend {name}", f"    bind {bind}", *lines, f"    default_backend {backend}", ""]


def _backend(cluster: Cluster, name: str, path: str, balance: str) -> list[str]:
    timers, tls = cluster.timers, HAPROXY_TLS
    servers = [
        f"    server {node.name} {endpoint(node.address, cluster.postgresql.port)}"
        f" check-sni {node.name} verifyhost {node.name}"
        for node in cluster.data_nodes
    ]
    return [
        f"backend {name}",
        f"    balance {balance}",
        f"    option httpchk OPTIONS {path}",
        "    http-check expect status 200",
        f"    default-server check check-ssl port {cluster.patroni.restapi.port}"
        f" inter {_ms(timers.inter)} fastinter {_ms(timers.fastinter)} downinter 1s"
        f" fall {timers.fall} rise {timers.rise} on-marked-down shutdown-sessions"
        f" verify required ca-file {tls}/ca.crt crt {tls}/client.pem",
        *servers,
        "",
    ]


def _stats(cluster: Cluster) -> list[str]:
    stats = cluster.haproxy.stats
    return [
        "frontend stats",
        "    mode http",
        f"    bind {endpoint(stats.listen, stats.port)}",
        "    option httplog",
        "    option dontlog-normal",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        "    stats enable",
        "    stats uri /stats",
        "",
    ]


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
