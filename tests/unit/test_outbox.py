"""Which events go out next: in order, within the credit, again from where the master asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pgha.common.codec import decode
from pgha.common.keys import new_key_pair, public_text
from pgha.common.messages import FROM_MINION, VERSION, Event, Lost, Message, Resync
from pgha.common.names import new_job_id
from pgha.common.signing import Signer, Verifier
from pgha.minion.agent import Agent
from pgha.minion.journal import Journal
from pgha.minion.line import Line
from pgha.minion.outbox import Outbox
from pgha.minion.settings import Settings
from pgha.minion.trust import Identity, MasterKeys, Trust

SERVER = new_key_pair().public


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """With ten events of ten bytes."""
    journal = Journal(tmp_path / "journal.db")
    for number in range(10):
        journal.record(new_job_id(), 1, "out", {"n": 1000 + number})
    yield journal
    journal.close()


def numbers(messages: list[Event | Lost]) -> list[int]:
    return [message.seq for message in messages if isinstance(message, Event)]


def test_no_more_is_sent_than_may_be_unacknowledged(journal: Journal) -> None:
    outbox = Outbox(journal, 2, 3, 0)
    for message in outbox.next():
        outbox.took(message)
    assert outbox.sent == 5
    assert outbox.next() == []
    outbox.acknowledge(4)
    assert numbers(outbox.next()) == [6, 7]


def test_it_is_behind_until_all_was_sent_and_again_when_more_comes(journal: Journal) -> None:
    outbox = Outbox(journal, 2, 99, 0)
    said = [outbox.behind]
    for message in outbox.next():
        outbox.took(message)
    said.append(outbox.behind)
    journal.record(new_job_id(), 1, "out", {})
    said.append(outbox.behind)
    outbox.acknowledge(11)
    said.append(outbox.behind)
    outbox.resync(5)
    assert [*said, outbox.behind] == [True, False, True, False, True]


def test_what_is_no_longer_held_is_told_as_lost(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgha.minion.journal.RING_S", -1.0)
    journal.acknowledge(6)
    journal.tidy(0)
    outbox = Outbox(journal, 2, 9, 0)
    (lost,) = outbox.next()
    assert lost == Lost(epoch=journal.epoch, first_seq=3, last_seq=6)
    assert outbox.expects(lost)
    outbox.took(lost)
    assert not outbox.expects(lost)
    assert numbers(outbox.next()) == [7, 8, 9, 10]


def test_what_was_read_before_the_master_asked_for_others_is_not_what_comes_next(journal: Journal) -> None:
    outbox = Outbox(journal, 4, 9, 0)
    first, second, *_ = outbox.next()
    assert outbox.expects(first)
    outbox.took(first)
    assert not outbox.expects(first)
    assert outbox.expects(second)
    outbox.resync(3)
    assert not outbox.expects(second)
    assert numbers(outbox.next())[:2] == [3, 4]
    outbox.acknowledge(9)
    assert numbers(outbox.next()) == [10]


def test_a_resync_while_the_line_takes_nothing_is_followed_at_once(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")
    signer = Signer(tmp_path / "signing.key")
    sent: list[Message] = []

    async def live() -> None:
        agent = Agent(settings, Identity(tmp_path / "key"), Trust(tmp_path / "trust", MasterKeys(SERVER)), journal)
        full, all_out = [True], asyncio.Event()

        class Wire:
            async def send(self, frames: list[bytes]) -> bool:
                if len(sent) == 2 and full.pop():
                    await agent._take(Resync(epoch=journal.epoch, from_seq=2), line)
                    full.append(False)
                    return False
                sent.append(decode(frames, FROM_MINION))
                if vars(sent[-1])["seq"] == 10:
                    all_out.set()
                return True

        line = Line(cast(Any, Wire()), Outbox(journal, 4, 20, 0), Verifier(signer.public), VERSION, 0)
        reporting = asyncio.create_task(agent._report(line))
        agent.wake()
        await asyncio.wait_for(all_out.wait(), 10)
        reporting.cancel()

    asyncio.run(live())
    assert [vars(message)["seq"] for message in sent] == [5, 6, 2, 3, 4, 5, 6, 7, 8, 9, 10]
