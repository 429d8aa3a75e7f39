"""SSH to a host, through the `ssh` of this machine: one fixed command, its input from memory, its lines as they come.

Rules:
1. The arguments are a list that no shell ever reads. What came from a person stands behind an option that takes it, and
   only after its form was checked, so it is never an option itself.
2. Nobody is asked anything: a host that wants a password is told as a failure.
3. A host key that has changed is never accepted. One that is new is noted down, or refused with `yes`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import HostError, UserError

CONNECT_S = 10
NOT_REACHED = 255  # ssh's own exit code, for all that is not the command's
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_PATH = re.compile(r"/[A-Za-z0-9_./@+,=-]+")  # ssh expands %, ~ and $ in a path, and takes a blank as its end
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_S}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "ControlMaster=no",
    "PermitLocalCommand=no",
    "LogLevel=ERROR",
)
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK")
_LONGEST_LINE = 4096
_SAID = 8192  # characters of stderr that are kept, the newest


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in. Empty: as this person's own ssh would."""

    user: str = ""
    port: int = 0
    identity: str = ""
    known_hosts: str = ""
    checking: str = "accept-new"

    def __post_init__(self) -> None:
        """Raises UserError for what cannot be."""
        if self.user and not _USER.fullmatch(self.user):
            raise UserError(f"--user {self.user!r} is no user name")
        if not 0 <= self.port < 65536:
            raise UserError(f"--port {self.port} is no port; expected 1 to 65535")
        if self.checking not in ("accept-new", "yes"):
            raise UserError("--host-key-checking is accept-new or yes")
        for option, path in (("--identity", self.identity), ("--known-hosts", self.known_hosts)):
            if path and not _PATH.fullmatch(path):
                raise UserError(
                    f"{option}: ssh cannot be given the path {path!r}; letters, digits and ./_@+,=- are fine"
                )
        if self.identity and not Path(self.identity).is_file():
            raise UserError(f"--identity: there is no file {self.identity}")


@dataclass(frozen=True, slots=True)
class Ended:
    """`errors` is the end of what came on stderr."""

    code: int
    errors: str


def argv(access: Access, address: str, command: str) -> list[str]:
    """The whole call. `address` is an IP address of a checked definition, `command` one of ours."""
    options = [f"StrictHostKeyChecking={access.checking}", *_OPTIONS]
    if access.known_hosts:
        options.append(f"UserKnownHostsFile={access.known_hosts}")
    if access.identity:
        options.append("IdentitiesOnly=yes")
    words = ["ssh", "-T", *(word for option in options for word in ("-o", option))]
    for option, value in (("-l", access.user), ("-p", access.port or ""), ("-i", access.identity)):
        if value:
            words += [option, str(value)]
    return [*words, "--", address, command]


async def run(words: list[str], stdin: bytes, line: Callable[[str], None], timeout_s: float) -> Ended:
    """Run it to its end; `line` is given each line of its output. Raises HostError when there is no ssh here."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"LANG": "C.UTF-8"}
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise HostError(f"{words[0]} is not installed on this machine: apt-get install openssh-client") from None
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        talk = asyncio.gather(
            _feed(process.stdin, stdin), _lines(process.stdout, line), _rest(process.stderr), process.wait()
        )
        _, _, errors, code = await asyncio.wait_for(talk, timeout_s)
        return Ended(code, errors)
    except asyncio.TimeoutError:
        return Ended(NOT_REACHED, f"it did not end within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _feed(target: asyncio.StreamWriter, data: bytes) -> None:
    try:
        target.write(data)
        await target.drain()
        target.close()
        await target.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the other end has stopped reading: its exit code and its last words say why


async def _lines(source: asyncio.StreamReader, line: Callable[[str], None]) -> None:
    while True:
        try:
            text = await source.readline()
        except ValueError:  # longer than any line of ours: left out
            continue
        if not text:
            return
        if said := text.decode(errors="replace").rstrip(
            "\r\n"
        ):  # what is left of a line that was too long says nothing
            line(said)


async def _rest(source: asyncio.StreamReader) -> str:
    kept = b""
    while data := await source.read(4096):
        kept = (kept + data)[-_SAID:]
    return kept.decode(errors="replace")
