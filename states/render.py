"""Values -> the text of a configuration file. The same values always give the same bytes, or every run would differ.

YAML is written in the narrow form that YAML 1.1 (Patroni) and 1.2 (etcd) read alike: text is double-quoted unless it
is plain beyond doubt, so that `on`, `1e3`, `null` or a password never turn into something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Union

from ..common.secret import Secret

Yaml = Union[str, int, float, bool, None, "Sequence[Yaml]", "Mapping[str, Yaml]"]

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = {"on", "off", "yes", "no", "true", "false", "null", "y", "n"}


def managed(cluster: str, comment: str = "#") -> str:
    """The first line of every file that pgha keeps; it says where to change it instead."""
    return f"{comment} managed by pgha, cluster {cluster}: change the definition and run pgha-master apply {cluster}\n"


def to_yaml(value: Mapping[str, Yaml]) -> str:
    """A block-style document, keys in the order given. None is written as null."""
    return "\n".join(_mapping(value)) + "\n"


def endpoint(address: str, port: int) -> str:
    """`10.0.0.1:2379`, `[fd00::1]:2379`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def quoted(secret: Secret) -> Secret:
    """The secret as it stands between the double quotes of a YAML or JSON text."""
    return Secret(json.dumps(secret.reveal(), ensure_ascii=False)[1:-1])


def pgpass_field(secret: Secret) -> Secret:
    """The secret as a field of a password file. Source: PostgreSQL docs, 34.16 The Password File."""
    return Secret(re.sub(r"([\\:])", r"\\\1", secret.reveal()))


def _mapping(value: Mapping[str, Yaml]) -> list[str]:
    lines: list[str] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines += [f"{_scalar(key)}:", *(f"  {line}" for line in _mapping(item))]
        elif isinstance(item, Sequence) and not isinstance(item, str) and item:
            lines += [f"{_scalar(key)}:", *(f"  {line}" for line in _sequence(item))]
        else:
            lines.append(f"{_scalar(key)}: {_leaf(item)}")
    return lines


def _sequence(value: Sequence[Yaml]) -> list[str]:
    lines: list[str] = []
    for item in value:
        if isinstance(item, Mapping) and item:
            first, *rest = _mapping(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            lines.append(f"- {_leaf(item)}")
    return lines


def _leaf(value: Yaml) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[]"
    return _scalar(value)


def _scalar(value: str | int | float | bool | None) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
