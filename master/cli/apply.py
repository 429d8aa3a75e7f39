"""`pgha-master apply`: brings a cluster to its definition and shows it happening."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .follow import Follower
from .options import finish, with_terminal
from .plan import definition, selection
from .screen import Look, Terminal, duration, table
from .show_plan import consequences, summary

if TYPE_CHECKING:
    from ..operations.progress import End, Line


@click.command("apply")
@click.argument("name", metavar="CLUSTER|FILE|PLAN")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@click.option("--only", multiple=True, metavar="DOCUMENTS", help="Only these state documents: firewall,haproxy")
@click.option("-y", "--yes", is_flag=True, help="For scripts: answers every question; today apply asks none.")
@click.option("--no-restart", is_flag=True, help="Leave PostgreSQL running; settings that need a restart wait for it.")
@click.option(
    "--allow-destroy",
    multiple=True,
    metavar="NAME",
    help="Take this node out of the cluster, or let this resource destroy data; may be repeated.",
)
@click.option("--detach", is_flag=True, help="Start it and leave.")
@click.option("--timings", is_flag=True, help="At the end, show how long each step took.")
@with_terminal
def command(
    screen: Terminal,
    name: str,
    nodes: tuple[str, ...],
    only: tuple[str, ...],
    yes: bool,  # kept so that scripts written today need no change once apply has something to ask
    no_restart: bool,
    allow_destroy: tuple[str, ...],
    detach: bool,
    timings: bool,
) -> None:
    """Bring a cluster to its definition, step by step, each gated by the cluster's own state.

    PLAN is a file that  pgha-master plan CLUSTER -o PLAN  wrote: what it shows is done, or nothing.

    Running it again is safe: what is done is not done twice. If an apply of this cluster runs already, you follow
    that one. Ctrl-C detaches and the apply goes on. See before:  pgha-master plan CLUSTER
    """
    from .client import request

    arguments = kept_plan(name, nodes, only) or {**definition(name), **selection(nodes, only)}
    arguments |= {"restart": not no_restart, "allow_destroy": list(allow_destroy)}
    end = Follower(screen, lambda line: _tell(screen, line)).follow(request("apply", arguments), detach)
    if not screen.as_json:
        if timings:
            screen.result(*render_timings(end, screen.look_out))
        if end.exit == 0 and end.message:
            screen.result(end.message)
            screen.progress(f"See:  pgha-master status {end.data.get('cluster', name)}")
    finish(screen, end)


def kept_plan(name: str, nodes: tuple[str, ...], only: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a plan that was kept in a file; empty when `name` is no such file. Raises UserError."""
    from pathlib import Path

    if not Path(name).is_file():
        return {}
    from ...common.errors import UserError
    from ..rollout.plan_file import read

    if (kept := read(Path(name))) is None:
        return {}
    if nodes or only:
        raise UserError(f"{name} is a plan and says itself for which nodes and documents; leave out --node and --only")
    asked = kept.model_dump(mode="json", include={"path", "text", "nodes", "only"})
    return {**asked, "expect": {"at": kept.at, "plan": kept.plan.model_dump(mode="json")}}


def _tell(screen: Terminal, line: Line) -> bool:
    """Before the first change: what is about to happen, and what it costs."""
    if line.kind != "plan":
        return False
    if line.change_count or line.restarts or line.leaving:
        screen.progress("", *consequences(line), summary(line), "")
    return True


def render_timings(end: End, look: Look) -> list[str]:
    """A row for each step on each node, the slowest first, and what bounds the whole."""
    found: Any = end.data.get("timings")  # Any: JSON as the daemon sent it
    rows: Sequence[Any] = found if isinstance(found, list) else []
    ordered = sorted(rows, key=lambda row: -float(row.get("seconds", 0)))
    lines = [
        (str(r.get("step", "-")), str(r.get("node") or "all"), duration(float(r.get("seconds", 0)))) for r in ordered
    ]
    shown = table(("STEP", "NODE", "TIME"), lines, look.width)
    critical, whole = end.data.get("critical_path_s"), end.data.get("seconds")
    if not isinstance(critical, (int, float)) or not isinstance(whole, (int, float)) or critical <= 0:
        return [*shown, ""]
    told = (
        f"Critical path: {duration(critical)}, of each step its slowest node; the whole took {whole / critical:.2f} x"
    )
    return [*shown, told, ""]
