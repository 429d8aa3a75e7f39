"""The ground: packages, updates, time, kernel, names. Replaces the guide's section 2.

Where it differs, and why:
- What PostgreSQL's packaging would start by itself is told not to before anything is installed.
- All packages of all documents are one apt transaction: apt's own start is most of the time of a small install.
- Updates leave the database, etcd and the proxy alone, the system's own unattended ones included; those move by
  procedures that know who leads.
- No `patroni` user: Debian's units run as postgres. No SSH between nodes unless asked for: pg_rewind uses a libpq
  connection.
- The huge-page unit stands before PostgreSQL, not before D-Bus, and stays away from containers.
"""

from __future__ import annotations

from ...common.cluster import AptSource, Cluster
from ...common.errors import UserError
from ..document import PACKAGES, Context
from ..render import managed
from ..resource import AnyResource
from ..resources.block import Block
from ..resources.files import File
from ..resources.kernel import Sysctl
from ..resources.packages import Packages, Upgrade
from ..resources.service import Service
from ..resources.thp import THP_UNIT, unit_text
from ..resources.time_sync import TimeSync
from ..software import packages, stack
from . import ssh

KEYRING = "/etc/apt/keyrings/pgha-postgresql.asc"
SOURCES = "/etc/apt/sources.list.d/pgha-postgresql.sources"
CREATE_CLUSTER = "/etc/postgresql-common/createcluster.conf"
PGDG = "https://apt.postgresql.org/pub/repos/apt"
UNATTENDED = "/etc/apt/apt.conf.d/52pgha-hold"


def build(context: Context) -> list[AnyResource]:
    before = [*_apt_source(context), *_no_cluster_by_itself(context)]
    return [
        *before,
        Packages(
            name="base",
            names=packages(context.cluster, context.node, context.facts),
            requires=tuple(resource.id for resource in before),
        ),
        _unattended(context),
        *_upgrade(context),
        *_time(context.cluster),
        *_kernel(context.cluster),
        *_huge_pages(context.cluster),
        _names(context.cluster),
        *_ssh_key(context),
    ]


def _apt_source(context: Context) -> list[AnyResource]:
    source = context.cluster.postgresql.source
    if source == "distribution":
        return []
    if not context.apt_key:
        raise UserError("postgresql.source needs its signing key; without it apt would trust nothing from there")
    if isinstance(source, AptSource):
        uri, suite, components = source.uri, source.suite, source.components
    else:
        uri, suite, components = PGDG, f"{context.facts.os_codename}-pgdg", ("main",)
    key = File(path=KEYRING, content=context.apt_key)
    text = (
        f"{managed(context.cluster.name)}Types: deb\nURIs: {uri}\nSuites: {suite}\n"
        f"Components: {' '.join(components)}\nSigned-By: {KEYRING}\n"
    )
    return [key, File(path=SOURCES, content=text, requires=(key.id,))]


def _no_cluster_by_itself(context: Context) -> list[AnyResource]:
    backup = context.cluster.backup
    if not context.node.is_data and (backup is None or backup.drill.on != context.node.name):
        return []
    text = managed(context.cluster.name) + "create_main_cluster = false\n"
    return [File(path=CREATE_CLUSTER, content=text)]


def _upgrade(context: Context) -> list[AnyResource]:
    scope = context.cluster.system.packages.upgrade
    if scope == "none":
        return []
    hold = stack(context.cluster, context.node, context.facts)
    return [Upgrade(scope=scope, hold=hold, requires=(PACKAGES,))]


def _unattended(context: Context) -> AnyResource:
    """Ubuntu upgrades by itself, on all nodes within the same hours, and a package restarts its service."""
    names = stack(context.cluster, context.node, context.facts)
    listed = "".join(f'  "^{name}$";\n' for name in names)
    text = f"{managed(context.cluster.name, '//')}Unattended-Upgrade::Package-Blacklist {{\n{listed}}};\n"
    return File(path=UNATTENDED, content=text)


def _time(cluster: Cluster) -> list[AnyResource]:
    time = cluster.system.time
    if not time.servers:
        return [TimeSync(service=time.service, requires=(PACKAGES,))]
    if time.service == "chrony":
        path = "/etc/chrony/sources.d/pgha.sources"
        lines = [f"server {server} iburst" for server in time.servers]
    else:
        path = "/etc/systemd/timesyncd.conf.d/pgha.conf"
        lines = ["[Time]", f"NTP={' '.join(time.servers)}"]
    text = managed(cluster.name) + "\n".join(lines) + "\n"
    servers = File(path=path, content=text, requires=(PACKAGES,))
    return [servers, TimeSync(service=time.service, watches=(servers.id,), requires=(PACKAGES,))]


def _kernel(cluster: Cluster) -> list[AnyResource]:
    """Twice: the file for the next boot, the value for now."""
    values = {name: str(value) for name, value in cluster.system.sysctl.items()}
    if not values:
        return []
    text = managed(cluster.name) + "".join(f"{name} = {value}\n" for name, value in values.items())
    kept = File(path="/etc/sysctl.d/60-pgha.conf", content=text)
    return [kept, *(Sysctl(name=name, value=value) for name, value in values.items())]


def _huge_pages(cluster: Cluster) -> list[AnyResource]:
    """PostgreSQL suffers from transparent huge pages, so the unit has run before Patroni starts it."""
    word = cluster.system.thp
    if word == "keep":
        return []
    text = managed(cluster.name) + unit_text(word)
    unit = File(path=f"/etc/systemd/system/{THP_UNIT}", content=text)
    return [unit, Service(unit=THP_UNIT, watches=(unit.id,))]


def _ssh_key(context: Context) -> list[AnyResource]:
    """Before the document `ssh`, which needs every node's public half."""
    if not ssh.wanted(context.cluster, context.node):
        return []
    return [ssh.key_pair(context).model_copy(update={"requires": (PACKAGES,)})]


def _names(cluster: Cluster) -> AnyResource:
    """Every node knows the others by name even when DNS is away; the rest of the file belongs to its owner."""
    lines = [f"{node.address} {node.name}" for node in cluster.nodes]
    return Block(path="/etc/hosts", name=f"cluster {cluster.name}", content="\n".join(lines) + "\n")
