"""One item of a state file -> its resource: names filled in, secrets looked up, modes read as octal, all else checked.

What a field may hold is the business of its kind's model; this file only brings what a person writes into its form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from ..common.errors import Problem
from ..common.secret import Secret
from ..common.settings import check, dotted, nearest
from ..common.yamltext import Document, KeyPath
from .placeholders import NAMES, Values, fill
from .resource import AnyResource

BY_NAME = "secret:"
_OCTAL = re.compile(r"0o?[0-7]{3,4}")


class Reader:
    """Collects what is wrong in `problems`; of an item that has a problem no resource comes about."""

    def __init__(self, source: Document, values: Values, secret: Callable[[str], Secret | None]) -> None:
        self.problems: list[Problem] = []
        self._source, self._values, self._secret = source, values, secret

    def wrong(self, code: str, path: KeyPath, message: str, hint: str = "", *, key: bool = False) -> None:
        self.problems.append(self._source.problem(code, path, message, hint, key=key))

    def resource(self, model: type[AnyResource], path: KeyPath, item: dict[str, Any]) -> AnyResource | None:
        before, data, bad = len(self.problems), dict[str, Any](), set[str]()
        fields = {name: field.annotation for name, field in model.model_fields.items() if name != "document"}
        for name, value in item.items():
            inside, count = (*path, name), len(self.problems)
            if name in fields:
                data[name] = self._value([fields[name]], value, inside)
            else:
                hint = "the document is this file: remove it" if name == "document" else nearest(name, fields)
                self.wrong("C001", inside, f"unknown key '{name}' in a resource of kind {item['kind']}", hint, key=True)
            if len(self.problems) > count:
                bad.add(name)
        resource, found, paths = check(model, self._source, data, lambda inner: (*path, *inner))
        self.problems += [problem for problem, at in zip(found, paths, strict=True) if not at or at[0] not in bad]
        return resource if len(self.problems) == before else None

    def _value(self, types: Sequence[Any], value: Any, path: KeyPath) -> Any:  # Any: type expressions, YAML's values
        if isinstance(value, dict):
            return {key: self._value(list(_inside(types, key)), inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [
                self._value(list(_inside(types, index)), inner, (*path, index)) for index, inner in enumerate(value)
            ]
        arms = [arm for kind in types for arm in _arms(kind)]
        if Secret in arms and value is not None:
            return self._secret_of(value, path)
        if int in arms and value is not None and (path[-1] == "mode" or str(path[-1]).endswith("_mode")):
            return self._mode(value, path)
        if isinstance(value, str) and path[-1] != "kind":
            return self._text(value, path)
        return value

    def _text(self, value: str, path: KeyPath) -> str:
        text, missing = fill(value, self._values)
        for name in missing:
            if name in NAMES:
                problem = "S009", f"{{{name}}} is known only to the master", "apply this file by the master"
            else:
                problem = "S005", f"there is no {{{name}}}", nearest(name, NAMES)
            self._wrong_name(*problem, path, f"{{{name}}}")
        if path[-1] == "path" and len(path) == 3 and not missing and not text.startswith("/"):
            self.wrong("C002", path, f"{dotted(path)}: expected an absolute path, found '{text[:60]}'")
        return text

    def _wrong_name(self, code: str, message: str, hint: str, path: KeyPath, written: str) -> None:
        """At the place of the name itself, also inside a text of many lines."""
        at = self._source.place(path)
        for number, line in enumerate(self._source.text.splitlines()[at.line - 1 : at.line - 1 + at.lines], at.line):
            start = at.column - 1 if number == at.line else 0
            if (column := line.find(written, start)) >= 0:
                self.problems.append(Problem(code, message, number, column + 1, len(written), hint))
                return
        self.wrong(code, path, message, hint)

    def _secret_of(self, value: object, path: KeyPath) -> Secret:
        name = str(value).removeprefix(BY_NAME)
        cluster = self._values.get("cluster.name")
        if not str(value).startswith(BY_NAME) or not name:
            hint = f"keep it with  pgha-master secrets set CLUSTER/NAME  and write  {BY_NAME}NAME  here"
            self.wrong("C040", path, "a secret is written in clear text", hint)
        elif (found := self._secret(name)) is not None:
            return found
        elif cluster is None:
            self.wrong("S009", path, f"the secret {name} is known only to the master", "apply this file by the master")
        else:
            hint = f"set it:  pgha-master secrets set {cluster}/{name}"
            self.wrong("S009", path, f"the cluster {cluster} has no secret {name}", hint)
        return Secret("")

    def _mode(self, value: object, path: KeyPath) -> object:
        """`0644` as everybody writes it; to YAML 1.2 that is the number 644, and 644 would be another mode."""
        at = self._source.place(path)
        written = self._source.text.splitlines()[at.line - 1][at.column - 1 : at.column - 1 + at.length]
        text = value if isinstance(value, str) else written.split()[-1] if written.split() else ""
        if _OCTAL.fullmatch(text):
            return int(text.replace("o", ""), 8)
        self.wrong("C002", path, f"{dotted(path)}: expected a mode such as 0644, found '{text[:60]}'")
        return None


def _arms(kind: Any) -> Iterator[Any]:  # Any: type expressions
    """The arms of a union, down to what is none."""
    if get_origin(kind) is None or _holds(kind, Collection):
        yield kind
    else:
        for argument in get_args(kind):
            yield from _arms(argument)


def _inside(types: Sequence[Any], key: str | int) -> Iterator[Any]:
    """The types that what stands under `key` may have."""
    for arm in (arm for kind in types for arm in _arms(kind)):
        if isinstance(arm, type) and issubclass(arm, BaseModel) and key in arm.model_fields:
            yield arm.model_fields[str(key)].annotation
        elif _holds(arm, Mapping):
            yield get_args(arm)[1]
        elif _holds(arm, Collection):
            yield get_args(arm)[0]


def _holds(arm: Any, group: type) -> bool:
    """Whether it is a `dict[...]`, a `tuple[...]` or the like."""
    origin = get_origin(arm)
    return isinstance(origin, type) and issubclass(origin, group)
