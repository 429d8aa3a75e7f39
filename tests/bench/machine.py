"""What the kernel says of processes; and their orderly end, also after Ctrl-C: only of those that were started here."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil


def raise_file_limit() -> int:
    """As many open files as this process may have; its children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def forget_peak(pid: int) -> None:
    """From now on `peak_bytes` counts anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no peak")


def proportional_bytes(pid: int) -> int:
    """Memory of a process and its children, each page shared out among those that have it."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(OSError, psutil.Error):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def cpu_s(pid: int) -> float:
    """Processor time that a process and its children, also those that have ended, have used."""
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
    return total


def wait_for(what: str, ask: Callable[[], bool], seconds: float) -> float:
    """Seconds until it is true. Raises TimeoutError naming it."""
    since = time.monotonic()
    while not ask():
        if time.monotonic() - since > seconds:
            raise TimeoutError(f"{seconds:g} s long not seen: {what}")
        time.sleep(0.05)
    return time.monotonic() - since


@contextlib.contextmanager
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list to put own processes into: whatever happens, they and their children have ended afterwards."""
    started: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before)
        end([process for first in started for process in family(first.pid)])
        for one in started:
            one.wait(10)


def end(running: list[psutil.Process], patience_s: float = 8.0) -> None:
    """SIGTERM to all, SIGKILL to who has not gone in time."""
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
            process.terminate()
    _, alive = psutil.wait_procs(running, timeout=patience_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt
