"""What a minion takes for an order of its master's: by the signing key, or for a query by the key of the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pgha.common.messages import Job
from pgha.common.names import new_job_id
from pgha.common.signing import Signer, Verifier

SESSION, OTHER = b"s" * 32, b"o" * 32
CHANGES: list[dict[str, Any]] = [
    {"jid": new_job_id()},
    {"att": 2},
    {"minion": "n2"},
    {"mepoch": 2},
    {"cls": "state"},
    {"mode": "apply"},
    {"not_after_ms": 2},
    {"ttl_ms": 2},
    {"sha256": "1" * 64},
    {"size": 2},
]


def order(*, query: bool) -> Job:
    about: dict[str, Any] = {"cls": "call", "mode": "call", "not_after_ms": 1, "ttl_ms": 1, "sha256": "0" * 64}
    return Job(jid=new_job_id(), att=1, minion="n1", mepoch=1, query=query, size=1, document=b"x", **about)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signing.key")


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("changed", CHANGES, ids=str)
def test_nothing_in_an_order_can_be_changed_on_its_way(signer: Signer, query: bool, changed: dict[str, Any]) -> None:
    verifier, signed = Verifier(signer.public, SESSION), signer.job(order(query=query), SESSION)
    assert verifier.job(signed)
    assert not verifier.job(signed.model_copy(update=changed))


def test_the_key_of_another_session_asks_nothing(signer: Signer) -> None:
    assert not Verifier(signer.public, SESSION).job(signer.job(order(query=True), OTHER))


def test_the_key_of_a_session_orders_nothing_but_queries(signer: Signer) -> None:
    asked = signer.job(order(query=True), SESSION)
    assert not Verifier(signer.public, SESSION).job(asked.model_copy(update={"query": False}))


def test_a_query_without_any_signature_is_not_taken(signer: Signer) -> None:
    assert not Verifier(signer.public, SESSION).job(order(query=True))


def test_what_changes_something_is_signed_with_the_signing_key_whatever_the_session(signer: Signer) -> None:
    job = order(query=False)
    assert signer.job(job, SESSION) == signer.job(job)
    assert Verifier(signer.public, OTHER).job(signer.job(job, SESSION))


def test_where_there_is_no_session_a_query_is_signed_as_all_others(signer: Signer) -> None:
    asked = signer.job(order(query=True))
    assert Verifier(signer.public).job(asked)
    assert not Verifier(signer.public, SESSION).job(asked)
