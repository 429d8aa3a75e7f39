"""`run` and `jobs` on real processes: in batches, cancelled, again, and across a restart of the master."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Master, Minion, Said

WORDS = {"queued", "accepted", "started", "done", "failed", "unknown", "expired", "refused", "cancelled"}
SH = ("--", "sh", "-c")


@pytest.fixture
def three(master: Master, minion: Callable[[str], Minion]) -> Iterator[Master]:
    """A master of this test's own with n1, n2 and n3."""
    for name in ("n1", "n2", "n3"):
        master.minions[name] = minion(name)
    yield master


def lines(said: Said) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.out.splitlines()]


def newest(master: Master) -> str:
    return str(master.ask("jobs.list", limit=1)[-1]["data"]["jobs"][0]["id"])


def nodes_of(master: Master, identity: str) -> dict[str, dict[str, Any]]:
    return {node["node"]: node for node in master.ask("jobs.show", id=identity)[-1]["data"]["nodes"]}


def states_of(master: Master, identity: str) -> dict[str, str]:
    return {name: node["state"] for name, node in nodes_of(master, identity).items()}


def operation(master: Master, identity: str) -> tuple[Any, ...]:
    return master.rows("select state, exit from operations where id=?", identity)[0]


def test_a_batch_begins_when_the_one_before_has_ended(three: Master, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"echo begin >> {told}; sleep 0.3; echo end >> {told}"
    said = three.cli("run", "*", "--batch", "1", *SH, script)
    assert said.code == 0, said.text
    assert told.read_text().split() == ["begin", "end"] * 3


def test_after_too_many_failures_nobody_begins_and_who_was_left_out_can_be_gone_on_with(
    three: Master, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    said = three.cli("run", "n1,n2,n3", "--batch", "1", *SH, f"echo x >> {ran}; test -e {tmp_path}/good")
    assert said.code == 1
    assert "0 ok, 1 failed, 0 no answer, 2 cancelled" in said.err
    assert "n1 is not done, and --max-fail allows 0; 2 nodes were not begun" in said.err
    assert len(ran.read_text().split()) == 1
    identity = newest(three)
    assert states_of(three, identity) == {"n1": "failed", "n2": "cancelled", "n3": "cancelled"}
    (tmp_path / "good").touch()
    assert three.cli("jobs", "resume", identity).code == 0
    assert len(ran.read_text().split()) == 3
    assert set(states_of(three, newest(three))) == {"n2", "n3"}
    again = three.cli("run", "--rerun", identity[:20], "--failed")
    assert "3 ok" in again.err, "of the first job none is done"
    nothing = three.cli("jobs", "rerun", newest(three), "--failed")
    assert nothing.code == 0
    assert "no node left" in nothing.out


def test_nobody_follows_a_canary_that_fails(three: Master, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    said = three.cli("run", "*", "--canary", *SH, f"echo x >> {ran}; false")
    assert said.code == 1
    assert "the canary n1 is not done" in said.err
    assert len(ran.read_text().split()) == 1


def test_a_good_canary_is_followed_by_all_the_others(three: Master) -> None:
    said = three.cli("run", "*", "--canary", "ping")
    assert said.code == 0
    assert "3 ok" in said.err


def test_a_number_that_is_none_is_refused_before_anything_runs(pair: Master) -> None:
    said = pair.cli("run", "*", "--batch", "many", "ping")
    assert said.code == 2
    assert "--batch many: expected a number of nodes" in said.err


def test_a_cancel_ends_what_runs_and_begins_nothing_more(three: Master, until: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    cli = three.begin("run", "*", "--batch", "1", "--max-fail", "9", *SH, f"echo $$ >> {told}; exec sleep 300")
    until("the command begun", lambda: told.exists() and told.read_text().strip())
    identity = newest(three)
    said = three.cli("jobs", "cancel", identity[:22])
    assert said.code == 0, said.text
    assert "3 cancelled" in said.out
    _, err = cli.communicate(timeout=20)
    assert cli.returncode == 1
    assert "cancelled by root" in err
    assert len(told.read_text().split()) == 1
    assert not Path(f"/proc/{told.read_text().strip()}").exists()
    assert operation(three, identity)[0] == "cancelled"
    once_more = three.cli("jobs", "cancel", identity)
    assert once_more.code == 0
    assert "has ended already: cancelled" in once_more.out


def test_the_words_of_every_job_and_operation_are_the_nine(pair: Master) -> None:
    pair.cli("run", "*", "--", "false")
    pair.cli("run", "n1", "ping")
    seen = {row[0] for table in ("jobs", "operations") for row in pair.rows(f"select state from {table}")}
    assert seen <= WORDS


def test_a_job_is_found_by_the_beginning_of_its_id(pair: Master) -> None:
    pair.cli("run", "n1", "--", "echo", "found")
    identity = newest(pair)
    assert "n1  found" in pair.cli("jobs", "show", identity[:24].lower()).out
    several = pair.cli("jobs", "show", identity[:2])
    assert several.code == 2
    assert "several jobs" in several.err
    for wrong in ("nothing", "%", "'; drop table jobs", "0" * 27):
        said = pair.cli("jobs", "show", wrong)
        assert said.code == 2
        assert "no job has the id" in said.err


def test_what_runs_is_shown_with_what_it_does_now(pair: Master, until: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    cli = pair.begin("run", "n1", *SH, f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done")
    try:
        identity = until(
            "it begun", lambda: newest(pair) if "begun" in pair.cli("jobs", "log", newest(pair)).out else ""
        )
        until("its state", lambda: states_of(pair, identity) == {"n1": "started"})
        said = pair.cli("jobs", "show", identity)
        assert said.code == 0
        assert re.search(r"^n1 +started", said.out, re.MULTILINE)
        assert "It still runs" in said.err
        refused = pair.cli("jobs", "rerun", identity)
        assert refused.code == 6
        assert "still runs" in refused.err
    finally:
        go.touch()
        cli.communicate(timeout=20)
    assert cli.returncode == 0


def test_the_log_of_one_node_holds_no_other_and_when_it_began_and_ended(pair: Master) -> None:
    pair.cli("run", "*", "--", "sh", "-c", "echo out; echo err >&2")
    said = pair.cli("jobs", "log", newest(pair), "--node", "n2")
    assert "n2  stdout  out" in said.out
    assert "n2  stderr  err" in said.out
    assert "n1  " not in said.out
    assert re.search(r"^n2( +\d\d:\d\d:\d\d\.\d{3}){4}  done$", said.out, re.MULTILINE)


def test_a_command_goes_on_in_its_batches_when_the_master_is_killed(three: Master, until: Any, tmp_path: Path) -> None:
    told, go = tmp_path / "told", tmp_path / "go"
    script = f"echo before; echo x >> {told}; while [ ! -e {go} ]; do sleep 0.05; done; echo after"
    cli = three.begin("run", "n1,n2,n3", "--batch", "2", *SH, script)
    until("two begun", lambda: told.exists() and len(told.read_text().split()) == 2)
    identity = newest(three)
    until("the master to know", lambda: list(states_of(three, identity).values()).count("started") == 2)
    three.kill()
    assert cli.wait(20) == 8
    three.start()
    go.touch()
    until("its end", lambda: operation(three, identity)[0] != "started", 60)
    assert operation(three, identity) == ("done", 0)
    assert states_of(three, identity) == {"n1": "done", "n2": "done", "n3": "done"}
    assert len(told.read_text().split()) == 3, "no node ran it twice"
    said = three.cli("jobs", "show", identity)
    for name in ("n1", "n2", "n3"):
        assert said.out.count(f"{name}  before\n{name}  after\n") == 1 or (
            said.out.count(f"{name}  before\n") == said.out.count(f"{name}  after\n") == 1
        ), "each line once"
    assert "the master was restarted; this goes on" in said.err


def test_what_ended_while_the_master_was_away_is_taken_from_its_minions(
    three: Master, until: Any, tmp_path: Path
) -> None:
    told, go = tmp_path / "told", tmp_path / "go"
    cli = three.begin(
        "run", "n1", *SH, f"echo x >> {told}; while [ ! -e {go} ]; do sleep 0.05; done; echo late; exit 3"
    )
    until("it begun", lambda: told.exists() and told.read_text())
    identity = newest(three)
    three.kill()
    cli.wait(20)
    go.touch()
    three.start()
    until("its end", lambda: operation(three, identity)[0] != "started", 60)
    assert operation(three, identity) == ("failed", 1)
    node = nodes_of(three, identity)["n1"]
    assert (node["state"], node["exit"]) == ("failed", 3)
    assert "n1  late" in three.cli("jobs", "show", identity).out


def test_an_operation_that_cannot_go_on_is_unknown_and_says_what_to_do(master: Master) -> None:
    master.kill()
    with contextlib.closing(sqlite3.connect(master.database)) as store, store:
        store.execute(
            "insert into operations (id, kind, what, who, cluster, state, started, request)"
            " values ('01ARZ3NDEKTSV4RRFFQ69G5FAV', 'apply', 'apply prod', 'anna', 'prod', 'started', 1.0, '')"
        )
    master.start()
    said = master.cli("jobs", "show", "01ARZ3")
    assert said.code == 1
    assert "resume: pgha-master jobs resume 01ARZ3NDEKTSV4RRFFQ69G5FAV" in said.err
    assert operation(master, "01ARZ3NDEKTSV4RRFFQ69G5FAV") == ("unknown", 1)
    again = master.cli("jobs", "resume", "01ARZ3")
    assert again.code == 2
    assert "is not known any more" in again.err


def test_a_node_that_is_not_there_gets_nothing_later(three: Master, until: Any, tmp_path: Path) -> None:
    three.minions["n2"].stop()
    until("n2 away", lambda: "n2" not in three.connected())
    said = three.cli("run", "n1,n2", *SH, f"echo $$ >> {tmp_path}/told")
    assert said.code == 4
    assert "1 ok, 0 failed, 0 no answer, 1 cancelled" in said.err
    assert "n2  cancelled: its minion is not connected; nothing was sent" in said.err
    three.minions["n2"].start()
    three.sees("n2")
    assert three.answers("n2")
    assert len((tmp_path / "told").read_text().split()) == 1


def test_a_file_goes_there_and_comes_back_whole(pair: Master, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8000
    (tmp_path / "local").write_bytes(content)
    there = tmp_path / "there"
    pushed = pair.cli("run", "n1", "file.push", str(there), "--file", str(tmp_path / "local"))
    assert pushed.code == 0, pushed.text
    assert there.read_bytes() == content
    got = pair.cli("run", "*", "file.get", str(there), "--into", str(tmp_path / "into"))
    assert got.code == 0, got.text
    for name in ("n1", "n2"):
        assert (tmp_path / "into" / name / "there").read_bytes() == content
    assert "there" in got.out


def test_a_function_of_procedures_alone_is_not_to_be_called_by_hand(pair: Master) -> None:
    end = pair.ask("run", target="n1", function="etcd.reset", args=["/"])[-1]
    assert end["exit"] == 2
    assert "not to be called by hand" in end["message"]


@pytest.mark.parametrize("timeout", [0, -1, 1e300, float("nan"), "x"])
def test_a_timeout_that_is_none_is_refused(pair: Master, timeout: object) -> None:
    end = pair.ask("run", target="n1", function="ping", timeout_s=timeout)[-1]
    assert end["exit"] == 2
    assert "timeout_s" in end["message"]
