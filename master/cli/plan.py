"""`pgha-master plan`: what an apply would change, without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import exits
from .follow import Follower
from .options import finish, leave, with_terminal
from .screen import Terminal

if TYPE_CHECKING:
    from ..operations.progress import Line, Plan


def definition(name: str) -> dict[str, Any]:
    """`path` and `text` of the definition as the daemon wants them, after it was checked here.

    Raises DefinitionError, UserError. The daemon tells the warnings, so that whoever follows the job sees them too.
    """
    from ...common.paths import Paths
    from ..definition import inventory

    path, text = inventory.read(name, Paths.from_environment().clusters)
    inventory.insist(name, path, inventory.load(path, text)[0])
    return {"path": path, "text": text}


def selection(nodes: tuple[str, ...], only: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of --node and --only: lists, of which each option may hold several with commas."""
    return {
        "nodes": [name.strip() for text in nodes for name in text.split(",") if name.strip()],
        "only": [name.strip() for text in only for name in text.split(",") if name.strip()],
    }


def _keep(out: str, plan: Plan, asked: dict[str, Any]) -> None:
    from pathlib import Path

    from ..rollout.plan_file import PlanFile, write

    write(Path(out), PlanFile(at=plan.at, plan=plan, **asked))


@click.command("plan")
@click.argument("name", metavar="CLUSTER|FILE")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@click.option("--only", multiple=True, metavar="DOCUMENTS", help="Only these state documents: firewall,haproxy")
@click.option("-o", "out", type=click.Path(dir_okay=False), metavar="FILE", help="Keep it, for: pgha-master apply FILE")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 3 when there are changes.")
@click.option("-v", "--verbose", is_flag=True, help="Show diffs in full.")
@with_terminal
def command(
    screen: Terminal,
    name: str,
    nodes: tuple[str, ...],
    only: tuple[str, ...],
    out: str | None,
    detailed_exitcode: bool,
    verbose: bool,
) -> None:
    """Show what an apply would change, node by node, and what it would mean for the cluster's users.

    Nothing is changed. Exit code 0 with or without changes; with --detailed-exitcode 3 when there are changes.
    """
    from .client import request
    from .show_plan import render_plan

    plans: list[Plan] = []

    def take(line: Line) -> bool:
        if line.kind == "plan":
            plans.append(line)
        return line.kind == "plan"

    arguments = {**definition(name), **selection(nodes, only)}
    quiet = Terminal(screen.out, screen.err, screen.look_out, screen.look_err, False, screen.interactive)
    end = Follower(quiet, take).follow(request("plan", arguments))
    if screen.as_json:
        data = plans[0].model_dump(mode="json") if plans else end.data
        screen.document("plan", plans[0].cluster if plans else "", data)
    elif plans:
        screen.result(*render_plan(plans[0], screen.look_out, verbose))
    finish(screen, end)
    if out and plans:
        _keep(out, plans[0], arguments)
    changes = bool(plans and (plans[0].change_count or plans[0].restarts or plans[0].leaving))
    if not screen.as_json and plans:
        again = out or " ".join([name, *(f"--node {node}" for node in nodes), *(f"--only {one}" for one in only)])
        screen.progress(f"Run:  pgha-master apply {again}" if changes else "Nothing to do.")
    leave(exits.CHANGES if changes and detailed_exitcode else exits.OK)
