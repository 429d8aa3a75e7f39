"""What is said of backups, and when a cluster counts as backed up: from samples alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pgha.common.backup import Backup
from pgha.common.errors import Refused
from pgha.common.telemetry_backup import (
    ArchiverSample,
    BackupRun,
    BackupSample,
    BackupSet,
    DrillSample,
    RepositorySample,
)
from pgha.master.health.backup_view import sets, view
from pgha.master.health.gates import OPEN, Closed
from pgha.master.health.gates_backup import backed_up
from pgha.master.health.observed import ClusterHealth
from pgha.master.simulation.testing import UNIX, FakeCluster, three_nodes
from pgha.master.verbs.backups import checks, reads

HOUR, DAY = 3600.0, 86400.0
DEFINED: dict[str, Any] = {
    "s3": {"bucket": "b", "credentials": {}},
    "posix": {"on": "witness-node"},
}


def full(age: float, label: str = "A", **update: Any) -> BackupSet:
    at = UNIX - age
    made = BackupSet(label=label, type="full", began=at - 60, ended=at, size=1000, repo_size=100)
    wal = {"wal_first": "000000010000000000000008", "wal_last": "000000010000000000000008"}
    return made.model_copy(update={**wal, **update})


def repository(number: int, *backups: BackupSet, **update: Any) -> RepositorySample:
    made = RepositorySample(number=number, state="ok", at=UNIX - 20, encrypted=True, backups=backups)
    return made.model_copy(update=update)


def archiver(**update: Any) -> ArchiverSample:
    made = ArchiverSample(at=UNIX - 5, archived_at=UNIX - 30, last_archived="000000010000000000000009")
    return made.model_copy(update={"behind_bytes": 4096, "behind_s": 30.0, **update})


def fake(defined: dict[str, Any] | None = None) -> FakeCluster:
    """All is well: both repositories are full, WAL arrives, the proof succeeded."""
    section = Backup.model_validate(DEFINED if defined is None else defined)
    cluster = FakeCluster(cluster=three_nodes().model_copy(update={"backup": section}))
    drill = DrillSample(began=UNIX - DAY, ok=True, seconds=8.0, label="A")
    both = (repository(1, full(HOUR)), repository(2, full(2 * HOUR)))
    told = {
        "pg-node1": BackupSample(driver="pgbackrest", operates=(1,), repositories=both, archiver=archiver()),
        "pg-node2": BackupSample(driver="pgbackrest", operates=(1,), repositories=both, drill=drill),
        "witness-node": BackupSample(driver="pgbackrest", operates=(2,), repositories=both[1:]),
    }
    for name, backup in told.items():
        cluster.samples[name] = (cluster.now, cluster.sample(name).model_copy(update={"backup": backup}))
    return cluster


def everywhere(cluster: FakeCluster, number: int, one: RepositorySample) -> None:
    for node in cluster.cluster.nodes:
        backup = cluster.sample(node.name).backup
        assert backup is not None
        told = tuple(one if known.number == number else known for known in backup.repositories)
        cluster.change(node.name, "backup", repositories=told)


def found(health: ClusterHealth) -> list[tuple[str, str]]:
    return [(one.severity, one.text) for one in health.findings]


def only(cluster: FakeCluster) -> tuple[str, str, str]:
    (one,) = cluster.health().findings
    assert not one.degrades
    return one.severity, one.text, one.fix


def test_a_cluster_whose_backups_are_well_has_nothing_to_say() -> None:
    assert found(fake().health()) == []


def test_a_cluster_that_wants_no_backups_is_told_of_none() -> None:
    cluster = fake()
    cluster.cluster = three_nodes()
    everywhere(cluster, 1, repository(1, state="unreachable"))
    assert found(cluster.health()) == []


def test_backups_of_which_no_node_tells_are_not_set_up_and_nothing_else_is_said() -> None:
    cluster = fake()
    for name in cluster.samples:
        cluster.samples[name] = (cluster.now, cluster.sample(name).model_copy(update={"backup": None}))
    ((severity, text),) = found(cluster.health())
    assert severity == "warning" and "they are not set up" in text
    assert view(cluster.health()) is None


def test_stale_telemetry_says_nothing_of_backups() -> None:
    cluster = fake()
    everywhere(cluster, 2, repository(2, full(40 * DAY)))
    assert len(cluster.health().findings) == 1
    for node in cluster.cluster.nodes:
        cluster.silence(node.name, 60)
    assert not any("backup" in text for _, text in found(cluster.health()))


def test_a_repository_without_a_backup_is_named_until_one_runs() -> None:
    cluster = fake()
    everywhere(cluster, 2, repository(2, state="no backups"))
    assert only(cluster) == (
        "warning",
        "repository 2 (witness-node:/var/lib/pgbackrest) holds no backup yet",
        "pgha-master backup now prod --type full",
    )
    cluster.change("witness-node", "backup", running=BackupRun(type="full", repository=2, began=UNIX - 5))
    assert found(cluster.health()) == []


@pytest.mark.parametrize(("age", "severity"), [(25 * HOUR, ""), (27 * HOUR, "warning"), (53 * HOUR, "critical")])
def test_an_old_backup_is_a_warning_and_at_twice_the_age_critical(age: float, severity: str) -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, full(age)))
    assert [one for one, _ in found(cluster.health())] == ([severity] if severity else [])
    assert all("the newest backup in repository 1 (s3 b) is" in text for _, text in found(cluster.health()))


@pytest.mark.parametrize(
    ("state", "severity", "text"),
    [
        ("unreachable", "warning", "repository 2 (witness-node:/var/lib/pgbackrest) is unreachable, as pg-node1"),
        ("damaged", "critical", "repository 2 (witness-node:/var/lib/pgbackrest) is damaged, as pg-node1"),
        ("another cluster's", "critical", "repository 2 (witness-node:/var/lib/pgbackrest) holds another cluster's"),
        ("no stanza", "warning", "repository 2 (witness-node:/var/lib/pgbackrest) does not know this cluster yet"),
    ],
)
def test_a_repository_that_cannot_be_used_is_named_with_who_sees_it_so(state: str, severity: str, text: str) -> None:
    cluster = fake()
    everywhere(cluster, 2, repository(2, state=state, why="its own words"))
    told, said, _ = only(cluster)
    assert told == severity
    assert said.startswith(text)
    assert said.endswith("pg-node1, pg-node2, witness-node see it: its own words")


def test_a_repository_that_one_node_cannot_reach_is_judged_by_what_another_sees() -> None:
    cluster = fake()
    lost = repository(2, state="unreachable", why="no route")
    cluster.change("pg-node1", "backup", repositories=(repository(1, full(HOUR)), lost))
    _, said, _ = only(cluster)
    assert said.endswith("is unreachable, as pg-node1 sees it: no route")
    shown = view(cluster.health())
    assert shown is not None
    assert shown["repositories"][1]["newest"]["label"] == "A"


def test_who_asked_before_a_repository_was_made_ready_finds_nothing_that_another_knows_better() -> None:
    cluster = fake()
    unready = repository(2, state="no stanza")
    cluster.change("pg-node1", "backup", repositories=(repository(1, full(HOUR)), unready))
    assert "repository 2" in only(cluster)[1]  # its backup was there before
    fresh = full(2 * HOUR).model_copy(update={"ended": UNIX + 1})
    for node in ("pg-node2", "witness-node"):
        cluster.change(node, "backup", repositories=(repository(1, full(HOUR)), repository(2, fresh)))
    assert found(cluster.health()) == []


def test_a_repository_that_should_be_encrypted_and_is_not_is_found() -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, full(HOUR), encrypted=False))
    assert "repository 1 (s3 b) is not encrypted, the definition wants aes-256-cbc" in only(cluster)[1]
    plain = fake({**DEFINED, "encryption": {"cipher": "none"}})
    everywhere(plain, 1, repository(1, full(HOUR), encrypted=False))
    assert found(plain.health()) == []


def test_damaged_pages_in_the_newest_backup_are_critical() -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, full(HOUR, error=True)))
    assert only(cluster)[:2] == ("critical", "backup A in repository 1 (s3 b) has pages with a wrong checksum")


def failed(kind: str, age: float) -> BackupRun:
    return BackupRun(type=kind, repository=1, began=UNIX - age, ended=UNIX - age + 9, error="[056] no primary")


@pytest.mark.parametrize(
    ("kind", "failed_s", "made_s", "told"),
    [
        ("full", HOUR, 2 * HOUR, True),
        ("full", 2 * HOUR, HOUR, False),
        ("diff", 2 * HOUR, HOUR, False),
        ("diff", HOUR, 2 * HOUR, True),
    ],
)
def test_a_run_that_failed_is_told_until_one_like_it_or_a_fuller_one_has_come(
    kind: str, failed_s: float, made_s: float, told: bool
) -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, full(made_s)))
    cluster.change("pg-node2", "backup", runs=(failed(kind, failed_s),))
    if told:
        severity, said, fix = only(cluster)
        assert (severity, fix) == ("warning", f"pgha-master backup now prod --type {kind}")
        assert said.endswith("on pg-node2, failed: [056] no primary")
    else:
        assert found(cluster.health()) == []


def test_a_full_that_failed_is_not_made_good_by_a_diff() -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, full(DAY), full(60.0, "D", type="diff")))
    cluster.change("pg-node2", "backup", runs=(failed("full", HOUR),))
    assert "the last full backup to repository 1" in only(cluster)[1]


@pytest.mark.parametrize(
    ("update", "severity", "text"),
    [
        ({"failed_at": UNIX - 10, "last_failed": "X", "waiting": 2}, "warning", "fails for X, 2 segments wait"),
        ({"failed_at": UNIX - 10, "last_failed": "X", "waiting": 300}, "critical", "fails for X, 300 segments wait"),
        ({"failed_at": UNIX - 60}, "", ""),
        ({"waiting": 16}, "", ""),
        ({"waiting": 17}, "warning", "17 segments of WAL wait to be archived"),
        ({"waiting": 257}, "critical", "257 segments of WAL wait to be archived"),
        ({"waiting": 1, "behind_s": 200.0}, "warning", "the archive of WAL is 3 minutes behind, 1 segments wait"),
        ({"error": "it hangs"}, "warning", "pg-node1 does not tell how far WAL is archived: it hangs"),
    ],
)
def test_an_archive_that_does_not_keep_up_is_told(update: dict[str, Any], severity: str, text: str) -> None:
    cluster = fake()
    cluster.change("pg-node1", "backup", archiver=archiver(**update))
    if not severity:
        assert found(cluster.health()) == []
    else:
        told, said, _ = only(cluster)
        assert told == severity
        assert said.endswith(text)


def test_wal_that_was_thrown_away_is_critical_until_every_repository_has_a_backup_behind_it() -> None:
    cluster = fake()
    cluster.change("pg-node2", "backup", dropped=3, last_dropped="000000010000000000000009")
    severity, said, fix = only(cluster)
    assert (severity, fix) == ("critical", "pgha-master backup now prod --type full")
    assert said.startswith("3 segments of WAL were thrown away because the queue was full, the last 0000000100000000")
    assert (view(cluster.health()) or {})["lost_now"] is None
    later = full(60.0, wal_first="00000002000000000000000A")
    everywhere(cluster, 1, repository(1, later))
    assert len(cluster.health().findings) == 1
    assert (view(cluster.health()) or {})["lost_now"] == {"bytes": 4096, "seconds": 35.0}
    everywhere(cluster, 2, repository(2, later))
    assert found(cluster.health()) == []


def test_a_drill_that_failed_is_critical_and_one_that_is_overdue_a_warning() -> None:
    cluster = fake()
    cluster.change("pg-node2", "backup", drill=DrillSample(began=UNIX - HOUR, ok=False, seconds=1, error="no disk"))
    assert only(cluster)[:2] == ("critical", "the last restore for the proof failed 60 minutes ago: no disk")
    cluster.change("pg-node2", "backup", drill=DrillSample(began=UNIX - 9 * DAY, ok=True, seconds=1))
    assert only(cluster)[:2] == (
        "warning",
        "the last restore for the proof is 9 days old, wanted is one every 7 days",
    )


def test_without_a_drill_its_time_counts_from_the_first_backup() -> None:
    cluster = fake()
    cluster.change("pg-node2", "backup", drill=None)
    assert found(cluster.health()) == []
    everywhere(cluster, 1, repository(1, full(9 * DAY), full(HOUR, "B")))
    assert "no backup was ever restored for the proof" in only(cluster)[1]
    never = fake({**DEFINED, "drill": {"every": None}})
    never.change("pg-node2", "backup", drill=None)
    everywhere(never, 1, repository(1, full(9 * DAY), full(HOUR, "B")))
    assert found(never.health()) == []


# ---- the view


def test_the_status_tells_what_would_be_lost_and_what_was_proved() -> None:
    cluster = fake()
    run = BackupRun(type="full", repository=2, began=UNIX - 5, done=50, total=100)
    cluster.change("witness-node", "backup", running=run)
    shown = json.loads(json.dumps(view(cluster.health())))
    assert list(shown) == ["repositories", "archiver", "lost_now", "drill", "running"]
    assert [(one["number"], one["full"]["age_s"], one["full"]["size"]) for one in shown["repositories"]] == [
        (1, HOUR, 1000),
        (2, 2 * HOUR, 1000),
    ]
    assert shown["lost_now"] == {"bytes": 4096, "seconds": 35.0}
    assert shown["drill"]["ok"] is True
    assert (shown["drill"]["age_s"], shown["drill"]["seconds"]) == (DAY, 8.0)
    (running,) = shown["running"]
    assert (running["node"], running["done_bytes"], running["total_bytes"]) == ("witness-node", 50, 100)
    assert [(one["repository"], one["label"]) for one in sets(cluster.health())] == [(1, "A"), (2, "A")]


def test_without_any_backup_everything_would_be_lost_and_no_figure_is_given() -> None:
    cluster = fake()
    everywhere(cluster, 1, repository(1, state="no backups"))
    everywhere(cluster, 2, repository(2, state="no backups"))
    shown = view(cluster.health())
    assert shown is not None
    assert shown["lost_now"] is None


# ---- gates


def closed(cluster: FakeCluster) -> str:
    result = backed_up(cluster.health(), (1, 2))
    assert isinstance(result, Closed)
    return result.reason


def test_a_cluster_is_backed_up_when_wal_arrives_and_every_repository_holds_a_backup() -> None:
    assert backed_up(fake().health(), (1, 2)) == OPEN


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (None, "pg-node1 has not told yet how far WAL is archived"),
        (archiver(archived_at=None), "pg-node1 has not archived any WAL yet"),
        (
            archiver(failed_at=UNIX, last_failed="X", waiting=4),
            "pg-node1 could not archive X, 4 segments wait",
        ),
    ],
)
def test_it_is_not_backed_up_while_wal_does_not_arrive(told: ArchiverSample | None, reason: str) -> None:
    cluster = fake()
    cluster.change("pg-node1", "backup", archiver=told)
    assert closed(cluster) == reason


def test_it_is_not_backed_up_by_what_only_a_node_sees_that_makes_no_backups_there() -> None:
    cluster = fake()
    cluster.change("witness-node", "backup", repositories=(repository(2, state="no backups"),))
    assert closed(cluster) == "repository 2, as witness-node sees it: it holds no backup yet"
    cluster.change("witness-node", "backup", running=BackupRun(type="full", repository=2, began=UNIX))
    assert closed(cluster) == "repository 2, as witness-node sees it: a backup is being made"
    cluster.silence("witness-node", 60)
    assert closed(cluster) == "no node that makes backups to repository 2 has told of it yet"


# ---- who is asked


def test_the_leader_checks_and_a_standby_reads_what_it_makes_backups_to() -> None:
    cluster = fake()
    health = cluster.health()
    assert checks(health, (1, 2)) == ("pg-node1", "witness-node")
    assert (reads(health, 1), reads(health, 2)) == ("pg-node2", "witness-node")
    cluster.silence("pg-node2", 60)
    assert reads(cluster.health(), 1) == "pg-node1"
    cluster.silence("witness-node", 60)
    with pytest.raises(Refused, match="no node that makes backups to repository 2 of prod is known and connected"):
        checks(cluster.health(), (1, 2))
