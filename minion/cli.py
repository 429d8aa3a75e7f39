"""pgha-minion: enrol, run (the daemon), apply, status, facts. Imports what a command needs only when it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import IO, NoReturn

import click

from .. import __version__
from .backups.commands import backup


def _fail(message: str, code: int = 1) -> NoReturn:
    click.echo(f"pgha-minion: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgha-minion")
def main() -> None:
    """The pgha daemon of one host: applies what the master orders, and reports how the host is."""


@main.command()
@click.option("--master", required=True, metavar="ADDR", help="HOST or HOST:PORT of the master's bus (port 7760).")
@click.option("--fingerprint", required=True, metavar="F", help="The master's key: pgha-master keys list shows it.")
@click.option("--name", metavar="NODE", help="This host's name in the cluster definition. Default: its host name.")
@click.option("--token", default="", metavar="T", help="From pgha-master keys token: accepted without asking.")
@click.option("--token-from", type=click.File(), metavar="FILE", help="Read the token from FILE, - for stdin.")
@click.option("--start/--no-start", default=True, help="Enable and start pgha-minion.service (default).")
def enrol(master: str, fingerprint: str, name: str | None, token: str, token_from: IO[str] | None, start: bool) -> None:
    """Make this host's key, ask the master to accept it, and start the daemon.

    Exit codes: 0 the request reached the master (accepted or pending), 1 it did not or was rejected, 2 usage.
    """
    from ..common.errors import HostError, UserError
    from ..common.keys import fingerprint as shown
    from ..common.keys import load_or_create
    from ..common.names import is_node_name
    from ..common.paths import Paths
    from .enrol import ask
    from .settings import MinionPaths, Settings, save, with_port

    name = name or socket.gethostname().split(".")[0]
    if not is_node_name(name):
        _fail(f"{name!r} is no node name; expected lower-case letters, digits and '-'; use --name", 2)
    paths = MinionPaths(Paths.from_environment())
    if token_from is not None:  # what stands in an argument, every user of the host can read
        token = token_from.read(1000).strip()
    try:
        settings = Settings(master=with_port(master), fingerprint=fingerprint, name=name, token=token)
        keys = load_or_create(paths.key)
        answer = asyncio.run(ask(settings, keys, 10.0))
        if answer is None:
            _fail(
                f"no answer from {settings.enrol_address}. Check that the master runs (pgha-master serve), that ports "
                "7760 and 7761 can be reached from here, and the fingerprint. Nothing was changed but the key made."
            )
        spent = answer.state == "accepted"  # by the token or before it: it opens nothing any more
        save(paths.settings, settings.model_copy(update={"token": ""}) if spent else settings)
        if start:
            from .host import enable_minion

            enable_minion()
    except UserError as error:
        _fail(str(error), 2)
    except HostError as error:
        _fail(str(error))
    click.echo(f"{name}  {shown(keys.public)}  {answer.state}  {answer.reason}".rstrip())
    if answer.state == "pending":
        click.echo(f"next, on the master: pgha-master keys accept {name}")
    if answer.state in ("rejected", "revoked"):
        sys.exit(1)


@main.command()
def run() -> None:
    """Run the daemon in the foreground (systemd does this)."""
    from ..common.errors import PghaError

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_run())
    except PghaError as error:
        _fail(str(error))


async def _run() -> None:
    from ..common.keys import public_text
    from ..common.notify import notify
    from ..common.paths import Paths
    from . import apt
    from .agent import Agent
    from .functions.upgrade import settle
    from .host import Host, execute
    from .journal import Journal
    from .settings import MinionPaths, load
    from .telemetry import Sampler
    from .trust import Identity, Trust
    from .turn import Turn
    from .worker import Worker

    paths = MinionPaths(Paths.from_environment())
    settings, identity = load(paths.settings), Identity(paths.key)
    trust, journal = Trust.load(paths.trust, settings.server_key), Journal(paths.journal)
    journal.belong_to(public_text(settings.server_key), trust.names)
    apt.let_services_start()
    agent = Agent(settings, identity, trust, journal)
    host = Host(agent.sign, agent.confirm)
    agent.worker = Worker(journal, host, agent.wake, agent.ended, agent.fetch, Turn(paths.turn))
    agent.sampler = Sampler(Host(agent.sign, agent.confirm), watched=agent.worker.watched)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    notify("READY=1")
    settling = asyncio.create_task(asyncio.to_thread(settle, agent.confirm, execute))
    await agent.run()
    settling.cancel()
    notify("STOPPING=1")
    journal.close()


@main.command()
@click.option("--local", "file", required=True, metavar="FILE", type=click.Path(path_type=Path), help="A state file.")
@click.option("--plan", is_flag=True, help="Only show what would be changed.")
@click.option("--allow-destroy", multiple=True, metavar="ID", help="Let this resource destroy data; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines to stdout.")
def apply(file: Path, plan: bool, allow_destroy: tuple[str, ...], as_json: bool) -> None:
    """Bring this host to a state file, without a master.

    Neither the daemon nor an enrolment is needed. Of the names in braces only {node.name} is known, the host name.

    Exit codes: 0 done, also when nothing was to be done; 1 something failed; 2 a mistake in the file, usage.
    """
    from ..common.errors import PghaError, UserError
    from . import local_show

    try:
        code = _apply_local(file, plan, allow_destroy, as_json)
    except PghaError as error:
        code = 2 if isinstance(error, UserError) else 1
        click.echo("\n".join(local_show.error_lines(error)), err=True)
        if as_json:
            click.echo(local_show.end_json(code, str(error), error=error))
    sys.exit(code)


def _apply_local(file: Path, plan: bool, allow_destroy: tuple[str, ...], as_json: bool) -> int:
    from ..common.paths import Paths
    from ..common.results import ResourceResult
    from . import local, local_show
    from .settings import MinionPaths

    wanted, paths, stop = local.read(file), MinionPaths(Paths.from_environment()), threading.Event()
    for note in wanted.notes:
        click.echo(f"note: {note}", err=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # what runs is ended properly, the rest is not begun
        signal.signal(number, lambda *_: stop.set())

    def tell(result: ResourceResult) -> None:
        lines = local_show.resource_json if as_json else local_show.resource_lines
        for line in lines(wanted, result):
            click.echo(line)

    host = local.LocalHost()
    if plan:
        outcome = local.plan(wanted, paths, tell, host)
    else:
        outcome = local.apply(wanted, paths, tell, host, stop.is_set, allow_destroy)
    code, told = (0 if outcome.ok else 1), local_show.summary(wanted, outcome, plan=plan)
    click.echo(local_show.end_json(code, told, outcome) if as_json else told)
    return code


@main.command()
def facts() -> None:
    """Print what this host reports about itself, as JSON."""
    from .survey import survey

    click.echo(json.dumps(survey(__version__).model_dump(mode="json"), indent=2))


@main.command()
def status() -> None:
    """Show this host's name, key and master."""
    from ..common.errors import PghaError
    from ..common.keys import fingerprint as shown
    from ..common.keys import load_or_create
    from ..common.paths import Paths
    from .settings import MinionPaths, load

    paths = MinionPaths(Paths.from_environment())
    try:
        settings = load(paths.settings)
        click.echo(f"name         {settings.name}\nmaster       {settings.master}")
        click.echo(f"fingerprint  {shown(load_or_create(paths.key).public)}")
    except PghaError as error:
        _fail(str(error))


main.add_command(backup)

if __name__ == "__main__":
    main()
