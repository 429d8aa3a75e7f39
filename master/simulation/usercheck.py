"""Checks the documents of the user's own against the built-in ones, without the daemon and without a node.

The nodes are made up, each a bare host of a definition there is. So what depends on a real host may only show in the
plan; what is wrong on every made-up node is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...common.cluster import Cluster
from ...common.errors import DefinitionError, Problem, UserError
from ...common.secret import Secret
from ...states import catalog
from ...states.document import Context
from ...states.placeholders import values_of
from ...states.resource import AnyResource
from ...states.statefile import StateFile, linked
from ..definition import inventory, references
from ..userstates.states import UserStates, twice
from .simulated import PEM, bare_facts
from .testing import three_nodes


def check(own: UserStates, clusters: Sequence[Cluster]) -> UserStates:
    """With a fault for each file that asks for what no document has, or for what another document wants already."""
    files = {name: document for name, document in own.documents.items() if isinstance(document, StateFile)}
    nowhere, shared = dict[str, set[Problem]](), {name: set[Problem]() for name in files}
    for builtin, context in _hosts(clusters):
        built = {name: _built(file, context) for name, file in files.items()}
        known = {r.id for r in builtin} | {r.id for resources in built.values() for r in resources}
        for name, file in files.items():
            others = [*builtin, *(r for other, resources in built.items() if other < name for r in resources)]
            found = set(file.unknown(linked(built[name], known), known, "there are"))
            nowhere[name] = nowhere.get(name, found) & found
            shared[name] |= set(twice(file, built[name], others))
    wrong = {name: [*nowhere.get(name, ()), *shared[name]] for name in files}
    faults = {name: files[name].error(problems) for name, problems in wrong.items() if problems}
    usable = {name: document for name, document in own.documents.items() if name not in faults}
    return replace(own, documents=usable, faults={**own.faults, **faults})


def definitions(folder: Path) -> list[Cluster]:
    """Those that are right; one of three nodes where there is none."""
    found = list[Cluster]()
    for path in sorted(folder.glob("*.yml")):
        try:
            found.append(inventory.load(*inventory.read(str(path), folder))[0])
        except (UserError, DefinitionError):
            continue  # `validate` tells what is wrong with it
    return found or [three_nodes()]


def _hosts(clusters: Sequence[Cluster]) -> Iterable[tuple[list[AnyResource], Context]]:
    for cluster in clusters:
        secrets = {name: Secret("x") for name in (*catalog.secrets(cluster), *references.wanted(cluster))}
        files = dict.fromkeys(references.paths(cluster), PEM)
        for node in cluster.nodes:
            context = Context(cluster, node, bare_facts(node), secrets, PEM, PEM, files=files, apt_key="x")
            try:
                yield catalog.compile(context), context
            except UserError:
                continue  # this definition needs other hosts than the made-up ones


def _built(file: StateFile, context: Context) -> list[AnyResource]:
    return file.build(values_of(context.cluster, context.node, context.facts), lambda name: Secret("x"))
