"""Finds the documents of the user's own: files of /etc/pgha/states and entry points of installed packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from pathlib import Path

from ...common.errors import Problem, UserError
from ...common.yamltext import Document, read_file
from ...states import statefile
from ...states.catalog import DOCUMENTS
from ...states.statefile import NAME_PATTERN, StateFile
from ..targeting import targets
from ..targeting.targets import TargetError, Term
from . import python as userpython
from .states import UserDocument, UserStates

LASTING = ("cpus", "ram", "pgha")  # comparisons with what is a fact of the host

Found = tuple[str, str, Callable[[], UserDocument]]
"""Name, where from, and what reads it: that raises UserError."""


def discover(folder: Path, points: Iterable[EntryPoint] = ()) -> UserStates:
    """All there are, each either usable or a fault. Raises UserError when the folder itself cannot be read."""
    documents, faults = dict[str, UserDocument](), dict[str, UserError]()
    origins: dict[str, str] = {}
    for name, path, read in [*_files(folder), *_points(points)]:
        if name in origins:
            documents.pop(name, None)
            faults[name] = UserError(f"{path}: there is a document {name} already, {origins[name]}; rename one of them")
            continue
        origins[name] = path
        try:
            documents[name] = read()
        except UserError as error:
            faults[name] = error
    return UserStates(documents, faults)


def read(path: Path) -> StateFile:
    """The file, checked as far as that goes without a node. Raises UserError, DefinitionError with all problems."""
    return statefile.load(str(path), read_file(path), lambda source: [*_name(path), *_target(source)])


def _files(folder: Path) -> list[Found]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}; its files are states of yours") from None
    return [(path.stem, str(path), _reader(path)) for path in paths if path.suffix in (".yml", ".yaml")]


def _reader(path: Path) -> Callable[[], UserDocument]:
    def read_it() -> UserDocument:
        if path.suffix == ".yaml":
            raise UserError(f"{path} would not be read: rename it to {path.stem}.yml, or take it away")
        return read(path)

    return read_it


def _points(points: Iterable[EntryPoint]) -> list[Found]:
    def reader(point: EntryPoint) -> Callable[[], UserDocument]:
        def read_it() -> UserDocument:
            path = userpython.origin(point)
            if point.name in DOCUMENTS:
                raise UserError(f"{path}: {_taken(point.name)}")
            if not re.fullmatch(NAME_PATTERN, point.name):
                raise UserError(f"{path}: '{point.name}' cannot be the name of a document: lower-case letters, digits")
            return userpython.load(point)

        return read_it

    return [(point.name, userpython.origin(point), reader(point)) for point in sorted(points, key=userpython.origin)]


def _name(path: Path) -> list[Problem]:
    if path.stem not in DOCUMENTS:
        return []
    return [Problem("S007", _taken(path.stem), hint=f"rename the file, such as my-{path.stem}.yml")]


def _taken(name: str) -> str:
    return f"'{name}' is a document of pgha's own; give yours another name"


def _target(source: Document) -> list[Problem]:
    at, target = source.place(("target",)), source.data.get("target")
    if not isinstance(target, str) or not target:
        return []  # there is none, or that it is no text is told already
    line = source.text.splitlines()[at.line - 1]
    first = at.column + (line[at.column - 1 : at.column] in ("'", '"'))

    def problem(position: int, length: int, message: str, hint: str) -> Problem:
        column = first + position - 1 if at.lines == 1 else at.column
        return Problem("S006", message, at.line, column, length, hint)

    try:
        terms = targets.terms(target)
    except TargetError as error:
        return [problem(error.position, 1, f"target: {error.reason}", "see docs/reference/targets.md")]
    return [
        problem(term.position, len(term.key), f"target: a document cannot ask for {term.key}: {why}", hint)
        for term in terms
        for why, hint in _refusal(term)
    ]


def _refusal(term: Term) -> Iterable[tuple[str, str]]:
    """Why, and what to do, when a document cannot be bound to that."""
    if term.key == "state":
        yield "only nodes that are connected are planned", "leave it out"
    elif term.comparison and term.key not in LASTING:
        why = "it changes by itself, and what the document made would stay where it selects the node no more"
        yield why, f"ask for what lasts: names, role, region, os, tag, {', '.join(LASTING)}"
