"""run TARGET: ad-hoc commands and functions on the minions that the target picks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from pydantic import Field

from ...common.errors import UserError
from ...common.functions import FUNCTIONS, Function, find, public
from ..adhoc.runs import Run, RunRequest
from ..control import Arguments, Request
from ..operations.operations import Operation
from ..operations.progress import End
from ..server import Master
from ..ssh import installer
from ..targeting import targeting
from ..targeting.targets import match

EXIT_EMPTY = 5
MAX_TIMEOUT_S = 7 * 86400.0


class Wanted(Arguments):
    """Either `argv`, a command as it is, or `function` with `args`. `blob`: SHA-256 and size of an uploaded file."""

    target: str
    argv: tuple[str, ...] = ()
    function: str = ""
    args: tuple[str, ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] = 60.0
    batch: str = ""
    canary: bool = False
    max_fail: str = ""
    force_unsafe: bool = False
    blob: tuple[str, int] = ("", 0)


class Piece(Arguments):
    """`data` is base64, empty at the end."""

    upload: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    offset: int
    data: str


async def run(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Wanted)
    function = wanted.function or "cmd"
    arguments = wanted.argv if function == "cmd" and wanted.argv else wanted.args
    if function == "cmd" and not arguments:
        raise UserError("no command given; write it after --, such as: pgha-master run '*' -- uptime")
    nodes = tuple(dict.fromkeys(match(wanted.target, targeting.nodes(master))))
    if not nodes:
        callable_by_name(function)
        yield End(exit=EXIT_EMPTY, message=f"no accepted minion matches {wanted.target!r}")
        return
    order = RunRequest(
        target=wanted.target,
        function=function,
        arguments=arguments,
        nodes=nodes,
        **wanted.model_dump(include={"timeout_s", "batch", "canary", "max_fail", "force_unsafe", "blob"}),
    )
    async for line in begin(master, request, order):
        yield line


async def begin(master: Master, request: Request, order: RunRequest) -> AsyncIterator[Any]:
    """Check what was ordered, start it, and follow it."""
    function = callable_by_name(order.function)
    request.need(function.role, f"call {function.name}")
    if order.force_unsafe:
        request.need("admin", "go past a guard with --force-unsafe")
    if function.name == "self.upgrade":
        data = await asyncio.to_thread(installer.wheel)
        order = order.model_copy(update={"blob": (master.blobs.put(data), len(data))})
    elif function.blob != bool(order.blob[0]):
        raise UserError(f"{function.name} {'needs a file: --file LOCAL' if function.blob else 'takes no --file'}")
    if function.blob:
        master.blobs.read(order.blob[0], 0)
    order.limits  # noqa: B018 - raises for what is no number

    async def work(operation: Operation) -> End:
        return await Run(master, operation, order).carry_out()

    operation = await master.operations.start(
        order.what,
        "",
        request.who,
        work,
        order.nodes,
        request=order.model_dump_json(),
        blob=order.blob[0],
        at_once=function.query,
    )
    async for line in master.operations.follow(operation):
        yield line


def callable_by_name(name: str) -> Function:
    """Raises UserError, also for a function that only pgha's own procedures call."""
    if name in FUNCTIONS and FUNCTIONS[name].internal:
        raise UserError(f"{name} is not to be called by hand; there are: {', '.join(public())}")
    return find(name)


async def upload(master: Master, request: Request) -> AsyncIterator[Any]:
    """A piece of a file for file.push; the last, empty one is answered with the SHA-256 and size of the whole."""
    piece = request.read(Piece)
    if piece.data:
        master.uploads.add(piece.upload, piece.offset, piece.data)
        yield End()
    else:
        digest, size = master.uploads.end(piece.upload)
        yield End(data={"sha256": digest, "size": size})
