"""Types of fields that several kinds share. Each refuses with what it expects; the field's name is put before it."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_MODE = re.compile(r"(?:0o?)?[0-7]{3,4}")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+@?[A-Za-z0-9:_.\\-]*\.(service|socket|timer|path|target|mount|slice|automount)")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _absolute(value: str) -> str:
    if not value.startswith("/") or posixpath.normpath(value) != value or not value.isprintable():
        raise ValueError(f"expected an absolute path without '..' and without a slash at its end, not {value!r}")
    return value


def _mode(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not _MODE.fullmatch(value):
        raise ValueError(f"expected a mode in octal digits, such as '0644', not {value!r}")
    return int(value.removeprefix("0o"), 8)


def one_line(value: str) -> str:
    if any(character in value for character in "\n\r\0"):
        raise ValueError("expected one line, without a line break in it")
    return value


def _account(value: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ValueError(f"expected a name of at most 32 characters of a-z, 0-9, '_' and '-', not {value!r}")
    return value


def _package(value: str) -> str:
    if not _PACKAGE.fullmatch(value):
        raise ValueError(f"expected the name of one package, such as 'pg-activity', not {value!r}")
    return value


def _unit(value: str) -> str:
    if not _UNIT.fullmatch(value):
        raise ValueError(f"expected the name of a unit with its ending, such as 'app.service', not {value!r}")
    return value


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError(f"expected a name of letters, digits, '_', '.' and '-', not {value!r}")
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Mode = Annotated[int, BeforeValidator(_mode), Field(ge=0, le=0o7777)]
"""Octal digits as text, '0644', or a number, 0o644. A YAML file's 0644 comes here as text."""
OneLine = Annotated[str, AfterValidator(one_line)]
AccountName = Annotated[str, AfterValidator(_account)]
PackageName = Annotated[str, AfterValidator(_package)]
UnitName = Annotated[str, AfterValidator(_unit)]
Label = Annotated[str, AfterValidator(_label)]
"""A name that may be part of a file's name."""
