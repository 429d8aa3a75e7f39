"""What a minion remembers over its own death."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pgha.common.errors import HostError
from pgha.minion import journal as journal_module
from pgha.minion.journal import Journal
from pgha.states.converge import NEVER

ONE = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TWO = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
LATER = 10**15


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """`reopen()`: the journal as a new process finds it; the one before it is closed without a word."""
    opened: list[Journal] = []

    def make() -> Journal:
        if opened:
            opened[-1].close()
        opened.append(Journal(tmp_path / "state/journal.db"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def journal(reopen: Callable[[], Journal]) -> Journal:
    return reopen()


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many acknowledged events of 10 bytes stay: fewer than in earnest, so that the test is over soon."""
    monkeypatch.setattr(journal_module, "RING_BYTES", 200)
    return 20


def kinds(journal: Journal) -> list[str]:
    return [event.kind for event in journal.events_after(0, 10_000)]


def test_a_job_is_accepted_once_also_after_a_restart(journal: Journal, reopen: Callable[[], Journal]) -> None:
    assert journal.accept(ONE, 1, "call", LATER)
    assert not journal.accept(ONE, 1, "call", LATER)
    again = reopen()
    assert again.seen(ONE, 1)
    assert not again.accept(ONE, 1, "call", LATER)
    assert again.accept(ONE, 2, "call", LATER)


def test_events_are_numbered_from_one_without_a_gap(journal: Journal) -> None:
    journal.accept(ONE, 1, "call", LATER)
    journal.start(ONE, 1)
    journal.record(ONE, 1, "out", {"text": "é"})
    journal.finish(ONE, 1, "done", {"ok": True})
    events = journal.events_after(0, 100)
    assert [(event.seq, event.kind) for event in events] == [(1, "started"), (2, "out"), (3, "done")]
    assert json.loads(events[1].body) == {"text": "é"}
    assert journal.events_after(1, 1) == events[1:2]
    assert (journal.lowest(), journal.highest()) == (1, 3)


def test_an_empty_journal_has_nothing_to_send(journal: Journal) -> None:
    assert (journal.lowest(), journal.highest(), journal.acked) == (1, 0, 0)


def test_a_state_and_the_event_that_tells_of_it_are_one(journal: Journal, tmp_path: Path) -> None:
    """An event that cannot be written leaves the job as it was."""
    journal.accept(ONE, 1, "call", LATER)
    with sqlite3.connect(tmp_path / "state/journal.db") as other:
        other.execute("create trigger no before insert on events begin select raise(abort, 'disk full'); end")
    with pytest.raises(HostError, match="does not take the write: disk full"):
        journal.start(ONE, 1)
    assert [(job.jid, job.state) for job in journal.open_jobs()] == [(ONE, "accepted")]
    assert journal.events_after(0, 10) == []


def test_what_ran_when_the_process_died_is_interrupted_once_and_what_had_ended_is_not(
    journal: Journal, reopen: Callable[[], Journal]
) -> None:
    for jid in (ONE, TWO):
        journal.accept(jid, 1, "state", LATER)
        journal.start(jid, 1)
    journal.finish(TWO, 1, "done", {"ok": True})
    again = reopen()
    assert kinds(again) == ["started", "started", "done", "interrupted"]
    told = again.events_after(3, 1)[0]
    assert told.jid == ONE
    assert "restarted" in json.loads(told.body)["reason"]
    assert again.open_jobs() == ()
    assert kinds(reopen()) == ["started", "started", "done", "interrupted"]


def test_a_job_that_was_accepted_and_not_begun_is_known_to_have_had_no_effect(
    journal: Journal, reopen: Callable[[], Journal]
) -> None:
    journal.accept(ONE, 1, "state", LATER)
    again = reopen()
    assert kinds(again) == ["cancelled"]
    assert "before it began" in json.loads(again.events_after(0, 1)[0].body)["reason"]
    assert not again.accept(ONE, 1, "state", LATER)


def test_the_epoch_and_what_was_acknowledged_outlive_the_process(
    journal: Journal, reopen: Callable[[], Journal]
) -> None:
    journal.record(ONE, 1, "out", {})
    journal.acknowledge(1)
    journal.remember_master_epoch(7)
    journal.accept(ONE, 1, "call", LATER)  # what was told is written down with what is done about it
    again = reopen()
    assert (again.epoch, again.acked, again.master_epoch) == (journal.epoch, 1, 7)


def test_a_new_journal_has_another_epoch(journal: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "other.db")
    assert other.epoch != journal.epoch
    other.close()


def test_the_newest_acknowledged_events_stay_and_the_rest_goes(journal: Journal, ring: int) -> None:
    for number in range(10, ring + 20):
        journal.record(ONE, 1, "out", {"n": number, "": 1})
    journal.acknowledge(ring + 5)
    journal.tidy(0)
    assert journal.highest() == ring + 10
    assert 1 < journal.lowest() < ring + 5
    assert sum(len(event.body) for event in journal.events_after(0, 100) if event.seq <= ring + 5) <= 200
    assert journal.acked == ring + 5


def test_acknowledged_events_go_after_a_day(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.record(ONE, 1, "out", {})
    journal.acknowledge(1)
    journal.tidy(0)
    assert journal.lowest() == 1
    monkeypatch.setattr(journal_module, "RING_S", -1.0)
    journal.tidy(0)
    assert (journal.lowest(), journal.highest()) == (2, 1)


def test_what_was_not_acknowledged_is_never_dropped(journal: Journal, ring: int) -> None:
    for number in range(ring + 10):
        journal.record(ONE, 1, "out", {"n": number})
    journal.tidy(LATER * 2)
    assert journal.lowest() == 1


def test_a_spool_is_full_when_too_much_waits_and_has_room_again_when_it_was_taken(
    journal: Journal, reopen: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SPOOL_BYTES", 30)
    for number in range(3):
        assert not journal.full
        journal.record(ONE, 1, "out", {"number": number})
    assert journal.full
    assert journal.waiting == (3, 36)
    again = reopen()
    assert again.waiting == (3, 36)
    again.acknowledge(1)
    assert again.waiting == (2, 24)
    assert not again.full


def test_a_job_that_was_cancelled_before_it_came_has_been_seen(journal: Journal) -> None:
    journal.never(ONE, 1, LATER)
    journal.never(ONE, 1, LATER)
    assert not journal.accept(ONE, 1, "call", LATER)
    assert kinds(journal) == ["cancelled"]


def test_an_acknowledgement_neither_goes_back_nor_beyond_what_there_is(journal: Journal) -> None:
    journal.record(ONE, 1, "out", {})
    journal.record(ONE, 1, "out", {})
    journal.acknowledge(2**60)
    assert journal.acked == 2
    journal.acknowledge(1)
    assert journal.acked == 2


def test_numbers_go_on_when_all_events_are_gone(journal: Journal, tmp_path: Path) -> None:
    journal.record(ONE, 1, "out", {})
    journal.acknowledge(1)
    with sqlite3.connect(tmp_path / "state/journal.db") as other:
        other.execute("delete from events")
    assert journal.lowest() == 2
    journal.record(ONE, 1, "out", {})
    assert journal.events_after(0, 9)[0].seq == 2


def test_a_job_is_forgotten_a_day_after_its_deadline_and_no_sooner(journal: Journal) -> None:
    day = 24 * 3600 * 1000
    journal.accept(ONE, 1, "call", 1000)
    journal.accept(TWO, 1, "call", 1000)
    journal.finish(ONE, 1, "done", {})
    journal.tidy(1000 + day)
    assert journal.seen(ONE, 1)
    journal.tidy(1001 + day)
    assert not journal.seen(ONE, 1)
    assert journal.seen(TWO, 1)  # it has not ended


def test_a_journal_that_is_older_than_what_it_told_begins_a_new_epoch_with_what_waits(
    journal: Journal, reopen: Callable[[], Journal]
) -> None:
    for number in range(10):
        journal.record(ONE, 1, "out", {"n": number})
    journal.acknowledge(7)
    journal.remember_master_epoch(5)
    before = journal.epoch
    journal.renew()
    journal.record(ONE, 1, "done", {})
    finds: list[Callable[[], Journal]] = [lambda: journal, reopen]
    for find in finds:
        one = find()
        assert one.epoch == journal.epoch != before
        assert (one.acked, one.highest(), one.lowest(), one.master_epoch) == (0, 4, 1, 5)
        assert one.waiting == (4, 3 * len(b'{"n":7}') + 2)
        assert [(e.seq, json.loads(e.body).get("n")) for e in one.events_after(0, 9)] == [
            (1, 7),
            (2, 8),
            (3, 9),
            (4, None),
        ]


def test_a_new_epoch_that_the_disk_does_not_take_is_none(journal: Journal, tmp_path: Path) -> None:
    journal.record(ONE, 1, "out", {})
    before = journal.epoch
    with sqlite3.connect(tmp_path / "state/journal.db") as other:
        other.execute("create trigger no before update on events begin select raise(abort, 'disk full'); end")
    with pytest.raises(HostError, match="disk full"):
        journal.renew()
    assert (journal.epoch, journal.highest(), journal.waiting) == (before, 1, (1, 2))


def test_another_master_is_told_nothing_of_what_was_before_it(journal: Journal, reopen: Callable[[], Journal]) -> None:
    journal.belong_to("master-a", {"master-a"})
    journal.remember_master_epoch(5)
    for _ in range(3):
        journal.record(ONE, 1, "out", {"text": "secret"})
    journal.accept(ONE, 1, "call", LATER)
    journal.acknowledge(1)
    before = journal.epoch
    same = reopen()
    same.belong_to("master-a", {"master-a"})
    assert (same.epoch, same.highest()) == (before, 4)  # the job that had not begun is cancelled
    same.belong_to("master-b", {"master-b"})
    finds: list[Callable[[], Journal]] = [lambda: same, reopen]
    for find in finds:
        one = find()
        one.belong_to("master-b", {"master-b"})
        assert one.epoch == same.epoch != before
        assert (one.acked, one.highest(), one.waiting, one.master_epoch) == (0, 0, (0, 0), 0)
        assert one.events_after(0, 9) == []
        assert one.seen(ONE, 1)


def test_a_master_that_has_changed_its_key_is_the_same_one(journal: Journal) -> None:
    journal.belong_to("key-1", {"key-1"})
    journal.record(ONE, 1, "out", {})
    before = journal.epoch
    journal.belong_to("key-2", {"key-1", "key-2"})
    journal.belong_to("key-2", {"key-2"})
    assert (journal.epoch, journal.highest()) == (before, 1)


def test_a_debt_that_is_written_down_is_not_written_again(journal: Journal) -> None:
    journal.owe("service:haproxy")
    journal.close()  # from now on every write fails
    journal.owe("service:haproxy")
    with pytest.raises(HostError, match="the journal does not take the write"):
        journal.owe("service:etcd")
    assert journal.debts() == {"service:haproxy": NEVER}


def test_a_debt_that_could_not_be_taken_off_is_still_owed(journal: Journal) -> None:
    journal.owe("service:haproxy")
    journal.close()
    with pytest.raises(HostError, match="the journal does not take the write"):
        journal.settle("service:haproxy")
    assert journal.owed("service:haproxy")


def test_debts_outlive_the_process_and_are_paid_once(journal: Journal, reopen: Callable[[], Journal]) -> None:
    journal.owe("service:haproxy")
    journal.owe("service:haproxy")
    again = reopen()
    assert again.debts() == {"service:haproxy": NEVER}
    assert again.owed("service:haproxy")
    again.settle("service:haproxy")
    again.settle("service:haproxy")
    assert reopen().debts() == {}


def test_a_debt_knows_since_when_it_is_due_and_a_new_change_makes_that_unknown_again(
    journal: Journal, reopen: Callable[[], Journal]
) -> None:
    journal.owe("service:etcd")
    assert journal.since("service:etcd") == NEVER
    journal.changed("service:etcd", 1234.5)
    again = reopen()
    assert again.since("service:etcd") == 1234.5
    again.owe("service:etcd")
    assert reopen().since("service:etcd") == NEVER


def test_the_file_is_for_its_owner_alone(journal: Journal, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "state/journal.db").stat().st_mode) == 0o600


def test_reading_from_a_disk_that_fails_is_a_sentence_too(journal: Journal) -> None:
    """And no error that nobody expects, which would end the minion and cancel what runs."""
    journal.record(ONE, 1, "out", {})
    journal.close()  # as every read and write fails on a file that cannot be read any more
    reads: list[Callable[[], object]] = [
        lambda: journal.seen(ONE, 1),
        journal.open_jobs,
        journal.lowest,
        lambda: journal.events_after(0, 9),
    ]
    for read in reads:
        with pytest.raises(HostError, match="the journal cannot be read"):
            read()
    with pytest.raises(HostError, match="the journal does not take the write"):
        journal.record(ONE, 1, "out", {})
    journal.acknowledge(1)
    assert (journal.acked, journal.waiting, journal.full) == (1, (0, 0), False)


def test_numbers_go_on_where_they_were_after_a_write_that_was_refused(journal: Journal, tmp_path: Path) -> None:
    journal.record(ONE, 1, "out", {})
    with sqlite3.connect(tmp_path / "state/journal.db") as other:
        other.execute("create trigger no before insert on events begin select raise(abort, 'disk full'); end")
    with pytest.raises(HostError):
        journal.record(ONE, 1, "out", {})
    assert (journal.highest(), journal.waiting) == (1, (1, 2))
    with sqlite3.connect(tmp_path / "state/journal.db") as other:
        other.execute("drop trigger no")
    journal.record(ONE, 1, "out", {"": 1})
    assert (journal.highest(), journal.waiting) == (2, (2, 8))
    assert [event.seq for event in journal.events_after(0, 9)] == [1, 2]


def test_an_acknowledgement_waits_for_no_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a worker's commit takes as long as a checkpoint makes it take."""
    journal.record(ONE, 1, "out", {})
    committing, go = threading.Event(), threading.Event()

    def busy(name: str) -> None:
        if name == "journal.record.before":
            committing.set()
            assert go.wait(10)

    monkeypatch.setattr(journal_module, "reach", busy)
    worker = threading.Thread(target=journal.record, args=(ONE, 1, "out", {}))
    worker.start()
    try:
        assert committing.wait(10)
        for tell in (lambda: journal.acknowledge(1), lambda: journal.remember_master_epoch(7)):
            loop = threading.Thread(target=tell, daemon=True)
            loop.start()
            loop.join(10)
            assert not loop.is_alive()
        assert (journal.acked, journal.waiting, journal.highest(), journal.full) == (1, (0, 0), 1, False)
    finally:
        go.set()
        worker.join(10)
    assert (journal.highest(), journal.waiting, journal.master_epoch) == (2, (1, 2), 7)


@pytest.mark.parametrize("trouble", ["a file where its folder should be", "a table that is not there"])
def test_a_journal_that_cannot_be_opened_is_a_sentence(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "state/journal.db"
    if trouble == "a file where its folder should be":
        path.parent.touch()
    else:
        Journal(path).close()
        with sqlite3.connect(path) as other:
            other.execute("drop table meta")
    with pytest.raises(HostError, match=f"cannot use the journal {path}"):
        Journal(path)


def test_a_damaged_journal_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(HostError, match=f"cannot use the journal {path}"):
        Journal(path)
