"""What a function gets: the call, the doors it may use, and the checks that every argument passes first.

Rules:
1. An argument is text of a stranger. What names a unit, a package, a database or a path has a closed form here, none
   of which can begin with a dash or hold a blank, a glob or a control character, so none is ever read as an option.
2. What a function does not expect is refused, never passed on; the refusal shows the synopsis.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ...common import functions
from ...common.errors import UserError
from ...common.results import Outcome
from ...states.system import System

Emit = Callable[[str, str], None]
"""(stream, text): "stdout", "stderr", or "bytes" for base64."""

Cancelled = Callable[[], bool]

Fetch = Callable[[str, int, BinaryIO], None]
"""(SHA-256 as hex, size, file to write to). Raises HostError; what it has written has that size and checksum."""

BLOB_MAX = 1024**3
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]{0,200}")
_UNIT_KINDS = (".service", ".socket", ".timer", ".path")
_OTHER_KINDS = re.compile(r"\.(target|mount|automount|swap|slice|scope|device|snapshot)$")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,120}[a-z0-9+]")
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")


class Blob(BaseModel):
    """Content that belongs to a call and comes beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: int = Field(ge=0, le=BLOB_MAX)


class Call(BaseModel):
    """One ad-hoc call: a function and its arguments, all text; no shell is ever involved."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    function: str
    arguments: tuple[str, ...] = ()
    timeout_s: float = Field(60.0, gt=0, le=86400)
    blob: Blob | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """All that a function may reach: the host, its caller's ears, the caller's patience, the master's files.

    `others`: what else this minion works on, queries apart. When that is nothing, the minion takes no other job until
    this one has ended, and a moment longer.
    """

    system: System
    output: Emit
    cancelled: Cancelled
    fetch: Fetch
    others: Callable[[], tuple[str, ...]] = tuple


Function = Callable[[Call, Doors], Outcome]


def wrong(call: Call, why: str) -> UserError:
    """The error of an argument, with the synopsis of its function."""
    known = functions.find(call.function)
    return UserError(f"{known.name}: {why}; it is called as: {f'{known.name} {known.usage}'.rstrip()}")


def arguments(call: Call, least: int, most: int) -> tuple[str, ...]:
    """The arguments, as many as the function takes. Raises UserError."""
    given = call.arguments
    if len(given) < least:
        raise wrong(call, "an argument is missing")
    if len(given) > most:
        raise wrong(call, f"{given[most]!r} is more than it takes" if most else "it takes no arguments")
    return given


def unit(call: Call, text: str) -> str:
    """The name of one unit that a person may mean. Raises UserError."""
    if not _UNIT.fullmatch(text):
        raise wrong(call, f"{text!r} is no name of a systemd unit")
    if _OTHER_KINDS.search(text):
        raise wrong(call, f"{text!r} is none of the kinds it takes ({', '.join(_UNIT_KINDS)})")
    return text


def packages(call: Call, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of packages: neither options nor apt's own forms (`NAME-` removes, `NAME=VERSION`, patterns)."""
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise wrong(call, f"{name!r} is no name of a package")
    return tuple(dict.fromkeys(names))


def number(call: Call, text: str, most: int) -> int:
    """A count from 1 to `most`. Raises UserError."""
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise wrong(call, f"{text!r} is no number from 1 to {most}")
    return int(text)


def options(call: Call, words: tuple[str, ...], known: dict[str, str]) -> dict[str, str]:
    """`NAME=VALUE` words; `known` is a pattern by name. Raises UserError for any other word, and for one said twice."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not re.fullmatch(known[name], value):
            raise wrong(call, f"{word!r} is none of {', '.join(f'{name}=...' for name in known)} or has a wrong value")
        if name in found:
            raise wrong(call, f"{name}= is said twice")
        found[name] = value
    return found
