"""What the local Patroni says of itself and of its cluster, in one vocabulary for Patroni 2 to 4.

GET /cluster is answered from a cache, so an isolated node tells of a leader that is long gone: it is kept in the
sample as "what this node sees", and the master decides whom to believe.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from ...common.telemetry import MEMBER_LIMIT, PatroniMember, PatroniSample, PendingSetting
from ...states.system import Look

CONFIG = "/etc/patroni/config.yml"
_ROLES = {"primary": "leader", "master": "leader", "promoted": "leader", "demoted": "replica", "uninitialized": ""}


def probe(look: Look, *, cluster: bool = True, history: bool = True) -> PatroniSample | None:
    """None when Patroni is not configured here. `cluster` and `history` each cost one more request."""
    if look.attributes(CONFIG).kind != "file":
        return None
    status, body = look.patroni("/patroni")
    if not status:
        return PatroniSample(error=f"Patroni does not answer: {body}")
    own = _object(body)
    if own is None:
        return PatroniSample(error=f"Patroni answers {status} and no JSON on /patroni")
    sample = from_own(own, look.now())
    update: dict[str, Any] = {}
    if cluster and (members := from_cluster(look.patroni("/cluster")[1])):
        mine = [m for m in members if m.name == _name(own)]
        update = {"cluster_members": members, "lag_bytes": mine[0].lag_bytes if mine else None}
    if history:
        update["leader_since"] = from_history(look.patroni("/history")[1], sample.timeline)
    return sample.model_copy(update=update)


def from_own(own: dict[str, Any], now: float) -> PatroniSample:
    """The answer of GET /patroni. `now` is Unix time by this host's clock, as is Patroni's dcs_last_seen."""
    xlog = own.get("xlog")
    xlog = xlog if isinstance(xlog, dict) else {}
    about = own.get("patroni")
    seen = own.get("dcs_last_seen")
    return PatroniSample(
        reachable=True,
        role=_role(own),
        state=_state(own),
        timeline=_number(own.get("timeline")) or None,
        wal_bytes=_number(xlog.get("location")),
        received_bytes=_number(xlog.get("received_location")),
        replayed_bytes=_number(xlog.get("replayed_location")),
        paused=own.get("pause") is True,
        pending_restart=own.get("pending_restart") is True,
        pending_settings=_pending(own.get("pending_restart_reason")),
        version=str(about.get("version", "")) if isinstance(about, dict) else "",
        server_version=_number(own.get("server_version")),
        dcs_last_seen_s=max(0.0, now - seen) if isinstance(seen, (int, float)) and seen else None,
    )


def from_cluster(body: str) -> tuple[PatroniMember, ...]:
    """The members of GET /cluster; empty when there are none or the body is something else."""
    answer = _object(body)
    listed = answer.get("members") if answer else None
    if not isinstance(listed, list):
        return ()
    return tuple(
        PatroniMember(
            name=str(member.get("name", "")),
            role=_ROLES.get(str(member.get("role", "")), str(member.get("role", ""))),
            state=str(member.get("state", "")),
            lag_bytes=_number(member.get("lag")),  # "unknown" is a legal value
        )
        for member in listed[:MEMBER_LIMIT]
        if isinstance(member, dict)
    )


def from_history(body: str, timeline: int | None) -> float | None:
    """Unix time at which the current timeline began. None on the first one, and when nobody wrote it down.

    Source: Patroni REST API, GET /history: [[timeline that ended, LSN, reason, RFC 3339 time, new leader], ...]
    """
    try:
        last = json.loads(body)[-1]
        if last[0] + 1 != timeline:
            return None
        return datetime.fromisoformat(last[3].replace("Z", "+00:00")).timestamp()
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _pending(reason: object) -> tuple[PendingSetting, ...]:
    """Source: Patroni 4 REST API, GET /patroni: {parameter: {"old_value": ..., "new_value": ...}}"""
    found = reason if isinstance(reason, dict) else {}
    return tuple(
        PendingSetting(name=str(name), before=_value(change.get("old_value")), after=_value(change.get("new_value")))
        for name, change in list(found.items())[:MEMBER_LIMIT]
        if isinstance(change, dict)
    )


def _value(value: object) -> str:
    return "" if value is None else str(value)


def _role(own: dict[str, Any]) -> str:
    role = _ROLES.get(str(own.get("role", "")), str(own.get("role", "")))
    if role == "replica" and own.get("sync_standby"):
        return "sync_standby"
    if role == "replica" and own.get("quorum_standby"):
        return "quorum_standby"
    return role


def _state(own: dict[str, Any]) -> str:
    """What a running replica's replication does; Patroni leaves `replication_state` out when there is none."""
    state = str(own.get("state", ""))
    replication = own.get("replication_state")
    return str(replication) if state == "running" and replication else state


def _name(own: dict[str, Any]) -> str:
    about = own.get("patroni")
    return str(about.get("name", "")) if isinstance(about, dict) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _object(body: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
