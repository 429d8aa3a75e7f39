"""`pgha-master init`: makes the folders and the keys of a master. Doing it again keeps what is there."""

from __future__ import annotations

import click

from .options import with_terminal
from .screen import Terminal


@click.command("init")
@click.option("--listen", default="", metavar="ADDRESS", help="The address minions reach this master at.")
@with_terminal
def command(screen: Terminal, listen: str) -> None:
    """Prepare this machine to be a master: folders, the key for secrets, the key pair of the bus."""
    from ...common.paths import Paths
    from ..setup import initialise

    made = initialise(Paths.from_environment(), listen or None)
    if screen.as_json:
        screen.document("init", "", made)
        return
    for key, value in made.items():
        if key != "created":  # a person needs the fingerprint; a script may need to know
            screen.result(f"{key}: {value}")
    screen.progress("Next:  systemctl enable --now pgha-master, then  pgha-master keys token")
