"""What a cluster can be restored to, and what a restore would be done to: for a person, before anything is done."""

from __future__ import annotations

import json
from typing import Any

from ...common.clock import iso
from ...common.cluster import Cluster
from ..orchestration.fleet import Failed
from .backing import Backing, Look


async def window(backing: Backing, cluster: Cluster, noted: str | None) -> dict[str, Any]:
    """JSON: `earliest` and `latest` (ISO 8601, UTC), `backups`, `leader`, `nodes`, `under_way`. Raises Failed."""
    node = next((n.name for n in cluster.data_nodes if backing.master.hub.connected(n.name)), "")
    if not node:
        raise Failed("no data node is connected")
    seen = await backing.look(node)
    return {
        "cluster": cluster.name,
        "bare": False,
        "leader": backing.master.health(cluster).leader,
        "nodes": [n.name for n in cluster.data_nodes],
        "under_way": json.loads(noted) if noted else None,
        **reach(seen),
    }


def reach(seen: Look) -> dict[str, Any]:
    """From the end of the oldest backup on, as far as WAL is archived; of the repositories that answer."""
    usable = [one for one in seen.repositories if one.state == "ok" and one.backups]
    sets = [(one, backup) for one in usable for backup in one.backups]
    return {
        "earliest": iso(min(backup.ended for _, backup in sets)) if sets else None,
        "earliest_s": min((backup.ended for _, backup in sets), default=None),
        "asked_at_s": max((one.at for one in usable), default=None),
        "wal_until": max((one.wal_max for one in usable), default=""),
        "backups": [
            {"repository": one.number, "label": b.label, "type": b.type, "ended": iso(b.ended), "size": b.size}
            for one, b in sets
        ],
        "unusable": [
            {"repository": one.number, "state": one.state, "why": one.why}
            for one in seen.repositories
            if one not in usable
        ],
    }
