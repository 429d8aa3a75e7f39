"""Run an operator's command and pass its output on line by line, while it runs.

The child gets its own process group, a plain environment, and only what the caller says on its standard input; at the
deadline or on cancel the whole group gets SIGTERM, and SIGKILL five seconds later. Exit codes as a shell gives them:
127 not found, 126 not executable, 124 at the deadline, 128+N killed by signal N.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}
_CHUNK = 16 * 1024
_GRACE_S = 5.0


def stream(
    argv: tuple[str, ...],
    timeout_s: float,
    output: Callable[[str, str], None],
    cancelled: Callable[[], bool],
    stdin: str | None = None,
) -> tuple[int, str]:
    """Exit code and a message (empty, or why it was ended). `output(stream, text)` is called with whole lines."""
    if not argv:
        return 2, "no command given"
    return asyncio.run(_stream(argv, timeout_s, output, cancelled, stdin))


async def _stream(
    argv: tuple[str, ...],
    timeout_s: float,
    output: Callable[[str, str], None],
    cancelled: Callable[[], bool],
    stdin: str | None,
) -> tuple[int, str]:
    given = DEVNULL if stdin is None else PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=given, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, cwd="/", start_new_session=True
        )
    except FileNotFoundError:
        return 127, f"{argv[0]}: command not found"
    except OSError as error:
        return 126, f"{argv[0]}: not executable: {error.strerror}"
    except ValueError:
        return 126, "a command cannot hold a NUL character"
    assert process.stdout is not None and process.stderr is not None
    readers = asyncio.gather(
        _pass_on(process.stdout, "stdout", output),
        _pass_on(process.stderr, "stderr", output),
        _feed(process.stdin, stdin or ""),
        process.wait(),
    )
    loop = asyncio.get_running_loop()
    deadline, why = loop.time() + timeout_s, ""
    while not readers.done() and loop.time() < deadline + 2 * _GRACE_S:
        await asyncio.wait([readers], timeout=0.1)
        if not why and (cancelled() or loop.time() > deadline):
            why, deadline = "cancelled" if cancelled() else f"still running after {timeout_s:g} s, ended", loop.time()
            _signal_group(process.pid, signal.SIGTERM)
            loop.call_later(_GRACE_S, _signal_group, process.pid, signal.SIGKILL)
    if not readers.done():  # something that left the group holds the pipes; it is not waited for
        readers.cancel()
        await asyncio.gather(readers, return_exceptions=True)
    code = process.returncode if process.returncode is not None else 1
    if why:
        return 124, why
    return (128 - code if code < 0 else code), ""


async def _feed(writer: asyncio.StreamWriter | None, text: str) -> None:
    """All of the text, then its end; a child that does not read it to the end is not an error."""
    if writer is None:
        return
    try:
        writer.write(text.encode())
        await writer.drain()
        writer.close()
    except (BrokenPipeError, ConnectionResetError):
        pass


async def _pass_on(reader: asyncio.StreamReader, name: str, output: Callable[[str, str], None]) -> None:
    """Whole lines as soon as they are there; a line longer than a chunk goes out in pieces."""
    rest = b""
    while data := await reader.read(_CHUNK):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            output(name, (lines + newline).decode(errors="replace"))
        elif len(rest) > _CHUNK:
            output(name, rest.decode(errors="replace"))
            rest = b""
    if rest:
        output(name, rest.decode(errors="replace"))


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
