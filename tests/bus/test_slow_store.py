"""A store whose commits take half a second: the minions' spools fill, the master's memory does not, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pgha.common.messages import Ack, Credit, Message, Resync, Welcome
from pgha.tests.bus.conftest import Stranger, until
from pgha.tests.bus.history import broken
from pgha.tests.bus.quick import Nursery, Site, a_nursery

BODY = b'{"stream":"stdout","text":"' + b"x" * 8000 + b'"}'
EVENTS, MOST_BYTES = 1200, 48 * 1024 * 1024


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


class Talker:
    """A minion that sends as much as it may, of one job that nobody ordered."""

    def __init__(self, stranger: Stranger) -> None:
        self.stranger, self.acked, self.sent = stranger, 0, 0
        self.credits: list[int] = []
        welcome = stranger.hello(speaks=2)
        assert isinstance(welcome, Welcome)
        self.credits.append(welcome.credit)
        self.jid = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

    def turn(self) -> bool:
        while self.sent < min(self.acked + self.credits[-1], EVENTS):
            self.sent += 1
            kind = "started" if self.sent == 1 else "out"
            self.stranger.event(self.sent, b"{}" if self.sent == 1 else BODY, kind=kind, jid=self.jid)
        while (message := self.stranger.hear(0.05)) is not None:
            self.take(message)
        return self.acked == EVENTS

    def take(self, message: Message) -> None:
        if isinstance(message, Ack):
            self.acked = max(self.acked, message.seq)
        elif isinstance(message, Credit):
            self.credits.append(message.events)
        assert not isinstance(message, Resync), "nothing was dropped on the way"


def test_credit_shrinks_memory_does_not_grow_and_every_event_is_stored(nursery: Nursery, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", nursery)
    site.master.failpoints = "store.commit.before=slow:0.5"
    site.master.start()
    assert site.master.process is not None
    master = psutil.Process(site.master.process.pid)
    one = site.stranger("n1")
    try:
        talker = Talker(one)
        before = most = master.memory_info().rss
        while not talker.turn():
            most = max(most, master.memory_info().rss)
            if min(talker.credits) < talker.credits[0]:
                break
        assert min(talker.credits) < talker.credits[0], talker.credits
        site.master.arm("")
        until("every event acknowledged", talker.turn, 60)
        until("credit as it was", lambda: talker.turn() and talker.credits[-1] >= talker.credits[0], 30)
        most = max(most, master.memory_info().rss)
        assert most - before < MOST_BYTES
        rows = site.master.rows("select count(*), min(seq), max(seq) from events where node='n1'")
        assert rows == [(EVENTS, 1, EVENTS)]
    finally:
        one.close()
        site.end()


def test_commands_take_longer_and_end_well(nursery: Nursery, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", nursery, ("n1", "n2"))
    try:
        site.start()
        site.master.arm("store.commit.before=slow:0.5")
        for _ in range(3):
            site.begin()
        site.wait()
        site.settled()
        history = site.history()
        assert broken(history) == []
        assert {job.state for job in history.jobs} == {"done"}
    finally:
        site.end()
