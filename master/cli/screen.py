"""How things look on a terminal: colours, widths, tables, durations. Pure, but for `Terminal`, which writes.

Rules: stdout is the result, stderr is progress, questions and hints. Colour only adds to words and signs, never
replaces them. ASCII when the encoding is not UTF-8. A table drops its least important columns before it wraps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from ...common.errors import Problem
    from .masking import Span

ColourChoice = Literal["auto", "always", "never"]
_ORDERS = re.compile(r"\x1b(?!\[[0-9;]*m)|\r(?!$)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}


@dataclass(frozen=True, slots=True)
class Look:
    """What one stream can show. `live` says whether lines may be rewritten; `width` is in columns."""

    colour: bool = False
    unicode: bool = False
    width: int = 100
    live: bool = False

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def fit(self, text: str) -> str:
        """The text cut to the width, with a sign that it was cut."""
        if len(text) <= self.width:
            return text
        sign = "…" if self.unicode else "..."
        return text[: max(self.width - len(sign), 0)] + sign

    def plain(self, text: str) -> str:
        """The text as the stream can encode it. What a node says gives no orders to a person's terminal but colours."""
        if self.live:
            text = _ORDERS.sub("?", text)
        return text if self.unicode else text.encode("ascii", "replace").decode()


def look(tty: bool, encoding: str, environment: Mapping[str, str], width: int, choice: ColourChoice = "auto") -> Look:
    """What a stream can show. Order: --color, NO_COLOR, FORCE_COLOR, TERM=dumb, then whether it is a terminal."""
    dumb = environment.get("TERM") == "dumb"
    if choice != "auto":
        colour = choice == "always"
    elif environment.get("NO_COLOR"):
        colour = False
    elif environment.get("FORCE_COLOR"):
        colour = True
    else:
        colour = tty and not dumb
    unicode = encoding.lower().replace("-", "").replace("_", "") == "utf8"
    return Look(colour=colour, unicode=unicode, width=max(width, 40), live=tty and not dumb)


@dataclass(frozen=True)
class Terminal:
    """Where a command writes. With `as_json` nothing but JSON goes to stdout."""

    out: TextIO
    err: TextIO
    look_out: Look
    look_err: Look
    as_json: bool = False
    interactive: bool = False  # there is a person who can answer

    def result(self, *lines: str) -> None:
        for line in lines:
            self.out.write(self.look_out.plain(line) + "\n")
        self.out.flush()

    def progress(self, *lines: str) -> None:
        for line in lines:
            self.err.write(self.look_err.plain(line) + "\n")
        self.err.flush()

    def error(self, message: str) -> None:
        self.progress(f"{self.look_err.paint('error:', 'red')} {message}")

    def document(self, kind: str, cluster: str, data: object, findings: Sequence[object] = ()) -> None:
        """One JSON document, as every command writes with --json."""
        from ... import __version__
        from ...common.clock import SystemClock, iso

        whole = {
            "schema": f"pgha.{kind}/v1",
            "version": __version__,
            "generated_at": iso(SystemClock().now()),
            "cluster": cluster,
            "data": data,
            "findings": list(findings),
        }
        self.out.write(json.dumps(whole, default=str) + "\n")
        self.out.flush()


def terminal(as_json: bool = False, choice: ColourChoice = "auto") -> Terminal:
    """The streams as they are now."""
    width = shutil.get_terminal_size((100, 40)).columns
    out, err = (
        look(stream.isatty(), stream.encoding or "ascii", os.environ, width, choice)
        for stream in (sys.stdout, sys.stderr)
    )
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    return Terminal(sys.stdout, sys.stderr, out, err, as_json, interactive)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `1 m 22 s`, `5 h 12 m`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, small, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return (
                f"{whole // size} {unit} {rest:02d} {below}"
                if below == "s"
                else f"{whole // size} {unit} {rest} {below}"
            )
    return f"{whole} s"


def moment(value: object) -> str:
    """A Unix time as local `YYYY-MM-DD HH:MM:SS`; text stays as it is, nothing is `-`."""
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value) if value else "-"


def size(count: int) -> str:
    """Bytes for a person: `0 B`, `1.5 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, expendable: Sequence[str] = ()) -> list[str]:
    """Aligned columns, two blanks apart. `expendable` heads go, the first of them first, until the width is enough."""
    kept = list(range(len(heads)))
    gone = [heads.index(head) for head in expendable]
    while True:
        widths = {i: max(len(line[i]) for line in (heads, *rows)) for i in kept}
        if sum(widths.values()) + 2 * (len(kept) - 1) <= width or not gone:
            break
        kept.remove(gone.pop(0))
    return ["  ".join(line[i].ljust(widths[i]) for i in kept).rstrip() for line in (heads, *rows)]


def render_problems(path: str, source: str, problems: Sequence[Problem], shown: Look) -> list[str]:
    """Every problem with its place, its line of the file and what to do. Passwords in those lines are masked."""
    from .masking import lines_of, secret_spans  # loads pydantic, which most commands need not wait for

    errors = sum(not p.warning for p in problems)
    counts = [_count(errors, "error"), _count(len(problems) - errors, "warning")]
    lines = [f"{path}: {', '.join(c for c in counts if c)}", ""]
    text = lines_of(source)
    hidden = secret_spans(text, problems)
    for problem in problems:
        word, style = ("warning", "yellow") if problem.warning else ("error", "red")
        place = f"{path}:{problem.line}:{problem.column}" if problem.line else path
        lines.append(f"{shown.paint(f'{word}[{problem.code}]', style)}  {place}  {problem.message}")
        lines += _excerpt(problem, text, hidden.get(problem.line, ()), shown)
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""


def _excerpt(problem: Problem, lines: Sequence[str], spans: Sequence[Span], shown: Look) -> list[str]:
    from .masking import cover, moved

    found = []
    margin = "     | "
    if 0 < problem.line <= len(lines) and lines[problem.line - 1].strip():
        line = cover(lines[problem.line - 1], spans).replace("\t", " ")
        column, length = moved(problem.column, problem.length, spans)
        found.append(shown.fit(f"{problem.line:>4} | {line}"))
        end = min(column - 1 + length, max(len(line), column))
        marks = shown.paint("^" * (end - column + 1), "yellow" if problem.warning else "red")
        found.append(f"{margin}{' ' * (column - 1)}{marks}  {problem.hint}".rstrip())
    elif problem.hint:
        found.append(f"{margin}{problem.hint}")
    return found
