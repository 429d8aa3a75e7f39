"""What is known of a cluster right now, as values: one view per node, the quorum, the findings, the verdict.

These are only shapes and small answers: `health.py` fills them from samples, `findings.py` judges them.
Ages are seconds before the look; None in any field means "not known", which is never the same as zero or "down".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...common.telemetry import EtcdMember, Sample

Severity = Literal["critical", "warning"]
Verdict = Literal["healthy", "degraded", "critical", "unknown", "not built"]
LEADING = "leader"
STANDBY = ("replica", "sync_standby", "quorum_standby")
SYNCHRONOUS = ("sync_standby", "quorum_standby")


@dataclass(frozen=True, slots=True)
class Finding:
    """`degrades`: the cluster has lost something it should have; others only will need a person some day."""

    severity: Severity
    text: str
    fix: str = ""
    degrades: bool = True


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node through its newest sample. `sample` is None when it is stale or there was never one."""

    name: str
    region: str
    is_data: bool
    is_etcd: bool
    is_proxy: bool
    connected: bool
    age_s: float | None  # of the newest sample, stale or not
    received: float | None  # monotonic time of that sample
    sample: Sample | None
    role: str  # leader, replica, sync_standby, quorum_standby, witness, proxy, ""
    lag_bytes: int | None
    writers: tuple[str, ...] | None  # servers UP behind this node's write port; None: nothing known or no proxy
    readers: tuple[str, ...] | None
    cert_days: int | None  # days until the first certificate on it ends, negative when it has ended

    @property
    def fresh(self) -> bool:
        return self.sample is not None

    @property
    def state(self) -> str:
        """Patroni's word for PostgreSQL; "down" when Patroni is silent, "unknown" when the node is, "-" for neither."""
        if self.sample is None:
            return "unknown"
        if self.sample.patroni is None:
            return "not built" if self.is_data else "-"
        return self.sample.patroni.state or "down"

    @property
    def timeline(self) -> int | None:
        return self.sample.patroni.timeline if self.sample and self.sample.patroni else None

    @property
    def etcd(self) -> str:
        """leader, follower, unhealthy, down, unknown; "-" where there is none."""
        if not self.is_etcd or (self.sample and self.sample.etcd is None):
            return "-"
        if self.sample is None or self.sample.etcd is None:
            return "unknown"
        seen = self.sample.etcd
        if not seen.healthy:
            return "unhealthy" if seen.member_id else "down"
        return "leader" if seen.is_leader else "follower"

    @property
    def streaming(self) -> bool:
        return self.role in STANDBY and self.state == "streaming"

    def missing(self) -> str:
        """Why nothing is known of this node, as a sentence that starts with its name; empty when it is fresh."""
        if self.fresh:
            return ""
        if self.age_s is None:
            return f"{self.name} has not sent telemetry yet"
        return f"{self.name} has sent no telemetry for {self.age_s:.0f} s"


@dataclass(frozen=True, slots=True)
class Quorum:
    """`healthy` counts members whose own fresh sample says so. `proven`: one of them could read through the quorum."""

    voters: int
    healthy: int

    @property
    def majority(self) -> int:
        return self.voters // 2 + 1

    @property
    def tolerates(self) -> int:
        """How many more members may fail."""
        return max(0, self.healthy - self.majority)

    @property
    def proven(self) -> bool:
        return self.healthy > 0


@dataclass(frozen=True, slots=True)
class ClusterHealth:
    """All that gates, waves and `status` know. `leader` is "" when no fresh node says it leads."""

    cluster: str
    nodes: tuple[NodeView, ...]
    quorum: Quorum
    leader: str = ""
    leader_seen: float | None = None  # monotonic time at which this leader was first seen
    leader_since: float | None = None  # Unix time
    rivals: tuple[str, ...] = ()  # others that say they lead, after `leader` did
    rpo_objective_bytes: int = 0
    synchronous: bool = False  # only a synchronous standby may take over
    members: tuple[EtcdMember, ...] = ()  # as a healthy etcd member lists them
    away: tuple[str, ...] = ()  # nodes left out of `nodes`, because it is to be judged without them
    findings: tuple[Finding, ...] = ()
    verdict: Verdict = "unknown"

    def node(self, name: str) -> NodeView:
        """The view of that node. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def leading(self) -> NodeView | None:
        return self.node(self.leader) if self.leader else None

    @property
    def data_nodes(self) -> tuple[NodeView, ...]:
        return tuple(n for n in self.nodes if n.is_data)

    @property
    def etcd_nodes(self) -> tuple[NodeView, ...]:
        return tuple(n for n in self.nodes if n.is_etcd)

    @property
    def proxy_nodes(self) -> tuple[NodeView, ...]:
        return tuple(n for n in self.nodes if n.is_proxy)

    @property
    def takeover_ready(self) -> bool:
        """False when replicas stream and none of them is the synchronous one that alone may take over."""
        streaming = [node for node in self.data_nodes if node.streaming and node.name != self.leader]
        return not self.synchronous or not streaming or any(node.role in SYNCHRONOUS for node in streaming)

    @property
    def rpo_now_bytes(self) -> int | None:
        """What would be lost if the leader were gone this moment: the lag of the replica that lacks least."""
        lags = [n.lag_bytes for n in self.data_nodes if n.streaming and n.lag_bytes is not None]
        return min(lags) if lags else None
