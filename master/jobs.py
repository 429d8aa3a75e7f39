"""The one true state of a job, as a table: (state, what arrived) -> state. Pure; the store keeps the states.

queued -> accepted -> started -> done | failed | unknown | cancelled
queued -> refused; queued, accepted -> expired
done and failed win over a cancel that races with them; what is not in the table changes nothing.
"""

from __future__ import annotations

import json

OPEN = ("queued", "accepted", "started")
ENDED = ("done", "failed", "unknown", "expired", "refused", "cancelled")

_TABLE: dict[tuple[str, str], str] = {
    ("queued", "accept"): "accepted",
    ("queued", "refuse"): "refused",
    ("queued", "deadline"): "expired",
    ("queued", "withdrawn"): "cancelled",
    ("queued", "started"): "started",  # the ACCEPT was lost
    ("accepted", "started"): "started",
    ("accepted", "deadline"): "unknown",
    ("started", "deadline"): "unknown",
    **{(state, "done"): "done" for state in OPEN},
    **{(state, "failed"): "failed" for state in OPEN},
    **{(state, "interrupted"): "unknown" for state in OPEN},
    **{(state, "cancelled"): "cancelled" for state in OPEN},
    **{(state, "expired"): "expired" for state in OPEN},  # the minion had no time left to begin it
    **{(state, "forgotten"): "unknown" for state in ("accepted", "started")},  # HELLO of a new journal
}


def step(state: str, arrived: str) -> str:
    """The state after that arrived."""
    return _TABLE.get((state, arrived), state)


def arrived(kind: str, body: bytes) -> str:
    """What an event means to the table: `done` splits by its outcome. Raises ValueError for a body that is no JSON."""
    if kind == "done":
        outcome = json.loads(body)
        return "done" if isinstance(outcome, dict) and outcome.get("ok") is True else "failed"
    return kind
