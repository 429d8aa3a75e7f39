"""Hosts: names and addresses in /etc/hosts, in a block of their own. Every other line belongs to somebody else."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...common.errors import HostError
from ..action import WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .block import with_block
from .fields import Label
from .files import unified

HOSTS = "/etc/hosts"
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*"
)


class Hosts(Resource[FileFacts]):
    """`entries`: names by address; the first of an address is its canonical one. `name` tells blocks apart."""

    kind: Literal["hosts"] = "hosts"
    name: Label = "hosts"
    entries: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    absent: bool = False

    @field_validator("entries")
    @classmethod
    def _names_by_address(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        seen: set[tuple[int, str]] = set()
        for address, names in value.items():
            try:
                version = ipaddress.ip_address(address).version
            except ValueError:
                raise ValueError(f"expected an IP address before the names, not {address!r}") from None
            if not names:
                raise ValueError(f"{address}: expected at least one name")
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{address}: expected the name of a host, not {name!r}")
                if (version, name) in seen:
                    raise ValueError(f"{address}: {name} stands twice; only the first would count")
                seen.add((version, name))
        return value

    @model_validator(mode="after")
    def _something(self) -> Hosts:
        if not self.absent and not self.entries:
            raise ValueError("entries: expected at least one address with its names")
        return self

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> FileFacts:
        facts = look.file(HOSTS)
        if facts.kind != "absent" and facts.content is None:
            raise HostError(f"{HOSTS} is a {facts.kind} that is not plain text; lines cannot be kept in it")
        return facts

    def plan(self, facts: FileFacts) -> list[Change]:
        content = "".join(f"{address} {' '.join(names)}\n" for address, names in self.entries.items())
        old = facts.content or ""
        new = with_block(old, self.name, None if self.absent else content)
        if new == old:
            return []
        there = facts.kind == "file"
        owner, group, mode = (facts.owner, facts.group, facts.mode) if there else ("root", "root", 0o644)
        diff = unified(old.splitlines(), new.splitlines(), new.splitlines(), context=0)
        return [Change(f"names of {self.name}", WriteFile(HOSTS, new, owner, group, mode), diff=diff)]

    def note(self, facts: FileFacts) -> str:
        """What stands in the file besides and says something else of a name; the first line with a name counts."""
        others = with_block(facts.content or "", self.name, None)
        elsewhere = {
            (name, fields[0])
            for fields in (line.split("#")[0].split() for line in others.splitlines())
            for name in fields[1:]
        }
        mine = {(name, address) for address, names in self.entries.items() for name in names}
        twice = sorted({name for name, _ in mine} & {name for name, _ in elsewhere - mine})
        return f"another line of {HOSTS} has {', '.join(twice)} with another address" if twice else ""
