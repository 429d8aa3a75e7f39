"""FakeCluster: the telemetry of a whole cluster made of values, healthy until a test changes it.

Shipped beside FakeSystem, so that who tests a procedure can play its telemetry without a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ...common.cluster import Cluster, Node
from ...common.telemetry import (
    Backend,
    EtcdMember,
    EtcdSample,
    HaproxySample,
    HostSample,
    PatroniMember,
    PatroniSample,
    Sample,
)
from ..health.health import INTERVAL_S, PRIMARY, REPLICA, fold
from ..health.observed import ClusterHealth

WAL = 67108960
UNIX = 1_800_000_000.0
Part = Literal["host", "etcd", "patroni", "haproxy", "backup"]


def three_nodes(**sections: Any) -> Cluster:
    """Two data nodes and a witness, each in a region of its own; `sections` are laid over the definition."""
    nodes = [
        {"name": "pg-node1", "address": "10.77.1.11", "region": "eu-west"},
        {"name": "pg-node2", "address": "10.77.2.12", "region": "us-east"},
        {"name": "witness-node", "address": "10.77.3.13", "region": "us-west", "role": "witness"},
    ]
    return Cluster.model_validate({"schema": "pgha/v1", "cluster": "prod", "nodes": nodes, **sections})


@dataclass
class FakeCluster:
    """`leader` leads PostgreSQL, `etcd_leader` etcd. `now` is the master's monotonic clock; all samples came at it."""

    cluster: Cluster = field(default_factory=three_nodes)
    leader: str = "pg-node1"
    etcd_leader: str = "pg-node2"
    now: float = 1000.0
    samples: dict[str, tuple[float, Sample]] = field(default_factory=dict)
    connected: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.cluster.nodes:
            self.connected.setdefault(node.name, True)
            self.samples.setdefault(node.name, (self.now, self.healthy(node)))

    def health(self, previous: ClusterHealth | None = None) -> ClusterHealth:
        return fold(self.cluster, self.samples, self.connected, self.now, INTERVAL_S, previous)

    def healthy(self, node: Node) -> Sample:
        return Sample(
            at=UNIX,
            host=HostSample(
                cpu_percent=5, load1=0.1, memory_percent=30, disk_percent=41, disk_free_bytes=10**11, uptime_s=1000
            ),
            etcd=self._etcd(node) if node.is_etcd else None,
            patroni=self._patroni(node) if node.is_data else None,
            haproxy=self._haproxy() if node.is_proxy else None,
            data_directory_present=node.is_data,
        )

    def bare(self, name: str) -> None:
        """The node is there and has nothing on it."""
        self.samples[name] = (self.now, Sample(at=UNIX, host=self.sample(name).host))

    def sample(self, name: str) -> Sample:
        return self.samples[name][1]

    def change(self, name: str, part: Part, **update: Any) -> None:
        """The node sends a new sample, in which some fields of one part differ."""
        sample = self.sample(name)
        changed = getattr(sample, part).model_copy(update=update)
        self.samples[name] = (self.now, sample.model_copy(update={part: changed}))

    def writers(self, name: str, *servers: str) -> None:
        """HAProxy on that node sends writes to these and reads to the other data nodes."""
        self.change(name, "haproxy", backends=self._backends(*servers))

    def silence(self, name: str, seconds: float) -> None:
        """That node's newest sample is this old, and its minion is gone."""
        self.samples[name] = (self.now - seconds, self.sample(name))
        self.connected[name] = False

    def later(self, seconds: float) -> None:
        """Time passes, and every node that is connected sends what it sent before."""
        self.now += seconds
        for name, (_, sample) in self.samples.items():
            if self.connected[name]:
                self.samples[name] = (self.now, sample)

    def _etcd(self, node: Node) -> EtcdSample:
        names = [n.name for n in self.cluster.etcd_nodes]
        return EtcdSample(
            healthy=True,
            member_id=format(names.index(node.name) + 1, "x"),
            is_leader=node.name == self.etcd_leader,
            has_leader=True,
            members=tuple(EtcdMember(id=format(i + 1, "x"), name=n, started=True) for i, n in enumerate(names)),
            version="3.5.16",
            data_present=True,
        )

    def _patroni(self, node: Node) -> PatroniSample:
        leads = node.name == self.leader
        return PatroniSample(
            reachable=True,
            role="leader" if leads else "replica",
            state="running" if leads else "streaming",
            timeline=7,
            wal_bytes=WAL if leads else None,
            received_bytes=None if leads else WAL,
            replayed_bytes=None if leads else WAL,
            version="4.0.7",
            server_version=170012,
            dcs_last_seen_s=2.0,
            cluster_members=tuple(
                PatroniMember(name=n.name, role="replica", state="streaming", lag_bytes=0)
                for n in self.cluster.data_nodes
                if n.name != self.leader
            ),
        )

    def _haproxy(self) -> HaproxySample:
        return HaproxySample(backends=self._backends(self.leader), version="3.0.11")

    def _backends(self, *writers: str) -> tuple[Backend, ...]:
        return tuple(
            Backend(name=backend, server=node.name, status="UP" if (node.name in writers) == writes else "DOWN")
            for backend, writes in ((PRIMARY, True), (REPLICA, False))
            for node in self.cluster.data_nodes
        )
