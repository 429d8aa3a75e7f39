"""What becomes of a key that knocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pgha.common.keys import new_key_pair, public_text
from pgha.common.messages import Enrol
from pgha.master.bus.enrolment import PENDING_CAP, Decision, Token, decide
from pgha.master.store import MinionRow
from pgha.minion.enrol import token_proof

KEY = new_key_pair().public
TEXT = public_text(KEY)
NOW = 1000.0
TOKEN = Token("t1", "secret", "n1", NOW + 60)


def row(name: str, key: str, state: str, note: str = "") -> MinionRow:
    return MinionRow(name, key, state, "10.77.0.9", "m", note, 0.0, 0.0, "")


def ask(token: str = "", name: str = "n1", key: bytes = KEY) -> Enrol:
    if not token:
        return Enrol(name=name, machine_id="m")
    identity, _, secret = token.partition(".")
    return Enrol(name=name, machine_id="m", nonce=b"n", token_id=identity, proof=token_proof(secret, key, name, b"n"))


def judge(request: Enrol, *known: MinionRow, token: Token | None = None, key: bytes = KEY) -> Decision:
    return decide(request, key, public_text(key), known, token, NOW)


def test_an_unknown_key_waits() -> None:
    assert judge(ask()) == Decision("pending", remember=True)


@pytest.mark.parametrize("state", ["accepted", "rejected", "revoked"])
def test_what_was_decided_stays_so_whatever_the_key_asks(state: str) -> None:
    known = row("n1", TEXT, state)
    assert judge(ask(), known) == Decision(state, "")  # type: ignore[arg-type]
    assert judge(ask("t1.secret"), known, token=TOKEN) == Decision(state, "")  # type: ignore[arg-type]
    assert judge(ask(name="another"), known).state == state


@pytest.mark.parametrize("state", ["pending", "conflict"])
def test_a_waiting_key_goes_on_waiting(state: str) -> None:
    assert judge(ask(), row("n1", TEXT, state)) == Decision("pending", remember=True)


def test_a_known_name_with_another_key_is_a_conflict_also_with_a_token() -> None:
    holder = row("n1", "another-key", "accepted")
    for decision in (judge(ask(), holder), judge(ask("t1.secret"), holder, token=TOKEN)):
        assert decision.state == "conflict"
        assert not decision.spend
        assert "pgha-master keys revoke n1" in decision.note


def test_a_name_whose_key_was_revoked_is_free_for_another_key() -> None:
    assert judge(ask(), row("n1", "another-key", "revoked")).state == "pending"


def test_a_token_for_this_node_lets_it_in_once_it_is_spent() -> None:
    decision = judge(ask("t1.secret"), token=TOKEN)
    assert (decision.state, decision.spend, decision.remember) == ("accepted", True, True)


def test_a_token_for_anybody_lets_anybody_in() -> None:
    assert judge(ask("t1.secret", name="n2"), token=replace(TOKEN, name="")).state == "accepted"


@pytest.mark.parametrize(
    ("request_", "token"),
    [
        (ask("t1.secret", name="n2"), TOKEN),
        (ask("t1.secret"), replace(TOKEN, expires=NOW - 1)),
        (ask("t1.wrong"), TOKEN),
        (ask("t1.secret", key=new_key_pair().public), TOKEN),
        (ask("t1.secret"), None),
        (Enrol(name="n1", machine_id="m", token_id="t1"), TOKEN),
    ],
    ids=["another name", "expired", "another secret", "another key's proof", "unknown", "no proof"],
)
def test_a_token_that_does_not_fit_leaves_the_key_waiting(request_: Enrol, token: Token | None) -> None:
    decision = judge(request_, token=token)
    assert (decision.state, decision.spend) == ("pending", False)
    assert "unknown, expired or for another node" in decision.note


def crowd(state: str) -> list[MinionRow]:
    return [row(f"x{number}", f"key{number}", state) for number in range(PENDING_CAP)]


@pytest.mark.parametrize("state", ["pending", "conflict"])
def test_a_crowd_at_the_door_is_not_written_down(state: str) -> None:
    holder = row("taken", "another-key", "accepted")
    for name in ("n1", "taken"):
        decision = judge(ask(name=name), holder, *crowd(state))
        assert (decision.state, decision.remember) == ("rejected", False)
        assert "too many keys are waiting" in decision.note


def test_a_crowd_at_the_door_keeps_out_no_token_and_no_one_who_waits_already() -> None:
    assert judge(ask("t1.secret"), *crowd("pending"), token=TOKEN).state == "accepted"
    assert judge(ask(), *crowd("pending"), row("n1", TEXT, "pending")).state == "pending"
    assert judge(ask(), *crowd("rejected")).state == "pending"
