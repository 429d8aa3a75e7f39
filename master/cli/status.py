"""`pgha-master status`: how the clusters are, as the master knows it from the newest telemetry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from . import exits
from .options import finish, leave, with_terminal
from .screen import Terminal

if TYPE_CHECKING:
    from ..operations.progress import End


@click.command("status")
@click.argument("cluster", default="")
@click.option(
    "--watch", is_flag=False, flag_value=2.0, type=float, metavar="[SECONDS]", help="Show it again and again."
)
@with_terminal
def command(screen: Terminal, cluster: str, watch: float | None) -> None:
    """Show one cluster node by node, or without CLUSTER one row for each.

    Every value is from the newest telemetry; "as of" says how old that is. Ctrl-C ends --watch.
    """
    if watch is None:
        _once(screen, cluster, "")
        return
    from ...common.errors import UserError

    if watch < 0.2:
        raise UserError("--watch needs at least 0.2 seconds.")
    clear = "\x1b[H\x1b[2J" if screen.look_out.live and not screen.as_json else ""
    try:
        while True:
            _once(screen, cluster, clear)
            time.sleep(watch)
    except KeyboardInterrupt:
        leave(exits.DETACHED)


def _once(screen: Terminal, cluster: str, clear: str) -> None:
    from .client import ask

    end = ask("status", {"cluster": cluster}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("status", cluster, end.data, _findings(end))
        return
    screen.out.write(clear)
    screen.result(*_lines(end, screen))


def _lines(end: End, screen: Terminal) -> list[str]:
    from .show_status import render_overview, render_status

    clusters: Any = end.data.get("clusters")  # Any: JSON as the daemon sent it
    if isinstance(clusters, list):
        return render_overview(clusters, screen.look_out)
    return render_status(end.data, screen.look_out)


def _findings(end: End) -> list[object]:
    found = end.data.get("findings")
    return found if isinstance(found, list) else []
