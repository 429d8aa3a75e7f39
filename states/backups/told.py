"""What a backup tool says of its repositories, each asked by itself and all at once.

Asked for all of them, the tool tells nothing before it has given up the one that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TypeVar

from ...common.errors import PghaError
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
    """`run` runs a program that only reads, also in several threads; `now`: Unix s."""
    numbers = tuple(numbers)

    def one(number: int) -> tuple[RepositorySample, tuple[int, int] | None]:
        said = run(as_user(tool.info(stanza, number)))
        return tool.read_info(stanza, number, said.rc, said.stdout, said.stderr, now()), tool.running(said.stdout)

    found = _at_once([partial(one, number) for number in numbers])
    progress = next((told for _, told in reversed(found) if told is not None), None)
    return Told(max((sample.at for sample, _ in found), default=now()), tuple(s for s, _ in found), progress)


Found = TypeVar("Found")


def _at_once(works: list[Callable[[], Found]]) -> list[Found]:
    """Each in a thread that nobody waits for when the program ends, as a pool's would be. The first error is raised."""
    came: dict[int, Found] = {}
    wrong: list[Exception] = []

    def do(place: int, work: Callable[[], Found]) -> None:
        try:
            came[place] = work()
        except (OSError, PghaError) as error:
            wrong.append(error)

    threads = [Thread(target=do, args=(place, work), daemon=True) for place, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    return [came[place] for place in range(len(works))]
