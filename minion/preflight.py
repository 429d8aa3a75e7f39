"""Looks that are worth their cost only before a first apply: listening ports, and the package mirror."""

from __future__ import annotations

import psutil

from ..states.system import System


def listening() -> dict[str, str]:
    """TCP port (as text) -> name of the process that listens there, "" when it cannot be told."""
    ports: dict[str, str] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            ports[str(connection.laddr.port)] = _name(connection.pid)
    return ports


def _name(pid: int | None) -> str:
    try:
        return psutil.Process(pid).name() if pid else ""
    except psutil.Error:
        return ""


def mirror(system: System) -> str:
    """Why the package lists cannot be refreshed; empty when they were. It refreshes them, as any install would."""
    answer = system.ask(("apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any"), timeout_s=120)
    if answer.rc == 0:
        return ""
    lines = [line for line in answer.stderr.splitlines() if line.startswith(("E:", "W:"))]
    return "; ".join(lines[:3])[:400] or f"apt-get update ended with {answer.rc}"
