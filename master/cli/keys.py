"""`pgha-master keys`: which minions may talk to this master. A key is accepted by its fingerprint, not by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import confirm, finish, with_terminal
from .screen import Terminal, duration, moment, table

if TYPE_CHECKING:
    from ..operations.progress import End

Key = dict[str, Any]  # JSON as the daemon sent it


@click.group("keys")
def command() -> None:
    """Accept, reject and revoke the keys of minions."""


@command.command("list")
@with_terminal
def list_(screen: Terminal) -> None:
    """List all keys with their state and fingerprint."""
    end = _ask(screen, "keys.list")
    if screen.as_json:
        screen.document("keys", "", end.data)
        return
    rows = [_row(key) for key in _keys(end)]
    if end.data.get("master_fingerprint"):
        screen.progress(f"Fingerprint of this master: {end.data['master_fingerprint']}")
    if not rows:
        screen.result("No minion has asked yet.")
        screen.progress("On a node:  pgha-minion enrol --master ADDRESS --fingerprint FINGERPRINT")
        return
    heads = ("NODE", "STATE", "FINGERPRINT", "SEEN", "ADDRESS", "SINCE", "NOTE")
    screen.result(*table(heads, rows, screen.look_out.width, ("NOTE", "SINCE")))
    if any(key.get("state") == "pending" for key in _keys(end)):
        screen.progress("Compare the fingerprint with the node's own, then:  pgha-master keys accept NAME")


@command.command("accept")
@click.argument("name", default="")
@click.option("--fingerprint", default="", help="Accept only if the key has this fingerprint; asks nothing then.")
@click.option("--all", "everyone", is_flag=True, help="Accept every pending key.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_terminal
def accept(screen: Terminal, name: str, fingerprint: str, everyone: bool, yes: bool) -> None:
    """Accept the pending key of NAME, or with --all every pending key, after showing the fingerprints."""
    if bool(name) == everyone:
        raise click.UsageError("Give either the NAME of a node or --all.")
    from ...common.errors import UserError

    if everyone and fingerprint:
        raise click.UsageError("--fingerprint belongs to one NAME.")
    pending = _chosen(screen, name, "pending", fingerprint)
    if name and len(pending) > 1:
        raise UserError(f"{len(pending)} keys are waiting as {name}; say which with --fingerprint.")
    if not pending:
        screen.result("No key is pending.")
        return
    for key in pending:
        screen.progress(
            f"{key['name']}  {key['fingerprint']}  from {key.get('address') or '-'}  {key.get('note') or ''}"
        )
    if not fingerprint:
        confirm(screen, f"Accept {'these keys' if len(pending) > 1 else 'this key'}?", yes)
    for key in pending:
        _change(screen, "keys.accept", key["name"], fingerprint or key["fingerprint"], "accepted")
    _report(screen, "accepted", [key["name"] for key in pending])


@command.command("reject")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_terminal
def reject(screen: Terminal, name: str, yes: bool) -> None:
    """Reject the pending key of NAME."""
    key = _chosen(screen, name, "pending")[0]
    screen.progress(f"{key['name']}  {key['fingerprint']}")
    confirm(screen, "Reject this key?", yes)
    _change(screen, "keys.reject", name, key["fingerprint"], "rejected")
    _report(screen, "rejected", [name])


@command.command("revoke")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_terminal
def revoke(screen: Terminal, name: str, yes: bool) -> None:
    """Revoke the accepted key of NAME: its minion is cut off at once. PostgreSQL on that node goes on."""
    confirm(screen, f"Cut off the minion of {name}? PostgreSQL there goes on.", yes)
    end = _ask(screen, "keys.revoke", {"name": name})
    if screen.as_json:
        screen.document("keys.revoked", "", end.data or {"names": [name]})
    else:
        screen.result(end.message or f"The key of {name} is revoked.")


@command.command("rotate")
@click.argument("name", default="")
@click.option("--master", "of_master", is_flag=True, help="The master's own keys: made now, and told to every minion.")
@click.option("--finish", is_flag=True, help="With --master: put the next keys in place, for the next start.")
@click.option("--force", is_flag=True, help="With --finish: also when minions do not have them; enrol those anew.")
@with_terminal
def rotate(screen: Terminal, name: str, of_master: bool, finish: bool, force: bool) -> None:
    """Give the minion of NAME a new key, or with --master the master. Nobody has to go to a host for it.

    \b
      pgha-master keys rotate pg-node1
      pgha-master keys rotate --master
      pgha-master keys rotate --master --finish && systemctl restart pgha-master
    """
    if bool(name) == of_master:
        raise click.UsageError("Give either the NAME of a node or --master.")
    if (finish and not of_master) or (force and not finish):
        raise click.UsageError("--finish belongs to --master, and --force to --finish.")
    if of_master:
        end = _ask(screen, "keys.rotate_master", {"finish": finish, "force": force})
    else:
        end = _ask(screen, "keys.rotate", {"name": name})
    if screen.as_json:
        screen.document("keys.rotated", "", end.data)
    else:
        screen.result(end.message)


@command.command("token")
@click.option("--name", default="", help="Only the node of this name may use it.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is good for: 30m, 1h, 2d.")
@with_terminal
def token(screen: Terminal, name: str, ttl: str) -> None:
    """Make a token that lets a node in without asking, and print the line to run there."""
    from ...common.fields import seconds

    try:
        ttl_s = seconds(ttl)
    except ValueError as error:
        raise click.UsageError(f"--ttl: {error}, found '{ttl}'.") from None
    end = _ask(screen, "keys.token", {"name": name, "ttl_s": ttl_s})
    if screen.as_json:
        screen.document("keys.token", "", end.data)
        return
    screen.progress("Run this on the node; whoever has the token can use it until it ends:")
    screen.result(str(end.data.get("command") or end.data.get("token")))


def _ask(screen: Terminal, verb: str, arguments: dict[str, object] | None = None) -> End:
    from .client import ask

    end = ask(verb, arguments or {}, screen.progress)
    finish(screen, end)
    return end


def _keys(end: End) -> list[Key]:
    keys: Any = end.data.get("keys") or []
    return [key for key in keys if isinstance(key, dict)]


def _chosen(screen: Terminal, name: str, state: str, fingerprint: str = "") -> list[Key]:
    """The keys in that state, of that name if one is given. Raises UserError when the name has none.

    A fingerprint names the one key, which may also be one that was rejected or revoked before.
    """
    from ...common.errors import UserError
    from ...common.settings import nearest

    keys = _keys(_ask(screen, "keys.list"))
    fitting = [key for key in keys if key.get("state") == state and name in ("", key.get("name"))]
    if fingerprint:
        exact = [key for key in keys if (key.get("name"), key.get("fingerprint")) == (name, fingerprint)]
        return exact or [{"name": name, "fingerprint": fingerprint}]  # the master decides, and says why not
    if name and not fitting:
        is_ = next((str(key.get("state")) for key in keys if key.get("name") == name), "")
        known = nearest(name, [str(key.get("name")) for key in keys if key.get("state") == state])
        told = f"The key of {name} is {is_}, not {state}." if is_ else f"No key of {name} is {state}. {known}"
        raise UserError(told.strip())
    return fitting


def _change(screen: Terminal, verb: str, name: str, fingerprint: str, done: str) -> None:
    end = _ask(screen, verb, {"name": name, "fingerprint": fingerprint})
    if not screen.as_json:
        screen.result(end.message or f"The key of {name} is {done}.")


def _report(screen: Terminal, done: str, names: list[str]) -> None:
    if screen.as_json:
        screen.document(f"keys.{done}", "", {"names": names})


def _row(key: Key) -> tuple[str, ...]:
    seen = key.get("seen_s")
    return (
        str(key.get("name", "-")),
        str(key.get("state", "-")),
        str(key.get("fingerprint", "-")),
        duration(seen) if isinstance(seen, (int, float)) else "-",
        str(key.get("address") or "-"),
        moment(key.get("since")),
        str(key.get("note") or key.get("trouble") or ""),
    )
