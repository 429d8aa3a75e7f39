"""What can go wrong, as a tree.

    PghaError                      every error pgha raises on purpose; its text ends with what the reader can do
      UserError                    you asked for something wrong
        DefinitionError            a file the user wrote; carries every Problem found, not only the first
        Refused                    a guard says no: a lock, a gate, a missing confirmation
      HostError                    the host or the other side failed
        ActionFailed               an action on a host did not work; carries the program's last lines
        BusError                   the peer broke the protocol, or is not there
        Unreachable                nobody answers within the deadline

Expected outcomes are values (a closed gate, a failed result), not exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass


class PghaError(Exception):
    """Base of all errors that a user may see as one clear message without a traceback."""


class UserError(PghaError):
    """The request itself cannot be served as asked."""


class Refused(UserError):
    """A guard said no; nothing was changed. CLI exit code 6."""


class HostError(PghaError):
    """The host, a program on it, or a peer failed."""


class ActionFailed(HostError):
    """An action did not work. `output` holds the last lines of what the program said, secrets already masked."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message if not output else f"{message}\n{output}")
        self.message = message
        self.output = output


class BusError(HostError):
    """A frame that breaks the protocol."""


class Unreachable(HostError):
    """Nobody answered within the deadline. CLI exit code 8 when it is the master."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file the user wrote. Lines and columns start at 1; 0 means "not known"."""

    code: str  # "C001"
    message: str
    line: int = 0
    column: int = 0
    length: int = 1
    hint: str = ""
    warning: bool = False
    lines: int = 1  # it goes on over so many lines, and `length` says nothing then


class DefinitionError(UserError):
    """A definition that cannot be used. Holds all problems, sorted by line. CLI exit code 2."""

    def __init__(self, path: str, problems: list[Problem], source: str = "") -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda p: (p.line, p.column, p.code))
        self.source = source
        super().__init__("\n".join(f"{p.code} {path}:{p.line}:{p.column} {p.message}" for p in self.problems))
