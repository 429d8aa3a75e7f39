"""A set of keys that may log in as a user, known by its label: those of the set that are wanted no longer are removed.

Rules:
1. A line belongs to the set when its comment is `LABEL` or begins with `LABEL `. No other line is changed or removed.
2. A line of the set that is not exactly as wanted is replaced.
3. A line of somebody's with the same key stays; sshd takes the first one with a key, and that is for its owner.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from ...common.errors import HostError
from ..resource import Change, Resource
from ..system import Look
from .fields import AccountName
from .ssh import KeyOptions, KeysFacts, PublicKey, authorized_keys_of, comment_of, lines_changed

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/-]*")


def _one_word(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError(f"expected one word of letters, digits and '_.:@/-', not {value!r}")
    return value


class LabelledKey(BaseModel):
    """`public_key` is `TYPE BASE64 COMMENT`; the label is put before its comment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_key: PublicKey
    options: KeyOptions = ""

    def line(self, label: str) -> str:
        kind, blob, *comment = self.public_key.split(None, 2)
        return " ".join(filter(None, (self.options, kind, blob, label, *comment)))


class AuthorizedKeys(Resource[KeysFacts]):
    kind: Literal["authorized_keys"] = "authorized_keys"
    user: AccountName
    label: Annotated[str, AfterValidator(_one_word)]
    keys: tuple[LabelledKey, ...] = ()

    def key(self) -> str:
        return f"{self.user}#{self.label}"

    def observe(self, look: Look) -> KeysFacts:
        """An empty set has nothing in a place where no key can be kept, and leaves it alone."""
        facts = authorized_keys_of(look, self.user)
        if facts.unfit and self.keys:
            raise HostError(facts.unfit)
        return facts

    def plan(self, facts: KeysFacts) -> list[Change]:
        old, missing = facts.lines, [key.line(self.label) for key in self.keys]
        new: list[str] = []
        for line in old:
            if not self._mine(line):
                new.append(line)
            elif line in missing:
                missing.remove(line)
                new.append(line)
        new += missing
        if not self.keys and (new == old or facts.unfit):
            return []
        return lines_changed("keys", self.user, facts, new)

    def _mine(self, line: str) -> bool:
        return comment_of(line).split(None, 1)[:1] == [self.label]
