"""What a backup tool says of its repositories, each asked by itself: of several it tells nothing before it has given up
the one that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...common.telemetry_backup import RepositorySample
from ..system import Output
from .driver import USER, Argv, Driver


@dataclass(frozen=True, slots=True)
class Told:
    """What the tool said, and when; `progress`: bytes done and in all of the backup that runs on this node."""

    at: float
    repositories: tuple[RepositorySample, ...]
    progress: tuple[int, int] | None = None


def as_user(argv: Argv) -> Argv:
    return ("runuser", "-u", USER, "--", *argv)


def ask(
    tool: Driver, stanza: str, numbers: Iterable[int], run: Callable[[Argv], Output], now: Callable[[], float]
) -> Told:
    """`run` runs a program that only reads; `now`: Unix s."""
    found, progress, at = [], None, now()
    for number in numbers:
        said = run(as_user(tool.info(stanza, number)))
        at = now()
        found.append(tool.read_info(stanza, number, said.rc, said.stdout, said.stderr, at))
        progress = tool.running(said.stdout) or progress
    return Told(at, tuple(found), progress)
