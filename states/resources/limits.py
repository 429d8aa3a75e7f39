"""Limits: what pam_limits gives a user or a group at login. A service has its limits from its unit, see `drop_in`.

Source: limits.conf(5). A soft limit above the hard one and an unlimited nofile make logins fail, so neither is taken.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ..action import Remove
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .files import File

_DOMAIN = re.compile(r"\*|[@%]?[a-z_][a-z0-9_-]{0,31}")
Item = Literal[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "maxlogins",
    "maxsyslogins",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
]
Value = Annotated[int, Field(ge=0, le=2**63 - 1)] | Literal["unlimited"]


class Limits(Resource[FileFacts]):
    """`/etc/security/limits.d/60-pgha-DOMAIN.conf`. `domain` is a user, `@group` or `*`, which does not mean root."""

    kind: Literal["limits"] = "limits"
    domain: str
    soft: dict[Item, Value] = Field(default_factory=dict)
    hard: dict[Item, Value] = Field(default_factory=dict)
    absent: bool = False

    @field_validator("domain")
    @classmethod
    def _domain(cls, value: str) -> str:
        if not _DOMAIN.fullmatch(value):
            raise ValueError(f"expected a user, a group as @group, or '*', not {value!r}")
        return value

    @field_validator("soft", "hard")
    @classmethod
    def _bearable(cls, value: dict[Item, Value]) -> dict[Item, Value]:
        if value.get("nofile") == "unlimited":
            raise ValueError("nofile: expected a number; the kernel refuses unlimited, and nobody could log in")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        if not self.absent and not self.soft and not self.hard:
            raise ValueError("soft, hard: expected at least one limit in one of them")
        for item in self.soft.keys() & self.hard.keys():
            if _number(self.soft[item]) > _number(self.hard[item]):
                raise ValueError(f"soft.{item}: expected at most the hard limit, {self.hard[item]}")
        return self

    def key(self) -> str:
        return self.domain

    @property
    def _path(self) -> str:
        name = {"*": "all"}.get(self.domain, self.domain.replace("@", "group-").replace("%", "logins-"))
        return f"/etc/security/limits.d/60-pgha-{name}.conf"

    def observe(self, look: Look) -> FileFacts:
        return look.file(self._path)

    def plan(self, facts: FileFacts) -> list[Change]:
        if self.absent:
            return [Change("limits", Remove(self._path), facts.kind, "absent")] if facts.kind != "absent" else []
        both = (("soft", self.soft), ("hard", self.hard))
        lines = [f"{self.domain} {kind} {item} {limits[item]}\n" for kind, limits in both for item in sorted(limits)]
        return File(path=self._path, content="".join(lines)).plan(facts)


def _number(value: int | str) -> float:
    return float("inf") if value == "unlimited" else float(value)
