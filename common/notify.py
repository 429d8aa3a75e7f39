"""Tell systemd how the daemon is. Silent where nobody asked. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """`READY=1`, `STATUS=...`, `STOPPING=1` to the socket in NOTIFY_SOCKET, a path or an abstract name."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.connect(address)
            out.sendall(state.encode())
        except OSError:
            return  # systemd went away; the daemon's own work goes on
