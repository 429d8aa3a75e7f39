"""The proof by restoring: when it is due, where it has room, what becomes of each outcome; nothing is started here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pgha.common.errors import HostError
from pgha.common.installation import Installation
from pgha.common.telemetry_backup import BackupSet, DrillSample, RepositorySample
from pgha.minion.backups import commands
from pgha.minion.backups.drill import Drill, needed, not_due, roomiest, whose_turn
from pgha.minion.backups.history import History
from pgha.minion.probe_write import Mark
from pgha.states.backups.driver import Argv
from pgha.states.document import Context
from pgha.states.documents import backup, firewall, hardening, pgbackrest
from pgha.states.resources.files import File
from pgha.states.resources.units import UnitFile
from pgha.states.software import packages
from pgha.states.system import Output

Build = Callable[..., Context]
DAY = 86400.0
GIB = 1024**3


def here(**changed: Any) -> Installation:
    values: dict[str, Any] = {
        "driver": "pgbackrest",
        "stanza": "prod",
        "node": "witness-node",
        "operates": (1,),
        "repositories": (1,),
        "data": False,
        "data_directory": "/nowhere/17/main",
        "bin_dir": "/usr/lib/postgresql/17/bin",
        "port": 5432,
        "writes_port": 5433,
        "standby": True,
        "data_nodes": ("pg-node1", "pg-node2"),
        "drills": True,
        "alone": True,
        "drill_every_s": 7 * DAY,
        "archive_timeout_s": 10.0,
    }
    return Installation(**{**values, **changed})


def made(began: float, ok: bool = True) -> DrillSample:
    return DrillSample(began=began, ok=ok, seconds=1.0)


def kept(label: str, ended: float, size: int = GIB) -> BackupSet:
    return BackupSet(label=label, type="full", began=ended - 10, ended=ended, size=size, repo_size=1)


# ---- when


@pytest.mark.parametrize(
    ("drills", "due"),
    [
        ([], True),
        ([made(0.0)], True),
        ([made(6 * DAY)], False),
        ([made(0.0), made(6 * DAY, ok=False)], True),  # the failed one is made again the next day
        ([made(6 * DAY), made(6.5 * DAY, ok=False)], False),
        ([made(600.0)], True),  # begun ten minutes after the timer, a week ago
        ([made(900 * DAY)], True),  # by a clock that was wrong
    ],
)
def test_one_is_due_once_the_last_good_one_is_as_old_as_the_definition_says(
    drills: list[DrillSample], due: bool
) -> None:
    assert (not_due(here(), drills, 7 * DAY) == "") == due


def test_without_an_interval_none_is_ever_due() -> None:
    assert "every: null" in not_due(here(drill_every_s=None), [], 7 * DAY)


# ---- what and where


@pytest.mark.parametrize(
    ("drills", "proved"),
    [
        ([], (3, "b")),
        ([(3, True)], (1, "c")),
        ([(3, True), (1, True)], (3, "b")),
        ([(1, True), (3, False)], (3, "b")),
        ([(None, True), (2, True)], (3, "b")),
    ],
    ids=["none was ever", "one was", "both were", "one does not restore", "nobody knows which"],
)
def test_repositories_take_turns_and_the_newest_backup_of_one_is_proved(
    drills: list[tuple[int | None, bool]], proved: tuple[int, str]
) -> None:
    samples = [
        RepositorySample(number=1, state="ok", at=0.0, backups=(kept("a", 5.0), kept("c", 20.0))),
        RepositorySample(number=2, state="unreachable", at=0.0),
        RepositorySample(number=3, state="ok", at=0.0, backups=(kept("b", 10.0),)),
    ]
    told = [
        DrillSample(began=float(at), ok=ok, seconds=1.0, repository=number)
        for at, (number, ok) in enumerate(drills, start=1)
    ]
    number, backup = whose_turn(samples, told)
    assert (number, backup.label) == proved


def test_without_a_backup_each_repository_tells_why() -> None:
    samples = [
        RepositorySample(number=1, state="unreachable", why="no route", at=0.0),
        RepositorySample(number=2, state="no backups", at=0.0),
    ]
    with pytest.raises(HostError, match="repository 1: unreachable, no route; repository 2: no backups"):
        whose_turn(samples, [])


def test_it_is_restored_where_most_room_is() -> None:
    free = {Path("/a/drill"): 5 * GIB, Path("/b/drill"): 9 * GIB}
    assert roomiest(free, 2 * GIB) == Path("/b/drill")


def test_without_room_nothing_is_begun_and_the_error_says_how_much_is_needed() -> None:
    free = {Path("/a/drill"): needed(10 * GIB) - 1}
    with pytest.raises(HostError, match=r"10\.0 GiB; restoring it needs 13\.0 GiB free"):
        roomiest(free, 10 * GIB)


# ---- what it comes to


class Tool:
    """pgBackRest on a node: a backup in one repository, and WAL up to `wal`."""

    def __init__(self, wal: str = "000000010000000000000009", size: int = 1, restore: Output | None = None) -> None:
        self.wal, self.size, self.restore, self.ran = wal, size, restore or Output(56), list[Argv]()

    def __call__(self, argv: Argv) -> Output:
        self.ran.append(argv)
        if "info" not in argv:
            return self.restore
        told = {
            "name": "prod",
            "repo": [{"key": 1, "cipher": "none", "status": {"code": 0, "message": "ok"}}],
            "archive": [{"database": {"id": 1, "repo-key": 1}, "min": "1", "max": self.wal}],
            "backup": [
                {
                    "label": "20261126-013820F",
                    "type": "full",
                    "timestamp": {"start": 1, "stop": 2},
                    "info": {"size": self.size},
                    "database": {"id": 1, "repo-key": 1},
                }
            ],
        }
        return Output(0, json.dumps([told]))

    @property
    def restores(self) -> list[Argv]:
        return [argv for argv in self.ran if "restore" in argv]


def drill(tmp_path: Path, tool: Tool, **changed: Any) -> DrillSample:
    clock = iter(range(1000, 10**6, 7))
    values: dict[str, Any] = {
        "here": here(),
        "execute": tool,
        "tell": lambda line: None,
        "history": History(tmp_path / "history"),
        "now": lambda: float(next(clock)),
        "sleep": lambda seconds: None,
        "write": lambda node, port, timeout_s: Mark(f"{node}/drill", "abc", "000000010000000000000007"),
        "folder": tmp_path / "drill",
    }
    work = Drill(**{**values, **changed})
    found = work.make()
    assert work.history.drills() == (found,)
    assert not (tmp_path / "drill").exists()
    return found


def test_a_disk_without_room_is_a_failed_drill_before_anything_is_restored(tmp_path: Path) -> None:
    tool = Tool(size=10**18)
    found = drill(tmp_path, tool)
    assert not found.ok and "free" in found.error
    assert (found.label, found.bytes) == ("20261126-013820F", 10**18)
    assert tool.restores == []


def test_wal_that_is_not_archived_in_time_is_a_failed_drill(tmp_path: Path) -> None:
    tool = Tool(wal="000000010000000000000006")
    found = drill(tmp_path, tool)
    assert not found.ok and found.error.startswith("WAL is not archived: 000000010000000000000007")
    assert tool.restores == []


@pytest.mark.parametrize("port", [None, 5433])
def test_a_restore_goes_on_without_a_row_when_none_can_be_written_and_the_record_says_so(
    tmp_path: Path, port: int | None, as_anybody: None
) -> None:
    def refuse(node: str, port: int, timeout_s: float) -> Mark:
        raise HostError("nobody leads")

    tool = Tool(restore=Output(29, "", "P00  ERROR: [029]: the bundle is damaged"))
    found = drill(tmp_path, tool, here=here(writes_port=port), write=refuse)
    assert found.note == (
        "no row was looked for: this node has no HAProxy to write one through"
        if port is None
        else "no row was looked for, as none could be written: nobody leads"
    )
    assert found.error.startswith("the restore failed: [029] the bundle is damaged")
    (argv,) = tool.restores
    assert "--archive-mode=off" in argv
    assert f"--tablespace-map-all={tmp_path}/drill/tablespaces" in argv


def test_one_that_is_ended_says_so_and_leaves_nothing(tmp_path: Path, as_anybody: None) -> None:
    found = drill(tmp_path, Tool(restore=Output(124)), stopped=lambda: True)
    assert found.error == "it was ended before it was done"


@pytest.fixture
def as_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is given to user postgres, which only root can do, where there is one."""
    monkeypatch.setattr("shutil.chown", lambda *of: None)


@pytest.mark.parametrize("words", [["drill"], ["drill", "--due"]])
def test_on_a_host_without_backups_the_command_says_what_to_do(words: list[str]) -> None:
    said = CliRunner().invoke(commands.backup, words)
    assert said.exit_code == 1
    assert "/etc/pgha/backup.json is missing; apply the cluster's definition first" in said.output


# ---- on which node


S3 = {"s3": {"bucket": "b", "credentials": {"key": "env:K", "secret": "env:S"}}}


@pytest.mark.parametrize("where", [S3, {"posix": {"on": "witness-node"}}])
def test_a_witness_can_be_where_restores_are_proved(context_of: Build, where: dict[str, Any]) -> None:
    context = context_of("witness-node", backup={**where, "drill": {"on": "witness-node"}})
    assert {"postgresql-17", "pgbackrest"} <= set(packages(context.cluster, context.node, context.facts))
    assert any(r.id == f"file:{hardening.CREATE_CLUSTER}" for r in hardening.build(context))
    built = {r.id: r for r in pgbackrest.build(context)}
    config, known = built["file:/etc/pgbackrest/pgbackrest.conf"], built["file:/etc/pgha/backup.json"]
    assert isinstance(config, File) and isinstance(known, File)
    assert "repo1-path" in config.content and "pg1-" not in config.content  # a restore there is local
    installed = Installation.model_validate_json(known.content)
    assert installed.drills and installed.alone and installed.repositories == (1,)
    units = {r.name: r.content for r in backup.build(context) if isinstance(r, UnitFile) and not r.absent}
    assert "ExecCondition" not in units["pgha-drill.service"]
    assert "backup drill --due" in units["pgha-drill-due.service"]
    assert "Unit=pgha-drill-due.service" in units["pgha-drill-due.timer"]


def test_one_that_proves_reaches_the_repository_of_another_and_is_reached_by_nobody(context_of: Build) -> None:
    nodes = [
        {"name": "a", "address": "10.77.1.1"},
        {"name": "b", "address": "10.77.1.2"},
        {"name": "w", "address": "10.77.1.3", "role": "witness"},
        {"name": "p", "address": "10.77.1.4", "role": "proxy"},
    ]
    section = {"posix": {"on": "w"}, "drill": {"on": "p"}}
    contexts = {name: context_of(name, nodes=nodes, backup=section) for name in "abwp"}
    let_in = {
        name: {rule.source for rule in firewall.flows(one.cluster, one.node) if rule.port == 8432}
        for name, one in contexts.items()
    }
    assert let_in["p"] == set()
    assert let_in["w"] == {"10.77.1.1", "10.77.1.2", "10.77.1.4"}
    assert let_in["a"] == {"10.77.1.2", "10.77.1.3"}
    files = {name: {r.id: r for r in pgbackrest.build(one)} for name, one in contexts.items()}
    assert "service:pgbackrest" not in files["p"]
    holder, proves = (files[name]["file:/etc/pgbackrest/pgbackrest.conf"] for name in "wp")
    assert isinstance(holder, File) and isinstance(proves, File)
    assert "tls-server-auth=p=prod" in holder.content
    assert "repo1-host=w" in proves.content and "tls-server" not in proves.content


def test_a_host_of_a_repository_lets_others_at_the_backups_that_the_cluster_begins_with(context_of: Build) -> None:
    context = context_of(
        "witness-node", backup={"posix": {"on": "witness-node"}}, bootstrap={"from_backup": {"stanza": "old"}}
    )
    config = {r.id: r for r in pgbackrest.build(context)}["file:/etc/pgbackrest/pgbackrest.conf"]
    assert isinstance(config, File)
    assert [line for line in config.content.splitlines() if "auth=pg-node1" in line] == [
        "tls-server-auth=pg-node1=prod,old"
    ]


def test_without_a_node_for_it_every_data_node_can_and_the_witness_cannot(context_of: Build) -> None:
    for node in ("pg-node1", "witness-node"):
        context = context_of(node, backup={"posix": {"on": "witness-node"}})
        names = {r.name for r in backup.build(context) if isinstance(r, UnitFile) and not r.absent}
        assert ("pgha-drill.service" in names) == (node == "pg-node1")
