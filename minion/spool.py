"""How far the stream of events goes and how much of it waits, in memory: told and asked without waiting for a disk.

Acknowledgements come, and heartbeats go, while a commit waits for a disk that is busy with a checkpoint; a minion that
waited along would count as silent.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Sequence


class Spool:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for no longer than a few additions take
        self.acked = self.high = self.bytes = 0
        self._sizes = array("L")  # of the events after `acked`, one by one

    def reset(self, acked: int, high: int, sizes: Iterable[tuple[int, int]]) -> None:
        """`sizes`: number and bytes of what is held and not acknowledged."""
        held = array("L", bytes(array("L").itemsize * (high - acked)))
        for seq, size in sizes:
            held[seq - acked - 1] = size
        with self._lock:
            self.acked, self.high, self.bytes, self._sizes = acked, high, sum(held), held

    def add(self, sizes: Sequence[int]) -> None:
        """Events of that many bytes are written down."""
        with self._lock:
            self._sizes.extend(sizes)
            self.high += len(sizes)
            self.bytes += sum(sizes)

    def acknowledge(self, seq: int) -> None:
        """Neither back, nor beyond what there is."""
        with self._lock:
            taken = min(seq, self.high) - self.acked
            if taken > 0:
                self.acked += taken
                self.bytes -= sum(self._sizes[:taken])
                del self._sizes[:taken]
