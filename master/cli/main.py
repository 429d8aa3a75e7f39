"""`pgha-master`: finds the command, loads only that one, and turns every failure into a message and an exit code.

The table below is all there is to know of a command until it is called, so that `--help` stays instant.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from ... import __version__
from . import exits

COMMANDS: dict[str, str] = {
    "init": "Prepare this machine to be a master.",
    "serve": "Run the master in the foreground.",
    "validate": "Check a cluster's definition, offline.",
    "enrol": "Install pgha on the nodes of a cluster over SSH, and let them in.",
    "keys": "Accept, reject and revoke the keys of minions.",
    "plan": "Show what an apply would change.",
    "apply": "Bring a cluster to its definition.",
    "backup": "Make, list and check backups.",
    "restore": "Bring a cluster back to a moment.",
    "reinit": "Give a replica its data anew.",
    "status": "Show how the clusters are.",
    "run": "Run a command or a function on nodes.",
    "jobs": "Look at what runs and what ran.",
    "certs": "List certificates, issue them to clients.",
    "secrets": "List, reveal and set the secrets of a cluster.",
    "states": "List, show and check state documents of your own.",
    "audit": "Show who asked for what; check that record.",
    "help": "Explain a command or a topic.",
}
"""Command -> its one line of help. The command itself is `pgha.master.cli.NAME`, attribute `command`."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and proposes the one that was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "help":
            return help_command
        command = importlib.import_module(f".{cmd_name}", __package__).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(_no_such(name, COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:  # Any: click's own signature
        from ...common.errors import PghaError

        try:
            return super().main(args, *rest, **extra)
        except PghaError as error:
            from .options import fail
            from .screen import terminal

            sys.exit(fail(terminal(), error))


def _no_such(name: str, known: Sequence[str] | dict[str, str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"No such command '{name}'. " + (f"Did you mean '{near[0]}'?" if near else "See  pgha-master --help")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes:  pgha-master help exit-codes",
)
@click.version_option(__version__, prog_name="pgha-master")
def cli() -> None:
    """Build, watch and change PostgreSQL clusters that heal themselves."""


@click.command("help")
@click.argument("topic", default="")
@click.pass_context
def help_command(ctx: click.Context, topic: str) -> None:
    """Explain a command, or the topic exit-codes."""
    if topic == "exit-codes":
        click.echo(exits.text())
        return
    parent = ctx.parent
    assert parent is not None
    if not topic:
        click.echo(parent.get_help())
        return
    group = parent.command
    assert isinstance(group, click.Group)
    command = group.get_command(parent, topic)
    if command is None:
        raise click.UsageError(_no_such(topic, [*COMMANDS, "exit-codes"]), ctx)
    click.echo(command.get_help(click.Context(command, info_name=topic, parent=parent)))


def main() -> None:
    cli(prog_name="pgha-master")
