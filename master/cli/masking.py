"""Which parts of a definition's lines may be shown next to a problem. Pure: lines and problems in, spans out.

Rules:
1. A file that could be read tells where each of its secrets stands (C040): exactly those places are hidden, however
   many there are in a line and however many lines one takes.
2. A file that could not be read tells nothing: everything that follows a key with a secret's name is hidden. Too much
   rather than too little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...common.secret import MASK

if TYPE_CHECKING:
    from ...common.errors import Problem

Span = tuple[int, int]  # from and up to, counted in characters from 0

_KEY = re.compile(r"(?:\b|_)(?:password|passwd|passphrase|secret|pass|credentials)[\"']?\s*[:=]", re.IGNORECASE)


def lines_of(source: str) -> list[str]:
    """The lines as the YAML parser counts them: a byte order mark has no width."""
    return source.replace("\ufeff", "").splitlines()


def secret_spans(lines: Sequence[str], problems: Sequence[Problem]) -> dict[int, list[Span]]:
    """Line number (from 1) -> what to hide in it, from left to right and without overlaps."""
    found: dict[int, list[Span]] = {}
    known = [p for p in problems if p.code == "C040" and p.line]
    for problem in known:
        for number in range(problem.line, min(problem.line + problem.lines, len(lines) + 1)):
            start = problem.column - 1 if number == problem.line else 0
            end = start + problem.length if problem.lines == 1 else len(lines[number - 1])
            found.setdefault(number, []).append((start, end))
    return {number: _merged(spans) for number, spans in found.items()} if known else _guessed(lines)


def cover(line: str, spans: Sequence[Span]) -> str:
    """The line with each span replaced by asterisks, whose number tells nothing of the length."""
    for start, end in sorted(spans, reverse=True):
        line = line[:start] + MASK + line[end:]
    return line


def moved(column: int, length: int, spans: Sequence[Span]) -> tuple[int, int]:
    """Where a place (column from 1, length) of the line is after `cover`; inside a span it is the whole mask."""
    shift = 0
    for start, end in spans:
        if start <= column - 1 < end:
            return start + 1 + shift, len(MASK)
        if end <= column - 1:
            shift += len(MASK) - (end - start)
    return column + shift, length


def _merged(spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(set(spans)):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _guessed(lines: Sequence[str]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = {}
    below: int | None = None  # lines that stand deeper than this belong to a secret
    for number, line in enumerate(lines, 1):
        indent = len(line) - len(line.lstrip())
        if below is not None and (indent > below or not line.strip()):
            found[number] = [(indent, len(line))]
            continue
        below = None
        if match := _KEY.search(line):
            rest = line[match.end() :]
            found[number] = [(match.end() + len(rest) - len(rest.lstrip()), len(line))] if rest.strip() else []
            below = -1 if _goes_on(rest) else indent
    return {number: spans for number, spans in found.items() if spans}


def _goes_on(text: str) -> bool:
    """Whether a quote or a bracket is left open, so that the indentation of what follows says nothing."""
    brackets = sum(text.count(c) for c in "{[") > sum(text.count(c) for c in "}]")
    return brackets or text.count('"') % 2 == 1 or text.count("'") % 2 == 1
