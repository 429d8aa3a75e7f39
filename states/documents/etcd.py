"""etcd: the cluster's memory of who leads, with TLS both ways on both ports. Replaces the guide's section 4, etcd.

Where it differs, and why:
- The distribution's package and unit instead of a tarball in /usr/local: it is updated with everything else.
- `client-cert-auth` under `peer-transport-security`; the guide's `peer-client-cert-auth` is no key of the file, is
  ignored without a word, and leaves the peers open.
- The data stands in a folder of its own; /var/lib/etcd/default, which the package fills when it starts by itself,
  is neither used nor removed.
- The unit is started without waiting, since a member is ready only when a second one is.
- A renewed certificate needs no restart: etcd reads key and certificate again for each connection.

Source: etcd 3.5, configuration file and operations guide; works as it is from 3.3 to 3.6.
"""

from __future__ import annotations

from ..certificates import ETCD_TLS, authority_ids, certificate_ids
from ..document import PACKAGES, Context
from ..render import Yaml, endpoint, managed, to_yaml
from ..resource import AnyResource
from ..resources.files import Directory, File
from ..resources.service import Service

CONFIG = "/etc/etcd/etcd.conf.yml"
DATA = "/var/lib/etcd/pgha"
METRICS_PORT = 2381

_DROP_IN = """[Unit]
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Restart=always
RestartSec=2s
TimeoutStartSec=90
LimitNOFILE=40000
"""


def build(context: Context) -> list[AnyResource]:
    if not context.node.is_etcd:
        return []
    first = managed(context.cluster.name)
    folder = Directory(path="/etc/etcd", requires=(PACKAGES,))
    config = File(path=CONFIG, content=first + to_yaml(configuration(context)), requires=(folder.id,))
    # with a configuration file etcd ignores every other flag and variable, those of the unit included
    arguments = File(
        path="/etc/default/etcd", content=f"{first}DAEMON_ARGS=--config-file={CONFIG}\n", requires=(PACKAGES,)
    )
    drop_in = File(path="/etc/systemd/system/etcd.service.d/pgha.conf", content=first + _DROP_IN, requires=(PACKAGES,))
    return [
        folder,
        config,
        arguments,
        drop_in,
        Service(
            unit="etcd",
            wait=False,
            on_change="restart",
            requires=certificate_ids(context.cluster, context.node, ETCD_TLS),
            watches=(config.id, arguments.id, drop_in.id, *authority_ids(ETCD_TLS)),
        ),
    ]


def configuration(context: Context) -> dict[str, Yaml]:
    """The content of etcd's configuration file."""
    cluster, node, etcd = context.cluster, context.node, context.cluster.etcd
    everywhere = "[::]" if ":" in node.address else "0.0.0.0"  # noqa: S104 - the firewall says who may come
    security: dict[str, Yaml] = {
        "cert-file": f"{ETCD_TLS}/etcd-server.crt",
        "key-file": f"{ETCD_TLS}/etcd-server.key",
        "client-cert-auth": True,
        "trusted-ca-file": f"{ETCD_TLS}/ca.crt",
    }
    members = [f"{member.name}=https://{endpoint(member.address, etcd.peer_port)}" for member in cluster.etcd_nodes]
    return {
        "name": node.name,
        "data-dir": DATA,
        "listen-client-urls": f"https://{everywhere}:{etcd.client_port}",
        "advertise-client-urls": f"https://{endpoint(node.address, etcd.client_port)}",
        "client-transport-security": security,
        "listen-peer-urls": f"https://{everywhere}:{etcd.peer_port}",
        "initial-advertise-peer-urls": f"https://{endpoint(node.address, etcd.peer_port)}",
        "peer-transport-security": security,
        "listen-metrics-urls": f"http://127.0.0.1:{METRICS_PORT}",
        "initial-cluster": ",".join(members),
        "initial-cluster-token": f"pgha-{cluster.name}",
        "initial-cluster-state": "existing" if context.etcd_joins else "new",
        "strict-reconfig-check": True,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "quota-backend-bytes": etcd.quota_backend_bytes,
        "heartbeat-interval": etcd.heartbeat_interval,
        "election-timeout": etcd.election_timeout,
    }
