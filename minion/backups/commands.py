"""`pgha-minion backup ...`: what systemd's units of the document `backup` start, and a person may, on a node."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from ...common.backup import BackupType

NOT_AGAIN = 3
NOW = "-now"  # at the end of a unit's instance: whoever started it has chosen the node


@click.group()
def backup() -> None:
    """Backups of this node, as its timers make them; works without a master."""


@backup.command()
@click.argument("kind", metavar="TYPE")
def turn(kind: str) -> None:
    """Is it this node's turn to make a backup? TYPE as for `run`.

    Exit codes: 0 yes, or nobody can say: then `run` finds out, and is tried again; 1 no.
    """
    from ...common.errors import PghaError
    from ..local import LocalHost
    from .run import installed
    from .turn import turn as whose

    _type(kind)
    try:
        here = installed(host := LocalHost())
        mine = whose(host, here)
    except PghaError as error:
        click.echo(f"whose turn it is cannot be said: {error}", err=True)
        return
    if kind.endswith(NOW) or mine.node == here.node:
        return
    _end(f"it is the turn of {mine.node}", 1)


@backup.command()
@click.argument("step", metavar="STEP", type=click.Choice(["copy", "recover"]))
def restore(step: str) -> None:
    """A step of the restore that the master has ordered of this node; begun again where it was interrupted.

    Exit codes: 0 done, 1 it failed or nothing was ordered.
    """
    from ...common.errors import HostError
    from ..local import LocalHost
    from .live import execute
    from .restoring import Restores
    from .run import installed

    try:
        restores = Restores(installed(LocalHost()))
        if (ordered := restores.ordered()) is None:
            _end("no restore was ordered of this node; pgha-master restore CLUSTER does", 1)
    except HostError as error:
        _end(str(error), 1)
    try:
        done = restores.copy(ordered, execute) if step == "copy" else restores.recover(ordered)
    except HostError as error:
        restores.failed(ordered, str(error) or "it failed")
        _end(str(error), 1)
    click.echo(f"{done.phase} {done.detail}".rstrip())


@backup.command()
@click.argument("kind", metavar="TYPE")
def run(kind: str) -> None:
    """Make a backup to each repository of this node. TYPE: full, diff or incr.

    Exit codes: 0 done, or somebody else is at it; 1 one of them failed, the reason is in the journal; 2 usage; 3 as 1,
    of a run that somebody asked for, who is told, so that systemd does not try it again.
    """
    from ...common.errors import PghaError
    from ...states.backups.driver import KEEP
    from ..local import LocalHost
    from . import run as runs
    from .history import History
    from .live import execute
    from .turn import turn as whose

    wanted = _type(kind)
    try:
        here = runs.installed(host := LocalHost())
        standby = whose(host, here).standby
        runner = runs.Runner(here, execute, time.time, History())
        made = runner.make(wanted, standby=standby, expire=not Path(KEEP).exists())
    except (PghaError, OSError) as error:
        _end(str(error), NOT_AGAIN if kind.endswith(NOW) else 1)
    for one in made:
        told = f"done, {one.label}" if one.ok else one.error
        click.echo(f"repository {one.repository}: {told}", err=not one.ok)
    if not all(one.ok or one.error == runs.BUSY for one in made):
        sys.exit(NOT_AGAIN if kind.endswith(NOW) else 1)


@backup.command()
@click.option("--due", is_flag=True, help="Make none; only tell whether it is time for one, and this node's turn.")
def drill(due: bool) -> None:
    """Prove that backups are good: restore the newest one beside the data, start it, read it, throw it away.

    Exit codes: 0 it is good, with --due: one is due here; 1 it is not, and why.
    """
    from ...common.errors import PghaError

    try:
        _due() if due else _drill()
    except (PghaError, OSError) as error:
        _end(f"no drill now: {error}" if due else str(error), 1)


def _due() -> None:
    from ...common.errors import HostError
    from ..local import LocalHost
    from .drill import not_due
    from .history import History
    from .run import installed
    from .turn import turn as whose

    here = installed(host := LocalHost())
    if not here.drills:
        raise HostError("the definition has them on another node")
    if why := not_due(here, History().drills(), time.time()):
        raise HostError(why)
    if not here.alone and (mine := whose(host, here)).node != here.node:
        raise HostError(f"it is the turn of {mine.node}")


def _drill() -> None:
    from ...common.errors import HostError
    from ..local import LocalHost
    from ..turn import Turn
    from . import drill as drills
    from .live import execute
    from .run import installed

    here, lock = installed(LocalHost()), Turn(drills.LOCK)
    if not lock.take():
        raise HostError("another drill is at work on this node")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # what runs is ended, and what it made goes
        signal.signal(number, lambda *_: stop.set())
    try:
        made = drills.Drill(here, lambda argv: execute(argv, stop.is_set), click.echo, stopped=stop.is_set).make()
    finally:
        lock.release()
    if not made.ok:
        raise HostError(f"the drill failed: {made.error}")
    age = f", a row of {made.age_s:.0f} s before came back" if made.age_s is not None else f"; {made.note}"
    click.echo(f"done: {made.label} is good, restored in {made.seconds:.0f} s{age}")


def _type(kind: str) -> BackupType:
    from ...common.backup import BACKUP_TYPES

    for known in BACKUP_TYPES:
        if known == kind.removesuffix(NOW):
            return known
    return _end(f"{kind!r} is no type of a backup; there are {', '.join(BACKUP_TYPES)}", 2)


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"pgha-minion: {message}", err=True)
    sys.exit(code)
