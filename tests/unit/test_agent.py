"""The minion's loop: its heart beats while the disk does not answer, and what runs has an end when the minion stops."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pgha.common.codec import decode
from pgha.common.keys import new_key_pair, public_text
from pgha.common.messages import FROM_MINION, VERSION, Accept, Ack, Cancel, Job, Message, Ping, Refuse
from pgha.common.names import new_job_id
from pgha.common.signing import Signer, Verifier
from pgha.minion import agent as agent_module
from pgha.minion import journal as journal_module
from pgha.minion import worker as worker_module
from pgha.minion.agent import Agent
from pgha.minion.journal import Journal
from pgha.minion.line import Line
from pgha.minion.orders import Orders
from pgha.minion.outbox import Outbox
from pgha.minion.settings import Settings
from pgha.minion.trust import Identity, MasterKeys, Trust
from pgha.minion.worker import Worker
from pgha.states.testing import FakeSystem

SERVER = new_key_pair().public


class Wire:
    """A `Dialer`, and what was said on it."""

    def __init__(self) -> None:
        self.said: list[Message] = []

    async def send(self, frames: list[bytes]) -> bool:
        self.said.append(decode(frames, FROM_MINION))
        return True

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.said if isinstance(message, kind)]


class Blind:
    """A `Sampler` that sees nothing."""

    def poll(self) -> None: ...

    def sample(self) -> None: ...


class Site:
    """An agent with a line to a master that a test plays. Made inside of a loop."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.signer, self.wire, self.journal = Signer(folder / "signing.key"), Wire(), journal
        settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")
        trust = Trust(folder / "trust", MasterKeys(SERVER, self.signer.public))
        self.agent = agent = Agent(settings, Identity(folder / "minion.key"), trust, journal)
        agent.sampler = cast(Any, Blind())
        agent.worker = Worker(journal, FakeSystem(), agent.wake, agent.ended, agent.fetch)
        agent._orders = Orders("n1", journal, agent.worker, agent._answer)
        outbox = Outbox(journal, 0, 9, 0)
        self.line = Line(cast(Any, self.wire), outbox, Verifier(self.signer.public), VERSION, 0)

    def job(self, **changed: Any) -> Job:
        text = json.dumps({"function": "cmd", "arguments": ["true"], "timeout_s": 5.0}).encode()
        values: dict[str, Any] = {
            "jid": new_job_id(),
            "att": 1,
            "minion": "n1",
            "mepoch": 1,
            "cls": "call",
            "mode": "call",
            "not_after_ms": 2**60,
            "ttl_ms": 60_000,
            "sha256": hashlib.sha256(text).hexdigest(),
            "size": len(text),
            "document": text,
        }
        return self.signer.job(Job(**{**values, **changed}))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    yield journal
    journal.close()


async def until(what: str, event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10), what


def test_the_heart_beats_while_the_journal_waits_for_its_disk(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit takes as long as a checkpoint of the database beside it; a silent minion would count as dead."""
    monkeypatch.setattr(agent_module, "PING_S", 0.01)
    committing, go = threading.Event(), threading.Event()

    def busy(name: str) -> None:
        if name == "journal.record.before":
            committing.set()
            assert go.wait(15)

    async def live() -> None:
        site = Site(tmp_path, journal)
        agent, wire = site.agent, site.wire
        journal.record(new_job_id(), 1, "out", {})
        monkeypatch.setattr(journal_module, "reach", busy)
        writing = asyncio.create_task(asyncio.to_thread(journal.record, new_job_id(), 1, "out", {}))
        await until("the commit", committing)
        job = site.job()
        frames = [agent._take(job, site.line), agent._take(Cancel(jid=new_job_id(), att=1), site.line)]
        waiting = [asyncio.create_task(one) for one in (*frames, agent._report(site.line))]
        agent.wake()
        beating = asyncio.create_task(agent._beat(site.line))
        await agent._take(Ack(epoch=journal.epoch, seq=1), site.line)
        before = len(wire.of(Ping))
        while len(wire.of(Ping)) < before + 5:
            await asyncio.sleep(0)
        assert not any(task.done() for task in (*waiting, writing))
        assert wire.of(Accept) == []
        go.set()
        await asyncio.wait_for(asyncio.gather(writing, *waiting[:2]), 10)
        assert wire.of(Accept) == [Accept(jid=job.jid, att=1)]
        for task in (waiting[2], beating):
            task.cancel()
        await asyncio.to_thread(agent.worker.close)

    asyncio.run(asyncio.wait_for(live(), 30))


def test_a_job_that_fetches_when_the_minion_stops_has_its_end_in_the_journal(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def live() -> Job:
        site = Site(tmp_path, journal)
        agent, serving = site.agent, asyncio.Event()

        async def session() -> bool:
            agent._line = site.line
            serving.set()
            await agent._stopping.wait()
            return False

        monkeypatch.setattr(agent, "_session", session)
        running = asyncio.create_task(agent.run())
        await serving.wait()
        job = site.job(document=b"")
        await agent._take(job, site.line)
        while not any(message.type == "FETCH" for message in site.wire.said):
            await asyncio.sleep(0.01)
        agent.stop()
        await asyncio.wait_for(running, worker_module.LEAVE_S - 1)
        return job

    job = asyncio.run(asyncio.wait_for(live(), 30))
    ends = [(event.kind, json.loads(event.body)) for event in journal.events_after(0, 9) if event.jid == job.jid]
    assert ends == [("cancelled", {"reason": "it had not begun"})]


@pytest.mark.parametrize("why", ["being upgraded", "1 jobs are open"])
def test_a_job_for_which_there_is_no_room_is_refused_and_may_be_ordered_again(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def live() -> None:
        site = Site(tmp_path, journal)
        worker, taken, one, two = site.agent.worker, list[object](), site.job(cls="state", mode="apply"), site.job()
        monkeypatch.setattr(worker, "_turn", lambda current: None)  # it waits for its turn
        taken.append(site.agent._orders.take(one, site.line.verifier, 1))
        if why == "being upgraded":
            worker._held_until = 2.0**40
        else:
            monkeypatch.setattr(worker_module, "OPEN_JOBS", 1)
        refusal = site.agent._orders.take(two, site.line.verifier, 1)
        assert isinstance(refusal, Refuse)
        assert refusal.why == "busy"
        assert why in refusal.detail
        assert not journal.seen(two.jid, 1)
        taken.append(site.agent._orders.take(one, site.line.verifier, 1))
        assert taken == [Accept(jid=one.jid, att=1)] * 2
        worker.close()

    asyncio.run(live())
