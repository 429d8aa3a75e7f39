"""Pairs of ports for tests: free, and given to nobody else who asks here, in this process or another."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import TextIO

_held: list[TextIO] = []  # as long as they are open, the pair is this process's


def another_port_pair() -> int:
    """A port that is free together with the one after it, below the range from which the kernel takes its own."""
    folder = Path(tempfile.gettempdir()) / "pgha-test-ports"
    folder.mkdir(exist_ok=True)
    for step in range(11000):
        port = 10240 + (os.getpid() * 32 + step * 2) % 22000
        if _free(port) and _free(port + 1) and _take(folder / str(port)):
            return port
    raise AssertionError("no free pair of ports")


def _take(path: Path) -> bool:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _held.append(file)
    return True


def _free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
