"""Whether what is about to be done to some nodes at once would take a cluster down: pure questions to its health.

Rules, for each cluster by itself:
1. Never two voters of etcd at once, and after it a majority of them is up.
2. After it a data node is left that serves; and if the leader goes, a replica that may take over.
3. Not known is not safe: who is silent counts as down when it is to stay, and as up when it is to go.
4. What is down already may be taken down again, or nobody could repair it.

`refuse` is asked before anything is sent, with all the nodes of one batch, and again before each further batch;
between two batches `steady` says when the cluster is whole again. HAProxy is not counted: clients are told of all of
them and connect again. Procedures of pgha's own, such as an apply, have gates of their own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from ...common.functions import find
from ..health.gates import Closed, all_seen_since
from ..health.observed import SYNCHRONOUS, ClusterHealth, NodeView
from ..orchestration import stages
from .disruption import EVERYBODY, HOST, LEADER, MEMBER, taken_down, unit

_REASONS = 3  # at most so many clusters are told of in full
_ETCD_UP = ("leader", "follower")
_SERVING = ("running", "streaming", "in archive recovery")
"""Patroni's words for a PostgreSQL that somebody may be connected to."""


def disrupted(function: str, arguments: Sequence[str]) -> frozenset[str]:
    """What the function takes down on each node it is called on, in the words of `disruption`.

    Raises UserError for a function that there is not.
    """
    units = frozenset[str]().union(*(unit(name) for name in find(function).disrupts(arguments)))
    if function == "cmd":
        return units | taken_down(arguments)
    family, _, verb = function.partition(".")
    return units | taken_down(("systemctl", verb, "--", *arguments)) if family == "service" else units


def refuse(disrupts: frozenset[str], at_once: Sequence[str], healths: Iterable[ClusterHealth]) -> str | None:
    """Why a cluster would not survive this on these nodes at once, and what to do instead; None when all would.

    `disrupts` is from `disrupted`. `healths` may hold every cluster there is; those without such a node do not matter.
    """
    reasons, alone, named = [], True, frozenset(at_once)
    for health in healths:
        mine = [node.name for node in health.nodes if node.name in named]
        if reason := _harm(disrupts, mine, health):
            reasons.append(reason)
            alone = alone and not any(_harm(disrupts, [name], health) for name in mine)
    if not reasons:
        return None
    more = [f"and {len(reasons) - _REASONS} more clusters"] if len(reasons) > _REASONS else []
    one_by_one = "do it one node at a time: --batch 1; or " if alone and len(at_once) > 1 else ""
    return f"{'; '.join([*reasons[:_REASONS], *more])}; {one_by_one}do it all the same: --force-unsafe"


def steady(health: ClusterHealth, nodes: Collection[str] = (), since: float | None = None) -> str:
    """Empty when the cluster is whole again, so that the next nodes may go; else what it waits for.

    With `since` (monotonic s), each of `nodes` must also have sent telemetry after that: an older sample is from before
    the change. A cluster that is not built has nothing to wait for.
    """
    mine = [node.name for node in health.nodes if node.name in nodes]
    if since is not None and isinstance(seen := all_seen_since(health, mine, since), Closed):
        return seen.reason
    if health.verdict == "not built":
        return ""
    whole = stages.steady_so_far(health)
    return whole.reason if isinstance(whole, Closed) else ""


def _harm(disrupts: frozenset[str], names: Sequence[str], health: ClusterHealth) -> str:
    """The reason, which begins with the cluster's name; empty when it would do none."""
    if not names:
        return ""
    why = _etcd(frozenset(names), health) if _hits(disrupts, "etcd") else ""
    why = why or _postgresql(_data_taken(disrupts, names, health), health)
    return f"{health.cluster}: {why}" if why else ""


def _hits(disrupts: frozenset[str], *services: str) -> bool:
    """etcd@x and postgresql@17-main are instances of those."""
    return any(name == HOST or re.split("[@.]", name)[0] in services for name in disrupts)


def _data_taken(disrupts: frozenset[str], names: Sequence[str], health: ClusterHealth) -> frozenset[str]:
    taken = set(names) if _hits(disrupts, "patroni", "postgresql") else set()
    for member in (name.removeprefix(MEMBER) for name in disrupts if name.startswith(MEMBER)):
        if member == EVERYBODY:
            taken |= {node.name for node in health.data_nodes}
        else:
            taken.add(health.leader if member == LEADER else member)
    return frozenset(taken)


# ---- etcd


def _etcd(taken: frozenset[str], health: ClusterHealth) -> str:
    learners = {member.name for member in health.members if member.learner}
    voters = [node for node in health.etcd_nodes if node.etcd != "-" and node.name not in learners]
    going = [node for node in voters if node.name in taken and node.etcd != "down"]
    left = [node for node in voters if node.name not in taken and node.etcd in _ETCD_UP]
    if not going:
        return ""
    majority = health.quorum.majority
    if len(going) == 1 and (len(left) >= majority or going[0].etcd == "unhealthy"):
        return ""  # one that answers and cannot work is no loss
    down = _list(f"{node.name} is {_etcd_state(node)}" for node in voters if node not in going + left)
    voters_left = f"{len(left)} of {health.quorum.voters} members would be left, {majority} are a majority"
    return f"etcd would go down on {_names(going)}: {voters_left}{down}"


def _etcd_state(node: NodeView) -> str:
    return "silent" if node.etcd == "unknown" else node.etcd


# ---- PostgreSQL


def _postgresql(taken: frozenset[str], health: ClusterHealth) -> str:
    going = [node for node in health.data_nodes if node.name in taken and _may_serve(node)]
    if not going:
        return ""
    rest = [node for node in health.data_nodes if node.name not in taken]
    if not any(_serves(node, health) for node in rest):
        why = "no data node would be left that serves"
    elif not health.leader:
        why = "it is not known who leads"
    else:
        why = _nobody_takes_over(rest, health) if health.leader in taken else ""
    others = _list(f"{node.name} is {_data_state(node)}" for node in rest)
    return f"PostgreSQL would go down on {_names(going)}: {why}{others}" if why else ""


def _serves(node: NodeView, health: ClusterHealth) -> bool:
    return node.streaming or (node.name == health.leader and node.state == "running")


def _may_serve(node: NodeView) -> bool:
    return not node.fresh or node.state in _SERVING


def _nobody_takes_over(rest: Sequence[NodeView], health: ClusterHealth) -> str:
    """Why none of these could follow the leader when that goes; empty when one could."""
    leading = health.leading
    if leading and leading.sample and leading.sample.patroni and leading.sample.patroni.paused:
        return "it leads, Patroni is paused, and so no other would take over"
    streaming = [node for node in rest if node.streaming]
    if health.synchronous:
        fit = any(node.role in SYNCHRONOUS for node in streaming)
        return "" if fit else "it leads, and no synchronous replica is left, which alone may take over"
    fit = any(node.lag_bytes is not None and node.lag_bytes <= stages.LAG_LIMIT for node in streaming)
    limit = f"{stages.LAG_LIMIT // 1024**2} MiB"
    return "" if fit else f"it leads, and no replica is left that streams with less than {limit} of lag"


def _data_state(node: NodeView) -> str:
    if not node.fresh:
        return "silent"
    lag = "" if node.lag_bytes is None else f" with {node.lag_bytes} bytes of lag"
    return f"{node.state}{lag}"


# ---- words


def _names(nodes: Sequence[NodeView]) -> str:
    """`a`, or `a and b at once`."""
    names = [node.name for node in nodes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} at once"


def _list(parts: Iterable[str]) -> str:
    found = ", ".join(parts)
    return f" ({found})" if found else ""
