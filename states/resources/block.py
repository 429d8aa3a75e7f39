"""Block: some lines in a file that belongs to somebody else, such as /etc/hosts.

Only what stands between `# pgha begin NAME` and `# pgha end NAME` is pgha's; every other line, and the file's owner
and mode, stay as they are. A begin without its end is taken as a lone line: what follows it is never removed.
"""

from __future__ import annotations

from typing import Literal

from ...common.errors import HostError
from ..action import WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .files import unified


class Block(Resource[FileFacts]):
    """`content` is whole lines; it stands where it stood, or at the end. An absent file is made, root:root 0644."""

    kind: Literal["block"] = "block"
    path: str
    name: str
    content: str

    def key(self) -> str:
        return f"{self.path}#{self.name}"

    def observe(self, look: Look) -> FileFacts:
        facts = look.file(self.path)
        if facts.kind != "absent" and facts.content is None:
            raise HostError(f"{self.path} is a {facts.kind} that is not plain text; lines cannot be kept in it")
        return facts

    def plan(self, facts: FileFacts) -> list[Change]:
        old = facts.content or ""
        new = with_block(old, self.name, self.content)
        if new == old:
            return []
        there = facts.kind == "file"
        write = WriteFile(
            self.path,
            new,
            facts.owner if there else "root",
            facts.group if there else "root",
            facts.mode if there else 0o644,
        )
        diff = unified(old.splitlines(), new.splitlines(), new.splitlines(), context=0)
        return [Change(f"lines of {self.name}", write, diff=diff)]


def with_block(text: str, name: str, content: str | None) -> str:
    """The text with exactly one such block, in the place of the first it has; with none for content None."""
    begin, end = f"# pgha begin {name}", f"# pgha end {name}"
    block = [begin, *content.splitlines(), end] if content is not None else []
    if not block and begin not in text.splitlines():
        return text
    lines = text.splitlines()
    kept: list[str] = []
    at: int | None = None
    while begin in lines:
        start = lines.index(begin)
        kept += lines[:start]
        at = len(kept) if at is None else at
        rest = lines[start + 1 :]
        own = rest.index(end) + 1 if end in rest and begin not in rest[: rest.index(end)] else 0
        lines = rest[own:]
    kept += lines
    at = len(kept) if at is None else at
    return "\n".join([*kept[:at], *block, *kept[at:]]) + "\n"
