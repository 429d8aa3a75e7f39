"""The talk with the daemon over its local socket: one JSON line there, many JSON lines back, the last one an `End`.

Closing the connection detaches and stops nothing. Who may ask for what, the daemon decides; what cannot be reached is
told with what to do about it.
"""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..operations.progress import End, Line

CONNECT_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 64 * 1024 * 1024

Arguments = dict[str, object]


class NothingNew(Exception):
    """Nothing came for as long as the caller wanted to wait; what runs goes on."""


def request(verb: str, arguments: Arguments, patience_s: float | None = None) -> Iterator[Line]:
    """Sends a verb and yields what streams back, up to and with the `End`.

    Raises Unreachable when the daemon is not there or goes away, BusError when it says what this client cannot read,
    NothingNew when `patience_s` seconds went by without a line.
    """
    from ...common.errors import Unreachable
    from ...common.paths import Paths

    connection = _connect(Paths.from_environment().admin_socket)
    with connection, connection.makefile("rb") as stream:
        connection.settimeout(patience_s)
        try:
            connection.sendall(json.dumps({"verb": verb, "args": arguments}).encode() + b"\n")
            decode = _decoder()
            while text := stream.readline(MAX_LINE_BYTES):
                line = decode(text)
                yield line
                if line.kind == "end":
                    return
        except TimeoutError:
            raise NothingNew from None
        except (ConnectionResetError, BrokenPipeError):
            pass  # as if it had closed the connection: told below
    raise Unreachable(
        "The master closed the connection before the end. What runs may go on: once it is back, "
        "see  pgha-master jobs list"
    )


def ask(verb: str, arguments: Arguments, note: Callable[[str], None]) -> End:
    """The `End` of a verb that only answers; notes on the way go to `note`. Raises as `request` does."""
    for line in request(verb, arguments):
        if line.kind == "end":
            return line
        if line.kind == "note":
            note(line.text)
    raise AssertionError("request ends with an End or raises")


def _connect(path: Path) -> socket.socket:
    from ...common.errors import Unreachable

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise Unreachable(reason(path, error)) from None
    return connection


def reason(path: Path, error: OSError) -> str:
    """What went wrong with the socket at `path`, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return f"The master does not run here: {path} does not exist. {_start(path)}"
    if isinstance(error, ConnectionRefusedError):
        return f"The master does not answer on {path}. {_start(path)}"
    if isinstance(error, PermissionError):
        return f"You may not reach the master: no permission for a folder above {path}. Use sudo, or have it opened."
    if isinstance(error, TimeoutError):
        return f"The master did not answer on {path} within {CONNECT_TIMEOUT_S:.0f} s. Its log says why."
    return f"The master cannot be reached on {path}: {error.strerror or error}. {_start(path)}"


def _start(path: Path) -> str:
    """A master of a folder of its own is no service of this machine."""
    from ...common.paths import Paths

    if path == Paths(Path("/")).admin_socket:
        return "Start it: systemctl start pgha-master, or set PGHA_ROOT if its files are elsewhere."
    return f"Start it: PGHA_ROOT={shlex.quote(str(path.parents[2]))} pgha-master serve"


def _decoder() -> Callable[[bytes], Line]:
    from pydantic import TypeAdapter, ValidationError

    from ...common.errors import BusError
    from ..operations.progress import Line

    adapter: TypeAdapter[Line] = TypeAdapter(Line)

    def decode(text: bytes) -> Line:
        try:
            return adapter.validate_json(text)
        except ValidationError:
            raise BusError(
                f"The master sent what this pgha-master cannot read: {text[:80]!r}. Are both of the same version?"
            ) from None

    return decode
