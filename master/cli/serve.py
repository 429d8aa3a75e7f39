"""`pgha-master serve`: the daemon, in the foreground; systemd starts it."""

from __future__ import annotations

import click


@click.command("serve")
def command() -> None:
    """Run the master in the foreground."""
    from ...common.paths import Paths
    from ..daemon import serve

    serve(Paths.from_environment())
