"""states list | show: the documents of the user's own as the daemon finds them, and what comes of a document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.settings import nearest
from ...states.catalog import DOCUMENTS
from ...states.kinds import encode_redacted
from ..control import Arguments, Request
from ..definition import inventory
from ..operations.progress import End
from ..server import Master
from ..targeting.targeting import of_cluster
from ..userstates.states import UserStates


class Shown(Arguments):
    """`path` and `text`: the definition as the CLI read it. No `nodes`: all of them."""

    name: str
    path: str
    text: str
    nodes: tuple[str, ...] = ()


async def list_states(master: Master, request: Request) -> AsyncIterator[Any]:
    nodes = [node for cluster in master.clusters.values() for node in of_cluster(master, cluster)]
    yield End(data={"documents": master.user_states().rows(nodes)})


async def show(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Shown)
    cluster = inventory.load(wanted.path, wanted.text)[0]
    own = master.user_states().choose(of_cluster(master, cluster))
    _insist(wanted, own, cluster)
    notes, found = await master.store.notes(cluster.name), dict[str, object]()
    for node in cluster.nodes:
        if wanted.nodes and node.name not in wanted.nodes:
            continue
        facts = master.hub.facts(node.name)
        if facts is None:
            raise UserError(f"{node.name}: its minion is not known, and a document is built from what it reports")
        resources = master.compile(cluster, node, facts, notes, own)
        found[node.name] = encode_redacted([r for r in resources if r.document == wanted.name])
    yield End(data={"document": wanted.name, "cluster": cluster.name, "nodes": found})


def _insist(wanted: Shown, own: UserStates, cluster: Cluster) -> None:
    """Raises UserError for a document or a node that is not there, or that cannot be used."""
    if wanted.name in own.faults:
        raise own.faults[wanted.name]
    known = (*DOCUMENTS, *own.names)
    if wanted.name not in known:
        raise UserError(f"there is no document {wanted.name!r}; {nearest(wanted.name, known)}")
    names = [node.name for node in cluster.nodes]
    if unknown := [name for name in wanted.nodes if name not in names]:
        raise UserError(f"{unknown[0]} is no node of {cluster.name}; {nearest(unknown[0], names)}")
