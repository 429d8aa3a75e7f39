"""What a minion sees of its node, as one sample: the only thing gates, waves and `status` are judged from.

Rules:
1. `None` for a daemon means that this node does not have it; a daemon that is there and does not answer is a sample
   with `error`. So "nothing installed yet" and "down" are never mixed up.
2. A sample is a measurement, never a verdict; verdicts are made in one place, `master/health/health.py`.
3. Every text has a limit: a daemon's endless complaint must not fill the bus.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .telemetry_backup import BackupSample
from .telemetry_parts import MEMBER_LIMIT, TEXT_LIMIT, Part, Text, clipped

__all__ = ["MEMBER_LIMIT", "TEXT_LIMIT", "BackupSample", "Text", "clipped"]


class HostSample(Part):
    """Percents are 0..100. `clock_synchronised` is None when no time service can be asked."""

    cpu_percent: float
    load1: float
    memory_percent: float
    disk_percent: float  # of the filesystem that holds /var/lib
    disk_free_bytes: int
    clock_synchronised: bool | None = None
    uptime_s: float


class EtcdMember(Part):
    """`id` is lower-case hex without 0x, as etcdctl's table prints it. A member that never started has no name."""

    id: Text
    name: Text = ""
    peer_urls: tuple[Text, ...] = ()
    started: bool = False
    learner: bool = False


class EtcdSample(Part):
    """`members` is looked up less often than the rest, so it may be some samples old; empty when it was never seen."""

    healthy: bool = False
    member_id: Text = ""
    is_leader: bool = False
    has_leader: bool = False
    leader_id: Text = ""
    members: Annotated[tuple[EtcdMember, ...], Field(max_length=MEMBER_LIMIT)] = ()
    db_bytes: int | None = None
    alarms: Annotated[tuple[Text, ...], Field(max_length=MEMBER_LIMIT)] = ()
    version: Text = ""
    data_present: bool = False
    lost: Text = ""  # etcd's own words, again and again, that this member cannot go on with the data it has
    error: Text = ""


class PatroniMember(Part):
    """A line of GET /cluster. `lag_bytes`: what it had not received when it last told etcd; None: unknown."""

    name: Text
    role: Text
    state: Text
    lag_bytes: int | None = None


class PendingSetting(Part):
    """A parameter that waits for a restart of PostgreSQL, and its value now and after it."""

    name: Text
    before: Text = ""
    after: Text = ""


class PatroniSample(Part):
    """What the local Patroni says of itself, in words of /cluster.

    role: leader, replica, sync_standby, quorum_standby, standby_leader; "" when it is not known.
    state: running, streaming, starting, "creating replica", "in archive recovery", stopped, ...; "" when not known.
    WAL positions are absolute byte positions: `wal_bytes` on a leader, the other two on a replica.
    """

    reachable: bool = False
    role: Text = ""
    state: Text = ""
    timeline: int | None = None
    lag_bytes: int | None = None  # this node's own line of `cluster_members`
    wal_bytes: int | None = None
    received_bytes: int | None = None
    replayed_bytes: int | None = None
    paused: bool = False
    pending_restart: bool = False
    pending_settings: Annotated[tuple[PendingSetting, ...], Field(max_length=MEMBER_LIMIT)] = ()  # Patroni 4 tells
    version: Text = ""
    server_version: int | None = None  # 170012 is 17.12
    dcs_last_seen_s: float | None = None  # seconds since Patroni last reached etcd
    leader_since: float | None = None  # Unix time of the last change of timeline; None on the first timeline
    cluster_members: Annotated[tuple[PatroniMember, ...], Field(max_length=MEMBER_LIMIT)] = ()
    error: Text = ""


class Backend(Part):
    """One server of one HAProxy backend. `status` is HAProxy's word: "UP", "DOWN", "UP 1/3", "MAINT", "no check"."""

    name: Text  # of the backend: pg_primary_nodes, pg_replica_nodes
    server: Text
    status: Text
    check: Text = ""  # L7OK, L7STS, L4TOUT, ...

    @property
    def up(self) -> bool:
        """HAProxy sends connections to it, also while its next checks fail ("UP 2/3")."""
        return self.status.split(" ")[0] in ("UP", "no")


class HaproxySample(Part):
    backends: Annotated[tuple[Backend, ...], Field(max_length=4 * MEMBER_LIMIT)] = ()
    version: Text = ""
    error: Text = ""


class CertificateSample(Part):
    """`not_after` is Unix time; None when the file is no readable certificate."""

    path: Text
    common_name: Text = ""
    not_after: float | None = None


class Sample(Part):
    """One look at a node. `at` is the node's own clock, Unix seconds: for people, never for deciding what is stale."""

    at: float
    host: HostSample | None = None
    etcd: EtcdSample | None = None
    patroni: PatroniSample | None = None
    haproxy: HaproxySample | None = None
    backup: BackupSample | None = None
    certificates: Annotated[tuple[CertificateSample, ...], Field(max_length=MEMBER_LIMIT)] = ()
    units: dict[str, Text] = Field(
        default_factory=dict
    )  # unit -> systemd's word; units that are not there are left out
    touched: Annotated[
        tuple[Text, ...], Field(max_length=MEMBER_LIMIT)
    ] = ()  # managed files, since they were looked at
    data_directory_present: bool = False  # a PostgreSQL data directory with PG_VERSION in it
