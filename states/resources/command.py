"""Command: a program that is run until its guard says that it has been, for what no kind knows.

Rules:
1. There is a guard, because nothing else could say that there is nothing to do. All given ones must ask for a run.
2. No shell unless `shell` says so; then the first word is a script and the others are its $1, $2, ...
3. After a run the guards are asked again, and must find nothing left to do.
4. What must not be seen goes in by `stdin`: every process of the host can read a command line.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...common.errors import HostError
from ...common.results import Disruption, Impact
from ...common.secret import Secret
from ..action import Run
from ..resource import Change, Resource
from ..system import Look
from .accounts import getent
from .fields import AbsolutePath, AccountName, OneLine

LATE, CANNOT_BE_RUN, NOT_THERE = 124, 126, 127
GUARD_S = 30.0
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandFacts:
    """Exit codes of the guards, None for one that is not given. `created`: `creates` is there.

    `missing`: what a guard needs and this host does not have (yet), so that it was not asked.
    """

    created: bool | None = None
    unless: int | None = None
    only_if: int | None = None
    missing: str = ""


class Command(Resource[CommandFacts]):
    """`creates`: not when this path exists. `unless`: not when this succeeds. `only_if`: only when this does.

    `restarts`: a unit that the command stops or restarts, so that an apply goes node by node.
    """

    kind: Literal["command"] = "command"
    name: OneLine
    argv: Words
    shell: bool = False
    creates: AbsolutePath | Literal[""] = ""
    unless: Words = ()
    only_if: Words = ()
    user: AccountName = "root"
    cwd: AbsolutePath = "/"
    env: dict[str, str] = Field(default_factory=dict)
    stdin: Secret | None = None
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    restarts: str = ""

    @field_validator("argv", "unless", "only_if")
    @classmethod
    def _first_word(cls, value: Words) -> Words:
        if value and (not value[0] or any("\0" in word for word in value)):
            raise ValueError("expected a list of words, the first of which is the program")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Command:
        if not self.argv:
            raise ValueError("argv: expected a list of words, the first of which is the program")
        if not (self.creates or self.unless or self.only_if):
            raise ValueError(
                "expected at least one of creates, unless and only_if; without a guard it would run on every apply"
            )
        for name in self.env:
            if not name.isidentifier():
                raise ValueError(f"env: expected names of variables, not {name!r}")
        return self

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> CommandFacts:
        created = look.attributes(self.creates).kind != "absent" if self.creates else None
        if missing := self._missing(look):
            return CommandFacts(created, missing=missing)
        return CommandFacts(created, self._ask(look, "unless", self.unless), self._ask(look, "only_if", self.only_if))

    def _missing(self, look: Look) -> str:
        if self.user != "root" and getent(look, "passwd", self.user) is None:
            return f"there is no user {self.user}"
        if self.cwd != "/" and look.attributes(self.cwd).kind == "absent":
            return f"there is no folder {self.cwd}"
        return ""

    def _ask(self, look: Look, guard: str, words: Words) -> int | None:
        if not words:
            return None
        argv = self._argv(words)
        as_user = argv if self.user == "root" else ("runuser", "-u", self.user, "--", *argv)
        said = look.ask(as_user, timeout_s=GUARD_S)
        if said.rc == LATE:
            raise HostError(f"{guard}: {words[0]} did not end within {GUARD_S:g} s, so nothing is known of it")
        return said.rc

    def _argv(self, words: Words) -> Words:
        argv = ("/bin/sh", "-c", words[0], "sh", *words[1:]) if self.shell else words
        where = ("-C", self.cwd) if self.cwd != "/" else ()
        settings = tuple(f"{name}={value}" for name, value in sorted(self.env.items()))
        return ("env", *where, *settings, *argv) if where or settings else argv

    def plan(self, facts: CommandFacts) -> list[Change]:
        if facts.created or facts.unless == 0 or facts.only_if not in (None, 0):
            return []
        guards = (("creates", self.creates), ("unless", self.unless), ("only_if", self.only_if))
        given = [guard for guard, value in guards if value]
        why = f"{' and '.join(given)} {'ask' if len(given) > 1 else 'asks'} for it"
        return [self._change(facts.missing or why, f"run: {shlex.join(self.argv)}")]

    def refresh(self, facts: CommandFacts) -> list[Change]:
        if facts.only_if not in (None, 0):
            return []
        return [self._change("ran before the change", f"run again: {shlex.join(self.argv)}")]

    def _change(self, before: str, after: str) -> Change:
        action = Run(self._argv(self.argv), self.stdin, self.user, self.timeout_s)
        disruption = Disruption(impact=Impact.RESTART, unit=self.restarts) if self.restarts else Disruption()
        return Change("command", action, before, after, disruption=disruption)

    def note(self, facts: CommandFacts) -> str:
        if facts.only_if in (CANNOT_BE_RUN, NOT_THERE):
            return f"only_if: {self.only_if[0]} cannot be run on this host, so the command is not"
        return ""
