"""`pgha-master backup`: which backups there are, whether WAL reaches them, whether they are sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .follow import Follower
from .options import finish, with_terminal
from .screen import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..operations.progress import Line


@click.group("backup")
def command() -> None:
    """Make and list the backups of a cluster, prove that they are there and sound."""


@command.command("list")
@click.argument("cluster")
@with_terminal
def list_(screen: Terminal, cluster: str) -> None:
    """List the backups of a cluster, repository by repository, as the nodes saw them within the last minute."""
    from .client import ask
    from .show_backup import render_list

    end = ask("backup.list", {"cluster": cluster}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("backups", cluster, end.data)
        return
    screen.result(*render_list(end.data, screen.look_out))


@command.command("now")
@click.argument("cluster")
@click.option("--type", "kind", type=click.Choice(["full", "diff", "incr"]), default="diff", show_default=True)
@click.option("--on", default="", metavar="NODE", help="The data node that makes it, whosever turn it is.")
@click.option("--watch/--detach", default=True, help="Follow it to its end (default), or start it and leave.")
@with_terminal
def now(screen: Terminal, cluster: str, kind: str, on: str, watch: bool) -> None:
    """Make a backup to every repository, on the node whose turn it is: a standby's before the leader's."""
    from .client import request

    _follow(screen, request("backup.now", {"cluster": cluster, "type": kind, "on": on}), not watch)


@command.command("drill")
@click.argument("cluster")
@click.option("--on", default="", metavar="NODE", help="Where, if not where the definition says.")
@click.option("--detach", is_flag=True, help="Start it and leave.")
@with_terminal
def drill(screen: Terminal, cluster: str, on: str, detach: bool) -> None:
    """Prove that the newest backup restores: into a scratch folder, on a server of its own, read whole, thrown away."""
    from .client import request

    _follow(screen, request("backup.drill", {"cluster": cluster, "on": on}), detach)


@command.command("check")
@click.argument("cluster")
@click.option("--detach", is_flag=True, help="Start it and leave.")
@with_terminal
def check(screen: Terminal, cluster: str, detach: bool) -> None:
    """Prove that WAL arrives: switch a segment, archive it, find it in every repository."""
    from .client import request

    _follow(screen, request("backup.check", {"cluster": cluster}), detach)


@command.command("verify")
@click.argument("cluster")
@click.option("--repository", type=click.IntRange(min=1), metavar="N", help="Only this one, by its number in `list`.")
@click.option("--detach", is_flag=True, help="Start it and leave.")
@with_terminal
def verify(screen: Terminal, cluster: str, repository: int | None, detach: bool) -> None:
    """Read every file of every repository and compare it with its checksum; find WAL that is missing.

    It reads all that is there, so it takes long, and costs what reading costs. Exit code 1 when anything is wrong.
    """
    from .client import request

    _follow(screen, request("backup.verify", {"cluster": cluster, "repository": repository}), detach)


def _follow(screen: Terminal, lines: Iterable[Line], detach: bool) -> None:
    end: Any = Follower(screen).follow(lines, detach)
    if end.exit == 0 and end.message and not screen.as_json:
        screen.result(end.message)
    finish(screen, end)
