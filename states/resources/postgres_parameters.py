"""What PostgreSQL itself says of parameters before they are set: would it start with them, and which need a start.

The server's own program is asked, with a configuration that it gets on its standard input and no data directory: it
knows every name, type, range, unit and word of its version. So this works on a host whose cluster is not built yet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ...common.errors import HostError
from ..system import Look

Value = bool | int | float | str
ELSEWHERE = ("max_stack_depth",)  # depends on the limits of the process, as locales do on what will be installed
LASTING = "select name from pg_settings where context = 'postmaster'"
_SAID = re.compile(r"\b(LOG|FATAL|ERROR|HINT|DETAIL): {1,2}(.*)")
_PLACE = re.compile(r' in file "/dev/stdin" line \d+')
_NAMED = re.compile(r'parameter "([^"]+)"')
_NOTHING = re.compile(r"skipping missing configuration file|contains errors$")


def refused(look: Look, bin_dir: str, parameters: Mapping[str, Value]) -> tuple[str, ...]:
    """Why the server would not start with these, a sentence each; empty when it would, or is not installed here."""
    if not bin_dir or not parameters:
        return ()
    argv = (f"{bin_dir}/postgres", "-C", "port", "--config-file=/dev/stdin", "-D", bin_dir)  # -C first: allowed to root
    asked = {name: value for name, value in parameters.items() if name not in ELSEWHERE and not name.startswith("lc_")}
    said = look.ask(argv, stdin=configuration(asked))
    if said.rc in (0, 126, 127):
        return ()
    return complaints(said.stderr) or (f"postgres -C ended with {said.rc}: {said.stderr.strip()[-300:]}",)


def insist(found: tuple[str, ...], new: Collection[str]) -> None:
    """Raises HostError with every complaint about a parameter that is `new`, or about none by name.

    What is as it was before does not stand in the way of another change: the cluster runs with it.
    """
    named = [(text, _NAMED.search(text)) for text in found]
    if wrong := [text for text, name in named if name is None or name[1] in new]:
        raise HostError("PostgreSQL refuses these parameters: " + "; ".join(wrong) + "; correct postgresql.parameters")


def lasting(look: Look) -> frozenset[str]:
    """Parameters that take effect at a start only, by the running server; empty when none answers."""
    return frozenset(look.sql("postgres", LASTING).stdout.split())


def configuration(parameters: Mapping[str, Value]) -> str:
    """As postgresql.conf has it. Source: PostgreSQL documentation, Setting Parameters."""
    return "".join(f"{name} = '{_escaped(value)}'\n" for name, value in parameters.items())


def complaints(stderr: str) -> tuple[str, ...]:
    """The server's words, each with its hint. Source: PostgreSQL, log_line_prefix at its default."""
    found: list[str] = []
    for level, text in _SAID.findall(stderr):
        if level in ("HINT", "DETAIL"):
            if found:
                found[-1] += f" ({text.rstrip('.')})"
        elif not _NOTHING.search(text):
            found.append(_PLACE.sub("", text))
    return tuple(found)


def _escaped(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
