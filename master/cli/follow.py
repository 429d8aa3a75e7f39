"""Shows what streams back while something runs, and says what came of it.

On a terminal a step has one line that is rewritten until it ends; elsewhere every event is a line of its own,
`HH:MM:SS node step state detail`. With --json every event is a JSON line. Ctrl-C detaches: the work goes on, the id
and the way back to it are told, exit code 130.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from . import exits
from .options import leave
from .screen import Look, Terminal, duration

if TYPE_CHECKING:
    from ..operations.progress import End, Gate, Line, Resource, Started, Step

_STYLE = {"done": "green", "open": "green", "failed": "red", "changed": "yellow"}


class Follower:
    """Feeds lines to the screen. `on_line` sees each line first and may claim it by giving back True."""

    def __init__(self, screen: Terminal, on_line: Callable[[Line], bool] = lambda line: False) -> None:
        self._screen = screen
        self._on_line = on_line
        self._live = Live(screen) if screen.look_err.live and not screen.as_json else None
        self.id = ""

    def follow(self, lines: Iterable[Line], detach: bool = False) -> End:
        """The `End`. With `detach`, leaves as soon as the work has an id. Ctrl-C leaves with exit code 130."""
        try:
            for line in lines:
                if self._screen.as_json:
                    self._screen.out.write(line.model_dump_json() + "\n")
                    self._screen.out.flush()
                if line.kind == "started":
                    self.id = line.id
                if line.kind == "end":
                    return line
                if not self._screen.as_json:
                    self._show(line)
                if detach and self.id:
                    self._screen.progress(
                        f"It runs on as {self.id}. Follow it:  pgha-master jobs show {self.id} --follow"
                    )
                    leave(exits.OK)
        except KeyboardInterrupt:
            self._detached()
        finally:
            if self._live:
                self._live.clear()
        raise AssertionError("the lines end with an End")

    def _detached(self) -> None:
        if self._live:
            self._live.clear()
        way = f"jobs show {self.id} --follow" if self.id else "jobs list"
        self._screen.progress("", f"Detached; the work goes on. Follow it:  pgha-master {way}")
        leave(exits.DETACHED)

    def _show(self, line: Line) -> None:
        if self._on_line(line):
            return
        if line.kind == "started":
            self._say(_started(line))
        elif line.kind == "note":
            self._say(f"{line.level}: {line.text}" if line.level == "warning" else line.text)
        elif line.kind == "step" or line.kind == "gate":
            self._step(line)
        elif line.kind == "resource":
            self._resource(line)

    def _step(self, line: Step | Gate) -> None:
        text = event(line, self._screen.look_err)
        if self._live is None:
            self._screen.progress(f"{clock(line.at)} {text}")
            return
        key = (line.step, line.node if line.kind == "step" else line.gate)
        if line.state in ("started", "waiting"):
            self._live.put(key, text)
        else:
            self._live.drop(key)
            self._live.say(text)

    def _resource(self, line: Resource) -> None:
        text = resource(line, self._screen.look_err)
        if self._live is None:
            self._screen.progress(f"{clock(line.at)} {text}")
        elif line.result.status == "failed":
            self._live.say(text)
        else:
            self._live.put((line.step, line.node), text)

    def _say(self, text: str) -> None:
        if self._live:
            self._live.say(text)
        else:
            self._screen.progress(text)


class Live:
    """A few lines at the bottom of a terminal that are rewritten; what is said goes above them and stays."""

    MOST = 12  # lines; a taller block than the terminal could not be rewritten

    def __init__(self, screen: Terminal) -> None:
        self._screen = screen
        self._rows: dict[tuple[str, str], str] = {}
        self._drawn = 0

    def put(self, key: tuple[str, str], text: str) -> None:
        self._rows[key] = text
        self._draw()

    def drop(self, key: tuple[str, str]) -> None:
        self._rows.pop(key, None)

    def say(self, text: str) -> None:
        self._draw(text)

    def clear(self) -> None:
        self._rows.clear()
        self._draw()

    def _draw(self, *above: str) -> None:
        look = self._screen.look_err
        rows = [look.fit(row) for row in list(self._rows.values())[-self.MOST :]]
        erase = f"\x1b[{self._drawn}A\x1b[0J" if self._drawn else ""
        self._screen.err.write(erase + "".join(look.plain(text) + "\n" for text in (*above, *rows)))
        self._screen.err.flush()
        self._drawn = len(rows)


def event(line: Step | Gate, look: Look) -> str:
    """`pg-node2      patroni       done      3 changed   1.9 s`, the state as a word."""
    subject = line.node if line.kind == "step" else "gate"
    detail = line.detail if line.kind == "step" else _gate(line)
    spent = duration(line.seconds) if line.seconds else ""
    state = look.paint(f"{line.state:<9}", _STYLE.get(line.state, ""))
    return "  ".join(part for part in (f"{subject or 'all':<14}{line.step:<14}{state}", detail, spent) if part).rstrip()


def _gate(line: Gate) -> str:
    """`until the leader is known; now: pg-node1 is silent`: what is waited for, and what is instead."""
    awaited = f"until {line.gate}" if line.state == "waiting" else line.gate
    return f"{awaited}; now: {line.reason}" if line.reason else awaited


def resource(line: Resource, look: Look) -> str:
    """`pg-node2      haproxy       changed   file:/etc/haproxy/haproxy.cfg  reload haproxy`."""
    result = line.result
    impacts = dict.fromkeys(str(c.disruption) for c in result.changes if c.disruption.impact != "none")
    state = look.paint(f"{result.status.value:<9}", _STYLE.get(result.status.value, ""))
    head = f"{line.node:<14}{line.step or result.document:<14}{state}"
    return "  ".join(part for part in (head, result.resource, ", ".join(impacts), result.reason) if part)


def _started(line: Started) -> str:
    nodes = f"   nodes: {' '.join(line.nodes)}" if line.nodes else ""
    return f"{line.what} {'runs already; following' if line.joined else 'started'}   job {line.id}{nodes}"


def clock(at: float, *, parts: bool = False) -> str:
    """`HH:MM:SS` here, with `.mmm` for a log."""
    there = datetime.fromtimestamp(at).astimezone()
    return f"{there:%H:%M:%S}" + (f".{there.microsecond // 1000:03d}" if parts else "")
