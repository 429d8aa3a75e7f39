"""PatroniFile: Patroni's own file on a node, whose parameters PostgreSQL is asked about before they are written.

It is a File in all else. What differs in parameters that need a restart of PostgreSQL is told one by one, so that the
plan knows what such a change costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ...common.results import Disruption, Impact
from ..action import rendered
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .files import File
from .patroni import NEEDS_RESTART, PENDING, same
from .postgres_parameters import Value, insist, lasting, refused

_RELOAD = Disruption(impact=Impact.RELOAD, unit="patroni")


@dataclass(frozen=True, slots=True)
class PatroniFileFacts:
    """`refused`: what PostgreSQL complains of; `lasting`: what it says takes a restart."""

    file: FileFacts
    refused: tuple[str, ...] = ()
    lasting: frozenset[str] = frozenset()


class PatroniFile(Resource[PatroniFileFacts]):
    """`parameters`: all that PostgreSQL would be started with, which the program in `bin_dir` is asked about."""

    kind: Literal["patroni_file"] = "patroni_file"
    file: File
    bin_dir: str = ""
    parameters: dict[str, Value] = Field(default_factory=dict)

    def key(self) -> str:
        return self.file.path

    def files(self) -> tuple[str, ...]:
        return self.file.files()

    def _new(self, there: FileFacts) -> list[str]:
        """The parameters that differ from what the file says now; all of them where there is none."""
        old = _parameters(there.content or "") if there.kind == "file" else {}
        return [name for name, value in self.parameters.items() if name not in old or not same(old[name], value)]

    def observe(self, look: Look) -> PatroniFileFacts:
        there = self.file.observe(look)
        if there.content == rendered(self.file.content, self.file.secrets.items()):
            return PatroniFileFacts(there)
        return PatroniFileFacts(there, refused(look, self.bin_dir, self.parameters), lasting(look))

    def plan(self, facts: PatroniFileFacts) -> list[Change]:
        changes = self.file.plan(facts.file)
        if not changes:
            return []
        insist(facts.refused, self._new(facts.file))
        return changes + [
            Change(f"postgresql.{name}{PENDING}", changes[0].action, before, after, disruption=_RELOAD)
            for name, before, after in _lasting(
                _postgresql(facts.file.content or ""), _postgresql(self.file.content), NEEDS_RESTART | facts.lasting
            )
        ]


def _parameters(text: str) -> dict[str, Any]:
    """What the file says of parameters: those of the bootstrap, and over them the node's own."""
    data = _loaded(text)
    shared: object = _section(data, "bootstrap")
    for name in ("dcs", "postgresql", "parameters"):
        shared = _section(shared, name)
    return {**(shared if isinstance(shared, dict) else {}), **_section(_section(data, "postgresql"), "parameters")}


def _lasting(is_: dict[str, Any], wanted: dict[str, Any], names: frozenset[str]) -> list[tuple[str, str, str]]:
    """Name, before, after of what takes a restart and differs; nothing where there was no such file before."""
    if not is_:
        return []
    old, new = _section(is_, "parameters"), _section(wanted, "parameters")
    rows = [(f"parameters.{name}", old.get(name), new.get(name)) for name in sorted({*old, *new}) if name in names]
    rows.append(("listen", is_.get("listen"), wanted.get("listen")))
    return [(name, _text(before), _text(after)) for name, before, after in rows if not same(before, after)]


def _postgresql(text: str) -> dict[str, Any]:
    return _section(_loaded(text), "postgresql")


def _loaded(text: str) -> object:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def _section(data: object, name: str) -> dict[str, Any]:
    section = data.get(name) if isinstance(data, dict) else None
    return section if isinstance(section, dict) else {}


def _text(value: object) -> str:
    return "absent" if value is None else str(value)
