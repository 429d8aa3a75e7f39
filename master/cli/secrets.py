"""`pgha-master secrets`: the passwords that pgha keeps for a cluster. A value is never an argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import confirm, finish, with_terminal
from .screen import Terminal


@click.group("secrets")
def command() -> None:
    """List, reveal and set the secrets of a cluster."""


def _split(name: str) -> dict[str, object]:
    cluster, slash, secret = name.partition("/")
    if not (cluster and slash and secret):
        raise click.UsageError(f"'{name}' is no secret: write CLUSTER/NAME, such as prod/postgresql/superuser.")
    return {"cluster": cluster, "name": secret}


@command.command("list")
@click.argument("cluster")
@with_terminal
def list_(screen: Terminal, cluster: str) -> None:
    """List the names of a cluster's secrets; never their values."""
    from .client import ask

    end = ask("secrets.list", {"cluster": cluster}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("secrets", cluster, end.data)
        return
    found: Any = end.data.get("secrets") or []  # Any: JSON as the daemon sent it
    names = [str(item.get("name")) for item in found]
    screen.result(*names)
    if not names:
        screen.progress(f"{cluster} has no secrets yet: the first plan or apply makes them.")


@command.command("reveal")
@click.argument("name", metavar="CLUSTER/NAME")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_terminal
def reveal(screen: Terminal, name: str, yes: bool) -> None:
    """Show the value of a secret. The master notes that it was shown."""
    from .client import ask

    arguments = _split(name)
    confirm(screen, f"Show {name} in clear?", yes)
    end = ask("secrets.reveal", arguments, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("secrets.reveal", str(arguments["cluster"]), end.data)
    else:
        screen.result(str(end.data.get("value", "")))


@command.command("set")
@click.argument("name", metavar="CLUSTER/NAME")
@click.option("--from-file", "file", type=click.Path(path_type=Path), help="Read the value from a file, not stdin.")
@with_terminal
def set_(screen: Terminal, name: str, file: Path | None) -> None:
    """Set a secret from stdin or from a file. One newline at its end is dropped. The next apply uses it."""
    from .client import ask

    arguments = _split(name)
    value = _value(screen, file)
    end = ask("secrets.set", {**arguments, "value": value}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("secrets.set", str(arguments["cluster"]), {"name": arguments["name"]})
        return
    screen.result(end.message or f"{name} is set.")
    screen.progress(f"Next:  pgha-master apply {arguments['cluster']}")


def _value(screen: Terminal, file: Path | None) -> str:
    from ...common.errors import UserError

    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', 'it is not UTF-8 text')}.") from None
    elif screen.interactive:
        import getpass

        text = getpass.getpass("Value (not shown): ", screen.err)
    else:
        text = sys.stdin.read()
    value = text.removesuffix("\n").removesuffix("\r")
    if not value:
        raise UserError("The value is empty; nothing was changed.")
    return value
