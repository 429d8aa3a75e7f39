"""`pgha-master validate`: checks a definition where it lies, without the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import leave, with_terminal
from .screen import Terminal, render_problems

if TYPE_CHECKING:
    from ...common.errors import Problem


@click.command("validate")
@click.argument("definition", metavar="FILE|CLUSTER")
@with_terminal
def command(screen: Terminal, definition: str) -> None:
    """Check a cluster's definition: every mistake with its line, and what to do.

    FILE is a path that holds a '/' or ends in .yml; CLUSTER is a name under /etc/pgha/clusters. Exit code 2 when the
    definition has an error, 0 when it has none or only warnings.
    """
    from ...common.errors import DefinitionError
    from ...common.paths import Paths
    from ..definition import inventory

    path, text = inventory.read(definition, Paths.from_environment().clusters)
    try:
        cluster, problems = inventory.load(path, text)
        inventory.insist(definition, path, cluster)
    except DefinitionError as error:
        if not screen.as_json:
            raise
        screen.document("validate", "", {"path": path, "valid": False, "problems": _plain(error.problems)})
        leave(2)
    if screen.as_json:
        screen.document("validate", cluster.name, {"path": path, "valid": True, "problems": _plain(problems)})
        return
    if problems:
        screen.progress(*render_problems(path, text, problems, screen.look_err))
    roles = f"{len(cluster.nodes)} nodes, {len(cluster.data_nodes)} with data, {len(cluster.etcd_nodes)} etcd voters"
    screen.result(f"{path}: the cluster {cluster.name} is valid ({roles}).")
    screen.progress(f"Next:  pgha-master plan {definition}")


def _plain(problems: list[Problem]) -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(problem) for problem in problems]
