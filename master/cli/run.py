"""`pgha-master run`: a command or a function on every node that a target names, at once."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

import click

from .follow import Follower
from .options import finish, leave, with_terminal
from .screen import Terminal

if TYPE_CHECKING:
    from ..progress import Line, NodeDone, Output

FUNCTIONS = ("ping", "facts", "cmd", "service.status", "patroni.list", "etcd.health", "write_probe")
NO_ANSWER = frozenset({"unknown", "expired", "silent"})
_ARGV = "pgha.argv"


class AfterDashes(click.Command):
    """A command that keeps what stands after `--` apart, so that a program's own options are never taken for ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_ARGV] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command("run", cls=AfterDashes, options_metavar="[OPTIONS]")
@click.argument("target")
@click.argument("function", default="", metavar="[FUNCTION [ARGS]... | -- COMMAND...]")
@click.argument("args", nargs=-1, metavar="")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds a node may take.")
@click.option("--fold", is_flag=True, help="Show equal answers once, when all are there.")
@click.option("--detach", is_flag=True, help="Start it and leave.")
@click.pass_context
@with_terminal
def command(
    screen: Terminal,
    ctx: click.Context,
    target: str,
    function: str,
    args: tuple[str, ...],
    timeout_s: float,
    fold: bool,
    detach: bool,
) -> None:
    """Run COMMAND on the nodes that TARGET names, or a FUNCTION of the minions.

    TARGET: names, globs, lists, role:leader, region:eu, cluster:prod, with and, or, not and brackets; '*' is all.
    FUNCTION: ping, facts, cmd, service.status, patroni.list, etcd.health, write_probe.

    \b
      pgha-master run '*' ping
      pgha-master run 'prod and role:data' -- df -h /var/lib/postgresql
    """
    argv = _argv(ctx, function)
    arguments: dict[str, object] = {"target": target, "argv": argv, "timeout_s": timeout_s}
    arguments |= {"function": function, "args": list(args)}
    from .client import request

    answers = Answers(screen, fold)
    end = Follower(screen, answers.take).follow(request("run", arguments), detach)
    if not screen.as_json:
        if fold:
            screen.result(*answers.folded())
        if answers.nodes:
            screen.progress(answers.summary())
    if answers.nodes and not end.message:
        leave(end.exit)  # the last line has said it
    finish(screen, end)


def _argv(ctx: click.Context, function: str) -> list[str]:
    """The command after `--`. Raises UsageError unless there is either a command or a known function."""
    argv: list[str] = ctx.meta.get(_ARGV, [])
    if argv and function:
        raise click.UsageError(f"Give either the function '{function}' or a command after --, not both.", ctx)
    if argv or function in FUNCTIONS:
        return argv
    if not function:
        raise click.UsageError("Say what to run: a function such as ping, or  -- COMMAND", ctx)
    near = difflib.get_close_matches(function, FUNCTIONS, n=1, cutoff=0.6)
    meant = f"Did you mean '{near[0]}'?" if near else f"To run a command put -- before it:  -- {function}"
    raise click.UsageError(f"There is no function '{function}'. {meant}", ctx)


class Answers:
    """Shows what nodes say as they say it, or keeps it to be folded."""

    def __init__(self, screen: Terminal, fold: bool) -> None:
        self._screen, self._fold = screen, fold
        self._said: dict[str, list[str]] = defaultdict(list)
        self._spoke: set[str] = set()
        self.nodes: dict[str, NodeDone] = {}

    def take(self, line: Line) -> bool:
        """Claims outputs and ends of nodes; whatever else comes is the follower's."""
        if line.kind == "output":
            self._output(line)
        elif line.kind == "node_done":
            self._done(line)
        return line.kind in ("output", "node_done")

    def _output(self, line: Output) -> None:
        self._spoke.add(line.node)
        for text in line.text.splitlines():
            if self._fold:
                self._said[line.node].append(text)
            else:
                write = self._screen.result if line.stream == "stdout" else self._screen.progress
                write(f"{line.node}  {text}")

    def _done(self, line: NodeDone) -> None:
        self.nodes[line.node] = line
        data = {} if line.node in self._spoke else line.data  # what has printed its own answer has said it all
        for key, value in data.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            if self._fold:
                self._said[line.node].append(f"{key}: {shown}")
            else:
                self._screen.result(f"{line.node}  {key}: {shown}")
        if not _ok(line):
            code = f", exit code {line.exit_code}" if line.exit_code else ""
            told = f": {line.message}" if line.message not in ("", line.state) else ""
            self._screen.progress(f"{line.node}  {self._screen.look_err.paint(line.state + code, 'red')}{told}")
        elif not data and line.message and not self._fold:
            self._screen.result(f"{line.node}  {line.message}")

    def folded(self) -> list[str]:
        """Equal answers once, under the names of the nodes that gave them."""
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for node in self.nodes or self._said:
            groups[tuple(self._said[node])].append(node)
        lines = []
        for said, nodes in groups.items():
            same = f" ({len(nodes)} nodes, same answer)" if len(nodes) > 1 else ""
            lines += [f"{', '.join(nodes)}:{same}", *(f"  {text}" for text in said)]
        return lines

    def summary(self) -> str:
        """`2 ok, 1 failed, 0 no answer (0.31 s)`, the time being the slowest node's."""
        ok = sum(_ok(node) for node in self.nodes.values())
        silent = sum(node.state in NO_ANSWER for node in self.nodes.values())
        spent = max(node.seconds for node in self.nodes.values())
        return f"{ok} ok, {len(self.nodes) - ok - silent} failed, {silent} no answer ({spent:.2f} s)"


def _ok(line: NodeDone) -> bool:
    return line.state in ("done", "ok", "finished") and not line.exit_code
