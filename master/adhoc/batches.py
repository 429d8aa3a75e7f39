"""Which nodes get a command next, and when no more do: `--batch`, `--canary`, `--max-fail`. Pure.

Rules:
1. Every node is started at most once, in the order given, and nobody beside a batch that is still open.
2. With a canary the first node goes alone; nobody follows unless it is done.
3. Once more nodes are bad than `max_fail` allows, nobody is started any more; who is under way goes on to its end.
4. What is decided follows from what became of the nodes alone, so a master that was restarted decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...common.errors import UserError

Seen: TypeAlias = Literal["open", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `at_once` nodes are under way; more than `max_fail` bad ones stop the rest, None: no number does."""

    at_once: int
    max_fail: int | None = None
    canary: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Some are under way."""


@dataclass(frozen=True, slots=True)
class Stop:
    reason: str


@dataclass(frozen=True, slots=True)
class Over:
    """Every node has had its turn."""


Next: TypeAlias = Start | Wait | Stop | Over


def limits(count: int, batch: str = "", canary: bool = False, max_fail: str = "") -> Limits:
    """What the options mean for so many nodes. Raises UserError.

    A share is rounded down, a batch has at least one node. Without --max-fail a run in batches stops at the first bad
    node, and one without batches has nothing to stop.
    """
    at_once = max(1, _number("--batch", batch, count, 1)) if batch else max(1, count)
    if max_fail:
        return Limits(at_once, _number("--max-fail", max_fail, count, 0), canary)
    return Limits(at_once, 0 if batch or canary else None, canary)


def following(nodes: Sequence[str], allowed: Limits, seen: Mapping[str, Seen]) -> Next:
    """What to do now that the nodes in `seen` have been started and that became of them."""
    left = [node for node in nodes if node not in seen]
    if not left:
        return Wait() if "open" in seen.values() else Over()
    bad = [node for node in nodes if seen.get(node) == "bad"]
    if allowed.canary and nodes[0] in bad:
        return Stop(f"the canary {nodes[0]} is not done")
    if allowed.max_fail is not None and len(bad) > allowed.max_fail:
        return Wait() if "open" in seen.values() else Stop(_too_many(bad, allowed.max_fail))
    if "open" in seen.values():
        return Wait()
    return Start((left[0],) if allowed.canary and not seen else tuple(left[: allowed.at_once]))


def planned(nodes: Sequence[str], allowed: Limits) -> list[tuple[str, ...]]:
    """The batches as they are if every node is done."""
    seen: dict[str, Seen] = {}
    found = []
    while isinstance(step := following(nodes, allowed, seen), Start):
        found.append(step.nodes)
        seen |= dict.fromkeys(step.nodes, "good")
    return found


def _too_many(bad: Sequence[str], most: int) -> str:
    names = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    verb = "is" if len(bad) == 1 else "are"
    return f"{names} {verb} not done, and --max-fail allows {most}"


def _number(option: str, text: str, count: int, least: int) -> int:
    """`3`, or `25%` of `count`."""
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9) or int(digits) < least:
        raise UserError(f"{option} {text}: expected a number of nodes from {least} on, or a share such as 25%")
    if text.endswith("%"):
        if int(digits) > 100:
            raise UserError(f"{option} {text}: a share is at most 100%")
        return count * int(digits) // 100
    return int(digits)
