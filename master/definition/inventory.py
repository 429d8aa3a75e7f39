"""The definition file of a cluster -> `Cluster`, with everything that is wrong with it told at once.

Rules:
1. What one key may hold is the model's business (`common/cluster.py`); what two keys mean together is judged in
   `master/definition/rules.py`. This file leads from one to the other and keeps every line and column right.
2. A wrong value does not hide the next: it is taken out, and the rules look at what is left of the cluster.
3. In the file `nodes` is a mapping from name to fields, and `defaults` holds node fields that a node lacks.
4. No value that looks like a password is ever repeated in a message.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from ...common.clock import SystemClock
from ...common.cluster import Cluster, Node
from ...common.errors import DefinitionError, Problem, UserError
from ...common.names import is_cluster_name, is_node_name
from ...common.paths import Paths
from ...common.settings import check, known_keys, nearest
from ...common.yamltext import Document, KeyPath, parse, read_file
from . import rules

SCHEMA = "pgha/v1"


def load(path: str, text: str, today: date | None = None) -> tuple[Cluster, list[Problem]]:
    """The cluster and the warnings of its definition, in the order of the file.

    `path` is only for messages; `today` (UTC) decides what is past its end of life.
    Raises DefinitionError with all problems, warnings included, when one of them is an error.
    """
    document = parse(path, text)
    problems = _schema(document)
    if problems:
        raise DefinitionError(path, problems, text)
    day = today or datetime.fromtimestamp(SystemClock().now(), timezone.utc).date()
    cluster, problems = _read(document, day)
    if cluster is None or any(not problem.warning for problem in problems):
        raise DefinitionError(path, problems, text)
    return cluster, sorted(problems, key=lambda p: (p.line, p.column, p.code))


def find(name: str, clusters: Path) -> Path:
    """The file that `name` means: a path when it looks like one, else the definition of that cluster.

    Raises UserError when there is none, with the names there are.
    """
    if is_path(name):
        return Path(name)
    path = clusters / f"{name}.yml"
    if is_cluster_name(name) and path.is_file():
        return path
    there = sorted(p.stem for p in clusters.glob("*.yml"))
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    known = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(there)}." if there else ""
    other = ", or set PGHA_ROOT if its files are elsewhere" if clusters == Paths(Path("/")).clusters else ""
    advice = f"{known} " if known else ""
    raise UserError(f"No cluster '{name}': {path} does not exist. {advice}Write it, or give the path of a file{other}.")


def read(name: str, clusters: Path) -> tuple[str, str]:
    """Path and text of the definition that `name` means. Raises UserError, DefinitionError."""
    path = find(name, clusters)
    return str(path), read_file(path)


def digest(text: str) -> str:
    """What names a definition to a person: the first hex digits of its text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def insist(name: str, path: str, cluster: Cluster) -> None:
    """Raises UserError when a cluster was asked for by name and the file at `path` describes another."""
    if not is_path(name) and cluster.name != name:
        raise UserError(
            f"{path} describes the cluster '{cluster.name}', not '{name}'. Rename the file to {cluster.name}.yml, "
            f"or write in it  cluster: {name}"
        )


def is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yml", ".yaml"))


def _schema(document: Document) -> list[Problem]:
    found = document.data.get("schema")
    if found == SCHEMA:
        return []
    if "schema" not in document.data:
        return [
            document.problem("C003", (), "the key 'schema' is missing", f"add  schema: {SCHEMA}  as the first line")
        ]
    hint = f"write  schema: {SCHEMA}"
    return [document.problem("C006", ("schema",), f"this pgha reads only the schema '{SCHEMA}'", hint)]


@dataclass(frozen=True)
class _Nodes:
    """The nodes as the model wants them, and the way back to the file."""

    data: dict[str, Any]
    names: list[str]
    problems: list[Problem]

    def locate(self, document: Document, path: KeyPath) -> KeyPath:
        if len(path) < 2 or path[0] != "nodes" or not isinstance(path[1], int):
            return path
        own: KeyPath = ("nodes", self.names[path[1]], *path[2:])
        inherited: KeyPath = ("defaults", *path[2:])
        return inherited if len(path) > 2 and not document.has(own[:3]) and document.has(inherited[:2]) else own


def _read(document: Document, today: date) -> tuple[Cluster | None, list[Problem]]:
    nodes = _nodes(document)
    problems = [*nodes.problems, *rules.secrets(document)]
    hidden = {(p.line, p.column) for p in problems if p.code == "C040"}
    data, whole = nodes.data, bool(nodes.names) and not nodes.problems
    cluster, found, paths = check(Cluster, document, data, lambda path: nodes.locate(document, path))
    problems += [p for p in found if (p.line, p.column) not in hidden]
    if cluster is None:
        data, kept = _without(data, paths)
        cluster, _, _ = check(Cluster, document, data)
        whole = whole and kept
    if cluster is not None:
        problems += rules.judge(document, cluster, today, whole)
    return cluster, problems


def _nodes(document: Document) -> _Nodes:
    """`nodes` as a list with names, `defaults` laid under each. What cannot be a node is left out and told."""
    data = copy.deepcopy({key: value for key, value in document.data.items() if key not in ("nodes", "defaults")})
    nodes, defaults = document.data.get("nodes"), document.data.get("defaults", {})
    problems: list[Problem] = []
    if not isinstance(defaults, dict):
        problems.append(document.problem("C002", ("defaults",), "defaults: expected node fields, such as  region: eu"))
        defaults = {}
    if not isinstance(nodes, dict) or not nodes:
        if "nodes" in document.data:
            hint = "write them as  name: {address: 10.0.1.11}"
            problems.append(document.problem("C002", ("nodes",), "nodes: expected names with their fields", hint))
            data["nodes"] = []
        return _Nodes(data, [], problems + _names_in_defaults(document, defaults))
    names: list[str] = []
    data["nodes"] = []
    for name, fields in nodes.items():
        problem = _node_problem(document, name, fields)
        if problem:
            problems.append(problem)
            continue
        names.append(name)
        data["nodes"].append({**copy.deepcopy(defaults), **copy.deepcopy(fields), "name": name})
    return _Nodes(data, names, problems)


def _node_problem(document: Document, name: str, fields: object) -> Problem | None:
    path: KeyPath = ("nodes", name)
    if not is_node_name(name):
        hint = "use a host name of lower-case letters, digits and '-', such as pg-node1, of at most 63 characters"
        return document.problem("C011", path, f"'{name}' cannot be the name of a node", hint, key=True)
    if not isinstance(fields, dict):
        hint = f"write  {name}: {{address: 10.0.1.11}}"
        return document.problem("C002", path, f"nodes.{name}: expected the fields of a node", hint)
    if "name" in fields:
        hint = "the name stands before the colon: remove it"
        return document.problem("C001", (*path, "name"), f"unknown key 'name' in nodes.{name}", hint, key=True)
    return None


def _names_in_defaults(document: Document, defaults: dict[str, Any]) -> list[Problem]:
    """Unknown keys of `defaults` where no node can show them."""
    known = known_keys(Node, ())
    return [
        document.problem("C001", ("defaults", key), f"unknown key '{key}' in defaults", nearest(key, known), key=True)
        for key in defaults
        if key not in known
    ]


def _without(data: dict[str, Any], paths: list[KeyPath]) -> tuple[dict[str, Any], bool]:
    """The data with every wrong value taken out, and whether all nodes are still in it.

    A node goes as a whole when its address is what is wrong.
    """
    data, gone = copy.deepcopy(data), set()
    for path in paths:
        if path[:1] == ("nodes",) and len(path) > 1 and (len(path) == 2 or path[2] in ("address", "role")):
            gone.add(path[1])
            continue
        holder: Any = data
        for part in path[:-1]:
            holder = holder[part]
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
        elif isinstance(holder, list):
            holder[int(path[-1])] = None
    _drop_nones(data)
    if isinstance(data.get("nodes"), list):
        data["nodes"] = [node for index, node in enumerate(data["nodes"]) if index not in gone]
    data.setdefault("cluster", "unnamed")
    data.setdefault("nodes", [])
    return data, not gone


def _drop_nones(value: Any) -> None:  # Any: whatever YAML can hold
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_nones(inner)
    if isinstance(value, list):
        value[:] = [item for item in value if item is not None]
