"""`pgha-master states`: the state documents of the user's own, what comes of them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import fail, finish, leave, with_terminal
from .screen import Terminal, table

if TYPE_CHECKING:
    from ...common.errors import UserError
    from ..userstates.states import UserStates

SHOWN_NODES = 4


@click.group("states")
def command() -> None:
    """List, show and check state documents of your own."""


@command.command("list")
@with_terminal
def list_(screen: Terminal) -> None:
    """List the documents of your own, where they are from, and which nodes they select now.

    Which nodes is known to the daemon only; without it there is a '-'.
    """
    rows = _rows(screen)
    if screen.as_json:
        screen.document("states", "", {"documents": rows})
        return
    if not rows:
        screen.progress("There is no document of your own. Write one:  /etc/pgha/states/NAME.yml")
        return
    heads = ("NAME", "TARGET", "RESOURCES", "NODES", "FROM")
    screen.result(*table(heads, [_row(row) for row in rows], screen.look_out.width, ("RESOURCES",)))
    broken = [row for row in rows if row.get("error")]
    for row in broken:
        screen.error(str(row["error"]))
    if broken:
        screen.progress("Every plan and apply that wants them fails. See:  pgha-master states check")


def _rows(screen: Terminal) -> list[dict[str, Any]]:
    from ...common.errors import Unreachable
    from .client import ask

    try:
        end = ask("states.list", {}, screen.progress)
    except Unreachable as error:
        screen.progress(f"{error} Shown is what lies here.")
        return _own().rows()
    finish(screen, end)
    found: Any = end.data.get("documents") or []  # Any: JSON as the daemon sent it
    return list(found)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    if row.get("error"):
        return str(row["name"]), "-", "-", "-", "cannot be used, see below"
    nodes = row.get("nodes")
    resources = row.get("resources")
    return (
        str(row["name"]),
        str(row["target"]),
        "-" if resources is None else str(resources),
        "-" if nodes is None else _names(nodes),
        str(row["from"]),
    )


def _names(nodes: list[str]) -> str:
    shown = " ".join(nodes[:SHOWN_NODES])
    return f"{shown} and {len(nodes) - SHOWN_NODES} more" if len(nodes) > SHOWN_NODES else shown or "none"


@command.command("show")
@click.argument("document", metavar="NAME")
@click.argument("cluster", metavar="CLUSTER|FILE")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@with_terminal
def show(screen: Terminal, document: str, cluster: str, nodes: tuple[str, ...]) -> None:
    """Show the resources of a document as each node gets them, built-in documents too. Secrets are not shown."""
    from .client import ask
    from .plan import definition, selection

    arguments = {**definition(cluster), "name": document, "nodes": selection(nodes, ())["nodes"]}
    end = ask("states.show", arguments, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("states.show", str(end.data.get("cluster", "")), end.data)
        return
    found: Any = end.data.get("nodes") or {}  # Any: JSON as the daemon sent it
    for node, resources in found.items():
        count = f"{len(resources)} resource{'' if len(resources) == 1 else 's'}" if resources else "nothing"
        screen.result(screen.look_out.paint(node, "bold") + f"  {count}")
        screen.result(*(line for resource in resources for line in _resource(resource)))


def _resource(resource: dict[str, Any]) -> list[str]:
    """As in a file; what is not set is left out."""
    from ...states.render import to_yaml

    lines: list[str] = []
    for key, value in resource.items():
        if key == "document" or value in ("", [], {}, None):
            continue
        if key == "mode" and isinstance(value, int):
            lines.append(f"mode: {value:04o}")
        elif isinstance(value, str) and "\n" in value:
            lines += [f"{key}: |", *(f"  {line}" for line in value.splitlines())]
        else:
            lines += to_yaml({key: value}).splitlines()
    return [f"  {'- ' if number == 0 else '  '}{line}" for number, line in enumerate(lines)]


@command.command("check")
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(path_type=Path))
@with_terminal
def check(screen: Terminal, files: tuple[Path, ...]) -> None:
    """Check documents of your own where they lie, without the daemon: every mistake with its line.

    Without FILE all of /etc/pgha/states, and whether those in Python can be loaded. Exit code 2 when one has a mistake.
    """
    own = _checked(files)
    wanted = [file.stem for file in files] or list(own.names)
    wrong = {name: own.faults[name] for name in wanted if name in own.faults}
    if screen.as_json:
        screen.document("states.check", "", {"documents": [_judged(own, name) for name in wanted]})
        leave(2 if wrong else 0)
    for name in wanted:
        if name in wrong:
            fail(screen, wrong[name])
        else:
            screen.result(f"{own.documents[name].path}: the document {name} is valid.")
    if not wanted:
        screen.progress("There is no document of your own to check.")
    leave(2 if wrong else 0)


def _own() -> UserStates:
    from ...common.paths import Paths
    from ..userstates import folder as userfolder
    from ..userstates import python as userpython

    return userfolder.discover(Paths.from_environment().user_states, userpython.found())


def _checked(files: tuple[Path, ...]) -> UserStates:
    """All there are, these files in the place of those of their names."""
    from dataclasses import replace

    from ...common.errors import UserError as Wrong
    from ...common.paths import Paths
    from ..simulation import usercheck
    from ..userstates import folder as userfolder

    own = _own()
    documents, faults = dict(own.documents), dict(own.faults)
    for file in files:
        documents.pop(file.stem, None)
        faults.pop(file.stem, None)
        try:
            documents[file.stem] = userfolder.read(file)
        except Wrong as error:
            faults[file.stem] = error
    given = replace(own, documents=documents, faults=faults)
    return usercheck.check(given, usercheck.definitions(Paths.from_environment().clusters))


def _judged(own: UserStates, name: str) -> dict[str, object]:
    fault = own.faults.get(name)
    if fault is None:
        return {"name": name, "path": own.documents[name].path, "valid": True, "problems": []}
    return {"name": name, **_told(fault), "valid": False}


def _told(fault: UserError) -> dict[str, object]:
    from dataclasses import asdict

    from ...common.errors import DefinitionError

    if isinstance(fault, DefinitionError):
        return {"path": fault.path, "problems": [asdict(problem) for problem in fault.problems]}
    return {"path": None, "problems": [{"message": str(fault)}]}
