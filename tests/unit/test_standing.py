"""What a living cluster refuses: each is a change that would be written today and hurt at the next restart."""

from __future__ import annotations

from typing import Any

from pgha.common.cluster import Cluster
from pgha.common.telemetry import PatroniMember, Sample
from pgha.master.rollout.standing import standing
from pgha.master.simulation.simulated import bare_facts
from pgha.master.simulation.testing import FakeCluster, three_nodes

APPLIED = three_nodes()


def problems(wanted: Cluster, living: FakeCluster, applied: Cluster | None = APPLIED, **facts: Any) -> list[str]:
    living.cluster = wanted
    return standing(wanted, {n.name: bare_facts(n, **facts) for n in wanted.nodes}, living.health(), applied)


def living() -> FakeCluster:
    fake = FakeCluster()
    for name in ("pg-node1", "pg-node2"):
        fake.change(name, "patroni", server_version=170006)
    for node in APPLIED.nodes:
        told = fake.sample(node.name).etcd
        assert told is not None
        urls = {n.name: (f"https://{n.address}:2380",) for n in APPLIED.nodes}
        members = tuple(m.model_copy(update={"peer_urls": urls[m.name]}) for m in told.members)
        fake.change(node.name, "etcd", members=members)
    return fake


def bare() -> FakeCluster:
    fake = FakeCluster()
    for node in APPLIED.nodes:
        fake.bare(node.name)
    return fake


def moved(**fields: Any) -> Cluster:
    """The same cluster with these fields of pg-node2 changed."""
    nodes = tuple(n.model_copy(update=fields) if n.name == "pg-node2" else n for n in APPLIED.nodes)
    return APPLIED.model_copy(update={"nodes": nodes})


def test_the_definition_that_was_applied_has_no_problem() -> None:
    assert problems(APPLIED, living()) == []
    assert problems(APPLIED, living(), None) == []


def test_another_major_is_refused_whether_it_is_asked_for_or_follows_from_the_source() -> None:
    for wanted in ({"version": 18, "source": "pgdg"}, {"source": "pgdg"}):
        found = problems(three_nodes(postgresql=wanted), living(), None)
        assert [text.partition(":")[0] for text in found] == ["pg-node1", "pg-node2"]
        assert "its data is of PostgreSQL 17, the definition means 18" in found[0]
    assert problems(three_nodes(postgresql={"version": 17, "source": "pgdg"}), living()) == []


def test_another_major_is_refused_while_postgresql_is_down_too() -> None:
    fake = living()
    for name in ("pg-node1", "pg-node2"):
        fake.change(name, "patroni", server_version=None)
        received, sample = fake.samples[name]
        fake.samples[name] = (received, sample.model_copy(update={"data_directory_present": True}))
    assert len(problems(three_nodes(postgresql={"source": "pgdg"}), fake)) == 2


def test_a_system_upgraded_in_place_does_not_drag_the_database_along() -> None:
    fake = FakeCluster()
    for name in ("pg-node1", "pg-node2"):
        fake.change(name, "patroni", server_version=150014)
    assert "its data is of PostgreSQL 15, the definition means 17" in problems(APPLIED, fake)[0]


def test_another_data_directory_is_refused_once_the_node_is_built() -> None:
    assert "an apply moves no data" in problems(moved(data_dir="/srv/pg/main"), living())[0]
    assert problems(moved(data_dir="/srv/pg/main"), bare()) == []


def test_a_member_of_etcd_cannot_be_moved() -> None:
    assert "moves no member" in problems(moved(address="10.77.2.99"), living())[0]
    assert any("moves no member" in text for text in problems(three_nodes(etcd={"peer_port": 2390}), living()))
    assert "etcd.client_port" in problems(three_nodes(etcd={"client_port": 2389}), living())[0]


def test_a_node_that_left_the_definition_must_be_taken_out_first() -> None:
    fake = living()
    members = tuple(PatroniMember(name=name, role="replica", state="streaming") for name in ("pg-node1", "pg-node2"))
    fake.change("pg-node1", "patroni", cluster_members=members)
    left = APPLIED.model_copy(update={"nodes": tuple(n for n in APPLIED.nodes if n.name != "pg-node2")})
    found = problems(left, fake)
    assert [text.split(" and ")[0] for text in found] == [
        "pg-node2: is a member of etcd",
        "pg-node2: is a member of Patroni",
    ]


def grown(*names: str) -> Cluster:
    nodes = [{"name": name, "address": f"10.77.9.{i}", "role": "witness"} for i, name in enumerate(names, 1)]
    return three_nodes(nodes=[*(node.model_dump() for node in APPLIED.nodes), *nodes])


def test_votes_are_added_one_by_one() -> None:
    def with_new(*names: str) -> list[str]:
        fake = living()
        for node in grown(*names).nodes[3:]:
            fake.samples[node.name] = (fake.now, Sample(at=0.0))
        return problems(grown(*names), fake)

    assert with_new("node4") == []
    assert "node4, node5: are no members of etcd yet, and an apply adds one" in with_new("node4", "node5")[0]


def test_of_hosts_on_which_nothing_runs_anything_may_be_made() -> None:
    assert problems(three_nodes(postgresql={"source": "pgdg"}, etcd={"client_port": 2389}), bare()) == []


def test_who_has_stopped_for_good_is_not_held_against_a_definition_while_patroni_remembers_it() -> None:
    fake = living()
    told = fake.sample("pg-node1").patroni
    assert told is not None
    stopped = PatroniMember(name="pg-node9", role="replica", state="stopped")
    fake.change("pg-node1", "patroni", cluster_members=(*told.cluster_members, stopped))
    assert problems(APPLIED, fake) == []
    streams = stopped.model_copy(update={"state": "streaming"})
    fake.change("pg-node1", "patroni", cluster_members=(*told.cluster_members, streams))
    assert [text[:9] for text in problems(APPLIED, fake)] == ["pg-node9:"]
