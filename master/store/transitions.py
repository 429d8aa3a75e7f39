"""The one true state of a job, as a table: (state, what arrived) -> state. Pure; the store keeps the states.

    queued -> accepted -> started -> done | failed | cancelled
    queued -> refused | expired | cancelled       it never began, and never will
    queued, accepted, started -> unknown          nobody can know (any more) what became of it

An end is final but for one: `unknown` becomes what really was as soon as the minion tells it. done and failed win over
a cancel that races with them. What is not in the table changes nothing.
"""

from __future__ import annotations

import json

OPEN = ("queued", "accepted", "started")
ENDED = ("done", "failed", "unknown", "expired", "refused", "cancelled")
MOVABLE = (*OPEN, "unknown")

_TABLE: dict[tuple[str, str], str] = {
    ("queued", "accept"): "accepted",
    ("queued", "refuse"): "refused",
    ("queued", "deadline"): "expired",  # nothing was ever sent
    ("queued", "overdue"): "unknown",  # it may have arrived
    ("queued", "absent"): "expired",  # its time is over, and the minion says that it never came
    ("queued", "withdrawn"): "cancelled",
    ("queued", "started"): "started",  # the ACCEPT was lost
    ("accepted", "started"): "started",
    ("unknown", "started"): "started",
    **{(state, word): "unknown" for state in ("accepted", "started") for word in ("deadline", "overdue", "absent")},
    **{(state, "done"): "done" for state in MOVABLE},
    **{(state, "failed"): "failed" for state in MOVABLE},
    **{(state, "interrupted"): "unknown" for state in OPEN},
    **{(state, "cancelled"): "cancelled" for state in MOVABLE},
    **{(state, "expired"): "expired" for state in MOVABLE},  # the minion had no time left to begin it
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
