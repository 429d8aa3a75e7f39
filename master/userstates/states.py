"""State documents of the user's own: found, checked, chosen for nodes, and compiled behind the built-in ones.

Two forms: a YAML file in /etc/pgha/states, and a Python function by the entry point group `pgha.documents`.

Rules:
1. What cannot be used is never left out silently: it is a fault with a name, and a plan that wants it fails with it.
2. They are read once at the beginning of a plan or an apply, so that what is applied is what was planned.
3. Which nodes a target selects is decided once for all of a stage; what changes faster, a target may not ask.
4. A thing of a host is wanted in one way only, by whichever document.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...common.errors import DefinitionError, Problem, UserError
from ...states import catalog
from ...states.claims import claims
from ...states.document import Context
from ...states.graph import order
from ...states.placeholders import values_of
from ...states.resource import AnyResource
from ...states.statefile import EVERYWHERE, StateFile, linked
from ..targeting import targets
from ..targeting.targets import TargetNode
from .python import PythonDocument

NOTE = "own:"
MOVING = ("leader", "replica", "sync")

UserDocument = StateFile | PythonDocument


@dataclass(frozen=True)
class UserStates:
    """`faults`: by name, why a document cannot be used. `chosen`: which documents a node gets, by its name; `possible`:
    which it would get if its role of the moment were another one.
    """

    documents: Mapping[str, UserDocument] = field(default_factory=dict)
    faults: Mapping[str, UserError] = field(default_factory=dict)
    chosen: Mapping[str, frozenset[str]] = field(default_factory=dict)
    possible: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all there are, those that cannot be used among them."""
        return tuple(sorted({*self.documents, *self.faults}))

    def choose(self, nodes: Sequence[TargetNode]) -> UserStates:
        """With the nodes that each document selects as things are now."""
        others = [replace(node, roles=(node.roles - {*MOVING}) | {role}) for role in MOVING for node in nodes]
        return replace(self, chosen=self._by_node(nodes), possible=self._by_node(others))

    def _by_node(self, nodes: Sequence[TargetNode]) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {node.name: set() for node in nodes}
        for name in self.documents:
            for node in self.selected(name, nodes):
                found[node].add(name)
        return {node: frozenset(names) for node, names in found.items()}

    def as_applied(self, notes: Mapping[str, str]) -> UserStates:
        """Files that are still what was applied last, by the notes of `applied`.

        Not what is built by somebody's program: it is run when somebody asks, and not again and again by itself.
        """
        known = {name: document for name, document in self.documents.items() if isinstance(document, StateFile)}
        return UserStates({name: file for name, file in known.items() if notes.get(NOTE + name) == file.digest})

    def applied(self, only: Collection[str]) -> dict[str, str]:
        """What to note when these (empty: all) have been applied."""
        return {NOTE + name: found.digest for name, found in self.documents.items() if not only or name in only}

    def selected(self, name: str, nodes: Sequence[TargetNode]) -> list[str]:
        return targets.match(target_of(self.documents[name]), nodes)

    def rows(self, nodes: Sequence[TargetNode] | None = None) -> list[dict[str, object]]:
        """One for each document, by name. `nodes` None: nobody knows which there are.

        {name, from, target, resources, nodes, error}; None for what is not known or does not apply.
        """
        return [self._row(name, nodes) for name in self.names]

    def _row(self, name: str, nodes: Sequence[TargetNode] | None) -> dict[str, object]:
        if name in self.faults:
            nothing = dict.fromkeys(("from", "target", "resources", "nodes"))
            return {"name": name, **nothing, "error": _with_hints(self.faults[name])}
        document = self.documents[name]
        return {
            "name": name,
            "from": document.path,
            "target": target_of(document),
            "resources": len(document) if isinstance(document, StateFile) else None,
            "nodes": None if nodes is None else self.selected(name, nodes),
            "error": None,
        }

    def moves(self, only: Collection[str]) -> bool:
        """Whether one of these (empty: of all) follows a role that a node has only at the moment."""
        return any(moves(document) for name, document in self.documents.items() if not only or name in only)

    def insist(self, only: Collection[str]) -> list[str]:
        """Warnings of what is left out, being unusable and not asked for. Raises UserError for what was asked for."""
        if asked := [fault for name, fault in self.faults.items() if not only or name in only]:
            raise joined(asked)
        return [f"the document {name} cannot be used and is left out: {fault}" for name, fault in self.faults.items()]


def target_of(document: UserDocument) -> str:
    return document.target if isinstance(document, StateFile) else EVERYWHERE


def moves(document: UserDocument) -> bool:
    return any(term.key == "role" and term.value in MOVING for term in targets.terms(target_of(document)))


def compile(own: UserStates, context: Context) -> list[AnyResource]:
    """All documents of the node: the built-in ones, and those of the user's that were chosen for it.

    Raises:
        UserError: a document cannot be built for this node; a requisite is nowhere; a thing is wanted twice.
    """
    resources, chosen = catalog.compile(context), own.chosen.get(context.node.name, frozenset())
    built, faults = list[tuple[UserDocument, list[AnyResource]]](), list[UserError]()
    for name, document in sorted(own.documents.items()):
        if name not in chosen and not (moves(document) and name in own.possible.get(context.node.name, ())):
            continue
        try:
            made = _build(document, context)  # what may be chosen later must not fail in the middle of an apply
        except UserError as error:
            faults.append(error)
        else:
            built += [(document, made)] if name in chosen else []
    if not faults:
        faults = _claimed(resources, built)
    known = {r.id for r in resources} | {r.id for _, own_resources in built for r in own_resources}
    for document, made in built:
        own_resources = linked(made, known)
        faults += [] if faults else _unknown(document, own_resources, known, context.node.name)
        resources = [*resources, *own_resources]
    if faults:
        raise joined(faults)
    return order(resources)


def joined(errors: Sequence[UserError]) -> UserError:
    """One error as it is; several as one text that has a line or more for each."""
    if len(errors) == 1:
        return errors[0]
    return UserError("\n".join(dict.fromkeys(_with_hints(error) for error in errors)))


def _with_hints(error: UserError) -> str:
    if not isinstance(error, DefinitionError):
        return str(error)
    return "\n".join(
        f"{p.code} {error.path}:{p.line}:{p.column} {p.message}" + (f"; {p.hint}" if p.hint else "")
        for p in error.problems
    )


def _build(document: UserDocument, context: Context) -> list[AnyResource]:
    if isinstance(document, PythonDocument):
        return document.build(context)
    values = values_of(context.cluster, context.node, context.facts)
    return document.build(values, context.secrets.get)


def twice(file: StateFile, built: Sequence[AnyResource], others: Sequence[AnyResource]) -> list[Problem]:
    """A problem for each resource of the file, as built, whose thing is wanted by one of the others, too."""
    shared = _shared(built, others)
    return [file.source.problem("S008", ("resources", index), told, "take it out") for index, told in shared]


def _claimed(
    builtin: Sequence[AnyResource], built: Sequence[tuple[UserDocument, Sequence[AnyResource]]]
) -> list[UserError]:
    """An error for each document that shares a thing with one before it."""
    faults, before = list[UserError](), list(builtin)
    for document, resources in built:
        if isinstance(document, PythonDocument):
            faults += [UserError(f"{document.path}: {told}") for _, told in _shared(resources, before)]
        elif problems := twice(document, resources, before):
            faults.append(document.error(problems))
        before += resources
    return faults


def _shared(resources: Sequence[AnyResource], others: Sequence[AnyResource]) -> list[tuple[int, str]]:
    owners: dict[object, AnyResource] = {claim: other for other in others for claim in claims(other)}
    found = []
    for index, resource in enumerate(resources):
        other = next((owners[claim] for claim in claims(resource) if claim in owners), None)
        if other is not None:
            also = "" if other.id == resource.id else f", as {other.id}"
            told = f"{resource.id} of {resource.document} is wanted by {other.document}, too{also}"
            found.append((index, f"{told}; a thing can be wanted in one way only"))
        owners |= dict.fromkeys(claims(resource), resource)
    return found


def _unknown(
    document: UserDocument, resources: Sequence[AnyResource], known: set[str], node: str
) -> Sequence[UserError]:
    where = f"of {node}"
    if isinstance(document, StateFile):
        problems = document.unknown(resources, known, where)
        return [document.error(problems)] if problems else []
    return [
        UserError(f"{document.path}: {resource.id} requires {needed}, which is in none of the documents {where}")
        for resource in resources
        for needed in (*resource.requires, *resource.watches)
        if needed not in known
    ]
