"""Files, folders, links, and their absence.

A difference is shown as exactly what it is: absent, content (a unified diff), owner, mode. A file that holds secrets
is compared with the secrets filled in and shown without them: what is to come is shown with asterisks in their
place, and of what goes away only the keys are shown, because it may hold an older secret.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from ...common.secret import MASK, Secret
from ..action import MARK, Action, MakeDirectory, MakeSymlink, Remove, SetAttributes, WriteFile, rendered
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .fields import Mode

DIFF_LINES = 200
_KEY = re.compile(r"\s*(?:- )?['\"]?[A-Za-z_][\w.\- ]*['\"]?\s*(?::|=(?=.*[^=\s]))")


class File(Resource[FileFacts]):
    """A file with exactly this content. `content` may hold `{{name}}` marks, filled in from `secrets`.

    `check` is an argv with `%s` for the new version's temporary path; non-zero leaves the old version in place.
    """

    kind: Literal["file"] = "file"
    path: str
    content: str
    owner: str = "root"
    group: str = "root"
    mode: Mode = 0o644
    check: tuple[str, ...] = ()
    secrets: dict[str, Secret] = Field(default_factory=dict)

    def key(self) -> str:
        return self.path

    def observe(self, look: Look) -> FileFacts:
        return look.file(self.path)

    def plan(self, facts: FileFacts) -> list[Change]:
        attributes = attribute_changes(self.path, facts, self.owner, self.group, self.mode)
        if facts.kind != "file":
            return [Change("file", self._write(), facts.kind, "file", self._diff(""))]
        if facts.content == rendered(self.content, self.secrets.items()):
            return attributes
        if facts.content is None:
            content = Change("content", self._write(), "not text, or larger than 1 MiB", "text", self._diff(""))
        elif self._only_secrets_differ(facts.content):
            content = Change("secret value", self._write())
        else:
            content = Change("content", self._write(), diff=self._diff(facts.content))
        return [content, *attributes]

    def _write(self) -> WriteFile:
        secrets = tuple(sorted(self.secrets.items()))
        return WriteFile(self.path, self.content, self.owner, self.group, self.mode, self.check, secrets)

    def _only_secrets_differ(self, old: str) -> bool:
        if not self.secrets:
            return False
        pattern, end = "", 0
        for mark in MARK.finditer(self.content):
            if mark[1] in self.secrets:
                pattern += re.escape(self.content[end : mark.start()]) + r"[^\n]*"
                end = mark.end()
        return re.fullmatch(pattern + re.escape(self.content[end:]), old) is not None

    def _diff(self, old: str) -> str:
        new = rendered(self.content, self.secrets.items())
        shown = rendered(self.content, ((name, Secret(_masked(value))) for name, value in self.secrets.items()))
        return unified(
            old.splitlines(), new.splitlines(), shown.splitlines(), _only_the_key if self.secrets else lambda line: line
        )


class Directory(Resource[FileFacts]):
    kind: Literal["directory"] = "directory"
    path: str
    owner: str = "root"
    group: str = "root"
    mode: Mode = 0o755

    def key(self) -> str:
        return self.path

    def observe(self, look: Look) -> FileFacts:
        return look.attributes(self.path)

    def plan(self, facts: FileFacts) -> list[Change]:
        if facts.kind != "directory":
            make = MakeDirectory(self.path, self.owner, self.group, self.mode)
            return [Change("directory", make, facts.kind, "directory")]
        return attribute_changes(self.path, facts, self.owner, self.group, self.mode)


class Symlink(Resource[FileFacts]):
    kind: Literal["symlink"] = "symlink"
    path: str
    target: str

    def key(self) -> str:
        return self.path

    def observe(self, look: Look) -> FileFacts:
        return look.attributes(self.path)

    def plan(self, facts: FileFacts) -> list[Change]:
        if facts.kind == "symlink" and facts.target == self.target:
            return []
        before = f"-> {facts.target}" if facts.kind == "symlink" else facts.kind
        return [Change("symlink", MakeSymlink(self.path, self.target), before, f"-> {self.target}")]


class Absent(Resource[FileFacts]):
    """Nothing at this path. A folder that is not empty goes only when `tree` says so."""

    kind: Literal["absent"] = "absent"
    path: str
    tree: bool = False

    def key(self) -> str:
        return self.path

    def observe(self, look: Look) -> FileFacts:
        return look.attributes(self.path)

    def plan(self, facts: FileFacts) -> list[Change]:
        if facts.kind == "absent":
            return []
        lost = f"{self.path} with all that is in it" if self.tree and facts.kind == "directory" else ""
        return [Change("presence", Remove(self.path, self.tree), facts.kind, "absent", destroys=lost)]


def attribute_changes(path: str, facts: FileFacts, owner: str, group: str, mode: int) -> list[Change]:
    """The owner and the mode, each as its own difference; one action removes both."""
    if (facts.owner, facts.group, facts.mode) == (owner, group, mode):
        return []
    action: Action = SetAttributes(path, owner, group, mode)
    changes: list[Change] = []
    if (facts.owner, facts.group) != (owner, group):
        changes.append(Change("owner", action, f"{facts.owner}:{facts.group}", f"{owner}:{group}"))
    if facts.mode != mode:
        changes.append(Change("mode", action, f"{facts.mode:04o}", f"{mode:04o}"))
    return changes


def unified(
    old: Sequence[str],
    new: Sequence[str],
    shown: Sequence[str],
    removed: Callable[[str], str] = str,
    limit: int = DIFF_LINES,
    context: int = 3,
) -> str:
    """A unified diff of `old` and `new` that shows line n of `shown` for line n of `new`, and `removed(line)` of `old`.

    At most `limit` lines; the last one then says how many are left out.
    """
    lines: list[str] = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context):
        (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
        lines.append(f"@@ -{i1 + 1},{i2 - i1} +{j1 + 1},{j2 - j1} @@")
        for tag, a1, a2, b1, b2 in group:
            if tag == "equal":
                lines += [f" {line}" for line in shown[b1:b2]]
            else:
                lines += [f"-{removed(line)}" for line in old[a1:a2]] + [f"+{line}" for line in shown[b1:b2]]
    if len(lines) > limit:
        rest = "\n".join(lines[limit:])
        mark = hashlib.sha256(rest.encode()).hexdigest()[:8]  # who compares two plans must see a difference there, too
        lines = [*lines[:limit], f"... {len(lines) - limit} more lines ({mark})"]
    return "\n".join(lines)


def _masked(value: Secret) -> str:
    # as many lines as the secret has, so that the shown text and the real one stay side by side
    return "\n".join(MASK for _ in value.reveal().split("\n"))


def _only_the_key(line: str) -> str:
    """`password: abc` -> `password: ********`; a line without a key is hidden whole."""
    key = _KEY.match(line)
    if not line.strip():
        return line
    return f"{key[0]} {MASK}" if key else MASK
