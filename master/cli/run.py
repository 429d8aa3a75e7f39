"""`pgha-master run`: a command or a function on every node that a target names, at once or batch by batch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ...common import functions
from . import exits
from .answers import Answers
from .follow import Follower
from .options import finish, leave, with_terminal
from .screen import Terminal
from .transfer import Files, hand_over

if TYPE_CHECKING:
    from ..operations.progress import Line

_ARGV = "pgha.argv"


class AfterDashes(click.Command):
    """A command that keeps what stands after `--` apart, so that a program's own options are never taken for ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_ARGV] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Functions"):
            rows = [functions.FUNCTIONS[name] for name in functions.public()]
            formatter.write_dl([(f"{row.name} {row.usage}".rstrip(), row.text) for row in rows], col_max=40)


@click.command("run", cls=AfterDashes, options_metavar="[OPTIONS]")
@click.argument("target", default="", metavar="TARGET")
@click.argument("function", default="", metavar="[FUNCTION [ARGS]... | -- COMMAND...]")
@click.argument("args", nargs=-1, metavar="")
@click.option(
    "--batch", default="", metavar="N|P%", help="So many nodes at once; the next when all of them have ended."
)
@click.option("--canary", is_flag=True, help="First one node alone; the others only if it is done.")
@click.option("--max-fail", default="", metavar="N|P%", help="Begin no more once more nodes than that are not done.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds a node may take.")
@click.option("--fold", is_flag=True, help="Show equal answers once, when all are there.")
@click.option("--file", "local", default="", metavar="LOCAL", help="file.push: the file to send.")
@click.option("--into", default="", metavar="DIR", help="file.get: write what comes to DIR/NODE/NAME.")
@click.option("--rerun", "job_id", default="", metavar="JOB", help="The same as that job did, on the same nodes.")
@click.option("--failed", is_flag=True, help="With --rerun: only where it is not done.")
@click.option(
    "--force-unsafe", is_flag=True, help="Even if that takes a cluster's quorum or all of its data nodes down."
)
@click.option("--detach", is_flag=True, help="Start it and leave.")
@click.pass_context
@with_terminal
def command(
    screen: Terminal,
    ctx: click.Context,
    target: str,
    function: str,
    args: tuple[str, ...],
    batch: str,
    canary: bool,
    max_fail: str,
    timeout_s: float,
    fold: bool,
    local: str,
    into: str,
    job_id: str,
    failed: bool,
    force_unsafe: bool,
    detach: bool,
) -> None:
    """Run COMMAND on the nodes that TARGET names, or a FUNCTION of the minions.

    TARGET: names, globs, lists, role:leader, region:eu, cluster:prod, os:debian-13, lag>10MB, disk>80%, with and, or,
    not and brackets; '*' is all. COMMAND is run as it stands, without a shell; for one: -- sh -c '...'

    \b
      pgha-master run '*' ping
      pgha-master run 'prod and role:data' --batch 1 -- df -h /var/lib/postgresql
      pgha-master run --rerun JOB --failed
    """
    from .client import request

    argv: list[str] = ctx.meta.get(_ARGV, [])
    if job_id:
        _alone(ctx)
        lines = request("jobs.rerun", {"id": job_id, "failed": failed})
        _show(screen, Answers(screen, fold), fold, lines, detach)
        return
    _check(ctx, target, function, argv, failed)
    files = _files(screen, ctx, function, args, into, detach)
    arguments: dict[str, object] = {"target": target, "function": function, "argv": argv, "args": list(args)}
    arguments |= {"batch": batch, "canary": canary, "max_fail": max_fail, "timeout_s": timeout_s}
    arguments |= {"force_unsafe": force_unsafe, "blob": _blob(ctx, function, local)}
    lines = request("run", arguments)
    answers = Answers(screen, fold, files.take if files else None)
    try:
        _show(screen, answers, fold, _written(lines, files) if files and screen.as_json else lines, detach, files)
    finally:
        if files:
            files.close()


def _written(lines: Iterable[Line], files: Files) -> Iterator[Line]:
    """With --json no answer is shown, and the files are written all the same."""
    for line in lines:
        if line.kind == "node_done" or (line.kind == "output" and line.stream == "bytes"):
            files.take(line)
        yield line


def _show(
    screen: Terminal, answers: Answers, fold: bool, lines: Iterable[Line], detach: bool, files: Files | None = None
) -> None:
    follower = Follower(screen, answers.take)
    end = follower.follow(lines, detach)
    if files and files.failed and end.exit == exits.OK:
        end = end.model_copy(update={"exit": exits.PARTIAL, "message": "not every file was written here"})
    if not screen.as_json:
        if fold:
            screen.result(*answers.folded())
        if answers.nodes:
            screen.progress(answers.summary())
            if end.exit in (exits.FAILED, exits.PARTIAL) and not end.message:
                screen.progress(f"Again where it is not done:  pgha-master run --rerun {follower.id} --failed")
    if answers.nodes and not end.message:
        leave(end.exit)  # the last line has said it
    finish(screen, end)


def _alone(ctx: click.Context) -> None:
    """--rerun takes everything from the job. Raises UsageError when something else is given with it."""
    given = [
        name
        for name in ctx.params
        if name not in ("job_id", "failed", "fold", "detach", "as_json", "color")
        and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given or ctx.meta.get(_ARGV):
        raise click.UsageError("--rerun does what the job did: give it --failed, --fold and --detach only.", ctx)


def _check(ctx: click.Context, target: str, function: str, argv: list[str], failed: bool) -> None:
    """Raises UsageError unless there is a target, and either a command or a known function."""
    if failed:
        raise click.UsageError("--failed goes with --rerun JOB.", ctx)
    if not target:
        raise click.UsageError("Say where to run it: a TARGET such as '*' or role:leader", ctx)
    if argv and function:
        raise click.UsageError(f"Give either the function '{function}' or a command after --, not both.", ctx)
    if not argv and not function:
        raise click.UsageError("Say what to run: a function such as ping, or  -- COMMAND", ctx)
    known = functions.public()
    if argv or function in known:
        return
    near = difflib.get_close_matches(function, known, n=1, cutoff=0.6)
    meant = f"Did you mean '{near[0]}'?" if near else f"To run a command put -- before it:  -- {function}"
    raise click.UsageError(f"There is no function '{function}'. {meant}", ctx)


def _files(
    screen: Terminal, ctx: click.Context, function: str, args: tuple[str, ...], into: str, detach: bool
) -> Files | None:
    if (function == "file.get") != bool(into):
        raise click.UsageError("file.get needs --into DIR, and nothing else takes it.", ctx)
    if not into:
        return None
    if detach:
        raise click.UsageError("file.get writes what comes, so it cannot --detach.", ctx)
    return Files(screen, into, args[0] if args else "")


def _blob(ctx: click.Context, function: str, local: str) -> tuple[str, int]:
    """What --file says, handed to the daemon."""
    wants = function in functions.FUNCTIONS and functions.FUNCTIONS[function].blob
    if wants != bool(local):
        names = ", ".join(f.name for f in functions.FUNCTIONS.values() if f.blob)
        raise click.UsageError(f"{names} needs --file LOCAL, and nothing else takes it.", ctx)
    return hand_over(local) if local else ("", 0)
