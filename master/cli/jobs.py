"""`pgha-master jobs`: what runs and what ran; following it, ending it, and starting it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .answers import Answers
from .follow import Follower
from .options import finish, with_terminal
from .screen import Terminal, table
from .show_jobs import job_of, log_lines, render_nodes, render_times, row, shortest

if TYPE_CHECKING:
    from ..operations.progress import End, Line

_id = click.argument("job_id", metavar="ID")


@click.group("jobs")
def command() -> None:
    """Look at what runs and what ran, end it, start it again.

    An ID may be cut short as long as it still means one job only.
    """


@command.command("list")
@click.option("--limit", default=20, show_default=True, help="How many, the newest first.")
@with_terminal
def list_(screen: Terminal, limit: int) -> None:
    """List the newest jobs."""
    from .client import ask

    end = ask("jobs.list", {"limit": limit}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("jobs", "", end.data)
        return
    jobs: Any = end.data.get("jobs") or []  # Any: JSON as the daemon sent it
    if not jobs:
        screen.result("No job has run yet.")
        return
    short = shortest([str(job["id"]) for job in jobs])
    rows = [row(job, short[str(job["id"])]) for job in jobs]
    heads = ("ID", "WHEN", "WHO", "WHAT", "STATE", "NODES", "TIME")
    screen.result(*table(heads, rows, screen.look_out.width, ("WHO",)))
    screen.progress("See one:  pgha-master jobs show ID")


@command.command("show")
@_id
@click.option("--follow", is_flag=True, help="Stay until it ends. Ctrl-C detaches.")
@with_terminal
def show(screen: Terminal, job_id: str, follow: bool) -> None:
    """Show what happened in a job, from its start, and how each of its nodes stands."""
    from .client import request

    end = _follow(screen, request("jobs.show", {"id": job_id, "follow": follow}))
    if not screen.as_json and not follow:
        screen.result(*render_nodes(end, screen.look_out))
        if job_of(end).get("state") == "started":
            screen.progress(f"It still runs. Follow it:  pgha-master jobs show {job_id} --follow")
    _finish(screen, end)


@command.command("watch")
@_id
@with_terminal
def watch(screen: Terminal, job_id: str) -> None:
    """Follow a job to its end; as show --follow."""
    from .client import request

    _finish(screen, _follow(screen, request("jobs.show", {"id": job_id, "follow": True})))


@command.command("log")
@_id
@click.option("--node", default="", metavar="NODE", help="Of this node only.")
@with_terminal
def log(screen: Terminal, job_id: str, node: str) -> None:
    """Show all that is kept of a job, each line with its time, and when each node began and ended."""
    from .client import request

    def tell(line: Line) -> bool:
        screen.result(*log_lines(line, screen.look_out))
        return True

    end = Follower(screen, tell).follow(request("jobs.log", {"id": job_id, "node": node}))
    finish(screen, end)
    if not screen.as_json:
        screen.result(*render_times(end, screen.look_out))


@command.command("cancel")
@_id
@with_terminal
def cancel(screen: Terminal, job_id: str) -> None:
    """End a job on all of its nodes. What waits never begins; an apply ends after the step it is at."""
    from .client import request

    _finish(screen, _follow(screen, request("jobs.cancel", {"id": job_id})))


@command.command("resume")
@_id
@click.option("--detach", is_flag=True, help="Start it and leave.")
@with_terminal
def resume(screen: Terminal, job_id: str, detach: bool) -> None:
    """Go on with what was broken off: an apply as it was given, a run on the nodes where it never ran."""
    from .client import request

    _finish(screen, _follow(screen, request("jobs.resume", {"id": job_id}), detach))


@command.command("rerun")
@_id
@click.option("--failed", is_flag=True, help="Only on the nodes where it is not done.")
@click.option("--detach", is_flag=True, help="Start it and leave.")
@with_terminal
def rerun(screen: Terminal, job_id: str, failed: bool, detach: bool) -> None:
    """Run the same once more, as a new job, on the same nodes."""
    from .client import request

    _finish(screen, _follow(screen, request("jobs.rerun", {"id": job_id, "failed": failed}), detach))


def _follow(screen: Terminal, lines: Any, detach: bool = False) -> End:
    from .show_plan import render_plan

    answers = Answers(screen)

    def take(line: Any) -> bool:  # Any: a Line; the kinds are looked at one by one
        if line.kind == "plan":
            screen.result(*render_plan(line, screen.look_out))
        return line.kind == "plan" or answers.take(line)

    return Follower(screen, take).follow(lines, detach)


def _finish(screen: Terminal, end: End) -> None:
    if not screen.as_json and end.exit == 0 and end.message:
        screen.result(end.message)
    finish(screen, end)
