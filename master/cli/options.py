"""What every command has: `--json`, `--color`, and the way a failure becomes one clear message and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, NoReturn, ParamSpec

import click

from . import exits
from .screen import Terminal, render_problems, terminal

if TYPE_CHECKING:
    from ...common.errors import PghaError, Problem
    from ..operations.progress import End

P = ParamSpec("P")


def with_terminal(function: Callable[Concatenate[Terminal, P], None]) -> Callable[P, None]:
    """Adds --json and --color, and gives the command the terminal as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
    @click.option(
        "--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="When to colour the output."
    )
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json, choice = bool(kwargs.pop("as_json")), kwargs.pop("color")
        screen = terminal(as_json, "always" if choice == "always" else "never" if choice == "never" else "auto")
        function(screen, *args, **kwargs)

    return wrapper


def leave(code: int) -> NoReturn:
    raise click.exceptions.Exit(code)


def fail(screen: Terminal, error: PghaError) -> int:
    """Tells an error on stderr and gives back the exit code that belongs to it."""
    from ...common.errors import DefinitionError, Refused, Unreachable, UserError

    if isinstance(error, DefinitionError):
        screen.progress(*render_problems(error.path, error.source, error.problems, screen.look_err))
        return exits.USAGE
    screen.error(str(error))
    if isinstance(error, Refused):
        return exits.REFUSED
    if isinstance(error, Unreachable):
        return exits.UNREACHABLE
    return exits.USAGE if isinstance(error, UserError) else exits.FAILED


def finish(screen: Terminal, end: End) -> None:
    """Leaves with the verb's own exit code when it is not 0, after telling its message."""
    if end.exit == exits.OK:
        return
    if problems := _problems(end):
        path, source = str(end.data.get("path", "definition")), str(end.data.get("text", ""))
        screen.progress(*render_problems(path, source, problems, screen.look_err))
    elif end.message:
        screen.error(end.message)
    leave(end.exit)


def _problems(end: End) -> list[Problem]:
    from ...common.errors import Problem as Found

    found = end.data.get("problems")
    return [Found(**item) for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def confirm_by_name(screen: Terminal, question: str, name: str, given: str) -> None:
    """Has a person type a name, or takes the one that --confirm gave; raises Refused when it is another."""
    from ...common.errors import Refused

    if not given:
        if not screen.interactive:
            raise Refused(f"This needs a confirmation and nobody is there to give it: add --confirm {name}")
        screen.err.write(f"{question} Type {name} to go on: ")
        screen.err.flush()
        given = sys.stdin.readline().strip()
    if given != name:
        raise Refused(f"Not confirmed: expected {name}; nothing was changed.")


def confirm(screen: Terminal, question: str, yes: bool) -> None:
    """Asks a person; without one, or after a no, raises Refused."""
    from ...common.errors import Refused

    if yes:
        return
    if not screen.interactive:
        raise Refused("This needs a confirmation and nobody is there to give it: add --yes.")
    screen.err.write(f"{question} [y/N] ")
    screen.err.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("Not confirmed; nothing was changed.")
