"""The whole table of a job's states, and what must hold for every path through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.master.store.transitions import ENDED, MOVABLE, OPEN, arrived, step

NEWS = (
    *("accept", "refuse", "deadline", "overdue", "absent", "withdrawn", "started"),
    *("done", "failed", "interrupted", "cancelled", "expired"),
    *("res", "out"),
)
AFTER = {
    "queued": (
        *("accepted", "refused", "expired", "unknown", "expired", "cancelled", "started"),
        *("done", "failed", "unknown", "cancelled", "expired"),
    ),
    "accepted": (
        *("accepted", "accepted", "unknown", "unknown", "unknown", "accepted", "started"),
        *("done", "failed", "unknown", "cancelled", "expired"),
    ),
    "started": (
        *("started", "started", "unknown", "unknown", "unknown", "started", "started"),
        *("done", "failed", "unknown", "cancelled", "expired"),
    ),
    "unknown": (
        *("unknown", "unknown", "unknown", "unknown", "unknown", "unknown", "started"),
        *("done", "failed", "unknown", "cancelled", "expired"),
    ),
}


@pytest.mark.parametrize("state", MOVABLE)
def test_the_whole_table(state: str) -> None:
    assert tuple(step(state, news) for news in NEWS) == (*AFTER[state], state, state)


@pytest.mark.parametrize("state", sorted({*ENDED} - {"unknown"}))
@pytest.mark.parametrize("news", NEWS)
def test_an_end_that_is_known_is_final_whatever_arrives_later(state: str, news: str) -> None:
    assert step(state, news) == state


@given(st.lists(st.sampled_from(NEWS)))
def test_no_state_goes_backwards_but_from_what_was_not_known_to_what_is(news: list[str]) -> None:
    rank = {"queued": 0, "accepted": 1, "started": 2, **dict.fromkeys(ENDED, 3)}
    state = "queued"
    for one in news:
        after = step(state, one)
        assert rank[after] > rank[state] or after == state or state == "unknown"
        assert after in (*OPEN, *ENDED)
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
