"""Restarts and sudden deaths of either side: what ran is told once and truly, and nothing runs twice."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pgha.common.messages import Ack, Bye, Lost, Ping, Pong, Resync, Welcome

if TYPE_CHECKING:
    from .conftest import Master, Minion, Stranger


def journal_has(minion: Minion, kind: str) -> bool:
    with sqlite3.connect(f"file:{minion.journal}?mode=ro", uri=True) as journal:
        return bool(journal.execute("select 1 from events where kind=?", (kind,)).fetchone())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_what_a_command_did_while_the_master_was_away_arrives_once_and_in_order(
    master: Master, minion: Callable[[str], Minion], until: Any, tmp_path: Path, number: signal.Signals
) -> None:
    one, go = minion("n1"), tmp_path / "go"
    script = f"echo begun; while [ ! -e {go} ]; do sleep 0.02; done; for i in 1 2 3 4 5 6 7 8; do echo $i; done; exit 7"
    cli = master.begin("run", "n1", "--", "sh", "-c", script)
    assert cli.stdout is not None
    while "begun" not in (line := cli.stdout.readline()):
        assert line
    master.signal(number)
    assert master.process is not None
    master.process.wait(10)
    _, err = cli.communicate(timeout=10)
    assert cli.returncode == 8
    assert "jobs list" in err
    go.touch()
    until("the end in the journal", lambda: journal_has(one, "done"))
    master.start()
    master.sees("n1")
    until("the end in the store", lambda: master.rows("select 1 from jobs where state='failed'"))
    events = master.rows("select seq, kind, body from events order by epoch, seq")
    assert [row[0] for row in events] == list(range(1, len(events) + 1))
    assert [row[1] for row in events if row[1] != "out"] == ["started", "done"]
    said = "".join(row[2] for row in events if row[1] == "out")
    assert [said.index(text) for text in ("begun", *"12345678")] == sorted(
        said.index(text) for text in ("begun", *"12345678")
    )
    assert master.rows("select count(*) from events where kind='done'") == [(1,)]
    assert '"exit_code":7' in master.rows("select outcome from jobs")[0][0]
    until("the command's own end", lambda: " failed " in master.cli("jobs", "list").out)
    assert master.answers("n1")


def test_a_minion_killed_in_the_middle_makes_the_job_unknown_and_never_runs_it_again(
    master: Master, minion: Callable[[str], Minion], until: Any, tmp_path: Path
) -> None:
    one, told = minion("n1"), tmp_path / "told"
    cli = master.begin("run", "n1", "--", "sh", "-c", f"echo $$ >> {told}; exec sleep 30")
    until("the command begun", lambda: told.exists() and told.read_text())
    one.kill()
    os.kill(int(told.read_text()), signal.SIGKILL)  # what systemd does with the rest of the unit
    one.start()
    _, err = cli.communicate(timeout=20)
    assert cli.returncode == 1
    assert "unknown" in err
    assert "restarted while the job ran" in err
    assert "1 no answer" in err
    assert master.rows("select state from jobs") == [("unknown",)]
    assert master.answers("n1")
    assert len(told.read_text().split()) == 1


def test_a_minion_that_lost_its_journal_leaves_its_job_unknown_and_works_on(
    master: Master, minion: Callable[[str], Minion], until: Any, tmp_path: Path
) -> None:
    one, told = minion("n1"), tmp_path / "told"
    cli = master.begin("run", "n1", "--", "sh", "-c", f"echo $$ >> {told}; exec sleep 30")
    until("the command begun", lambda: told.exists() and told.read_text())
    until("the master to know", lambda: master.rows("select 1 from jobs where state='started'"))
    one.kill()
    os.kill(int(told.read_text()), signal.SIGKILL)
    for path in one.journal.parent.glob("journal.db*"):
        path.unlink()
    one.start()
    _, err = cli.communicate(timeout=20)
    assert cli.returncode == 1
    assert "lost its journal" in err
    assert master.answers("n1")
    assert master.rows("select state from jobs where mode='call' order by jid")[0] == ("unknown",)
    assert len(told.read_text().split()) == 1


def test_a_minion_that_hangs_is_told_as_no_answer_and_its_late_one_is_still_taken(pair: Master, until: Any) -> None:
    hanging = pair.minions["n2"]
    hanging.signal(signal.SIGSTOP)
    try:
        said = pair.cli("run", "*", "ping")
    finally:
        hanging.signal(signal.SIGCONT)
    assert said.code == 4
    assert "1 ok, 0 failed, 1 no answer" in said.err
    assert "silent" in said.err
    until(
        "its late answer",
        lambda: pair.rows("select state from jobs where node='n2' order by jid desc limit 1") == [("done",)],
        15,
    )
    until("n2 back", lambda: pair.answers("n2"))


def test_a_minion_finds_a_restarted_master_by_itself(master: Master, minion: Callable[[str], Minion]) -> None:
    minion("n1")
    master.kill()
    master.start()
    master.sees("n1")
    assert master.answers("n1")


def test_a_stopped_minion_ends_cleanly_and_a_stopped_master_too(
    master: Master, minion: Callable[[str], Minion]
) -> None:
    one = minion("n1")
    assert one.stop() == 0
    assert master.stop() == 0
    assert "Traceback" not in one.log + master.log
    assert not master.socket_path.exists()


def test_a_master_whose_clock_was_wrong_gives_no_orders_says_why_and_can_take_over(
    master: Master, minion: Callable[[str], Minion], until: Any
) -> None:
    one = minion("n1")
    assert master.cli("run", "n1", "--", "true").code == 0  # with an order the minion writes down whose it was
    master.stop()
    with sqlite3.connect(one.journal) as journal:
        journal.execute("update meta set value=value+1000000 where key='mepoch'")
    one.stop()
    one.start()
    master.start()
    until("the minion's refusal", lambda: "newer master" in one.log)
    until("the master's own words", lambda: "n1 has obeyed a newer master" in master.log)
    assert "n1" not in master.connected()
    assert "stop it first" in master.cli("init", "--supersede").text
    master.stop()
    assert master.cli("init", "--supersede").code == 0
    master.start()
    master.sees("n1", 20)
    assert master.answers("n1")


def test_a_gap_is_asked_for_and_a_repetition_is_acknowledged_and_stored_once(
    master: Master, member: Callable[..., Stranger]
) -> None:
    one = member(master, "n1")
    one.event(1)
    assert one.hear() == Ack(epoch="e1", seq=1)
    one.event(3)
    assert one.hear() == Resync(epoch="e1", from_seq=2)
    one.event(1)
    assert one.hear() == Ack(epoch="e1", seq=1)
    one.event(2)
    assert one.hear() == Ack(epoch="e1", seq=2)
    assert master.rows("select seq from events where node='n1' order by seq") == [(1,), (2,)]


def test_a_store_that_lost_the_beginning_of_a_stream_goes_on_where_the_minion_still_can(
    master: Master, member: Callable[..., Stranger]
) -> None:
    one = member(master, "n1")
    welcome = one.hello(epoch="e2", spool_lo=5, spool_hi=7, acked=7, speaks=2)
    assert isinstance(welcome, Welcome)
    assert welcome.hw == 0
    one.event(5, epoch="e2")
    assert one.hear() == Resync(epoch="e2", from_seq=1)
    one.say(Lost(epoch="e2", first_seq=1, last_seq=4))
    assert one.hear() == Ack(epoch="e2", seq=4)
    assert master.rows("select body from events where kind='lost'") == [('{"first":1,"last":4}',)]
    for seq in (5, 6):
        one.event(seq, epoch="e2")
        assert one.hear() == Ack(epoch="e2", seq=seq)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("done", b"1"),
        ("done", b'{"ok": "perhaps"}'),
        ("done", b"[" * 100_000),
        ("done", b'{"ok": true, "message": "\\ud800"}'),
        ("done", '{"ok": true}'.encode("utf-16")),
        ("out", b"{}"),
        ("out", b'{"stream": "stdout", "text": "\\ud800"}'),
        ("res", b'{"resource": "x"}'),
        ("started", b"[]"),
        ("started", b"\xff"),
    ],
)
def test_an_event_whose_body_is_wrong_is_not_stored_and_breaks_nothing(
    member_of_its_own: tuple[Master, Stranger], kind: str, body: bytes
) -> None:
    master, one = member_of_its_own
    (seq,) = master.rows("select coalesce(max(hw), 0) + 1 from streams where node='n9'")[0]
    one.event(seq, body, kind=kind)
    assert one.hear() == Ack(epoch="e1", seq=seq)  # or its minion would send it for ever
    one.say(Ping(mono_ms=4))
    assert one.hear() == Pong(mono_ms=4)
    assert master.rows("select * from events") == []
    assert "Traceback" not in master.log


def test_who_speaks_before_hello_is_asked_for_one(
    master: Master, member: Callable[..., Stranger], stranger: Callable[..., Stranger]
) -> None:
    one = member(master, "n1")
    again = stranger(master, one.keys)
    again.say(Ping(mono_ms=1))
    answer = again.hear()
    assert isinstance(answer, Bye)
    assert "HELLO" in answer.reason


def test_a_minion_that_is_stopped_in_the_middle_of_a_command_ends_it_and_tells_so(
    master: Master, minion: Callable[[str], Minion], until: Any, tmp_path: Path
) -> None:
    one, told = minion("n1"), tmp_path / "told"
    cli = master.begin("run", "n1", "--", "sh", "-c", f"echo $$ >> {told}; exec sleep 300")
    until("the command begun", lambda: told.exists() and told.read_text())
    assert one.stop() == 0
    assert not Path(f"/proc/{told.read_text().strip()}").exists()
    one.start()
    _, err = cli.communicate(timeout=20)
    assert cli.returncode == 1
    assert "cancelled" in err
    assert "Traceback" not in one.log
    assert len(told.read_text().split()) == 1
