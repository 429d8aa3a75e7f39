"""`pgha-master audit`: who asked the master for what, and whether that record is whole."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import finish, with_terminal
from .screen import Terminal, moment, table


@click.group("audit")
def command() -> None:
    """Look at who asked for what, and check that nothing was taken out."""


@command.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many, the newest.")
@click.option("--who", default="", metavar="LOGIN", help="Only what this one asked for.")
@with_terminal
def list_(screen: Terminal, limit: int, who: str) -> None:
    """List what was asked of the master, the newest last."""
    from .client import ask

    end = ask("audit.list", {"limit": limit, "who": who}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("audit", "", end.data)
        return
    rows: Any = end.data.get("rows") or []  # Any: JSON as the daemon sent it
    if not rows:
        screen.result("Nothing has been written down." if not who else f"Nothing has been written down of {who}.")
        return
    screen.result(
        *map(screen.look_out.fit, table(("N", "WHEN", "WHO", "WHAT", "WITH"), [_row(r) for r in rows], 10**6))
    )
    screen.progress("Check that it is whole:  pgha-master audit verify")


def _row(row: Any) -> tuple[str, ...]:  # Any: JSON as the daemon sent it
    detail = row.get("detail")
    told = json.dumps(detail, ensure_ascii=True) if detail else ""
    return str(row.get("n")), moment(row.get("at")), str(row.get("who")), str(row.get("act")), told


@command.command("verify")
@click.option("--expect", default="", metavar="N:HASH", help="A row as it was noted elsewhere, such as in a log.")
@with_terminal
def verify(screen: Terminal, expect: str) -> None:
    """Check that no row was changed or taken out.

    A cut off end shows only against a hash that was kept elsewhere: give it with --expect.
    """
    from .client import ask

    end = ask("audit.verify", {"expect": expect}, screen.progress)
    if screen.as_json and end.data:
        screen.document("audit.verify", "", end.data)
    finish(screen, end)
    if not screen.as_json:
        screen.result(end.message)
        if end.data.get("last"):
            screen.progress(f"Its last row, to keep elsewhere:  {end.data['last']}")
