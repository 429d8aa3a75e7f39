"""How long an honest minion's ping takes while others misbehave: measured by who asks, through the master and back."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from pgha.tests.bus.conftest import Master

PAUSE_S = 0.02  # between two pings: what is measured is the wait, not how many fit in


class Pulse:
    """`with Pulse(master, "n1") as pulse: ...`, then `pulse.p99_s`. A ping that fails counts as endless."""

    def __init__(self, master: Master, name: str) -> None:
        self._master, self._name = master, name
        self.seconds: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(60)

    def _beat(self) -> None:
        while True:
            since = time.monotonic()
            try:
                fine = self._master.answers(self._name)
            except (OSError, ValueError, IndexError):
                fine = False
            self.seconds.append(time.monotonic() - since if fine else math.inf)
            if self._over.wait(PAUSE_S):
                return

    @property
    def p99_s(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]

    def __str__(self) -> str:
        middle = sorted(self.seconds)[len(self.seconds) // 2]
        return f"{len(self.seconds)} pings, p50 {middle * 1000:.0f} ms, p99 {self.p99_s * 1000:.0f} ms"


def patience() -> float:
    """By how much everything takes longer here and now, because others use the machine, too; 1 when nobody does."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def descriptors(master: Master) -> int:
    """How many that process has open."""
    assert master.process is not None
    return len(list(Path(f"/proc/{master.process.pid}/fd").iterdir()))


def resident_bytes(master: Master) -> int:
    """Its memory, as the kernel counts it."""
    assert master.process is not None
    lines = Path(f"/proc/{master.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
