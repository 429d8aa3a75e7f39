"""`pgha-master jobs`: what runs, what ran, and following it again."""

from __future__ import annotations

from typing import Any

import click

from .follow import Follower
from .options import finish, with_terminal
from .screen import Terminal, duration, moment, table

PATIENCE_S = 1.0  # a job that has said nothing for so long is shown as far as it is


@click.group("jobs")
def command() -> None:
    """Look at what runs and what ran."""


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
    rows = [_row(job) for job in jobs]
    if not rows:
        screen.result("No job has run yet.")
        return
    screen.result(
        *table(("ID", "WHEN", "WHO", "WHAT", "STATE", "NODES", "TIME"), rows, screen.look_out.width, ("WHO",))
    )
    screen.progress("See one:  pgha-master jobs show ID")


def _row(job: Any) -> tuple[str, ...]:  # Any: JSON as the daemon sent it
    seconds, nodes = job.get("seconds"), job.get("nodes")
    return (
        str(job.get("id", "-")),
        moment(job.get("when")),
        str(job.get("who") or "-"),
        str(job.get("what") or "-"),
        str(job.get("state") or "-"),
        ",".join(map(str, nodes)) if isinstance(nodes, list) else str(nodes if nodes is not None else "-"),
        duration(seconds) if isinstance(seconds, (int, float)) else "-",
    )


@command.command("show")
@click.argument("job_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Stay until it ends. Ctrl-C detaches.")
@with_terminal
def show(screen: Terminal, job_id: str, follow: bool) -> None:
    """Show what happened in a job, from its start. Without --follow a job that runs is shown as far as it is."""
    from .client import NothingNew, request
    from .run import Answers
    from .show_plan import render_plan

    answers = Answers(screen, fold=False)

    def take(line: Any) -> bool:  # Any: a Line; the kinds are looked at one by one
        if line.kind == "plan":
            screen.result(*render_plan(line, screen.look_out))
        return line.kind == "plan" or answers.take(line)

    lines = request("jobs.show", {"id": job_id}, None if follow else PATIENCE_S)
    try:
        end = Follower(screen, take).follow(lines)
    except NothingNew:
        screen.progress(f"It still runs. Follow it:  pgha-master jobs show {job_id} --follow")
        return
    if not screen.as_json and end.exit == 0 and end.message:
        screen.result(end.message)
    finish(screen, end)
