"""The whole table of a job's states, and what must hold for every path through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.master.jobs import ENDED, OPEN, arrived, step

NEWS = (
    "accept",
    "refuse",
    "deadline",
    "started",
    "done",
    "failed",
    "interrupted",
    "cancelled",
    "expired",
    "forgotten",
    "withdrawn",
    "res",
    "out",
)
AFTER = {
    "queued": (
        "accepted",
        "refused",
        "expired",
        "started",
        "done",
        "failed",
        "unknown",
        "cancelled",
        "expired",
        "queued",
        "cancelled",
    ),
    "accepted": (
        *("accepted", "accepted", "unknown", "started", "done", "failed", "unknown", "cancelled", "expired", "unknown"),
        "accepted",
    ),
    "started": (
        *("started", "started", "unknown", "started", "done", "failed", "unknown", "cancelled", "expired", "unknown"),
        "started",
    ),
}


@pytest.mark.parametrize("state", OPEN)
def test_the_whole_table(state: str) -> None:
    assert tuple(step(state, news) for news in NEWS) == (*AFTER[state], state, state)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize("news", NEWS)
def test_an_end_is_final_whatever_arrives_later(state: str, news: str) -> None:
    assert step(state, news) == state


@given(st.lists(st.sampled_from(NEWS)))
def test_no_state_goes_backwards(news: list[str]) -> None:
    rank = {"queued": 0, "accepted": 1, "started": 2, **dict.fromkeys(ENDED, 3)}
    state = "queued"
    for one in news:
        after = step(state, one)
        assert rank[after] > rank[state] or after == state
        state = after


def test_done_wins_over_a_cancel_that_comes_later() -> None:
    assert step(step("started", "done"), "cancelled") == "done"


def test_a_job_that_had_started_is_never_called_refused() -> None:
    assert "refused" not in {step(state, news) for state in ("accepted", "started") for news in NEWS}


@pytest.mark.parametrize(
    ("kind", "body", "means"),
    [
        ("done", b'{"ok": true}', "done"),
        ("done", b'{"ok": false}', "failed"),
        ("done", b'{"ok": 1}', "failed"),
        ("done", b"[]", "failed"),
        ("started", b"", "started"),
        ("interrupted", b"{}", "interrupted"),
    ],
)
def test_what_an_event_means_to_the_table(kind: str, body: bytes, means: str) -> None:
    assert arrived(kind, body) == means
