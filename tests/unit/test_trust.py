"""Whom a minion obeys: what a WELCOME must be, and what stays when the master or its keys change."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pgha.common.codec import decode
from pgha.common.errors import BusError
from pgha.common.keys import new_key_pair, public_text
from pgha.common.messages import FROM_MINION, VERSION, Event, Message, NextKey, Rotate, SuccessorKnown, Welcome
from pgha.common.names import new_job_id
from pgha.common.signing import Signer, Verifier
from pgha.minion import agent as agent_module
from pgha.minion.agent import Agent
from pgha.minion.journal import Journal
from pgha.minion.line import Line
from pgha.minion.outbox import Outbox
from pgha.minion.settings import Settings
from pgha.minion.trust import Identity, MasterKeys, Trust

NONCE = b"n" * 16
SERVER = new_key_pair().public


class Quiet:
    """Neither sees nor does anything: `Sampler` and `Worker`."""

    def poll(self) -> None: ...

    def give_up(self) -> None: ...

    def close(self) -> None: ...


class Wire:
    """A `Dialer`, and what was said on it."""

    def __init__(self) -> None:
        self.said: list[Message] = []

    async def send(self, frames: list[bytes]) -> bool:
        self.said.append(decode(frames, FROM_MINION))
        return True


def line_of(wire: Wire, signer: Signer, outbox: Outbox) -> Line:
    return Line(cast(Any, wire), outbox, Verifier(signer.public), VERSION, 0)


def welcome(**changed: Any) -> Welcome:
    values = {"name": "n1", "mepoch": 5, "hw": 0, "credit": 9, "now_ms": 1, "version": VERSION, "credit_bytes": 9}
    return Welcome(**{**values, **changed})


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signing.key")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    yield journal
    journal.close()


@pytest.fixture
def greet(tmp_path: Path, signer: Signer, journal: Journal) -> Callable[[Welcome], None]:
    """The minion n1 takes that for the answer to its HELLO. Raises BusError when it does not."""
    keys = MasterKeys(SERVER, signer.public)
    settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")

    async def take(answer: Welcome) -> None:
        agent = Agent(settings, Identity(tmp_path / "minion.key"), Trust(tmp_path / "trust", keys), journal)
        dialer: Any = None
        agent._greeter.welcome(dialer, answer, NONCE, keys, 0)

    return lambda answer: asyncio.run(take(answer))


def test_a_welcome_for_this_minion_is_obeyed(greet: Callable[[Welcome], None], signer: Signer) -> None:
    greet(signer.welcome(welcome(), NONCE))


def test_a_welcome_that_was_signed_for_another_minion_is_not_obeyed(
    greet: Callable[[Welcome], None], signer: Signer, journal: Journal
) -> None:
    """Somebody passes on what the true master has said to him."""
    with pytest.raises(BusError, match="for thief, and this is n1; not obeyed"):
        greet(signer.welcome(welcome(name="thief"), NONCE))
    assert journal.master_epoch == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "n2"},
        {"mepoch": 6},
        {"hw": 1},
        {"credit": 8},
        {"now_ms": 2},
        {"version": VERSION + 1},
        {"credit_bytes": 8},
        {"signing_key": b"k" * 32},
        {"session": b"s" * 32},
    ],
)
def test_nothing_in_a_welcome_can_be_changed_on_its_way(signer: Signer, changed: dict[str, Any]) -> None:
    signed, verifier = signer.welcome(welcome(), NONCE), Verifier(signer.public)
    assert verifier.welcome(signed, NONCE)
    assert not verifier.welcome(signed, b"m" * 16)
    assert not verifier.welcome(signed.model_copy(update=changed), NONCE)


def test_what_nobody_thought_of_ends_a_line_and_never_the_minion(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs run here, and would be cancelled with it."""
    settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")
    monkeypatch.setattr(agent_module, "BACKOFF_S", (0.01, 0.02))
    lines, quiet = iter(range(3)), cast(Any, Quiet())

    async def live() -> None:
        agent = Agent(
            settings, Identity(tmp_path / "minion.key"), Trust(tmp_path / "trust", MasterKeys(SERVER)), journal
        )
        agent.sampler, agent.worker = quiet, quiet

        async def break_down() -> bool:
            if next(lines) == 2:
                agent.stop()
            raise RuntimeError("too many open files")

        monkeypatch.setattr(agent, "_session", break_down)
        await asyncio.wait_for(agent.run(), 10)

    asyncio.run(live())
    assert next(lines, None) is None


def test_a_disk_that_takes_no_key_breaks_no_line_and_is_asked_again(
    tmp_path: Path, journal: Journal, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")
    keys, wire, room = MasterKeys(SERVER, signer.public), Wire(), [False, True, False, True]
    line = line_of(wire, signer, Outbox(journal, 0, 9, 0))
    fsync = os.fsync

    def full(handle: int) -> None:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    async def live() -> None:
        agent = Agent(settings, Identity(tmp_path / "minion.key"), Trust(tmp_path / "trust", keys), journal)
        monkeypatch.setattr(os, "fsync", full)
        for _ in range(2):
            await agent._take(Rotate(), line)
            room.pop(0)
        assert agent.identity.next is not None
        assert wire.said == [NextKey(public=agent.identity.next.public)]
        successor = signer.successor(b"s" * 32, b"t" * 32)
        for _ in range(2):
            await agent._take(successor, line)
            room.pop(0) if len(room) > 1 else None
        assert wire.said[1:] == [SuccessorKnown(server_key=b"s" * 32)]
        assert Trust.load(tmp_path / "trust", SERVER).next == MasterKeys(b"s" * 32, b"t" * 32)
        with pytest.raises(BusError, match="not signed"):
            await agent._take(successor.model_copy(update={"signature": b"x"}), line)

    asyncio.run(live())


def test_keys_that_a_welcome_proved_hold_while_the_disk_is_full_and_are_written_later(
    tmp_path: Path, journal: Journal, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(master="127.0.0.1:1", fingerprint=public_text(SERVER), name="n1")
    path, nobody = tmp_path / "trust", cast(Any, None)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def live() -> None:
        agent = Agent(settings, Identity(tmp_path / "minion.key"), Trust(path, MasterKeys(SERVER)), journal)
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            agent._greeter.welcome(nobody, signer.welcome(welcome(), NONCE), NONCE, agent.trust.now, 0)
        assert not path.exists()
        stranger = Signer(tmp_path / "stranger.key")
        with pytest.raises(BusError, match="not its signing key"):
            agent._greeter.welcome(nobody, stranger.welcome(welcome(), NONCE), NONCE, agent.trust.now, 0)
        agent._greeter.welcome(nobody, signer.welcome(welcome(), NONCE), NONCE, agent.trust.now, 0)
        assert Trust.load(path, SERVER).now == MasterKeys(SERVER, signer.public)

    asyncio.run(live())


def test_a_master_that_has_more_than_the_journal_ever_made_is_answered_under_a_new_epoch(
    greet: Callable[[Welcome], None], signer: Signer, journal: Journal
) -> None:
    """The disk of this host was restored: numbers that were used once would be used again, and never be sent."""
    for _ in range(5):
        journal.record(new_job_id(), 1, "out", {})
    journal.acknowledge(2)
    before = journal.epoch
    with pytest.raises(BusError, match="a new epoch"):
        greet(signer.welcome(welcome(hw=20), NONCE))
    assert journal.epoch != before
    greet(signer.welcome(welcome(hw=0), NONCE))
    assert [event.seq for event in Outbox(journal, 0, 9, 0).next() if isinstance(event, Event)] == [1, 2, 3]


def test_a_host_that_was_enrolled_with_another_master_keeps_nothing_of_the_keys_before(
    tmp_path: Path, signer: Signer
) -> None:
    path, other = tmp_path / "trust", new_key_pair().public
    Trust(path, MasterKeys(SERVER)).greeted(MasterKeys(SERVER), signer.public, SERVER)
    assert Trust.load(path, SERVER).now == MasterKeys(SERVER, signer.public)
    moved = Trust.load(path, other)
    assert (moved.now, moved.names) == (MasterKeys(other), {public_text(other)})


def test_a_host_that_was_enrolled_anew_with_the_changed_key_of_its_master_knows_it(
    tmp_path: Path, signer: Signer
) -> None:
    path, changed = tmp_path / "trust", new_key_pair().public
    trust = Trust(path, MasterKeys(SERVER))
    trust.greeted(trust.now, signer.public, SERVER)
    trust.succeed(signer.successor(changed, b"s" * 32), SERVER)
    again = Trust.load(path, changed)
    assert again.candidates() == [MasterKeys(SERVER, signer.public), MasterKeys(changed, b"s" * 32)]
    assert again.names == {public_text(SERVER), public_text(changed)}
