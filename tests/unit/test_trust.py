"""Whom a minion obeys: what a WELCOME must be, and what stays when the master or its keys change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pgha.common.errors import BusError
from pgha.common.keys import new_key_pair, public_text
from pgha.common.messages import VERSION, Welcome
from pgha.common.signing import Signer, Verifier
from pgha.minion import agent as agent_module
from pgha.minion.agent import Agent
from pgha.minion.journal import Journal
from pgha.minion.settings import Settings
from pgha.minion.trust import Identity, MasterKeys, Trust

NONCE = b"n" * 16
SERVER = new_key_pair().public


class Quiet:
    """Neither sees nor does anything: `Sampler` and `Worker`."""

    def poll(self) -> None: ...

    def give_up(self) -> None: ...

    def close(self) -> None: ...


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
        agent._welcome(dialer, answer, NONCE, keys)

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
