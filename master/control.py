"""The local socket between the CLI and the daemon: one JSON request a connection, progress lines back, the End last.

Who may connect is the socket's mode and group; who it was is asked of the kernel (SO_PEERCRED), never of the client.
A client that goes away only stops watching.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..common.errors import PghaError, UserError
from .operations import exit_code
from .progress import End
from .setup import open_socket_to_group

log = logging.getLogger("pgha.control")

_REQUEST_LIMIT = 4 * 1024 * 1024
STOPPING = End(
    exit=8, message="the master was stopped; what it had begun on the nodes ends there: see pgha-master jobs list later"
)


class Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True)
class Request:
    """`args` has been read from JSON and is not checked yet; `who` is the operator's login name."""

    args: dict[str, Any]
    who: str

    def read(self, model: type[A]) -> A:
        """The arguments as that model. Raises UserError naming the first that is wrong."""
        try:
            return model.model_validate(self.args)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise UserError(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None


Verb = Callable[[Request], AsyncIterator[Any]]  # of Lines


class Control:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def taken(self) -> bool:
        """Whether a living daemon answers there. What a dead one left behind is removed."""
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        writer.close()
        return True

    async def start(self, verbs: Mapping[str, Verb]) -> None:
        """Serve these. Raises OSError when the socket cannot be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving = asyncio.create_task(_serve(verbs, reader, writer))
            self._clients.add(serving)
            await asyncio.wait([serving])
            self._clients.discard(serving)
            if serving.cancelled():
                writer.write(STOPPING.model_dump_json().encode() + b"\n")
            elif isinstance(error := serving.exception(), Exception) and not isinstance(error, ConnectionError):
                raise error  # a client that went away only stopped watching
            writer.close()

        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(connected, str(self._path), limit=_REQUEST_LIMIT)
        finally:
            os.umask(before)
        open_socket_to_group(self._path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
            await asyncio.sleep(0)  # what was said last is on its way


async def _serve(verbs: Mapping[str, Verb], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        name, args = parse(await _line(reader))
        verb = verbs.get(name)
        if verb is None:
            raise UserError(f"this master does not know {name[:40]!r}; is the CLI newer than the daemon?")
        async for line in verb(Request(args, _who(writer))):
            await _send(writer, line)
    except PghaError as error:
        await _send(writer, End(exit=exit_code(error), message=str(error)))
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("a request that cannot be served")
        await _send(writer, End(exit=1, message=f"internal error: {type(error).__name__}; see the log of pgha-master"))


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise UserError(f"a request has at most {_REQUEST_LIMIT} bytes") from None


def parse(text: bytes) -> tuple[str, dict[str, Any]]:
    """The verb and its arguments from a request's line. Raises UserError for anything that is not one."""
    try:
        request = json.loads(text)
        name, args = request["verb"], request.get("args", {})
    except (ValueError, KeyError, TypeError, RecursionError):
        name, args = None, None
    if not isinstance(name, str) or not isinstance(args, dict):
        raise UserError('a request is one line of JSON: {"verb": "...", "args": {...}}')
    return name, args


async def _send(writer: asyncio.StreamWriter, line: Any) -> None:  # Any: a Line
    writer.write(line.model_dump_json().encode() + b"\n")
    await writer.drain()


def _who(writer: asyncio.StreamWriter) -> str:
    peer: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
