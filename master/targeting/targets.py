"""Which nodes a person means: names, facts and telemetry, put together with `and`, `or`, `not` and parentheses.

    pg-node1          a node, or every node of the cluster of that name
    pg-*,witness-*    any of these (no spaces around the comma)
    role:leader       leader, replica, sync, witness, data, etcd, proxy; also role:leader,witness
    region:eu-*       cluster:prod  host:*.example.org  os:debian-13,ubuntu*  arch:amd64  pgha:0.1*
    tag:nofailover    tag:failover_priority=100: Patroni's tags, as the definition sets them
    state:connected   offline
    lag>10MB          disk >= 80%  cert<30d  pg<18.4: see comparisons.py
    all  *            every node
    prod and not (role:leader or region:us-*)

`not` binds tighter than `and`, `and` tighter than `or`. Pure: it matches the nodes it is given and asks nobody.
What is not known of a node matches nothing, so it does match the same with `not` before it.
An empty match is an empty list; the caller makes that an error, for a command that reaches nobody is never a success.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import NoReturn

from ...common.cluster import Tags
from ...common.errors import UserError
from ...common.facts import HostFacts
from .comparisons import Known, amount, check_sign, comparison, measure, near

ROLES = ("leader", "replica", "sync", "witness", "data", "etcd", "proxy")
STATES = ("connected", "offline")
TAGS = tuple(Tags.model_fields)
_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()])"
    r"|(?P<comparison>(?P<name>(?!(?:and|or|not)(?![\w-]))[A-Za-z_][\w-]*)\s*"
    r"(?P<sign>[<>=!]+)\s*(?P<value>[^\s()<>=!,]*))"
    r"|(?P<word>(?:[^\s()<>=]*,)?tag:[^\s()<>]+|[^\s()<>=]+))"
)
_DEPTH = 50


class TargetError(UserError):
    """An expression that cannot be read. `position` counts characters from 1. CLI exit code 2."""

    def __init__(self, expression: str, position: int, message: str) -> None:
        self.position, self.reason = position, message
        super().__init__(
            f"cannot read the target at character {position}: {message}\n  {expression}\n  {' ' * (position - 1)}^"
        )


@dataclass(frozen=True, slots=True)
class TargetNode:
    """A node as it can be meant. `roles` are words of ROLES: what it is for, and what it is at this moment.

    `tags` are those of TAGS that have a value, as text; `true` and `false` are lower case.
    """

    name: str
    cluster: str = ""
    region: str = ""
    roles: frozenset[str] = frozenset()
    connected: bool = True
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    known: Known = field(default_factory=Known, hash=False)


Test = Callable[[TargetNode], bool]


@dataclass(frozen=True, slots=True)
class Term:
    """One question of an expression: `role`, `leader`; a name has no key. `position` counts characters from 1."""

    key: str
    value: str
    position: int
    comparison: bool = False


def _of_facts(read: Callable[[HostFacts], tuple[str, ...]]) -> Callable[[TargetNode], tuple[str, ...]]:
    return lambda node: read(node.known.facts) if node.known.facts else ()


_TEXTS: dict[str, Callable[[TargetNode], tuple[str, ...]]] = {
    "region": lambda node: (node.region,),
    "cluster": lambda node: (node.cluster,),
    "host": _of_facts(lambda facts: (facts.hostname,)),
    "os": _of_facts(lambda facts: (f"{facts.os_id}-{facts.os_version}", facts.os_id, facts.os_codename)),
    "arch": _of_facts(lambda facts: (facts.architecture,)),
    "pgha": _of_facts(lambda facts: (facts.pgha_version,)),
}
"""Key -> the texts of a node of which a glob must match one."""
KEYS = ("role", "state", "tag", *_TEXTS)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # paren, comparison, word, end
    text: str
    at: int  # index from 0
    found: re.Match[str] | None = None


def match(expression: str, nodes: Sequence[TargetNode]) -> list[str]:
    """Names of the nodes that are meant, in the order given, each once. Raises TargetError."""
    test = parse(expression)
    return list(dict.fromkeys(node.name for node in nodes if test(node)))


def parse(expression: str) -> Test:
    """The expression as a question to one node. Raises TargetError."""
    return _Parser(expression).parse()


def terms(expression: str) -> list[Term]:
    """What the expression asks of a node, from left to right. Raises TargetError."""
    parser = _Parser(expression)
    parser.parse()
    return parser.terms


class _Parser:
    """Recursive descent, one method per level of binding."""

    def __init__(self, expression: str) -> None:
        self.terms: list[Term] = []
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
            if found is None:
                bad = at + len(text[at:]) - len(text[at:].lstrip())
                hint = (
                    "; a comparison is one name, a sign and one value, such as lag>10MB" if text[bad] in "<>=" else ""
                )
                self._fail(bad, f"unexpected {text[bad]!r}{hint}")
            kind = next(group for group in ("paren", "comparison", "word") if found[group])
            tokens.append(_Token(kind, found[kind], found.start(kind), found))
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
        return self._comparison(token.found) if token.kind == "comparison" and token.found else self._any_of(token)

    def _comparison(self, found: re.Match[str]) -> Test:
        name, sign, text = found["name"], found["sign"], found["value"]
        at = "name"
        try:
            measure(name)
            at = "sign"
            check_sign(sign)
            at = "value"
            amount(name, text)
        except ValueError as error:
            self._fail(found.start(at), str(error))
        self.terms.append(Term(name, text, found.start("name") + 1, comparison=True))
        holds = comparison(name, sign, text)
        return lambda node: holds(node.known)

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
        self.terms.append(Term(key, value, at + 1))
        if key == "":
            everyone, named = value == "all", self._glob(value, at)
            return lambda node: everyone or named(node.name) or node.cluster == value
        if key in _TEXTS:
            texts, fits = _TEXTS[key], self._glob(value, at)
            return lambda node: any(text != "" and fits(text) for text in texts(node))
        if key == "tag":
            return self._tag(value, at)
        if key == "state":
            self._among(value, STATES, "state", at)
            return lambda node: node.connected == (value == "connected")
        self._among(key, KEYS, "key", at)
        self._among(value, ROLES, "role", at)
        return lambda node: value in node.roles

    def _tag(self, text: str, at: int) -> Test:
        """`name=glob`, or a name alone: it is set, and not to false."""
        name, equals, value = text.partition("=")
        self._among(name, TAGS, "tag", at)
        if not equals:
            return lambda node: node.tags.get(name, "false") != "false"
        fits = self._glob(value, at)
        return lambda node: name in node.tags and fits(node.tags[name])

    def _among(self, word: str, known: Sequence[str], what: str, at: int) -> None:
        if word not in known:
            self._fail(at, f"unknown {what} {word!r}{near(word, known)}; known: {', '.join(known)}")

    def _glob(self, pattern: str, at: int) -> Callable[[str], bool]:
        try:
            fits = re.compile(translate(pattern)).match
        except re.error:
            self._fail(at, f"{pattern!r} is no pattern; * and ? and [a-z] are known")
        return lambda text: fits(text) is not None

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
