"""Which nodes a person means: names, globs and roles, put together with `and`, `or`, `not` and parentheses.

    pg-node1          a node, or every node of the cluster of that name
    pg-*,witness-*    any of these (no spaces around the comma)
    role:leader       leader, replica, sync, witness, data, etcd, proxy; also role:leader,witness
    region:eu-*       cluster:prod
    all  *            every node
    prod and not (role:leader or region:us-*)

`not` binds tighter than `and`, `and` tighter than `or`. Pure: it matches the nodes it is given and asks nobody.
An empty match is an empty list; the caller makes that an error, for a command that reaches nobody is never a success.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn

from ..common.errors import UserError

ROLES = ("leader", "replica", "sync", "witness", "data", "etcd", "proxy")
KEYS = ("role", "region", "cluster")
_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()])"
    r"|(?P<compare>(?!(?:and|or|not)\b)[A-Za-z_]+\s*(?:[<>]=?|!=|==?)\s*\S*)"
    r"|(?P<word>[^\s()<>=]+))"
)
_DEPTH = 50


class TargetError(UserError):
    """An expression that cannot be read. `position` counts characters from 1. CLI exit code 2."""

    def __init__(self, expression: str, position: int, message: str) -> None:
        self.position = position
        super().__init__(
            f"cannot read the target at character {position}: {message}\n  {expression}\n  {' ' * (position - 1)}^"
        )


@dataclass(frozen=True, slots=True)
class TargetNode:
    """A node as it can be meant. `roles` are words of ROLES: what it is for, and what it is at this moment."""

    name: str
    cluster: str = ""
    region: str = ""
    roles: frozenset[str] = frozenset()
    connected: bool = True


Test = Callable[[TargetNode], bool]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # paren, word, end
    text: str
    at: int  # index from 0


def match(expression: str, nodes: Sequence[TargetNode]) -> list[str]:
    """Names of the nodes that are meant, in the order given, each once. Raises TargetError."""
    test = parse(expression)
    return list(dict.fromkeys(node.name for node in nodes if test(node)))


def parse(expression: str) -> Test:
    """The expression as a question to one node. Raises TargetError."""
    return _Parser(expression).parse()


class _Parser:
    """Recursive descent, one method per level of binding."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def parse(self) -> Test:
        if self._peek().kind == "end":
            self._fail(0, "it is empty; name nodes, or use all")
        test = self._either()
        left = self._peek()
        if left.kind != "end":
            self._fail(left.at, f"expected and, or, or the end before {left.text!r}")
        return test

    def _split(self) -> list[_Token]:
        tokens, at, text = [], 0, self._expression.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                bad = at + len(text[at:]) - len(text[at:].lstrip())
                self._fail(bad, f"unexpected {text[bad]!r}")
            start = found.start(found.lastgroup)
            if found.lastgroup == "compare":
                self._fail(
                    start, f"comparisons such as {found['compare']!r} are not supported; use role:, region:, names"
                )
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], start))
            at = found.end()
        return [*tokens, _Token("end", "", len(text))]

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda node: any(test(node) for test in tests)

    def _both(self) -> Test:
        tests = [self._negated()]
        while self._take("and"):
            tests.append(self._negated())
        return tests[0] if len(tests) == 1 else lambda node: all(test(node) for test in tests)

    def _negated(self) -> Test:
        self._depth += 1
        if self._depth > _DEPTH:
            self._fail(self._peek().at, f"more than {_DEPTH} levels of not and parentheses")
        try:
            if self._take("not"):
                test = self._negated()
                return lambda node: not test(node)
            return self._term()
        finally:
            self._depth -= 1

    def _term(self) -> Test:
        token = self._peek()
        if token.text == "(":
            self._next += 1
            test = self._either()
            if self._peek().text != ")":
                self._fail(self._peek().at, f"expected ) for the ( at character {token.at + 1}")
            self._next += 1
            return test
        if token.kind == "end":
            self._fail(token.at, "expected a name, role:, region:, cluster: or ( and found the end")
        if token.kind == "paren" or token.text in ("and", "or"):
            self._fail(token.at, f"expected a name, role:, region: or cluster: and found {token.text!r}")
        self._next += 1
        return self._any_of(token)

    def _any_of(self, token: _Token) -> Test:
        """`a,b,c`; a part without a key has the key of the part before it: role:leader,witness means two roles."""
        tests, key, at = [], "", token.at
        for part in token.text.split(","):
            head, colon, value = part.rpartition(":")
            key = head if colon else key
            if not value:
                self._fail(at, "expected a name beside the comma" if not colon else f"expected a value after {part!r}")
            tests.append(self._one(key, value, at))
            at += len(part) + 1
        return tests[0] if len(tests) == 1 else lambda node: any(test(node) for test in tests)

    def _one(self, key: str, value: str, at: int) -> Test:
        if key == "":
            everyone = value == "all"
            return lambda node: everyone or fnmatchcase(node.name, value) or (node.cluster == value)
        if key == "region":
            return lambda node: fnmatchcase(node.region, value)
        if key == "cluster":
            return lambda node: fnmatchcase(node.cluster, value)
        if key != "role":
            self._fail(at, f"unknown key {key!r}{_near(key, KEYS)}; known: {', '.join(KEYS)}")
        if value not in ROLES:
            self._fail(at, f"unknown role {value!r}{_near(value, ROLES)}; known: {', '.join(ROLES)}")
        return lambda node: value in node.roles

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, word: str) -> bool:
        token = self._peek()
        if token.kind != "word" or token.text != word:
            return False
        self._next += 1
        return True

    def _fail(self, index: int, message: str) -> NoReturn:
        raise TargetError(self._expression, index + 1, message)


def _near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""
