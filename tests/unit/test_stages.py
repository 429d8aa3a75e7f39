"""The table of a cluster's life: who does what in which order, and what a plan means for those who use the cluster."""

from __future__ import annotations

import pytest
from pgha.common.results import ChangeView, Disruption, Impact, ResourceResult, Status
from pgha.common.telemetry import EtcdMember
from pgha.master.health import gates
from pgha.master.orchestration.stages import (
    STAGES,
    Stage,
    concerned,
    disruptions_of,
    disturbing,
    is_fresh,
    pauses,
    spares,
    stage_waves,
    stops_writes,
)
from pgha.master.rollout.impact import describe
from pgha.master.simulation.testing import FakeCluster
from pgha.states import catalog

NODES = ["pg-node1", "pg-node2", "witness-node"]
DATA = NODES[:2]
RESTART_ETCD = Disruption(impact=Impact.RESTART, unit="etcd")
RESTART_POSTGRESQL = Disruption(impact=Impact.RESTART, unit="postgresql")
RELOAD = Disruption(impact=Impact.RELOAD, unit="haproxy")
START = Disruption(unit="etcd")
BY_NAME = {stage.name: stage for stage in STAGES}


def planned(document: str, *disruptions: Disruption, status: Status = Status.PLANNED) -> ResourceResult:
    changes = tuple(ChangeView(what="x", disruption=disruption) for disruption in disruptions or (Disruption(),))
    return ResourceResult(resource=f"file:/{document}", document=document, status=status, changes=changes)


def bare() -> FakeCluster:
    fake = FakeCluster()
    for name in NODES:
        fake.bare(name)
    return fake


def leaderless(*with_data: str) -> FakeCluster:
    """etcd is whole, Patroni runs nowhere; these nodes have a data directory."""
    fake = FakeCluster()
    for name in DATA:
        received, sample = fake.samples[name]
        told = {"patroni": None, "data_directory_present": name in with_data}
        fake.samples[name] = (received, sample.model_copy(update=told))
    return fake


def order(stage: str, fake: FakeCluster, plans: dict[str, list[ResourceResult]]) -> list[list[str]]:
    return stage_waves(BY_NAME[stage], fake.cluster, list(plans), plans, fake.health())


def test_every_document_is_in_exactly_one_stage() -> None:
    assert sorted(d for stage in STAGES for d in stage.documents) == sorted(catalog.DOCUMENTS)


def test_the_stages_stand_in_the_order_in_which_a_cluster_is_built() -> None:
    assert [stage.name for stage in STAGES] == [
        *("base", "etcd", "pgbackrest", "patroni", "ssh", "database", "haproxy", "backup")
    ]


@pytest.mark.parametrize("stage", ["base", "etcd", "haproxy"])
def test_on_bare_hosts_all_nodes_go_at_once(stage: str) -> None:
    plans = {name: [planned(document) for document in BY_NAME[stage].documents] for name in NODES}
    assert order(stage, bare(), plans) == [NODES]


def test_a_new_etcd_starts_on_all_members_at_once_even_where_a_unit_must_be_restarted() -> None:
    assert order("etcd", bare(), {name: [planned("etcd", RESTART_ETCD)] for name in NODES}) == [NODES]


def test_who_holds_a_repository_makes_it_ready_after_the_data_nodes_which_it_locks() -> None:
    plans = {name: [planned("backup")] for name in NODES}
    assert order("backup", FakeCluster(leader="pg-node1"), plans) == [DATA, ["witness-node"]]
    assert order("backup", FakeCluster(leader="pg-node1"), {"witness-node": [planned("backup")]}) == [["witness-node"]]


def test_a_repository_is_made_ready_also_while_a_replica_lags() -> None:
    health = FakeCluster(leader="pg-node1").health()
    assert not pauses(BY_NAME["backup"], health)
    assert pauses(BY_NAME["patroni"], health)


def test_with_other_settings_of_the_tool_it_is_looked_whether_the_repository_is_ready() -> None:
    plans = {"pg-node1": [planned("pgbackrest")], "pg-node2": [planned("haproxy")]}
    assert concerned(BY_NAME["backup"], plans) == ["pg-node1"]


def test_the_first_data_node_founds_the_cluster_alone() -> None:
    assert order("patroni", leaderless(), {name: [planned("patroni")] for name in DATA}) == [["pg-node1"], ["pg-node2"]]


def test_where_data_is_nobody_founds_anything_and_all_come_up_to_find_out_who_led() -> None:
    plans = {name: [planned("patroni")] for name in DATA}
    assert order("patroni", leaderless(*DATA), plans) == [DATA]


def test_an_empty_node_never_starts_beside_one_with_data_while_nobody_leads() -> None:
    plans = {name: [planned("patroni")] for name in DATA}
    assert order("patroni", leaderless("pg-node2"), plans) == [["pg-node2"], ["pg-node1"]]
    assert order("patroni", leaderless("pg-node1"), plans) == [["pg-node1"], ["pg-node2"]]


def test_the_only_data_node_that_is_left_to_do_goes_in_one_wave() -> None:
    assert order("patroni", leaderless(), {"pg-node2": [planned("patroni")]}) == [["pg-node2"]]


def test_with_a_leader_replicas_come_before_it_and_no_founder_is_sought() -> None:
    fake = FakeCluster(leader="pg-node1")
    plans = {name: [planned("patroni", RESTART_POSTGRESQL)] for name in DATA}
    assert order("patroni", fake, plans) == [["pg-node2"], ["pg-node1"]]


def test_etcd_of_a_running_cluster_is_restarted_one_by_one_and_the_leader_last() -> None:
    fake = FakeCluster(leader="pg-node1", etcd_leader="witness-node")
    plans = {name: [planned("etcd", RESTART_ETCD)] for name in NODES}
    assert order("etcd", fake, plans) == [["pg-node2"], ["witness-node"], ["pg-node1"]]


def test_etcd_goes_one_by_one_also_while_postgresql_has_no_leader() -> None:
    plans = {name: [planned("etcd", RESTART_ETCD)] for name in NODES}
    assert all(len(wave) == 1 for wave in order("etcd", leaderless(*DATA), plans))


def test_a_member_that_is_down_is_started_beside_the_others_that_only_reload() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "etcd", healthy=False, member_id="")
    assert order("etcd", fake, {"pg-node1": [planned("etcd")], "pg-node2": [planned("etcd", START)]}) == [DATA]


def test_an_unhealthy_member_is_restarted_before_the_healthy_ones() -> None:
    fake = FakeCluster(leader="witness-node")
    fake.change("pg-node2", "etcd", healthy=False)
    plans = {name: [planned("etcd", RESTART_ETCD)] for name in NODES}
    assert order("etcd", fake, plans)[0] == ["pg-node2"]


def test_only_planned_changes_that_disturb_count_and_only_those_of_the_stage() -> None:
    results = [
        planned("etcd", RESTART_ETCD, Disruption()),
        planned("etcd", RELOAD, status=Status.SKIPPED),
        planned("haproxy", RELOAD),
    ]
    assert disruptions_of(results, ("etcd",)) == [RESTART_ETCD]
    assert disruptions_of(results, ("haproxy", "etcd")) == [RESTART_ETCD, RELOAD]


def test_a_stage_concerns_the_nodes_with_planned_or_failed_resources_of_its_documents() -> None:
    plans = {
        "pg-node1": [planned("haproxy")],
        "pg-node2": [planned("etcd", status=Status.FAILED)],
        "witness-node": [planned("etcd", status=Status.SKIPPED), planned("etcd", status=Status.UNCHANGED)],
    }
    assert concerned(BY_NAME["etcd"], plans) == ["pg-node2"]
    assert concerned(BY_NAME["haproxy"], plans) == ["pg-node1"]
    assert concerned(BY_NAME["base"], plans) == []


def test_a_wave_disturbs_when_one_of_its_nodes_would_restart_something_of_that_stage() -> None:
    plans = {"pg-node1": [planned("haproxy", RELOAD)], "pg-node2": [planned("etcd", RESTART_ETCD)]}
    assert disturbing(BY_NAME["etcd"], ["pg-node1", "pg-node2"], plans)
    assert not disturbing(BY_NAME["etcd"], ["pg-node1", "witness-node"], plans)
    assert not disturbing(BY_NAME["haproxy"], NODES, plans)


def test_etcd_spares_a_member_while_the_others_are_a_majority() -> None:
    fake = FakeCluster()
    assert spares(["pg-node1"])(fake.health()) == gates.OPEN
    fake.change("pg-node2", "etcd", healthy=False)
    refused = spares(["witness-node"])(fake.health())
    assert isinstance(refused, gates.Closed)
    assert refused.reason == "without witness-node etcd would have no quorum, since pg-node2 is not healthy"
    assert spares(["pg-node2"])(fake.health()) == gates.OPEN


def test_a_member_that_has_gone_and_is_still_counted_is_told_by_the_count() -> None:
    fake = FakeCluster()
    members = [EtcdMember(id=str(number), name=f"node{number}", started=True) for number in range(4)]
    for name in NODES:
        fake.change(name, "etcd", members=tuple(members))
    refused = spares(["witness-node"])(fake.health())
    assert isinstance(refused, gates.Closed)
    assert refused.reason.endswith("etcd would have no quorum, as long as it is seen to count 4 members")


def test_a_quorum_that_is_lost_already_keeps_nobody_from_mending_it() -> None:
    fake = FakeCluster()
    for name in DATA:
        fake.change(name, "etcd", healthy=False)
    assert all(spares([name])(fake.health()) == gates.OPEN for name in NODES)


def test_a_cluster_is_fresh_while_no_etcd_answers_and_nobody_leads() -> None:
    assert is_fresh(bare().health())
    assert not is_fresh(leaderless().health())
    assert not is_fresh(FakeCluster().health())


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.gate_name], ids=lambda stage: stage.name)
def test_the_gate_of_a_stage_is_open_on_a_whole_cluster_and_closed_on_bare_hosts(stage: Stage) -> None:
    assert stage.gate(FakeCluster().health()) == gates.OPEN
    assert isinstance(stage.gate(bare().health()), gates.Closed)
    assert stage.deadline_s > 0


def test_the_gate_of_patroni_waits_for_every_replica() -> None:
    fake = FakeCluster()
    fake.change("pg-node2", "patroni", state="creating replica")
    assert isinstance(BY_NAME["patroni"].gate(fake.health()), gates.Closed)


# what a plan means


def test_a_plan_of_bare_hosts_says_that_nothing_is_disturbed() -> None:
    plans = {name: [planned("hardening"), planned("etcd")] for name in NODES}
    fake = bare()
    assert describe(fake.cluster, plans, fake.health()) == {
        "order": ("base: pg-node1 + pg-node2 + witness-node", "etcd: pg-node1 + pg-node2 + witness-node"),
        "impact": ("nothing runs here yet, so nothing is disturbed",),
    }


def test_a_plan_says_what_is_restarted_on_how_many_nodes_and_in_which_order() -> None:
    fake = FakeCluster()
    plans = {
        "pg-node1": [planned("etcd", RESTART_ETCD), planned("haproxy", RELOAD)],
        "pg-node2": [planned("etcd", RESTART_ETCD, RESTART_ETCD)],
        "witness-node": [planned("hardening")],
    }
    assert describe(fake.cluster, plans, fake.health()) == {
        "order": ("base: witness-node", "etcd: pg-node2, then pg-node1", "haproxy: pg-node1"),
        "impact": ("restart etcd on 2 nodes", "reload haproxy on 1 node"),
    }


def test_a_plan_that_disturbs_nothing_says_so() -> None:
    fake = FakeCluster()
    told = describe(fake.cluster, {"pg-node1": [planned("hardening")]}, fake.health())
    assert told["impact"] == ("no service is reloaded or restarted",)


def test_before_the_leader_is_stopped_somebody_else_takes_the_lead_and_the_plan_says_what_it_costs() -> None:
    fake = FakeCluster(leader="pg-node1")
    restart = Disruption(impact=Impact.RESTART, unit="patroni.service")
    told = describe(fake.cluster, {name: [planned("patroni", restart)] for name in DATA}, fake.health())
    assert told["order"] == ("patroni: pg-node2, then pg-node1", "switchover from pg-node1 to pg-node2")
    assert "1 switchover, pg-node1 -> pg-node2: writes are refused for about 5.0 s" in told["impact"]


def test_a_leader_that_nobody_can_stand_in_for_is_told_to_be_stopped_while_it_leads() -> None:
    fake = FakeCluster(leader="pg-node1")
    fake.change("pg-node2", "patroni", state="starting")
    restart = Disruption(impact=Impact.RESTART, unit="patroni.service")
    told = describe(fake.cluster, {"pg-node1": [planned("patroni", restart)]}, fake.health())
    assert told["order"] == ("patroni: pg-node1", "restart PostgreSQL on pg-node1, which leads")


def test_only_a_wave_that_stops_the_leader_s_own_postgresql_stops_writes() -> None:
    stage = BY_NAME["patroni"]
    restart = {name: [planned("patroni", RESTART_POSTGRESQL)] for name in DATA}
    assert stops_writes(stage, ["pg-node1"], "pg-node1", restart)
    assert not stops_writes(stage, ["pg-node2"], "pg-node1", restart)
    assert not stops_writes(stage, ["pg-node1"], "pg-node1", {"pg-node1": [planned("patroni", RELOAD)]})
    assert not stops_writes(stage, ["pg-node1"], "", restart)
