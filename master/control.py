"""The local socket between the CLI and the daemon: one JSON request a connection, progress lines back, the End last.

Rules:
1. Everybody on the host may connect, and what each may do is their role's: three groups cannot own one socket, and so
   who has no role is told why instead of finding a closed door. Who it is is asked of the kernel, never of the client.
2. Above viewer nothing is done, and nothing refused, that is not in the audit trail first.
3. Connections of one user, the bytes of a request and the time it may take to arrive are limited.
4. A client that goes away only stops watching.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..common.errors import PghaError, Refused, UserError
from ..common.functions import Role
from .operations.operations import exit_code, failure
from .operations.progress import End
from .roles import Groups, NotAllowed, Operator, allows, check

log = logging.getLogger("pgha.control")

REQUEST_LIMIT, OUTSIDER_LIMIT = 4 * 1024 * 1024, 64 * 1024
FLUSH_BYTES = 64 * 1024
ARRIVE_S = 10.0
CONNECTIONS, CONNECTIONS_OF_ADMIN = 32, 512  # at once, of one user; of root and of the daemon's own user
_EXIT_NOT_ALLOWED = 8
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
    uid: int = -1
    role: Role | None = None
    groups: Groups = field(default_factory=Groups)

    def need(self, role: Role, what: str) -> None:
        """Raises NotAllowed when the operator's role is less; `what` goes on the words "may not"."""
        check(Operator(self.uid, self.who, self.role), role, what, self.groups)

    def read(self, model: type[A]) -> A:
        """The arguments as that model. Raises UserError naming the first that is wrong."""
        try:
            return model.model_validate(self.args)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise UserError(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None


Verb = Callable[[Request], AsyncIterator[Any]]  # of Lines
Needs = Role | Callable[[Mapping[str, Any]], Role]  # the least role, or what tells it from the arguments


class Desk(Protocol):
    """Who comes in, and what is written down of it; `operators.Operators` is one."""

    groups: Groups

    async def who(self, uid: int) -> Operator: ...

    async def asked(self, operator: Operator, verb: str, args: Mapping[str, Any]) -> None:
        """Raises HostError when it could not be written down."""
        ...

    async def turned_away(self, operator: Operator, verb: str, args: Mapping[str, Any], why: str) -> None: ...


class Control:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._open: Counter[int] = Counter()  # connections by uid

    async def taken(self) -> bool:
        """Whether a living daemon answers there. What a dead one left behind is removed."""
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        writer.close()
        return True

    async def start(self, verbs: Mapping[str, tuple[Verb, Needs]], desk: Desk) -> None:
        """Serve these. Raises OSError when the socket cannot be made."""
        if not self._path.parent.is_dir():
            self._path.parent.mkdir(parents=True)
            self._path.parent.chmod(0o755)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            uid = _peer(writer)
            if self._open[uid] >= (CONNECTIONS_OF_ADMIN if uid in (0, os.geteuid()) else CONNECTIONS):
                full = f"{self._open[uid]} requests of yours are open already; end some of them"
                writer.write(End(exit=exit_code(Refused(full)), message=full).model_dump_json().encode() + b"\n")
                writer.close()
                return
            self._open[uid] += 1
            lines = _Lines(writer)
            serving = asyncio.create_task(_serve(verbs, desk, uid, reader, lines))
            self._clients.add(serving)
            await asyncio.wait([serving])
            lines.flush()
            self._clients.discard(serving)
            self._open[uid] -= 1
            if serving.cancelled():
                writer.write(STOPPING.model_dump_json().encode() + b"\n")
            elif isinstance(error := serving.exception(), Exception) and not isinstance(error, ConnectionError):
                raise error  # a client that went away only stopped watching
            writer.close()

        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(connected, str(self._path))
        finally:
            os.umask(before)
        self._path.chmod(0o666)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
            await asyncio.sleep(0)  # what was said last is on its way


class _Lines:
    """What is said to one client. Lines that come at once go out at once."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer, self._text = writer, bytearray()

    async def say(self, line: Any) -> None:  # Any: a Line
        if not self._text:
            asyncio.get_running_loop().call_soon(self.flush)
        self._text += line.model_dump_json().encode() + b"\n"
        if len(self._text) > FLUSH_BYTES:
            self.flush()
        await self._writer.drain()

    def flush(self) -> None:
        if self._text:
            self._writer.write(bytes(self._text))
            self._text.clear()


async def _serve(
    verbs: Mapping[str, tuple[Verb, Needs]], desk: Desk, uid: int, reader: asyncio.StreamReader, lines: _Lines
) -> None:
    try:
        operator = await desk.who(uid)
        name, args = parse(await _line(reader, REQUEST_LIMIT if operator.role else OUTSIDER_LIMIT))
        try:
            async for line in await _admit(verbs, desk, operator, name, args):
                await lines.say(line)
        except NotAllowed as error:
            await desk.turned_away(operator, name, args, str(error))
            raise
    except NotAllowed as error:
        await lines.say(End(exit=_EXIT_NOT_ALLOWED, message=str(error)))
    except PghaError as error:
        await lines.say(failure(error))
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("a request that cannot be served")
        await lines.say(End(exit=1, message=f"internal error: {type(error).__name__}; see the log of pgha-master"))


async def _admit(
    verbs: Mapping[str, tuple[Verb, Needs]], desk: Desk, operator: Operator, name: str, args: dict[str, Any]
) -> AsyncIterator[Any]:
    """What the verb says, once it may be asked and is written down. Raises NotAllowed, UserError, HostError."""
    check(operator, "viewer", "use this master", desk.groups)
    if name not in verbs:
        raise UserError(f"this master does not know {name[:40]!r}; is the CLI newer than the daemon?")
    verb, needs = verbs[name]
    role = needs(args) if callable(needs) else needs
    check(operator, role, f"ask for {name}", desk.groups)
    if not allows("viewer", role):
        await desk.asked(operator, name, args)
    return verb(Request(args, operator.who, operator.uid, operator.role, desk.groups))


async def _line(reader: asyncio.StreamReader, limit: int) -> bytes:
    """The request, which must have arrived whole in time. Raises UserError."""
    text = bytearray()

    async def arrive() -> None:
        while chunk := await reader.read(64 * 1024):
            text.extend(chunk)
            if b"\n" in chunk or len(text) > limit:
                return

    try:
        await asyncio.wait_for(arrive(), ARRIVE_S)
    except asyncio.TimeoutError:
        raise UserError(f"the request did not arrive within {ARRIVE_S:g} s") from None
    if len(text) > limit:
        raise UserError(f"a request has at most {limit} bytes")
    return bytes(text).partition(b"\n")[0]


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


def _peer(writer: asyncio.StreamWriter) -> int:
    """The uid of who connected, as the kernel noted it then."""
    peer: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
