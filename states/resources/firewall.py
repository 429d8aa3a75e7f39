"""Firewall: ufw with the rules the cluster needs, the user's own rules left alone.

Rules:
1. pgha's rules carry a comment that starts with "pgha: "; only those are ever removed. A rule of the user's that
   allows the same is as good as ours.
2. All that opens is done before anything that closes.
3. What can cut this node off (enabling, a policy, a removal) is one guarded action: confirmed over a new connection
   or put back.
4. The comment is always given: ufw erases it when the same rule comes without one.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from ...common.results import Disruption, Impact
from ..action import Action, Guarded, MakeDirectory, Run
from ..resource import Change, Resource
from ..system import Look

PREFIX = "pgha: "
SHOW = ("ufw", "show", "added")
ENABLED_FILE = "/etc/ufw/ufw.conf"
POLICY_FILE = "/etc/default/ufw"
REVERT = "/var/lib/pgha/revert"
_KEPT = {"user.rules": "/etc/ufw/user.rules", "user6.rules": "/etc/ufw/user6.rules", "default": POLICY_FILE}
_POLICIES = {"incoming": ("DEFAULT_INPUT_POLICY", "deny"), "outgoing": ("DEFAULT_OUTPUT_POLICY", "allow")}
_WORDS = {"DROP": "deny", "ACCEPT": "allow", "REJECT": "reject"}


class FirewallRule(BaseModel):
    """Allow `source` (an address, a network or "any") to reach `port` of this host. `comment` starts with "pgha: "."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    proto: str = "tcp"
    source: str = "any"
    comment: str

    @field_validator("comment")
    @classmethod
    def _ours(cls, value: str) -> str:
        if not value.startswith(PREFIX) or "'" in value:  # ufw refuses the quote
            raise ValueError(f"a rule's comment starts with {PREFIX!r} and holds no single quote")
        return value

    @property
    def opens(self) -> tuple[int, str, str]:
        """What is allowed, however it is written: port, protocol, source."""
        return self.port, self.proto, canonical(self.source)

    def allow(self) -> tuple[str, ...]:
        return ("ufw", "allow", *_tokens(self)[1:], "comment", self.comment)

    def __str__(self) -> str:
        return " ".join(_tokens(self))


@dataclass(frozen=True, slots=True)
class AddedRule:
    """A rule as `ufw show added` has it: the words after `ufw`, without the comment."""

    words: tuple[str, ...]
    comment: str = ""

    @property
    def opens(self) -> tuple[int, str, str] | None:
        """Port, protocol, source of a plain allow rule; None for anything else (interfaces, ranges, denials)."""
        words = self.words
        if len(words) == 2 and words[0] == "allow":
            port, _, proto = words[1].partition("/")
            return (int(port), proto, "any") if port.isdigit() and proto else None
        options = dict(zip(words[1::2], words[2::2], strict=False))
        if words[0] != "allow" or set(options) - {"from", "to", "port", "proto"} or options.get("to", "any") != "any":
            return None
        port = options.get("port", "")
        if not port.isdigit() or "proto" not in options:
            return None
        return int(port), options["proto"], canonical(options.get("from", "any"))


@dataclass(frozen=True, slots=True)
class FirewallFacts:
    """`policies`: deny, allow or reject by direction, empty where ufw is not installed."""

    enabled: bool = False
    rules: tuple[AddedRule, ...] = ()
    policies: tuple[tuple[str, str], ...] = ()


class Firewall(Resource[FirewallFacts]):
    kind: Literal["firewall"] = "firewall"
    rules: tuple[FirewallRule, ...]
    confirm_s: float
    enabled: bool = True

    def key(self) -> str:
        return "ufw"

    def observe(self, look: Look) -> FirewallFacts:
        added = look.ask(SHOW)
        policies = settings(look.file(POLICY_FILE).content or "")
        return FirewallFacts(
            enabled=settings(look.file(ENABLED_FILE).content or "").get("ENABLED", "no").lower() == "yes",
            rules=parse_added(added.stdout) if added.rc == 0 else (),
            policies=tuple((way, _WORDS.get(policies.get(key, ""), "")) for way, (key, _) in _POLICIES.items()),
        )

    def plan(self, facts: FirewallFacts) -> list[Change]:
        opening = self._opening(facts)
        closing = self._closing(facts)
        if not closing:
            return opening
        prepare, revert = _way_back(facts.enabled)
        guard = Guarded(tuple(action for _, action in closing), revert, self.confirm_s, prepare)
        disruption = Disruption(impact=Impact.RELOAD, unit="ufw")
        return opening + [
            Change(view.what, guard, view.before, view.after, disruption=disruption) for view, _ in closing
        ]

    def _opening(self, facts: FirewallFacts) -> list[Change]:
        there = {rule.opens: rule for rule in facts.rules if rule.opens is not None}
        changes: list[Change] = []
        for rule in self.rules:
            old = there.get(rule.opens)
            if old is None:
                changes.append(Change(str(rule), Run(rule.allow()), "absent", rule.comment))
            elif old.comment.startswith(PREFIX) and old.comment != rule.comment:
                changes.append(Change(f"comment of: {rule}", Run(rule.allow()), old.comment, rule.comment))
        return changes

    def _closing(self, facts: FirewallFacts) -> list[tuple[Change, Action]]:
        """Each difference that takes something away, in the order it is to be done; enabling last."""
        wanted = {rule.opens for rule in self.rules}
        actions: list[tuple[str, str, str, tuple[str, ...]]] = []
        for rule in facts.rules:
            if rule.comment.startswith(PREFIX) and rule.opens not in wanted:
                argv = ("ufw", "--force", "delete", *rule.words)
                actions.append((" ".join(rule.words), rule.comment, "absent", argv))
        policies = dict(facts.policies)
        for way, (_, policy) in _POLICIES.items():
            if policies.get(way) != policy:
                before = policies.get(way) or "not set"
                actions.append((f"default {way}", before, policy, ("ufw", "default", policy, way)))
        if self.enabled and not facts.enabled:
            actions.append(("firewall", "inactive", "active", ("ufw", "--force", "enable")))
        if not self.enabled and facts.enabled:
            actions.append(("firewall", "active", "inactive", ("ufw", "--force", "disable")))
        return [(Change(what, Run(argv), before, after), Run(argv)) for what, before, after, argv in actions]


def _way_back(enabled: bool) -> tuple[tuple[Action, ...], tuple[tuple[str, ...], ...]]:
    """What to keep beforehand, and the programs that bring the firewall back to how it was."""
    copies = tuple(("cp", "-p", f"{REVERT}/{name}", path) for name, path in _KEPT.items())
    keep: tuple[Action, ...] = (
        MakeDirectory(REVERT, mode=0o700),
        *(Run(("cp", "-p", path, f"{REVERT}/{name}")) for name, path in _KEPT.items()),
    )
    last = ("ufw", "reload") if enabled else ("ufw", "--force", "disable")
    return keep, (*copies, last) if enabled else (last, *copies)


def parse_added(text: str) -> tuple[AddedRule, ...]:
    """The rules of `ufw show added`: one `ufw ...` command a line, the comment in shell quotes."""
    rules = []
    for line in text.splitlines():
        if not line.startswith("ufw "):
            continue
        words = shlex.split(line)[1:]
        comment = ""
        if len(words) > 2 and words[-2] == "comment":
            comment, words = words[-1], words[:-2]
        rules.append(AddedRule(tuple(words), comment))
    return tuple(rules)


def settings(text: str) -> dict[str, str]:
    """KEY=value lines as ufw's own files have them, without quotes."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def canonical(source: str) -> str:
    """A single address is written without its prefix length, as ufw does."""
    if source in ("0.0.0.0/0", "::/0"):
        return "any"
    return source[: -len("/32")] if source.endswith("/32") and "." in source else source.removesuffix("/128")


def _tokens(rule: FirewallRule) -> tuple[str, ...]:
    source = canonical(rule.source)
    if source == "any":
        return ("allow", f"{rule.port}/{rule.proto}")
    return ("allow", "from", source, "to", "any", "port", str(rule.port), "proto", rule.proto)
