"""What a cluster should be: the model of the definition file, with every default filled in.

One frozen model per section, keys spelled as in the file. Units are in the docstrings: a duration in the file is
text such as `5s` and here seconds; a size is text such as `1MiB` and here bytes. Rules that need two fields live in
`master/definition/inventory.py`, where the line of each field is known. Nothing here reads a file or asks a host.
"""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .backup import Backup
from .fields import Address, Bytes, Network, Port, Scalar, Seconds, Section, loss, one_or_many
from .names import ClusterName, NodeName


class Role(str, Enum):
    """What a node is for. `data` and `witness` are the two usual bundles."""

    DATA = "data"  # PostgreSQL + Patroni, and also etcd + HAProxy
    WITNESS = "witness"  # etcd + HAProxy
    ETCD = "etcd"
    PROXY = "proxy"


class Rto(str, Enum):
    FAST = "fast"
    NORM = "norm"
    SAFE = "safe"
    WIDE = "wide"
    GUIDE = "guide"


class Timers(Section):
    """Patroni's and HAProxy's timers that belong together, all in seconds."""

    ttl: int
    loop_wait: int
    retry_timeout: int
    inter: float
    fastinter: float
    fall: int
    rise: int


RTO_TIMERS: dict[Rto, Timers] = {
    Rto.FAST: Timers(ttl=20, loop_wait=5, retry_timeout=5, inter=1, fastinter=0.5, fall=3, rise=3),
    Rto.NORM: Timers(ttl=30, loop_wait=5, retry_timeout=10, inter=2, fastinter=1, fall=3, rise=3),
    Rto.SAFE: Timers(ttl=60, loop_wait=10, retry_timeout=20, inter=3, fastinter=1.5, fall=3, rise=3),
    Rto.WIDE: Timers(ttl=120, loop_wait=20, retry_timeout=30, inter=4, fastinter=2, fall=3, rise=3),
    Rto.GUIDE: Timers(ttl=30, loop_wait=10, retry_timeout=10, inter=3, fastinter=1, fall=3, rise=2),
}


class Tags(Section):
    """Patroni's member tags, same names. Source: Patroni docs, YAML configuration, tags."""

    nofailover: bool = False
    noloadbalance: bool = False
    nosync: bool = False
    clonefrom: bool = False
    failover_priority: int | None = None
    replicatefrom: NodeName | None = None


class Node(Section):
    name: NodeName
    address: Address
    region: str = "default"
    zone: str = "default"
    role: Annotated[tuple[Role, ...], BeforeValidator(one_or_many)] = (Role.DATA,)
    tags: Tags = Tags()
    data_dir: str | None = None

    @property
    def is_data(self) -> bool:
        return Role.DATA in self.role

    @property
    def is_etcd(self) -> bool:
        return bool({Role.DATA, Role.WITNESS, Role.ETCD} & set(self.role))

    @property
    def is_proxy(self) -> bool:
        return bool({Role.DATA, Role.WITNESS, Role.PROXY} & set(self.role))


class AptSource(Section):
    """An apt source beyond the distribution's own. `key` is the path of an armored or binary key on the master."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    key: str


class Postgresql(Section):
    version: int | None = None  # None: the newest major of the package source
    source: Literal["distribution", "pgdg"] | AptSource = "distribution"
    port: Port = 5432
    parameters: dict[str, Scalar] = Field(default_factory=dict)
    local_parameters: dict[str, Scalar] = Field(default_factory=dict)
    initdb: dict[str, Scalar] = Field(default_factory=dict)
    pg_hba: tuple[str, ...] = ()  # lines put before the generated catch-all
    password_encryption: Literal["scram-sha-256"] = "scram-sha-256"


class Watchdog(Section):
    mode: Literal["off", "automatic", "required"] = "automatic"
    device: str = "/dev/watchdog"
    safety_margin: int = 5


class RestApi(Section):
    port: Port = 8008
    verify_client: Literal["optional", "required"] = "optional"


class Patroni(Section):
    ttl: int | None = None  # None: from rto
    loop_wait: int | None = None
    retry_timeout: int | None = None
    maximum_lag_on_failover: Bytes | None = None  # None: from rpo
    synchronous_mode: Literal["off", "on", "quorum"] | None = None  # None: from rpo
    synchronous_mode_strict: bool = False
    failsafe_mode: bool = True
    use_pg_rewind: bool = True
    use_slots: bool = True
    on_rewind_failure: Literal["reinit-from-backup", "keep"] = "reinit-from-backup"  # where there are backups
    watchdog: Watchdog = Watchdog()
    restapi: RestApi = RestApi()


class Etcd(Section):
    client_port: Port = 2379
    peer_port: Port = 2380
    heartbeat_interval: Annotated[int, Field(gt=0)] = 100  # ms
    election_timeout: Annotated[int, Field(gt=0)] = 1000  # ms
    quota_backend_bytes: Bytes = 2 * 1024**3


class Stats(Section):
    port: Port = 7000
    listen: Address = "127.0.0.1"


class HaproxyTimeouts(Section):
    connect: Seconds = 5.0
    client: Seconds = 3600.0
    server: Seconds = 3600.0
    check: Seconds = 5.0


class Haproxy(Section):
    rw_port: Port = 5433
    ro_port: Port = 5434
    stats: Stats = Stats()
    maxconn: int | None = None
    timeouts: HaproxyTimeouts = HaproxyTimeouts()


class Tls(Section):
    leaf_days: Annotated[int, Field(ge=1, le=397)] = 90
    renew_before: Seconds = 30 * 86400.0
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_auth: Literal["none", "verify-ca", "verify-full"] = "verify-ca"


class Firewall(Section):
    backend: Literal["ufw", "none"] = "ufw"
    confirm_timeout: Seconds = 30.0


class Access(Section):
    """Who may reach the cluster from outside it."""

    admin: tuple[Network, ...] = ()  # SSH
    clients: tuple[Network, ...] = ()  # the HAProxy ports
    monitoring: tuple[Network, ...] = ()  # Patroni's metrics, HAProxy's statistics; etcd's stay on loopback


class Packages(Section):
    upgrade: Literal["security", "all", "none"] = "security"


class Time(Section):
    service: Literal["chrony", "timesyncd"] = "chrony"
    servers: tuple[str, ...] = ()  # none: the distribution's pool


class System(Section):
    packages: Packages = Packages()
    time: Time = Time()
    sysctl: dict[str, int | str] = Field(default_factory=lambda: dict[str, int | str]({"vm.swappiness": 10}))
    thp: Literal["never", "madvise", "keep"] = "never"
    ssh_between_data_nodes: bool = False  # of user postgres; nothing of the cluster uses it


Policy = Literal["observe", "propose", "enforce"]


class Override(Section):
    """`match`: a pattern of shells for a document or for a resource, such as `firewall` or `file:/etc/haproxy/*`."""

    match: str
    policy: Policy


class Reconcile(Section):
    """How often nodes are compared with the definition as it was applied, and what becomes of a difference."""

    interval: Annotated[Seconds, Field(ge=60)] = 600.0
    policy: Policy = "propose"
    overrides: tuple[Override, ...] = ()  # the last one that matches counts


class FromBackup(Section):
    """`to`: `latest`, or a time with its offset from UTC. `label`: the backup to begin with.

    `stanza`: the cluster whose backups they are; None: this one's own.
    """

    to: str = "latest"
    label: str = ""
    stanza: ClusterName | None = None


class Bootstrap(Section):
    """How a cluster gets its first data: None: an empty database."""

    from_backup: FromBackup | None = None

    def of_another(self, cluster: str) -> str:
        """The other cluster whose data this one begins with; empty when there is none."""
        stanza = self.from_backup.stanza if self.from_backup else None
        return stanza if stanza and stanza != cluster else ""


class Cluster(Section):
    """One PostgreSQL HA group, complete: nodes in the order of the file."""

    pgha_schema: Annotated[Literal["pgha/v1"], Field(alias="schema")] = "pgha/v1"
    cluster: ClusterName
    description: str = ""
    entrypoint: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
    rto: Rto = Rto.NORM
    rpo: Annotated[Literal["zero"] | Annotated[int, Field(ge=0)], BeforeValidator(loss)] = 1024**2
    nodes: tuple[Node, ...]
    postgresql: Postgresql = Postgresql()
    patroni: Patroni = Patroni()
    etcd: Etcd = Etcd()
    haproxy: Haproxy = Haproxy()
    tls: Tls = Tls()
    firewall: Firewall = Firewall()
    access: Access = Access()
    system: System = System()
    backup: Backup | None = None
    bootstrap: Bootstrap = Bootstrap()
    reconcile: Reconcile = Reconcile()

    @property
    def name(self) -> str:
        return self.cluster

    @cached_property
    def timers(self) -> Timers:
        """The preset of `rto`, with the raw timers of `patroni` laid over it."""
        preset = RTO_TIMERS[self.rto]
        own: dict[str, Any] = {
            key: value
            for key in ("ttl", "loop_wait", "retry_timeout")
            if (value := getattr(self.patroni, key)) is not None
        }
        return preset.model_copy(update=own)

    @property
    def synchronous_mode(self) -> Literal["off", "on", "quorum"]:
        if self.patroni.synchronous_mode is not None:
            return self.patroni.synchronous_mode
        return "on" if self.rpo == "zero" else "off"

    @property
    def maximum_lag_on_failover(self) -> int:
        """Bytes a candidate may be known to lack; a bound on what is known, no guarantee."""
        if self.patroni.maximum_lag_on_failover is not None:
            return self.patroni.maximum_lag_on_failover
        return 1024**2 if self.rpo == "zero" else self.rpo

    def node(self, name: str) -> Node:
        """The node of that name. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def data_nodes(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.is_data)

    @property
    def etcd_nodes(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.is_etcd)

    @property
    def proxy_nodes(self) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if n.is_proxy)
