"""Pairs of ports for tests that need several before the first of them is bound."""

from __future__ import annotations

import contextlib
import os
import socket

_given: set[int] = set()


def another_port_pair() -> int:
    """A port that is free together with the one after it, and was not given before by this process."""
    for port in range(10240 + os.getpid() * 16 % 10000, 21000, 2):
        if port not in _given and _free(port) and _free(port + 1):
            _given.add(port)
            return port
    raise AssertionError("no free pair of ports")


def _free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
