"""`{node.name}` and its few like in the texts of a user's state file. No expressions, no loops: those are Python's.

{node.name}       is replaced
{node.nmae}       is a mistake: it looks like one of ours and is none
{{node.name}}     stands for the text {node.name}
{ x }  {x}  {{x}} stay as they are: configuration files are full of braces, and {{x}} is the mark of a secret
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..common.cluster import Cluster, Node
from ..common.facts import HostFacts
from .versions import postgresql_major

NAMES: dict[str, str] = {
    "node.name": "the node's name in the definition",
    "node.address": "its address",
    "node.region": "its region",
    "node.role": "what it is for: data, witness, etcd, proxy; several with a comma between",
    "cluster.name": "the cluster's name",
    "postgresql.version": "the major version of PostgreSQL",
    "postgresql.port": "PostgreSQL's port",
}
"""Name -> what it stands for."""

SAMPLE: dict[str, str | None] = {
    "node.name": "some-node",
    "node.address": "192.0.2.1",
    "node.region": "some-region",
    "node.role": "data",
    "cluster.name": "some-cluster",
    "postgresql.version": "17",
    "postgresql.port": "5432",
}
"""Values to check a file with where there is no node yet."""

Values = Mapping[str, str | None]
"""A value for each of NAMES; None where it is not known."""

_PLACES = "|".join(dict.fromkeys(name.partition(".")[0] for name in NAMES))
_OURS = re.compile(rf"\{{\{{((?:{_PLACES})\.[\w.-]*)\}}\}}|\{{((?:{_PLACES})\.[\w.-]*)\}}")


def values_of(cluster: Cluster, node: Node, facts: HostFacts) -> dict[str, str | None]:
    """Raises UserError where PostgreSQL's version cannot be known."""
    return {
        "node.name": node.name,
        "node.address": node.address,
        "node.region": node.region,
        "node.role": ",".join(role.value for role in node.role),
        "cluster.name": cluster.name,
        "postgresql.version": str(postgresql_major(cluster, facts)),
        "postgresql.port": str(cluster.postgresql.port),
    }


def fill(text: str, values: Values) -> tuple[str, list[str]]:
    """The text with every name replaced, and the names that have no value, each once."""
    missing: dict[str, None] = {}

    def one(found: re.Match[str]) -> str:
        if found[1] is not None:
            return "{" + found[1] + "}"
        value = values.get(found[2])
        if value is None:
            missing[found[2]] = None
            return found[0]
        return value

    return _OURS.sub(one, text), list(missing)
