"""`pgha-master reinit`: deletes a replica's data and has it made anew."""

from __future__ import annotations

import click

from .follow import Follower
from .options import confirm_by_name, finish, with_terminal
from .screen import Terminal


@click.command("reinit")
@click.argument("cluster", metavar="CLUSTER")
@click.argument("node", metavar="NODE")
@click.option("--confirm", "confirmed", default="", metavar="NODE", help="For scripts: the node's name once more.")
@with_terminal
def command(screen: Terminal, cluster: str, node: str, confirmed: str) -> None:
    """Give a replica its data anew: from the backups when there are some, else from the leader.

    For a replica that cannot follow any more. Refused for the node that leads.
    """
    from .client import request

    confirm_by_name(screen, f"The data of {node} is deleted and made anew.", node, confirmed)
    end = Follower(screen).follow(request("reinit", {"cluster": cluster, "node": node, "named": node}))
    if end.exit == 0 and not screen.as_json:
        screen.result(end.message)
    finish(screen, end)
