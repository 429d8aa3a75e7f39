"""A state of the user's own as a flat YAML file -> resources, with everything that is wrong with it told at once.

    schema: pgha/states/v1
    target: role:replica and region:eu-west
    resources:
      - kind: file
        path: /etc/motd
        content: |
          {node.name} of {cluster.name}

Rules:
1. The fields are those of the resource kinds, whichever `kinds.KINDS` has; this file knows none of them.
2. A file is checked without a node as far as that goes, and built for a node with the same code.
3. A secret is named, `secret:NAME`, and never written here; what looks like one in clear is refused and not repeated.
4. What `target` means is the master's business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ..common.errors import DefinitionError, Problem, UserError
from ..common.secret import Secret
from ..common.settings import nearest
from ..common.yamltext import Document, KeyPath, parse
from .claims import claims, full_name
from .graph import order
from .kinds import KINDS
from .placeholders import SAMPLE, Values
from .resource import AnyResource
from .statefields import Reader

SCHEMA = "pgha/states/v1"
KEYS = ("schema", "target", "resources")
EVERYWHERE = "*"
NAME_PATTERN = r"[a-z][a-z0-9_-]{0,39}"

SecretOf = Callable[[str], Secret | None]
"""The secret of that name; None where there is none."""


@dataclass(frozen=True)
class StateFile:
    """A file without mistakes, as far as they show without a node."""

    name: str
    path: str
    target: str
    source: Document

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.source.data["resources"])

    def build(self, values: Values, secret: SecretOf) -> list[AnyResource]:
        """Its resources in the order of the file. Raises DefinitionError for names and secrets that have no value."""
        placed, problems = _resources(self.source, values, secret, self.name)
        if problems:
            raise self.error(problems)
        return linked(list(placed.values()), {resource.id for resource in placed.values()})

    def error(self, problems: Sequence[Problem]) -> DefinitionError:
        return DefinitionError(self.path, list(problems), self.source.text)

    def unknown(self, built: Sequence[AnyResource], known: set[str], where: str) -> list[Problem]:
        """A problem for each requisite of `built` (as `build` gave it) that is not among the ids `known`."""
        found = []
        for index, resource in enumerate(built):
            for key, at, needed in _requisites(resource):
                if needed not in known:
                    message = f"{resource.id} {key} {needed}, which is in none of the documents {where}"
                    hint = nearest(needed, [i for i in sorted(known) if _near(needed, i)]) or _no_such_kind(needed)
                    found.append(self.source.problem("S003", ("resources", index, key, at), message, hint))
        return found


def load(path: str, text: str, also: Callable[[Document], list[Problem]] = lambda source: []) -> StateFile:
    """Raises DefinitionError with all problems of the file, and those that `also` finds in it."""
    source = parse(path, text)
    problems = [*_top(source), *_name(source), *also(source)]
    placed, found = _resources(source, SAMPLE, lambda name: Secret("x"), PurePath(path).stem)
    problems += [*found, *_together(source, placed)]
    if not problems:
        problems += _circles(source, list(placed.values()))
    if problems:
        raise DefinitionError(path, problems, text)
    return StateFile(PurePath(path).stem, path, str(source.data.get("target", EVERYWHERE)), source)


def linked(resources: Sequence[AnyResource], known: set[str]) -> list[AnyResource]:
    """The resources with requisites spelled as the ids in `known` are: `service:x.service` is `service:x`."""

    def spelled(needed: str) -> str:
        other = _other_spelling(needed)
        return other if needed not in known and other in known else needed

    return [
        resource.model_copy(
            update={
                "requires": tuple(spelled(needed) for needed in resource.requires),
                "watches": tuple(spelled(watched) for watched in resource.watches),
            }
        )
        for resource in resources
    ]


def _requisites(resource: AnyResource) -> list[tuple[str, int, str]]:
    """Field, number in it, and id."""
    both = (("requires", resource.requires), ("watches", resource.watches))
    return [(key, at, needed) for key, ids in both for at, needed in enumerate(ids)]


def _top(source: Document) -> list[Problem]:
    found, data = list[Problem](), source.data
    for key in data:
        if key not in KEYS:
            found.append(source.problem("C001", (key,), f"unknown key '{key}'", nearest(key, KEYS), key=True))
    if "schema" not in data:
        found.append(
            source.problem("C003", (), "the key 'schema' is missing", f"add  schema: {SCHEMA}  as the first line")
        )
    elif data["schema"] != SCHEMA:
        message = f"this pgha reads only the schema '{SCHEMA}' here"
        found.append(source.problem("C006", ("schema",), message, f"write  schema: {SCHEMA}"))
    target = data.get("target", EVERYWHERE)
    if not isinstance(target, str) or not target:
        message = "target: expected an expression, such as  role:replica and region:eu-west"
        found.append(source.problem("C002", ("target",), message, "leave it out to mean every node"))
    if "resources" not in data:
        found.append(source.problem("C003", (), "the key 'resources' is missing", "add  resources:  with a list"))
    elif not isinstance(data["resources"], list) or not data["resources"]:
        message = "resources: expected a list of resources"
        found.append(source.problem("C002", ("resources",), message, "each begins with  - kind: file"))
    return found


def _name(source: Document) -> list[Problem]:
    name = PurePath(source.path).stem
    if re.fullmatch(NAME_PATTERN, name):
        return []
    hint = "rename the file: lower-case letters, digits, '-' and '_', a letter first, at most 40"
    return [Problem("S007", f"'{name}' cannot be the name of a document", hint=hint)]


def _resources(
    source: Document, values: Values, secret: SecretOf, name: str
) -> tuple[dict[int, AnyResource], list[Problem]]:
    """By its number in the file, the resource of each item that has no problem."""
    items = source.data.get("resources")
    reader, placed = Reader(source, values, secret), dict[int, AnyResource]()
    for index, item in enumerate(items if isinstance(items, list) else ()):
        model = _kind(reader, index, item)
        resource = reader.resource(model, ("resources", index), item) if model else None
        if resource is not None:
            placed[index] = resource.model_copy(update={"document": name})
    return placed, reader.problems


def _kind(reader: Reader, index: int, item: Any) -> type[AnyResource] | None:  # Any: whatever YAML can hold
    path: KeyPath = ("resources", index)
    if not isinstance(item, dict):
        reader.wrong("C002", path, f"resources[{index + 1}]: expected keys and values, such as  kind: file")
    elif "kind" not in item:
        reader.wrong("C003", path, f"the key 'kind' is missing in resources[{index + 1}]", "add  kind: file")
    elif not isinstance(item["kind"], str) or item["kind"] not in KINDS:
        shown = str(item["kind"])[:60]
        reader.wrong("S001", (*path, "kind"), f"there is no resource kind '{shown}'", nearest(shown, sorted(KINDS)))
    else:
        return KINDS[item["kind"]]
    return None


def _together(source: Document, placed: Mapping[int, AnyResource]) -> list[Problem]:
    """What is wanted twice in the file, and requisites that can be no id of a resource."""
    found, first = list[Problem](), dict[object, int]()
    for index, resource in placed.items():
        before = min(first.setdefault(claim, index) for claim in claims(resource))
        if before < index:
            line = source.place(("resources", before)).line
            message = f"{resource.id} is wanted twice, first in line {line}; a thing can be wanted in one way only"
            found.append(source.problem("S002", ("resources", index), message, "keep one"))
        found += _no_ids(source, index, resource)
    return found


def _circles(source: Document, resources: Sequence[AnyResource]) -> list[Problem]:
    ids = {resource.id for resource in resources}
    alone = [
        r.model_copy(
            update={
                "requires": tuple(i for i in r.requires if i in ids),
                "watches": tuple(i for i in r.watches if i in ids),
            }
        )
        for r in linked(resources, ids)
    ]
    try:
        order(alone)
    except UserError as error:
        return [source.problem("S004", ("resources",), str(error), "take one of them out", key=True)]
    return []


def _no_ids(source: Document, index: int, resource: AnyResource) -> list[Problem]:
    return [
        source.problem("S003", ("resources", index, key, at), f"'{needed}' is no id of a resource", hint)
        for key, at, needed in _requisites(resource)
        if (hint := _no_such_kind(needed))
    ]


def _no_such_kind(needed: str) -> str:
    """What to write instead of a requisite that can never be one; empty for one that may be."""
    kind, colon, key = needed.partition(":")
    if not colon or not key:
        return "an id is kind:name, such as file:/etc/motd"
    return "" if kind in KINDS else f"there is no kind '{kind}'; {nearest(kind, sorted(KINDS))}"


def _near(needed: str, known: str) -> bool:
    return known.partition(":")[0] == needed.partition(":")[0]


def _other_spelling(needed: str) -> str:
    if not needed.startswith("service:"):
        return needed
    return needed.removesuffix(".service") if needed.endswith(".service") else full_name(needed)
