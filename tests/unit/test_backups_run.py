"""Whose turn a backup is, and what becomes of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pgha.common.errors import HostError
from pgha.common.installation import Installation
from pgha.common.telemetry import PatroniMember
from pgha.minion.backups.history import KEPT, History
from pgha.minion.backups.run import BUSY, Runner
from pgha.minion.backups.turn import Turn, decide
from pgha.states.system import Output

HERE = Installation(
    driver="pgbackrest",
    stanza="prod",
    node="b",
    operates=(1,),
    repositories=(1,),
    data=True,
    data_directory="/d",
    bin_dir="/b",
    port=5432,
    writes_port=5433,
    standby=True,
    data_nodes=("a", "b", "c"),
)


def member(name: str, role: str, state: str = "streaming") -> PatroniMember:
    return PatroniMember(name=name, role=role, state=state)


LEADER = member("a", "leader", "running")


@pytest.mark.parametrize(
    ("members", "standby", "turn"),
    [
        ([LEADER, member("b", "replica"), member("c", "replica")], True, Turn("b", True)),
        ([LEADER, member("c", "sync_standby"), member("b", "replica", "starting")], True, Turn("c", True)),
        ([LEADER], True, Turn("a", False)),
        ([LEADER, member("b", "replica")], False, Turn("a", False)),
    ],
    ids=["first standby", "one that streams", "nobody but the leader", "not wanted from a standby"],
)
def test_it_is_the_turn_of_the_first_standby_else_of_the_leader(
    members: list[PatroniMember], standby: bool, turn: Turn
) -> None:
    assert decide(HERE.model_copy(update={"standby": standby}), members) == turn


def test_without_a_leader_it_is_nobodys_turn() -> None:
    with pytest.raises(HostError, match="no member of the cluster leads"):
        decide(HERE, [member("b", "replica")])


class Tool:
    """pgbackrest, as far as a run asks it: `info` lists what `backup` has added."""

    def __init__(self, rc: int = 0, adds: bool = True, err: str = "") -> None:
        self.rc, self.adds, self.err = rc, adds, err
        self.labels = ["20260101-000000F"]
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: tuple[str, ...]) -> Output:
        self.asked.append(argv)
        if "info" in argv:
            sets = [
                {
                    "label": label,
                    "type": "full",
                    "timestamp": {"start": 1, "stop": 2},
                    "database": {"id": 1, "repo-key": 1},
                    "info": {"size": 10, "repository": {"delta": 1}},
                }
                for label in self.labels
            ]
            repo = [{"key": 1, "cipher": "none", "status": {"code": 0, "message": "ok"}}]
            return Output(0, json.dumps([{"name": "prod", "repo": repo, "backup": sets, "db": [], "archive": []}]))
        if self.rc == 0 and self.adds:
            self.labels.append("20260202-000000F")
        return Output(self.rc, "", self.err)


@pytest.mark.parametrize(
    ("tool", "ok", "error"),
    [
        (Tool(), True, ""),
        (Tool(rc=50, err="ERROR: [050]: unable to acquire lock"), False, BUSY),
        (Tool(rc=56, err="P00  ERROR: [056]: unable to find primary cluster"), False, "unable to find primary cluster"),
        (Tool(adds=False), False, "no new backup is in the repository"),
    ],
    ids=["done", "another one at it", "failed", "success without a backup"],
)
def test_a_run_is_written_down_as_what_it_came_to(tmp_path: Path, tool: Tool, ok: bool, error: str) -> None:
    history = History(tmp_path)
    (run,) = Runner(HERE, tool, lambda: 100.0, history).make("full", standby=True)
    assert (run.ok, run.label) == (ok, "20260202-000000F" if ok else "")
    assert error in run.error
    assert history.runs() == (run,)


def test_each_repository_gets_its_backup_also_when_another_one_fails(tmp_path: Path) -> None:
    tool = Tool(rc=56, err="ERROR: [056]: no")
    here = HERE.model_copy(update={"operates": (1, 2)})
    runs = Runner(here, tool, lambda: 1.0, History(tmp_path)).make("diff", standby=False)
    assert [run.repository for run in runs] == [1, 2]
    commands = [argv for argv in tool.asked if "backup" in argv]
    assert [next(w for w in argv if w.startswith("--repo=")) for argv in commands] == ["--repo=1", "--repo=2"]
    assert all("--no-backup-standby" in argv for argv in commands)


def test_the_history_keeps_the_latest_and_leaves_out_what_a_power_cut_garbled(tmp_path: Path) -> None:
    history = History(tmp_path)
    for _ in range(KEPT + 3):
        Runner(HERE, Tool(), lambda: 5.0, history).make("full", standby=True)
    assert len(history.runs()) == KEPT
    (tmp_path / "runs.jsonl").open("a").write('{"type": "full", "repo')
    assert len(history.runs()) == KEPT


def test_a_standby_is_preferred_and_not_demanded(tmp_path: Path) -> None:
    class Alone(Tool):
        def __call__(self, argv: tuple[str, ...]) -> Output:
            if "--backup-standby" in argv:
                self.asked.append(argv)
                return Output(56, "", "ERROR: [056]: unable to find standby cluster - cannot proceed")
            return super().__call__(argv)

    (run,) = Runner(HERE, Alone(), lambda: 1.0, History(tmp_path)).make("full", standby=True)
    assert run.ok


def test_while_data_is_kept_aside_no_backup_expires_another(tmp_path: Path) -> None:
    tool = Tool()
    Runner(HERE, tool, lambda: 1.0, History(tmp_path)).make("full", standby=True, expire=False)
    assert [argv for argv in tool.asked if "--no-expire-auto" in argv]
