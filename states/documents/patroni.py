"""Patroni and, through it, PostgreSQL. Replaces the guide's Patroni configuration in section 4.

Where it differs, and why:
- `etcd3`: the guide's `etcd` speaks a protocol that etcd has switched off, and waits for ever.
- `postgresql.pg_hba` is the whole file, kept by Patroni; `bootstrap.pg_hba` is only appended, once, below lines that
  trust every local user.
- Superuser, replication and rewind present client certificates; without them no replica is ever made.
- The REST API has TLS and a password, or whoever reaches its port could restart or wipe a member.
- failsafe_mode, data checksums, and a watchdog where the host has one.
- The distribution's own service for PostgreSQL is off and cannot be started: two masters of one data directory.

Source: Patroni 4 docs, YAML configuration and dynamic configuration.
"""

from __future__ import annotations

from typing import cast

from ...common.cluster import Cluster
from ..backups import received
from ..backups.driver import WAIT
from ..backups.settings import settings
from ..certificates import CLIENTS_CA, PATRONI_TLS, REPLICATION, REWIND, SUPERUSER, certificate_ids
from ..document import PACKAGES, Context
from ..hba import lines as hba_lines
from ..render import Yaml, endpoint, managed, quoted, to_yaml
from ..resource import AnyResource
from ..resources.files import Directory, File, Symlink
from ..resources.patroni_file import PatroniFile
from ..resources.postgres_parameters import Value
from ..resources.service import Service
from ..versions import postgresql_major

CONFIG = "/etc/patroni/config.yml"
REST_USER = "patroni"
_SECRETS = {
    "superuser": "postgresql/superuser",
    "replication": "postgresql/replication",
    "rewind": "postgresql/rewind",
    "restapi": "patroni/restapi",
}
_INITDB: dict[str, bool | int | float | str] = {
    "encoding": "UTF8",
    "locale": "C.UTF-8",  # the same on every node, whatever the system's own locale is
    "data-checksums": True,
    "auth-local": "peer",
    "auth-host": "scram-sha-256",
}


def build(context: Context) -> list[AnyResource]:
    if not context.node.is_data:
        return []
    major = postgresql_major(context.cluster, context.facts)
    folder = Directory(path="/etc/patroni", group="postgres", mode=0o750, requires=(PACKAGES,))
    config = PatroniFile(
        file=File(
            path=CONFIG,
            content=managed(context.cluster.name) + to_yaml(configuration(context)),
            group="postgres",
            mode=0o640,
            secrets={mark: quoted(context.secrets[name]) for mark, name in _SECRETS.items()},
        ),
        bin_dir=bin_dir(context),
        parameters=cast(
            "dict[str, Value]", {**parameters(context.cluster), **context.cluster.postgresql.local_parameters}
        ),
        requires=(folder.id,),
    )
    own = [
        Service(unit="postgresql", running=False, enabled=False, requires=(PACKAGES,)),
        Service(unit=f"postgresql@{major}-main", running=False, enabled=None, masked=True, requires=(PACKAGES,)),
    ]
    drop_in = _drop_in(context)
    data = _data_directory(context)
    needed: list[AnyResource] = [*own, drop_in, *data]
    return [
        folder,
        config,
        Symlink(path="/etc/patroni/patroni.yml", target="config.yml", requires=(config.id,)),
        *needed,
        # a changed drop-in is not watched: what it says takes effect at the next start, and no start is worth it
        Service(
            unit="patroni",
            on_change="reload",
            requires=tuple(resource.id for resource in needed),
            watches=(config.id, *certificate_ids(context.cluster, context.node, PATRONI_TLS)),
        ),
    ]


def bin_dir(context: Context) -> str:
    return f"/usr/lib/postgresql/{postgresql_major(context.cluster, context.facts)}/bin"


def dynamic_settings(cluster: Cluster) -> dict[str, Yaml]:
    """What belongs to the cluster and not to a node: at bootstrap, and kept so afterwards (`database` document)."""
    timers, mode, tool = cluster.timers, cluster.synchronous_mode, settings(cluster)
    return {
        "ttl": timers.ttl,
        "loop_wait": timers.loop_wait,
        "retry_timeout": timers.retry_timeout,
        "maximum_lag_on_failover": cluster.maximum_lag_on_failover,
        "synchronous_mode": mode if mode == "quorum" else mode == "on",
        "synchronous_mode_strict": cluster.patroni.synchronous_mode_strict,
        "failsafe_mode": cluster.patroni.failsafe_mode,
        "postgresql": {
            "use_pg_rewind": cluster.patroni.use_pg_rewind,
            "use_slots": cluster.patroni.use_slots,
            "parameters": parameters(cluster),
            **({"recovery_conf": {"restore_command": tool.restore_command(cluster)}} if tool else {}),
        },
    }


def parameters(cluster: Cluster) -> dict[str, Yaml]:
    """Of PostgreSQL, the same on every node."""
    found: dict[str, Yaml] = {
        "wal_level": "replica",
        "hot_standby": "on",
        "wal_log_hints": "on",
        "max_wal_senders": 10,
        "max_replication_slots": 10,
        "wal_keep_size": "256MB",
        "password_encryption": cluster.postgresql.password_encryption,
    }
    if cluster.synchronous_mode != "off":
        # a commit waits for a replica that is cut off until its connection ends: 10 s instead of the default's 60 s
        found["wal_sender_timeout"] = "10s"
    tool = settings(cluster)
    return found | (tool.parameters(cluster) if tool else {}) | cluster.postgresql.parameters


def configuration(context: Context) -> dict[str, Yaml]:
    """The content of Patroni's file on this node; passwords are `{{marks}}`."""
    cluster, node = context.cluster, context.node
    etcd: dict[str, Yaml] = {
        "protocol": "https",
        "hosts": [endpoint(member.address, cluster.etcd.client_port) for member in cluster.etcd_nodes],
        "cacert": f"{PATRONI_TLS}/ca.crt",
        "cert": f"{PATRONI_TLS}/etcd-client.crt",
        "key": f"{PATRONI_TLS}/etcd-client.key",
    }
    return {
        "scope": cluster.name,
        "namespace": "/service/",
        "name": node.name,
        "restapi": _restapi(context),
        "ctl": {
            "cacert": f"{PATRONI_TLS}/ca.crt",
            "certfile": f"{PATRONI_TLS}/api.crt",
            "keyfile": f"{PATRONI_TLS}/api.key",
        },
        "etcd3": etcd,
        "bootstrap": {"dcs": dynamic_settings(cluster), "initdb": _initdb(cluster)},
        "postgresql": _postgresql(context),
        "watchdog": _watchdog(context),
        "tags": _tags(context),
    }


def _restapi(context: Context) -> Yaml:
    port = context.cluster.patroni.restapi.port
    return {
        "listen": endpoint(_everywhere(context), port),
        "connect_address": endpoint(context.node.address, port),
        "certfile": f"{PATRONI_TLS}/api.crt",
        "keyfile": f"{PATRONI_TLS}/api.key",
        "cafile": f"{PATRONI_TLS}/ca.crt",
        "verify_client": context.cluster.patroni.restapi.verify_client,
        "authentication": {"username": REST_USER, "password": "{{restapi}}"},
    }


def _postgresql(context: Context) -> Yaml:
    cluster, node = context.cluster, context.node
    data_dir = node.data_dir or f"/var/lib/postgresql/{postgresql_major(cluster, context.facts)}/main"
    local: dict[str, Yaml] = {
        "unix_socket_directories": "/var/run/postgresql",
        "ssl": "on",
        "ssl_cert_file": f"{PATRONI_TLS}/postgres-server.crt",
        "ssl_key_file": f"{PATRONI_TLS}/postgres-server.key",
        "ssl_ca_file": CLIENTS_CA,
        "ssl_min_protocol_version": f"TLSv{cluster.tls.min_version}",
    }
    local.update(cluster.postgresql.local_parameters)
    promotion: dict[str, Yaml] = {}
    if cluster.backup is not None:
        promotion = {"pre_promote": received.command(cluster, data_dir, bin_dir(context))}
    return {
        "listen": endpoint(_everywhere(context), cluster.postgresql.port),
        "connect_address": endpoint(node.address, cluster.postgresql.port),
        "data_dir": data_dir,
        "bin_dir": bin_dir(context),
        "pgpass": "/var/lib/postgresql/.pgpass_patroni",
        "use_unix_socket": True,
        "use_unix_socket_repl": True,
        "parameters": local,
        "pg_hba": list(hba_lines(cluster)),
        **_replicas(cluster),
        **promotion,
        "authentication": {
            "superuser": _login(SUPERUSER, "superuser", "postgres"),
            "replication": _login(REPLICATION, "replication", "replicator"),
            "rewind": _login(REWIND, "rewind", "rewind_user"),
        },
    }


def _replicas(cluster: Cluster) -> dict[str, Yaml]:
    """How a member gets its data, and what becomes of one that cannot be rewound.

    With backups it is made anew from them, as the leader holds what it lacks. Without, it keeps its data for a person
    to look at, and `pgha-master reinit` replaces it.
    """
    tool = settings(cluster)
    methods: dict[str, Yaml] = {"basebackup": [{"checkpoint": "fast"}]}
    if tool is not None and cluster.backup is not None:
        name = cluster.backup.driver
        methods |= {"create_replica_methods": [name, "basebackup"], name: tool.replica_method(cluster)}
    anew = tool is not None and cluster.patroni.on_rewind_failure == "reinit-from-backup"
    return {
        **methods,
        "remove_data_directory_on_rewind_failure": anew,
        "remove_data_directory_on_diverged_timelines": anew,
    }


def _login(role: str, mark: str, certificate: str) -> Yaml:
    return {
        "username": role,
        "password": f"{{{{{mark}}}}}",
        # not verify-full: members are dialled by address, which libpq compares with a certificate since 15 only
        "sslmode": "verify-ca",
        "sslrootcert": f"{PATRONI_TLS}/ca.crt",
        "sslcert": f"{PATRONI_TLS}/{certificate}.crt",
        "sslkey": f"{PATRONI_TLS}/{certificate}.key",
    }


def _initdb(cluster: Cluster) -> list[Yaml]:
    """The user's options over pgha's. True is a bare flag; False leaves the option out, or says no-data-checksums."""
    options = {**_INITDB, **{key.replace("_", "-"): value for key, value in cluster.postgresql.initdb.items()}}
    found: list[Yaml] = []
    for name, value in options.items():
        if value is True:
            found.append(name)
        elif value is not False:
            found.append({name: str(value)})
    return found


def _watchdog(context: Context) -> Yaml:
    wanted = context.cluster.patroni.watchdog
    if _no_watchdog(context):
        return {"mode": "off"}
    return {"mode": wanted.mode, "device": wanted.device, "safety_margin": wanted.safety_margin}


def _no_watchdog(context: Context) -> bool:
    return context.facts.container or context.cluster.patroni.watchdog.mode == "off"


def _tags(context: Context) -> Yaml:
    tags = context.node.tags
    found: dict[str, Yaml] = {
        "nofailover": tags.nofailover,
        "noloadbalance": tags.noloadbalance,
        "clonefrom": tags.clonefrom,
        "nosync": tags.nosync,
        "region": context.node.region,
        "zone": context.node.zone,
    }
    if tags.failover_priority is not None:
        found["failover_priority"] = tags.failover_priority
        if not tags.nofailover:
            del found["nofailover"]  # Patroni takes the two together for a contradiction
    if tags.replicatefrom is not None:
        found["replicatefrom"] = tags.replicatefrom
    return found


def _drop_in(context: Context) -> File:
    lines = ["[Unit]", f"ConditionPathExists=!{WAIT}", "", "[Service]", "LimitNOFILE=65536"]
    watchdog = context.cluster.patroni.watchdog
    if not _no_watchdog(context):
        if watchdog.mode == "required":
            lines.append("ExecStartPre=-+/sbin/modprobe softdog")
        lines.append(f"ExecStartPre=-+/bin/chown postgres {watchdog.device}")
    text = managed(context.cluster.name) + "\n".join(lines) + "\n"
    return File(path="/etc/systemd/system/patroni.service.d/pgha.conf", content=text, requires=(PACKAGES,))


def _data_directory(context: Context) -> list[AnyResource]:
    path = context.node.data_dir
    if path is None:
        return []
    return [Directory(path=path, owner="postgres", group="postgres", mode=0o700, requires=(PACKAGES,))]


def _everywhere(context: Context) -> str:
    return "::" if ":" in context.node.address else "0.0.0.0"  # noqa: S104 - the firewall says who may come
