"""Line: one line in a file that belongs to somebody else. Every other line, the owner and the mode stay as they are.

With `match`, the line that it finds is replaced; when it finds none the line is added at the end. It must be narrow
enough to find one: which of several counts, the first or the last, only the file's program knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator, model_validator

from ...common.errors import HostError
from ..action import WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .fields import AbsolutePath, OneLine
from .files import unified


@dataclass(frozen=True, slots=True)
class _Lines:
    """A text as its lines, without what ends them; joined again they are the same text, whatever is at its end."""

    lines: tuple[str, ...]
    end: str
    last_ended: bool

    @classmethod
    def of(cls, text: str) -> _Lines:
        end = "\r\n" if 0 < text.count("\n") == text.count("\r\n") else "\n"
        parts = text.split(end)
        ended = parts[-1] == ""
        return cls(tuple(parts[:-1] if ended else parts), end, ended)

    def text(self, lines: list[str]) -> str:
        same_end = self.lines and lines and lines[-1] == self.lines[-1] and len(lines) <= len(self.lines)
        return self.end.join(lines) + (self.end if lines and (self.last_ended or not same_end) else "")


class Line(Resource[FileFacts]):
    """`match` is a regular expression of Python, searched for in each line. An absent file is made, root:root 0644.

    `absent`: no line that `match` finds, or none that is `line`.
    """

    kind: Literal["line"] = "line"
    path: AbsolutePath
    line: OneLine = ""
    match: str = ""
    absent: bool = False

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _something(self) -> Line:
        if not self.line and not (self.absent and self.match):
            raise ValueError("line: expected the text of the line; only absent needs no more than match")
        if self.absent and self.line and self.match:
            raise ValueError("absent: expected either line or match, to say what must not be there")
        return self

    def key(self) -> str:
        return f"{self.path}#{self.match or self.line}"

    def observe(self, look: Look) -> FileFacts:
        facts = look.file(self.path)
        if facts.kind != "absent" and facts.content is None:
            raise HostError(f"{self.path} is a {facts.kind} that is not plain text; no line can be kept in it")
        return facts

    def plan(self, facts: FileFacts) -> list[Change]:
        old = _Lines.of(facts.content or "")
        lines = self._without(old.lines) if self.absent else self._with(old.lines)
        if lines == [*old.lines]:
            return []
        there = facts.kind == "file"
        owner, group, mode = (facts.owner, facts.group, facts.mode) if there else ("root", "root", 0o644)
        diff = unified(old.lines, lines, lines, context=0)  # the other lines are somebody else's
        return [Change("line", WriteFile(self.path, old.text(lines), owner, group, mode), diff=diff)]

    def _without(self, lines: tuple[str, ...]) -> list[str]:
        if self.match:
            return [line for line in lines if not re.search(self.match, line)]
        return [line for line in lines if line != self.line]

    def _with(self, lines: tuple[str, ...]) -> list[str]:
        found = [number for number, line in enumerate(lines) if self.match and re.search(self.match, line)]
        others = [number for number in found if lines[number] != self.line]
        if not others and self.line in lines:
            return [*lines]
        if len(found) > 1:
            numbers = ", ".join(str(number + 1) for number in found)
            raise HostError(
                f"match {self.match!r} finds lines {numbers} of {self.path}; make it so narrow that it is one"
            )
        if not found:
            return [*lines, self.line]
        return [*lines[: found[0]], self.line, *lines[found[0] + 1 :]]
