"""YAML text -> plain values, with the line and column of every key and value.

Rules:
1. A place is kept for each path, so that whoever finds a value wrong can point at it.
2. What is wrong with the YAML itself is told as a Problem, never as the parser's own exception.
3. A file cannot hurt who reads it: its size, its depth and what its aliases unfold to are limited; tags are refused.

YAML is 1.2: `on`, `off`, `yes` and `no` are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from .errors import DefinitionError, Problem, UserError

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 100_000

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the file. Lines and columns start at 1; `length` is in characters of that line.

    `lines` is how many lines it takes; of what takes several the length is not known and is 1.
    """

    line: int
    column: int
    length: int = 1
    lines: int = 1


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file as plain values, with the place of each key and of each value by its path."""

    path: str
    text: str
    data: dict[str, Any]
    keys: dict[KeyPath, Place] = field(repr=False)
    values: dict[KeyPath, Place] = field(repr=False)

    def has(self, path: KeyPath) -> bool:
        return path in self.values

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Where `path` stands, or the nearest thing above it that does; the file's start if nothing does."""
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        while path:
            if found := first.get(path) or second.get(path):
                return found
            path, first, second = path[:-1], self.keys, self.values
        return Place(1, 1)

    def problem(
        self, code: str, path: KeyPath, message: str, hint: str = "", *, key: bool = False, warning: bool = False
    ) -> Problem:
        """A problem at `path`; `key` points at the key instead of the value."""
        at = self.place(path, key=key)
        return Problem(code, message, at.line, at.column, at.length, hint, warning, at.lines)


def read_file(path: Path) -> str:
    """The text of a file. Raises UserError when it cannot be read, DefinitionError when it is no text or too large."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check its path and permissions.") from None
    if len(data) > MAX_BYTES:
        raise DefinitionError(str(path), [_too_large()])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"the file is not UTF-8 text: byte 0x{data[error.start]:02x} cannot stand here"
        problem = Problem("C004", message, line, column, 1, f"convert it: iconv -t UTF-8 {path.name}")
        raise DefinitionError(str(path), [problem]) from None


def parse(path: str, text: str) -> Document:
    """The file as values with places. Raises DefinitionError: C004 for syntax, C005 for keys that stand twice."""
    if len(text) > MAX_BYTES:
        raise DefinitionError(path, [_too_large()])
    try:
        root = YAML(typ="rt", pure=True).compose(text)
    except YAMLError as error:
        raise DefinitionError(path, [_syntax(error)], text) from None
    except RecursionError:
        raise DefinitionError(path, [Problem("C004", "the file is nested too deeply")], text) from None
    walk = _Walk()
    if root is None:
        walk.problems.append(Problem("C004", "the file is empty", hint="write its settings as  key: value"))
    elif not isinstance(root, MappingNode):
        what = "a list" if isinstance(root, SequenceNode) else "a single value"
        walk.wrong("C004", root, f"expected keys and values, found {what}", "write it as  key: value")
    data = walk.value(root, ()) if isinstance(root, MappingNode) else {}
    if walk.problems:
        raise DefinitionError(path, walk.problems, text)
    return Document(path, text, data, walk.keys, walk.values)


def _too_large() -> Problem:
    return Problem("C004", f"the file is larger than {MAX_BYTES // 1024} KiB", hint="is it the right file?")


_ADVICE = (
    ("\\t", "indent with spaces: YAML allows no tabs there"),
    ("mapping values are not allowed", "is a ':' inside a text? put the text in quotes; or is the indentation wrong?"),
    ("could not find expected ':'", "a key needs ': ' and a value; check the line above too"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("expected ',' or", "a '{' or '[' is not closed, or a comma is missing"),
    ("expected a single document", "one file holds one document: remove the '---' in the middle"),
    ("undefined alias", "a text that starts with '*' needs quotes"),
    ("quoted scalar", "a quote is not closed"),
)


def _syntax(error: YAMLError) -> Problem:
    if isinstance(error, ReaderError):
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1])
        return Problem(
            "C004", f"the file holds the character U+{code:04X}, which YAML does not allow", hint="remove it"
        )
    mark, said = None, "it cannot be read"
    if isinstance(error, MarkedYAMLError):
        mark, said = error.problem_mark or error.context_mark, _unquoted(error.problem or error.context or said)
    hint = next((advice for sign, advice in _ADVICE if sign in f"{said} {getattr(error, 'context', '')}"), "")
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    return Problem("C004", f"not valid YAML: {said}", line, column, 1, hint)


def _unquoted(said: str) -> str:
    """The parser's words without the name of an alias or a tag: it may be a password that begins with '*' or '!'."""
    return re.sub(r"\s*['\"].*", "", said) if re.search(r"alias|anchor|tag|directive", said) else said


_YAML = "tag:yaml.org,2002:"
_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"})


class _Walk:
    """Turns YAML nodes into values and notes where each stands."""

    def __init__(self) -> None:
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []
        self._count = 0

    def wrong(self, code: str, node: Node, message: str, hint: str = "") -> None:
        at = _place(node)
        self.problems.append(Problem(code, message, at.line, at.column, at.length, hint))

    def value(self, node: Node, path: KeyPath) -> Any:  # Any: whatever YAML can hold
        self._count += 1
        if self._count == MAX_VALUES:
            self.wrong("C004", node, f"the file unfolds to more than {MAX_VALUES} values", "remove the aliases")
        if len(path) == MAX_DEPTH:
            self.wrong("C004", node, "the file is nested too deeply")
        if self._count >= MAX_VALUES or len(path) >= MAX_DEPTH:
            return None
        self.values.setdefault(path, _place(node))
        if str(node.tag).removeprefix(_YAML) not in _TAGS:
            self.wrong(
                "C004", node, "a tag, that is a word after '!', means nothing here", "remove it, or quote the text"
            )
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node) if isinstance(node, ScalarNode) else None

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.wrong("C004", key, "a key must be a plain word")
                continue
            name = str(key.value)
            if name in lines:
                self.wrong("C005", key, f"the key '{name}' stands twice: first in line {lines[name]}", "keep one")
                continue
            lines[name] = _place(key).line
            inner = (*path, name)  # a name of its own: mypy takes a star inside [] for Python 3.11
            self.keys[inner] = _place(key)
            if isinstance(value, ScalarNode) and not value.value and value.style is None:
                self.values[inner] = _place(key)  # nothing is written: point at the key
            result[name] = self.value(value, inner)
        return result

    def _scalar(self, node: ScalarNode) -> object:
        kind, text = str(node.tag).removeprefix(_YAML), str(node.value)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int" and re.fullmatch(r"[-+]?0[0-9]+", text):
                return text  # 0644: YAML 1.2 means 644 by it, but no one who writes a mode does
            if kind == "int":
                return int(text, 0 if text.lower().lstrip("+-")[:2] in ("0x", "0o", "0b") else 10)
            return float(text.replace(".inf", "inf").replace(".nan", "nan")) if kind == "float" else text
        except ValueError:
            return text


def _place(node: Node) -> Place:
    start, end = node.start_mark, node.end_mark
    length = end.column - start.column if end.line == start.line else 1
    lines = end.line - start.line + (1 if end.column else 0)
    return Place(start.line + 1, start.column + 1, max(length, 1), max(lines, 1))
