"""Shows what nodes answer to a `run`, as they answer or folded, and counts how it went."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from .screen import Terminal

if TYPE_CHECKING:
    from ..operations.progress import Line, NodeDone, Output

NO_ANSWER = frozenset({"queued", "accepted", "started", "unknown", "expired"})


class Answers:
    """`files` gets the pieces of files, and the end of each node; without it they are only counted."""

    def __init__(
        self,
        screen: Terminal,
        fold: bool = False,
        files: Callable[[Output | NodeDone], None] | None = None,
    ) -> None:
        self._screen, self._fold, self._files = screen, fold, files
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
        if line.stream == "bytes":
            if self._files is not None:
                self._files(line)
            return
        self._spoke.add(line.node)
        for text in line.text.splitlines():
            if self._fold:
                self._said[line.node].append(text)
            else:
                write = self._screen.result if line.stream == "stdout" else self._screen.progress
                write(f"{line.node}  {text}")

    def _done(self, line: NodeDone) -> None:
        if self._files is not None:
            self._files(line)
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
        states = [node.state for node in self.nodes.values()]
        ok = sum(_ok(node) for node in self.nodes.values())
        silent = sum(state in NO_ANSWER for state in states)
        cancelled = states.count("cancelled")
        spent = max(node.seconds for node in self.nodes.values())
        parts = [f"{ok} ok", f"{len(states) - ok - silent - cancelled} failed", f"{silent} no answer"]
        return f"{', '.join(parts + ([f'{cancelled} cancelled'] if cancelled else []))} ({spent:.2f} s)"


def _ok(line: NodeDone) -> bool:
    return line.state == "done" and not line.exit_code
