"""Whose turn it is to make a backup, decided on each node alone and on all of them alike.

The members of the cluster, as Patroni lists them, say it: the first standby that streams, by the definition's order;
the leader when there is none. Where two nodes see it differently for a moment, the tool's own lock lets one of them in.
A node that holds a repository and no database has nobody to ask, and it is always its turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...common.errors import HostError
from ...common.installation import Installation
from ...common.telemetry import PatroniMember
from ...states.system import Look
from ..probes.patroni import from_cluster

STANDBY = ("replica", "sync_standby", "quorum_standby")


@dataclass(frozen=True, slots=True)
class Turn:
    """`node`: whose turn it is. `standby`: there is one to copy from."""

    node: str
    standby: bool


def turn(look: Look, installed: Installation) -> Turn:
    """Raises HostError when nobody can say who leads: a backup would not work either."""
    status, body = look.patroni("/cluster")
    members = from_cluster(body) if status == 200 else ()
    if not installed.data:
        return Turn(installed.node, installed.standby)
    if not members:
        raise HostError(f"Patroni does not say who is in the cluster: {body[:200] if body else f'HTTP {status}'}")
    return decide(installed, members)


def decide(installed: Installation, members: Iterable[PatroniMember]) -> Turn:
    """Raises HostError when nobody leads."""
    known = {member.name: member for member in members}
    leaders = [name for name, member in known.items() if member.role == "leader" and member.state == "running"]
    if not leaders:
        raise HostError("no member of the cluster leads, so no backup can be made")
    standbys = [
        name
        for name in installed.data_nodes
        if name in known and known[name].role in STANDBY and known[name].state in ("streaming", "running")
    ]
    if standbys and installed.standby:
        return Turn(standbys[0], standby=True)
    return Turn(leaders[0], standby=False)
