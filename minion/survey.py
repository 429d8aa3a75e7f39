"""Looks at this host and says what it is: the facts that the master builds documents from."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

import psutil

from .. import __version__
from ..common.facts import HostFacts
from .host import execute

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el", "armv7l": "armhf", "i686": "i386"}


def survey(version: str = __version__) -> HostFacts:
    """What is not known is empty or 0; nothing raises, since a host must be able to report even when it is broken."""
    release = os_release(_text("/etc/os-release"))
    container = execute(("systemd-detect-virt", "-c"), 5.0).stdout.strip() or "none"
    return HostFacts(
        hostname=socket.gethostname(),
        machine_id=_text("/etc/machine-id"),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        os_codename=release.get("VERSION_CODENAME", ""),
        architecture=_DEBIAN.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        python=platform.python_version(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=memory(psutil.virtual_memory().total, _text("/sys/fs/cgroup/memory.max")),
        disk_free_bytes=_disk_free("/var/lib"),
        container=container != "none",
        virtualization=execute(("systemd-detect-virt",), 5.0).stdout.strip() or "none",
        addresses=_addresses(),
        pgha_version=version,
    )


def os_release(text: str) -> dict[str, str]:
    """KEY=value lines, quotes removed. Source: os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def memory(total: int, limit: str) -> int:
    """Bytes this host may use: a container's limit, where it has one below the machine's total."""
    return min(total, int(limit)) if limit.isdigit() else total


def _addresses() -> tuple[str, ...]:
    """Every address that others may reach, without loopback and link-local."""
    found: list[str] = []
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                text = address.address.split("%")[0]
                if not text.startswith(("127.", "169.254.", "fe80:")) and text != "::1":
                    found.append(text)
    return tuple(sorted(set(found)))


def _disk_free(path: str) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
