"""How loaded this host is, and whether its clock is kept, without starting a program where it is."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from ...common.telemetry import HostSample
from ...states.system import Look

_MAX_ERROR_US = 16_000_000  # the kernel lets its error estimate grow to this when nobody corrects the clock


@dataclass(frozen=True, slots=True)
class Load:
    """What the kernel says. `booted_at` is Unix time; `clock_kept` is whether something corrects the clock."""

    cpu_percent: float
    load1: float
    memory_percent: float
    disk_percent: float
    disk_free_bytes: int
    booted_at: float
    clock_kept: bool


def measure() -> Load:
    """The load now; cpu_percent is the mean since the last call in this process, 0.0 the first time.

    The disk is the one that holds /var/lib, where every database and log of pgha's daemons lies.
    """
    disk = psutil.disk_usage("/var/lib")
    return Load(
        cpu_percent=psutil.cpu_percent(interval=None),
        load1=psutil.getloadavg()[0],
        memory_percent=psutil.virtual_memory().percent,
        disk_percent=disk.percent,
        disk_free_bytes=disk.free,
        booted_at=psutil.boot_time(),
        clock_kept=clock_kept(),
    )


def probe(look: Look, read: Callable[[], Load] = measure) -> HostSample:
    """In a container an unkept clock is unknown, not wrong: it belongs to the host, where the container cannot look."""
    load = read()
    return HostSample(
        cpu_percent=load.cpu_percent,
        load1=load.load1,
        memory_percent=load.memory_percent,
        disk_percent=load.disk_percent,
        disk_free_bytes=load.disk_free_bytes,
        clock_synchronised=True if load.clock_kept else None if look.container() != "none" else False,
        uptime_s=max(0.0, look.now() - load.booted_at),
    )


class _Timex(ctypes.Structure):
    """The head of struct timex; the rest is room that the kernel fills. Source: adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_byte * 512),
    )


def clock_kept() -> bool:
    """The test that systemd's NTPSynchronized makes, without starting timedatectl every few seconds. Only reads."""
    timex = _Timex(modes=0)
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return False
    return int(timex.maxerror) < _MAX_ERROR_US
