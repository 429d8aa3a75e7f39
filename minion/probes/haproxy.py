"""Which servers the local HAProxy sends connections to, in its own words: `haproxy -c` proves nothing about checks."""

from __future__ import annotations

import csv
import re

from ...common.telemetry import MEMBER_LIMIT, Backend, HaproxySample
from ...states.system import Look

CONFIG = "/etc/haproxy/haproxy.cfg"
SOCKET = "/run/haproxy/admin.sock"
PRIMARY = "pg_primary_nodes"
REPLICA = "pg_replica_nodes"
DEADLINE_S = 2.0


def probe(look: Look) -> HaproxySample | None:
    """None when HAProxy has not been given the cluster's configuration: the distribution's own does not count."""
    if PRIMARY not in (look.file(CONFIG).content or ""):
        return None
    answer = look.unix_socket(SOCKET, "show info;show stat\n", DEADLINE_S)
    if not answer:
        return HaproxySample(error=f"HAProxy does not answer on {SOCKET}")
    return from_stats(answer)


def from_stats(answer: str) -> HaproxySample:
    """`show info` and then `show stat` as CSV. Source: HAProxy 3.0 management guide, 9.1 and 9.3."""
    info, found, table = answer.partition("# pxname,")
    version = re.search(r"^Version: (\S+)", info, re.MULTILINE)
    name = version[1] if version else ""
    if not found:
        return HaproxySample(version=name, error="HAProxy's answer holds no statistics")
    rows = csv.DictReader(f"pxname,{table}".splitlines())
    servers = [row for row in rows if row.get("pxname") in (PRIMARY, REPLICA) and row["svname"] != "BACKEND"]
    return HaproxySample(
        version=name,
        backends=tuple(
            Backend(
                name=row["pxname"],
                server=row["svname"],
                status=row.get("status") or "",
                check=(row.get("check_status") or "").removeprefix("* "),  # "* ": the next check is on its way
            )
            for row in servers[: 4 * MEMBER_LIMIT]
        ),
    )
