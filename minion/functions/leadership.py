"""Acts of a rollout on PostgreSQL through the local Patroni: a restart that settings wait for, a switchover; and a
watch on how long writes are refused meanwhile.
"""

from __future__ import annotations

import json

from ...common.results import Outcome
from ...states.action import PostPatroni
from ..probe_write import watch
from .request import Call, Doors, arguments, wrong


def restart(call: Call, doors: Doors) -> Outcome:
    """Only if a setting waits for it, so an order that comes twice restarts once, and only while it has this role.

    Answers when PostgreSQL is up. Source: Patroni REST API, POST /restart.
    """
    (role,) = arguments(call, 1, 1)
    if role not in ("primary", "replica"):
        raise wrong(call, f"{role!r} is no role")
    order = json.dumps({"restart_pending": True, "role": role})
    doors.system.perform(PostPatroni("/restart", order, call.timeout_s))
    return Outcome(ok=True, exit_code=0)


def switchover(call: Call, doors: Doors) -> Outcome:
    """Patroni itself refuses a leader that is no longer one, and a candidate that could not take over."""
    leader, candidate = arguments(call, 2, 2)
    order = json.dumps({"leader": leader, "candidate": candidate})
    doors.system.perform(PostPatroni("/switchover", order, call.timeout_s))
    return Outcome(ok=True, exit_code=0)


def reinitialize(call: Call, doors: Doors) -> Outcome:
    """Delete this replica's data and make it anew; answers when that has begun. Patroni refuses it to a leader.

    Source: Patroni REST API, POST /reinitialize.
    """
    arguments(call, 0, 0)
    doors.system.perform(PostPatroni("/reinitialize", json.dumps({"force": True}), call.timeout_s))
    return Outcome(ok=True, exit_code=0)


def write_watch(call: Call, doors: Doors) -> Outcome:
    """Says so once the first write has come through, so that what is watched can begin."""
    node, port, timeout_s = arguments(call, 3, 3)
    return watch(node, port, timeout_s, lambda: doors.output("stdout", "writes come through\n"), doors.cancelled)
