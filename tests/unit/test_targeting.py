"""What the master knows of its minions is what a target can mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.facts import HostFacts
from pgha.common.telemetry import Sample
from pgha.master.health.observed import ClusterHealth
from pgha.master.simulation.testing import WAL, FakeCluster, three_nodes
from pgha.master.targeting.targeting import nodes
from pgha.master.targeting.targets import ROLES, TargetNode, match
from pgha.states.document import Context

STRANGER = "db-9"


@dataclass
class Peer:
    facts: HostFacts | None = None
    sample: Sample | None = None
    sampled: float = float("-inf")


@dataclass
class FakeMaster:
    """A cluster and a minion of no cluster, all accepted; as much of `server.Master` and `hub.Hub` as is asked."""

    fake: FakeCluster = field(default_factory=FakeCluster)
    peers: dict[str, Peer] = field(default_factory=dict)
    names: set[str] = field(default_factory=lambda: {"pg-node1", "pg-node2", "witness-node", STRANGER})

    @property
    def hub(self) -> FakeMaster:
        return self

    @property
    def clock(self) -> FakeMaster:
        return self

    @property
    def clusters(self) -> dict[str, Cluster]:
        return {self.fake.cluster.name: self.fake.cluster}

    def now(self) -> float:
        return self.fake.now

    def monotonic(self) -> float:
        return self.fake.now

    def accepted(self) -> frozenset[str]:
        return frozenset(self.names)

    def connected(self, name: str) -> bool:
        return self.fake.connected.get(name, True)

    def facts(self, name: str) -> HostFacts | None:
        return self.peers[name].facts if name in self.peers else None

    def health(self, cluster: Cluster) -> ClusterHealth:
        return self.fake.health()


@pytest.fixture
def master(context_of: Callable[..., Context]) -> FakeMaster:
    fake = FakeMaster()
    facts = {name: context_of(facts={"hostname": f"{name}.example.org"}).facts for name in fake.names}
    fake.peers = {name: Peer(facts[name]) for name in fake.names}
    fake.peers[STRANGER].sample = fake.fake.sample("witness-node")
    fake.peers[STRANGER].sampled = fake.fake.now
    return fake


def meant(master: FakeMaster, expression: str) -> list[str]:
    return match(expression, nodes(master))


def of(master: FakeMaster, name: str) -> TargetNode:
    return next(node for node in nodes(master) if node.name == name)


def test_every_accepted_minion_is_there_once_and_by_name(master: FakeMaster) -> None:
    assert [node.name for node in nodes(master)] == [STRANGER, "pg-node1", "pg-node2", "witness-node"]
    master.names.discard("pg-node2")
    assert meant(master, "all") == [STRANGER, "pg-node1", "witness-node"]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("prod", ["pg-node1", "pg-node2", "witness-node"]),
        ("not prod", [STRANGER]),
        ("role:data", ["pg-node1", "pg-node2"]),
        ("role:etcd", ["pg-node1", "pg-node2", "witness-node"]),
        ("role:proxy", ["pg-node1", "pg-node2", "witness-node"]),
        ("role:witness", ["witness-node"]),
        ("role:leader", ["pg-node1"]),
        ("role:replica", ["pg-node2"]),
        ("role:sync", []),
        ("region:us-*", ["pg-node2", "witness-node"]),
        ("host:pg-node1.*", ["pg-node1"]),
        ("os:debian-13", [STRANGER, "pg-node1", "pg-node2", "witness-node"]),
        ("pg>=17", ["pg-node1", "pg-node2"]),
        ("disk>40%", [STRANGER, "pg-node1", "pg-node2", "witness-node"]),
        ("lag=0", ["pg-node2"]),
        ("tag:nofailover=false", ["pg-node1", "pg-node2", "witness-node"]),
        ("state:offline", []),
    ],
)
def test_a_healthy_cluster_and_a_minion_of_none(master: FakeMaster, expression: str, names: list[str]) -> None:
    assert meant(master, expression) == names


@pytest.mark.parametrize("role", ["sync_standby", "quorum_standby"])
def test_a_synchronous_standby_is_a_replica_too(master: FakeMaster, role: str) -> None:
    master.fake.change("pg-node2", "patroni", role=role)
    assert meant(master, "role:replica") == meant(master, "role:sync") == ["pg-node2"]


def test_only_one_node_is_the_leader_when_two_say_so(master: FakeMaster) -> None:
    master.fake.change("pg-node2", "patroni", role="leader", state="running", timeline=8)
    assert meant(master, "role:leader") == ["pg-node2"]


def test_what_a_node_said_long_ago_is_not_known(master: FakeMaster) -> None:
    for name in ("pg-node1", "pg-node2", "witness-node"):
        master.fake.silence(name, 16)
    master.peers[STRANGER].sampled = master.fake.now - 16
    assert meant(master, "disk>=0% or lag>=0 or role:leader or role:replica") == []
    assert meant(master, "state:offline and cpus>0") == ["pg-node1", "pg-node2", "witness-node"]
    assert meant(master, "role:data") == ["pg-node1", "pg-node2"]


def test_a_minion_that_never_spoke_is_there_by_its_name(master: FakeMaster) -> None:
    master.peers.clear()
    master.fake.connected[STRANGER] = False
    assert meant(master, f"{STRANGER} and state:offline and not os:*") == [STRANGER]


def test_the_lag_is_that_behind_the_leader(master: FakeMaster) -> None:
    master.fake.change("pg-node1", "patroni", wal_bytes=WAL + 20_000_000, cluster_members=())
    assert meant(master, "lag>10MB") == ["pg-node2"]
    assert meant(master, "lag>20MB") == []


@pytest.mark.parametrize(
    ("tags", "known"),
    [
        ({}, {"nofailover": "false", "noloadbalance": "false", "nosync": "false", "clonefrom": "false"}),
        ({"nosync": True, "failover_priority": 0}, {"nosync": "true", "failover_priority": "0"}),
        ({"replicatefrom": "pg-node1"}, {"replicatefrom": "pg-node1"}),
    ],
)
def test_tags_are_those_of_the_definition(master: FakeMaster, tags: dict[str, Any], known: dict[str, str]) -> None:
    node = {"name": "pg-node2", "address": "10.77.2.12", "tags": tags}
    cluster = three_nodes()
    others = [one.model_dump() for one in cluster.nodes if one.name != "pg-node2"]
    master.fake.cluster = Cluster.model_validate({"cluster": "prod", "nodes": [*others, node]})
    assert known.items() <= of(master, "pg-node2").tags.items()


def test_every_role_is_one_that_a_target_knows(master: FakeMaster) -> None:
    master.fake.change("pg-node2", "patroni", role="sync_standby")
    assert {role for node in nodes(master) for role in node.roles} == set(ROLES)
