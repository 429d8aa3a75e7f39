"""SSH without a password between the data nodes, of user postgres: `system.ssh_between_data_nodes`, off by default.

The guide wants it for pg_rewind, which does not use it: it dials the leader as any client does. Who wants it for work
by hand gets less than the guide's, which is a shell for every holder of the key from anywhere, to a host taken on
trust:
- The key counts only from the address of its node, and gives a shell, programs and files; it forwards nothing.
- Every host is known by the keys that it told the master; an unknown one is not spoken to.
- What ssh reads is in /etc/ssh, whole files of root's; of the home only authorized_keys is written, and of that only
  lines that carry pgha's label.
- Where it is not wanted, or no longer, nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...common.cluster import Cluster, Node
from ..document import Context
from ..halves import KEY, PublicHalf
from ..render import managed
from ..resource import AnyResource
from ..resources.authorized_keys import AuthorizedKeys, LabelledKey
from ..resources.files import Absent, File
from ..resources.ssh import SshKey

USER = "postgres"
KNOWN_HOSTS = "/etc/ssh/pgha_known_hosts"
CONFIG = "/etc/ssh/ssh_config.d/10-pgha-data-nodes.conf"
OPTIONS = "restrict,pty"
CHECK = ("ssh", "-G", "-F", "%s", "localhost")
Peers = Sequence[tuple[Node, PublicHalf]]


def wanted(cluster: Cluster, node: Node) -> bool:
    return cluster.system.ssh_between_data_nodes and node.is_data


def key_pair(context: Context) -> SshKey:
    """Stands in the document `hardening`: it is made before anybody asks for its public half."""
    return SshKey(path=KEY, owner=USER, comment=f"{label(context.cluster)} {context.node.name}")


def label(cluster: Cluster) -> str:
    return f"pgha:{cluster.name}"


def build(context: Context) -> list[AnyResource]:
    if not context.node.is_data:
        return []
    on = wanted(context.cluster, context.node)
    peers = [
        (node, context.ssh[node.name])
        for node in context.cluster.data_nodes
        if on and node.name != context.node.name and node.name in context.ssh
    ]
    keys = AuthorizedKeys(
        user=USER,
        label=label(context.cluster),
        keys=tuple(
            LabelledKey(public_key=f"{half.user} {node.name}", options=f'from="{node.address}",{OPTIONS}')
            for node, half in peers
        ),
    )
    pair = () if on else (SshKey(path=KEY, owner=USER, absent=True),)
    if not peers:
        return [keys, Absent(path=CONFIG), Absent(path=KNOWN_HOSTS), *pair]
    hosts = File(path=KNOWN_HOSTS, content=managed(context.cluster.name) + known_hosts(peers))
    config = managed(context.cluster.name) + client(peers)
    return [keys, hosts, File(path=CONFIG, content=config, check=CHECK, requires=(hosts.id,)), *pair]


def known_hosts(peers: Peers) -> str:
    """Each host by name and address. Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
    return "".join(f"{node.name},{node.address} {key}\n" for node, half in peers for key in half.host)


def client(peers: Peers) -> str:
    """Source: ssh_config(5)."""
    hosts = ",".join(name for node, _ in peers for name in (node.name, node.address))
    return (
        f"Match localuser {USER} host {hosts}\n"
        f"    IdentityFile {KEY}\n"
        "    IdentitiesOnly yes\n"
        "    StrictHostKeyChecking yes\n"
        f"    UserKnownHostsFile {KNOWN_HOSTS}\n"
        "    GlobalKnownHostsFile /dev/null\n"
        "    UpdateHostKeys no\n"
    )
