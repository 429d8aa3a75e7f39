"""`pgha-master restore`: brings a whole cluster back to a moment, and says first what can be had and what it costs."""

from __future__ import annotations

import re
from typing import Any

import click

from .follow import Follower
from .options import confirm_by_name, finish, with_terminal
from .plan import definition
from .screen import Terminal

LABEL = re.compile(r"\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?")


@click.command("restore")
@click.argument("name", metavar="CLUSTER|FILE")
@click.option(
    "--to", "to", metavar="TIME|latest", help="A time, such as '2026-11-22 18:21:03+00'; without an offset UTC."
)
@click.option("--xid", metavar="XID", help="To the end of this transaction.")
@click.option("--lsn", metavar="LSN", help="To this place in the WAL, such as 0/4D000028.")
@click.option("--name", "point", metavar="NAME", help="To a restore point that pg_create_restore_point made.")
@click.option("--label", default="", metavar="LABEL", help="Begin with this backup; see: pgha-master backup list")
@click.option("--timeline", type=click.IntRange(min=1), metavar="N", help="Follow this history, not the newest.")
@click.option("--on", default="", metavar="NODE", help="The data node that recovers and then leads.")
@click.option("--resume", is_flag=True, help="Go on with the restore that was interrupted.")
@click.option(
    "--cancel", is_flag=True, help="Give up the one that was interrupted, while its data is not in place yet."
)
@click.option("--commit", is_flag=True, help="Delete the data that earlier restores have put aside.")
@click.option(
    "--confirm", "confirmed", default="", metavar="CLUSTER", help="For scripts: the cluster's name once more."
)
@with_terminal
def command(
    screen: Terminal,
    name: str,
    to: str | None,
    xid: str | None,
    lsn: str | None,
    point: str | None,
    label: str,
    timeline: int | None,
    on: str,
    resume: bool,
    cancel: bool,
    commit: bool,
    confirmed: str,
) -> None:
    """Bring a whole cluster back to a moment, from its backups and its archived WAL.

    A cluster that runs goes on while the backup is copied, stops for the replay, and comes back as it was at that
    moment; what it had is kept beside it until --commit. Nodes that have nothing are built from the definition first.

    Run again with --resume after an interruption, it goes on where it was.
    """
    from .client import ask, request

    asked = {
        **definition(name),
        **target(to, xid, lsn, point, label, resume, cancel, commit),
        "on": on,
        "timeline": str(timeline or ""),
    }
    seen = ask("restore.window", {**asked, "named": ""}, screen.progress)
    finish(screen, seen)
    cluster = str(seen.data.get("cluster", name))
    if not screen.as_json:
        screen.progress(*told(seen.data, asked))
    if not (commit or cancel):
        insist(seen.data, asked)
    confirm_by_name(screen, _question(commit, cancel), cluster, confirmed)
    end = Follower(screen).follow(request("restore", {**asked, "named": cluster}))
    if not screen.as_json and end.exit == 0:
        screen.result(end.message)
        screen.progress(f"See:  pgha-master status {cluster}")
    finish(screen, end)


def target(
    to: str | None,
    xid: str | None,
    lsn: str | None,
    point: str | None,
    label: str,
    resume: bool,
    cancel: bool,
    commit: bool,
) -> dict[str, Any]:
    """The arguments of one target. Raises UserError for none, for two, and for what is none."""
    from ...common.errors import UserError

    given = {"time": to, "xid": xid, "lsn": lsn, "name": point}
    chosen = {kind: value for kind, value in given.items() if value is not None}
    if len(chosen) + resume + cancel + commit != 1:
        raise UserError("say one of --to TIME, --to latest, --xid, --lsn, --name, --resume, --cancel or --commit")
    if label and not LABEL.fullmatch(label):
        raise UserError(
            f"--label: {label!r} is no label of a backup, such as 20261122-020004F; see: pgha-master backup list"
        )
    if not chosen:
        return {"resume": resume, "cancel": cancel, "commit": commit}
    ((kind, value),) = chosen.items()
    if kind == "time" and value == "latest":
        return {"kind": "latest", "label": label}
    return {"kind": kind, "value": _value(kind, value), "label": label}


def _value(kind: str, value: str) -> str:
    """As pgBackRest and PostgreSQL take it. Raises UserError."""
    from ...common.clock import moment
    from ...common.errors import UserError

    if kind == "time":
        try:
            return moment(value)
        except ValueError as error:
            raise UserError(f"--to: {error}, or latest") from None
    forms = {"xid": r"\d{1,20}", "lsn": r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", "name": r"[\w.-]{1,63}"}
    if not re.fullmatch(forms[kind], value):
        raise UserError(f"--{kind}: {value!r} is none; expected the form {forms[kind]}")
    return value


def told(window: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What can be had, and what will happen."""
    lines = [""]
    if window.get("bare"):
        return [*lines, f"No data node has any data: {window['cluster']} is built anew from its backups.", ""]
    if going := window.get("under_way"):
        lines.append(f"A restore to {going.get('kind')} {going.get('value', '')} has begun and not ended.")
    sets = window.get("backups") or []
    if sets:
        lines.append(
            f"Window   from {window['earliest']} on, WAL is archived up to {window['wal_until']}; {len(sets)} backups, "
            f"the newest {sets[-1]['label']} of {sets[-1]['ended']}"
        )
    lines += [f"Window   repository {one['repository']} is {one['state']}: {one['why']}" for one in window["unusable"]]
    if asked.get("cancel"):
        return [*lines, "Effect   the cluster runs with the data it had before that restore", ""]
    if asked.get("commit"):
        return [*lines, "Effect   the data that was put aside on each data node is deleted", ""]
    goal = asked.get("value") or asked.get("kind") or "where it was going"
    leads = window.get("leader") or "nobody"
    return [
        *lines,
        f"Target   {goal}",
        f"Effect   {leads} leads now. What was written after the target is not in the cluster any more; it is kept "
        "beside the data of each node until --commit",
        f"         PostgreSQL stops on {', '.join(window['nodes'])} while WAL is replayed; replicas are made anew",
        "",
    ]


def insist(window: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises Refused for a time that no backup reaches."""
    from ...common.clock import instant
    from ...common.errors import Refused

    if asked.get("kind") != "time" or window.get("bare") or window.get("earliest_s") is None:
        return
    goal = instant(asked["value"])
    if goal < window["earliest_s"]:
        raise Refused(
            f"{asked['value']} is before the end of the oldest backup, {window['earliest']}: nothing reaches it"
        )
    if window.get("asked_at_s") is not None and goal > window["asked_at_s"]:
        raise Refused(f"{asked['value']} has not come yet; for the newest that is archived: --to latest")


def _question(commit: bool, cancel: bool) -> str:
    if cancel:
        return "Give that restore up?"
    return "Delete what was put aside?" if commit else "Put this data in place of what is there?"
