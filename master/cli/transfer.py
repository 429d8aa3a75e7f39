"""Files between this host and nodes: handed to the daemon for `file.push`, written into a folder from `file.get`.

Rule: nothing that a node says becomes part of a path. A file is DIR/NODE/NAME: NODE is what the daemon calls it and has
the form of a node's name, NAME is the last part of what the person asked for here.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from ..operations.progress import NodeDone, Output
    from .screen import Terminal

PIECE_BYTES = 1024 * 1024


def hand_over(path: str) -> tuple[str, int]:
    """The file's SHA-256 and size, once the daemon has all of it. Raises UserError when it cannot be read."""
    from ...common.errors import UserError

    upload, offset = secrets.token_hex(16), 0
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                _say(upload, offset, piece)
                offset += len(piece)
    except OSError as error:
        raise UserError(f"--file {path}: {error.strerror}") from None
    told = _say(upload, offset, b"")
    return str(told["sha256"]), offset


def _say(upload: str, offset: int, piece: bytes) -> dict[str, object]:
    from ...common.errors import HostError, Refused, UserError
    from .client import ask

    data = base64.b64encode(piece).decode()
    end = ask("run.upload", {"upload": upload, "offset": offset, "data": data}, lambda text: None)
    if end.exit:
        raise {2: UserError, 6: Refused}.get(end.exit, HostError)(end.message)
    return end.data


class Files:
    """Takes what nodes send, and gives each file its name when it is whole."""

    def __init__(self, screen: Terminal, folder: str, asked: str) -> None:
        """Raises UserError when what was asked for has no last part, or the folder cannot be made."""
        from ...common.errors import UserError

        self._screen, self._folder, self._name = screen, Path(folder), Path(asked).name
        self._open: dict[str, tuple[Path, BinaryIO]] = {}
        self._broken: dict[str, str] = {}
        if self._name in ("", ".", ".."):
            raise UserError(f"{asked!r} is no path of a file")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--into {folder}: {error.strerror}") from None

    @property
    def failed(self) -> bool:
        return bool(self._broken)

    def take(self, line: Output | NodeDone) -> None:
        from ...common.names import is_node_name

        if not is_node_name(line.node):
            return
        try:
            if line.kind == "output":
                self._write(line.node, base64.b64decode(line.text, validate=True))
            elif line.state == "done":
                self._keep(line.node)
            else:
                self._drop(line.node)
        except (OSError, binascii.Error) as error:
            self._drop(line.node)
            if line.node not in self._broken:
                self._broken[line.node] = str(error)
                self._screen.error(f"{line.node}: the file was not written: {error}")

    def close(self) -> None:
        for node in list(self._open):
            self._drop(node)

    def _write(self, node: str, data: bytes) -> None:
        if node in self._broken:
            return
        if node not in self._open:
            folder = self._folder / node
            folder.mkdir(mode=0o700, exist_ok=True)
            path = folder / f".{self._name}.{secrets.token_hex(4)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open[node] = (path, os.fdopen(os.open(path, flags, 0o600), "wb"))
        self._open[node][1].write(data)

    def _keep(self, node: str) -> None:
        if node in self._broken:
            return
        if node not in self._open:
            self._write(node, b"")  # an empty file has no pieces
        path, file = self._open[node]
        file.close()
        del self._open[node]
        there = path.with_name(self._name)
        path.replace(there)
        if not self._screen.as_json:
            self._screen.result(f"{node}  {there}")

    def _drop(self, node: str) -> None:
        if node in self._open:
            path, file = self._open.pop(node)
            file.close()
            path.unlink(missing_ok=True)
