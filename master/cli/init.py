"""`pgha-master init`: makes the folders and the keys of a master. Doing it again keeps what is there."""

from __future__ import annotations

import click

from .options import with_terminal
from .screen import Terminal


@click.command("init")
@click.option("--listen", default="", metavar="ADDRESS", help="The address minions reach this master at.")
@click.option(
    "--supersede", is_flag=True, help="Take over from any other master of these minions. The master must be stopped."
)
@with_terminal
def command(screen: Terminal, listen: str, supersede: bool) -> None:
    """Prepare this machine to be a master: folders, the key for secrets, the keys of the bus and of its orders.

    Minions obey no master that is older than the newest they have obeyed. A master that was restored from a backup is
    newer by its clock; where the clock was wrong, or another master has to be put aside for good, say --supersede.
    """
    from ...common.paths import Paths
    from ..setup import initialise
    from ..setup import supersede as take_over

    if supersede:
        epoch = take_over(Paths.from_environment())
        if screen.as_json:
            screen.document("init", "", {"epoch": epoch})
        else:
            screen.result("Minions will obey this master, and no other, from its next start on.")
        return
    made = initialise(Paths.from_environment(), listen or None)
    if screen.as_json:
        screen.document("init", "", made)
        return
    for key, value in made.items():
        if key != "created":  # a person needs the fingerprint; a script may need to know
            screen.result(f"{key}: {value}")
    screen.progress("Next:  systemctl enable --now pgha-master, then  pgha-master enrol CLUSTER")
