"""The order of a cluster's life as a table: which documents belong together, and what must hold before the next.

The same table serves the bootstrap and every later apply: a stage without changes is passed through its gate at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.results import Disruption, Impact, ResourceResult, Status
from ..health import gates
from ..health.gates import Gate
from ..health.observed import ClusterHealth
from .waves import disruptive, stops, waves

LAG_LIMIT = 10 * 1024**2  # bytes
PGBACKREST, BACKUP, OWN = "pgbackrest", "backup", "own"
BACKUPS = (PGBACKREST, BACKUP)


@dataclass(frozen=True)
class Stage:
    """`gate` holds after the stage, at the latest `deadline_s` after its last job; it has a name for people."""

    name: str
    documents: tuple[str, ...]
    gate_name: str
    gate: Gate
    deadline_s: float


def nothing_to_ask(health: ClusterHealth) -> gates.GateResult:
    return gates.OPEN


def _streaming(health: ClusterHealth) -> gates.GateResult:
    return gates.replicas_streaming(health, LAG_LIMIT)


def steady(health: ClusterHealth) -> gates.GateResult:
    """At the end: with every node of the definition."""
    return gates.cluster_steady(health, LAG_LIMIT)


def steady_so_far(health: ClusterHealth) -> gates.GateResult:
    """Between two waves: with every node that is built; one that is just being added comes in a later stage."""
    return gates.cluster_steady(health, LAG_LIMIT, unbuilt=False)


LEADER = Stage("patroni: first node", ("patroni",), "a leader runs", gates.leader_running, 180.0)

STAGES = (
    Stage("base", ("hardening", "pki", "firewall"), "", nothing_to_ask, 0.0),
    Stage("etcd", ("etcd",), "etcd has a leader and its members are healthy", gates.etcd_healthy, 90.0),
    Stage(PGBACKREST, ("pgbackrest",), "", nothing_to_ask, 0.0),
    Stage(
        "patroni",
        ("patroni",),
        "a leader runs and every replica streams",
        gates.every(gates.leader_running, _streaming, gates.takeover_ready),
        3600.0,
    ),
    Stage("ssh", ("ssh",), "", nothing_to_ask, 0.0),
    Stage("database", ("database",), "", nothing_to_ask, 0.0),
    Stage(
        "haproxy",
        ("haproxy",),
        "every HAProxy sends writes to the leader and reads to a replica",
        gates.every(gates.one_writer_up, gates.replica_backend_up),
        60.0,
    ),
    Stage(BACKUP, ("backup",), "", nothing_to_ask, 0.0),
)


def stages_with(own: Sequence[str]) -> tuple[Stage, ...]:
    """STAGES, and after them one for the documents of the user's own, if there are any."""
    return (*STAGES, Stage(OWN, tuple(own), "", nothing_to_ask, 0.0)) if own else STAGES


def is_fresh(health: ClusterHealth) -> bool:
    """Nothing of the cluster runs yet: no etcd answers and nobody leads."""
    return health.leader == "" and health.quorum.healthy == 0


def has_no_data(health: ClusterHealth) -> bool:
    """No data node tells of a database, running or not; silent ones count as if they had one."""
    return all(node.fresh and not _has_data(health, node.name) for node in health.data_nodes)


def pauses(stage: Stage, health: ClusterHealth) -> bool:
    """Whether the cluster has to be steady between two waves of it: something runs already, and may be disturbed."""
    return not is_fresh(health) and stage.name != BACKUP


def stage_waves(
    stage: Stage,
    cluster: Cluster,
    nodes: Sequence[str],
    plans: Mapping[str, Sequence[ResourceResult]],
    health: ClusterHealth,
) -> list[list[str]]:
    """The nodes of that stage in waves. Of Patroni without a leader, one data node goes first and makes the cluster."""
    if stage.name == "patroni" and health.leader == "":
        founders = [n.name for n in cluster.data_nodes if n.name in nodes]
        if with_data := [n for n in founders if _has_data(health, n)]:
            # somebody here was the leader: all of them must come up to find out who. An empty node stays away until
            # then, or in an etcd that has forgotten the cluster it might found a new one before they are heard
            rest = [n for n in nodes if n not in with_data]
            return [with_data, rest] if rest else [with_data]
        return [founders[:1], [n for n in nodes if n not in founders[:1]]] if len(nodes) > 1 else [list(nodes)]
    if stage.name == BACKUP:  # whoever makes a repository ready holds a lock on every data node meanwhile
        with_database = [n.name for n in cluster.data_nodes if n.name in nodes]
        rest = [n for n in nodes if n not in with_database]
        return [wave for wave in (with_database, rest) if wave]
    fresh = health.quorum.healthy == 0 if stage.name == "etcd" else is_fresh(health) and stage.name != OWN
    disruptions = {node: disruptions_of(plans.get(node, ()), stage.documents) for node in nodes}
    return waves(nodes, disruptions, health, fresh=fresh)


def _has_data(health: ClusterHealth, node: str) -> bool:
    sample = health.node(node).sample
    return sample is not None and sample.data_directory_present


def disruptions_of(results: Sequence[ResourceResult], documents: Collection[str]) -> list[Disruption]:
    return [
        change.disruption
        for result in results
        if result.document in documents and result.status is Status.PLANNED
        for change in result.changes
        if change.disruption.impact is not Impact.NONE
    ]


def disturbing(stage: Stage, wave: Sequence[str], plans: Mapping[str, Sequence[ResourceResult]]) -> bool:
    return any(disruptive(disruptions_of(plans.get(node, ()), stage.documents)) for node in wave)


def stops_writes(stage: Stage, wave: Sequence[str], leader: str, plans: Mapping[str, Sequence[ResourceResult]]) -> bool:
    """Whether who leads PostgreSQL is in the wave, and stops in it."""
    if leader not in wave:
        return False
    return any(stops(d, "patroni", "postgresql") for d in disruptions_of(plans.get(leader, ()), stage.documents))


def spares(wave: Sequence[str]) -> Gate:
    """Closed while etcd has a quorum that it would lose with these nodes; one that is lost already cannot be harmed."""

    def gate(health: ClusterHealth) -> gates.GateResult:
        well = [node.name for node in health.etcd_nodes if node.etcd in ("leader", "follower")]
        left = [name for name in well if name not in wave]
        if len(left) >= health.quorum.majority or len(well) < health.quorum.majority:
            return gates.OPEN
        ill = ", ".join(node.name for node in health.etcd_nodes if node.name not in well)
        why = f"since {ill} is not healthy" if ill else f"as long as it is seen to count {health.quorum.voters} members"
        return gates.Closed(f"without {', '.join(wave)} etcd would have no quorum, {why}")

    return gate


def concerned(stage: Stage, plans: Mapping[str, Sequence[ResourceResult]]) -> list[str]:
    """The nodes on which that stage has something to do, in the plans' order.

    With other settings of the backup tool it is another repository that has to be ready, of which no plan could know.
    """
    documents = BACKUPS if stage.name == BACKUP else stage.documents
    return [
        node
        for node, results in plans.items()
        if any(r.document in documents and r.status in (Status.PLANNED, Status.FAILED) for r in results)
    ]
