"""A file that a person wrote -> a typed model, with every error at its line and column.

Rules:
1. All errors at once: a file with five mistakes is corrected once, not five times.
2. What the model says of a path is told at the place of that path in the file.
3. No jargon of the model's library reaches the reader: what was expected, what was found, what to do.

This file does not know which models there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from .errors import DefinitionError, Problem
from .yamltext import Document, KeyPath, parse

M = TypeVar("M", bound=BaseModel)


def check(
    model: type[M],
    document: Document,
    data: dict[str, Any] | None = None,
    locate: Callable[[KeyPath], KeyPath] = lambda path: path,
) -> tuple[M | None, list[Problem], list[KeyPath]]:
    """The model, or None with the problems and the paths they stand at.

    `data` is what to validate where it is not the document as it stands; `locate` then leads from a path in `data` to
    the path in the document.
    """
    values = document.data if data is None else data
    try:
        return model.model_validate(values), [], []
    except ValidationError as error:
        faults = _faults(error, values)
    problems: dict[tuple[str, KeyPath], Problem] = {}
    for path, found in faults.items():
        problem = _explain(model, document, locate(path), path, found)
        problems.setdefault((problem.code, locate(path)), problem)
    return None, list(problems.values()), list(faults)


def load(model: type[M], path: str, text: str) -> M:
    """A settings file as its model. Raises DefinitionError with all problems."""
    document = parse(path, text)
    loaded, problems, _ = check(model, document)
    if loaded is None:
        raise DefinitionError(path, problems, text)
    return loaded


def dotted(path: KeyPath) -> str:
    """`nodes.pg-node1.address`, and `pg_hba[2]` counting from 1 as people do."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, choices: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the choices when none is near; empty when there are none."""
    known = list(choices)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known here: {', '.join(known)}" if known else ""


def _faults(error: ValidationError, data: object) -> dict[KeyPath, list[Any]]:
    """The model's complaints by the path in `data`. Deeper ones win: a union complains once for each of its arms."""
    faults: dict[KeyPath, list[Any]] = {}
    for detail in error.errors(include_url=False):
        faults.setdefault(_path(detail["loc"], detail["type"], data), []).append(detail)
    return {
        path: found
        for path, found in faults.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in faults)
    }


def _path(location: tuple[str | int, ...], kind: str, data: Any) -> KeyPath:  # Any: whatever YAML can hold
    """`location` without the names of union arms and validators, which stand in no file."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        inside = part in data if isinstance(data, dict) else isinstance(part, int) and part < _length(data)
        if inside:
            path, data = [*path, part], data[part]
        elif kind == "missing" and index == len(location) - 1:
            path.append(part)
    return tuple(path)


def _length(data: object) -> int:
    return len(data) if isinstance(data, (list, tuple)) else 0


def _explain(model: type[BaseModel], document: Document, at: KeyPath, path: KeyPath, found: list[Any]) -> Problem:
    name, parent = str(at[-1]) if at else "", dotted(at[:-1])
    where = f" in {parent}" if parent else ""
    kinds = {detail["type"] for detail in found}
    if kinds == {"extra_forbidden"}:
        hint = nearest(name, known_keys(model, path[:-1]))
        return document.problem("C001", at, f"unknown key '{name}'{where}", hint, key=True)
    if kinds == {"missing"}:
        return document.problem("C003", at, f"the key '{name}' is missing{where}", f"add  {name}: ...", key=True)
    if kinds == {"value_error"} and (said := _sentence(found)):
        return document.problem("C002", at, f"{dotted(at)}: {said}")
    wanted = " or ".join(dict.fromkeys(text for detail in found if (text := _expected(detail))))
    message = f"{dotted(at)}: expected {wanted}, found {_shown(found[0]['input'])}"
    return document.problem("C002", at, message)


def _sentence(found: list[Any]) -> str:
    """What a validator says, where that is more than what it expected; else nothing."""
    said = str(found[0]["ctx"]["error"])
    whole = len(found) == 1 and (not said.startswith("expected ") or ", not " in said)
    return said if whole else ""


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys and values",
    "model": "keys and values",
}


def _expected(detail: Any) -> str:  # Any: the library's own mapping
    kind, context = str(detail["type"]), detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    if kind == "value_error":
        return str(context["error"]).removeprefix("expected ")
    if kind == "string_pattern_mismatch":
        return "a name of lower-case letters, digits and '-'"
    bounds = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    for bound, words in bounds.items():
        if bound in context:
            return f"a number {words} {context[bound]}"
    return _TYPES.get(kind.partition("_")[0], "another value")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"'{str(value)[:60]}'" if isinstance(value, str) else str(value)


def known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys a file may hold at `path`, in the model's order; empty where any key may stand or none."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        kept = [m.model_fields[name].annotation for m in models for name in m.model_fields if _spelled(m, name) == part]
        models = [found for annotation in kept for found in _models(annotation)]
    return list(dict.fromkeys(_spelled(m, name) for m in models for name in m.model_fields))


def _spelled(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or name


def _models(annotation: Any) -> list[type[BaseModel]]:  # Any: a type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models(argument)]
