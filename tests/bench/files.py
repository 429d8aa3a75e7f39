"""`file.push` of a large file to many minions at once: how long it takes, and what the master needs for it.

The floor is a bare ROUTER that sends as many bytes in pieces of the same size to the same swarm, as many on their way.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from pgha.common.messages import CHUNK_BYTES
from pgha.tests.bench import crowd
from pgha.tests.bench.machine import cpu_s, forget_peak, peak_bytes, processes, raise_file_limit, resident_bytes
from pgha.tests.bench.table import Row, against, below, note, run

MEMORY_MIB = 100
ROUNDS = 3


def measure(quick: bool) -> list[Row]:
    raise_file_limit()
    size, minions = (1_000_000, 10) if quick else (10_000_000, 100)
    with processes() as started:
        floor, _, _ = crowd.floor_of(started, minions)
        floor_s = statistics.median(
            floor.ask(do="send file", size=size, piece=CHUNK_BYTES)["seconds"] for _ in range(ROUNDS)
        )
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        big = crowd.master_of(Path(folder) / "master", started, minions)
        big.connect()
        local = Path(folder) / "file"
        before = resident_bytes(big.pid)
        forget_peak(big.pid)
        cpu, taken = cpu_s(big.pid), []
        for _ in range(ROUNDS):
            local.write_bytes(os.urandom(size))
            taken.append(_push(big, local))
        peak, used = peak_bytes(big.pid), (cpu_s(big.pid) - cpu) / ROUNDS
        big.master.stop()
    wall, total = statistics.median(taken), size * minions / 1e6
    return [
        against(f"{size / 1e6:.0f} MB to {minions} minions, by `file.push`", wall, floor_s, "s", None, "bare pieces"),
        Row("  throughput", f"{total / wall:.0f} MB/s", f"bare pieces {total / floor_s:.0f} MB/s"),
        Row("  processor time of the master", f"{used:.1f} s"),
        below("  peak memory of the master", peak / 2**20, MEMORY_MIB, "MiB", f"at first {before / 2**20:.0f} MiB"),
    ]


def _push(big: crowd.Big, local: Path) -> float:
    since = time.perf_counter()
    said = big.master.cli("run", "*", "--file", str(local), "file.push", "/srv/file", seconds=300)
    taken = time.perf_counter() - since
    if said.code:
        raise RuntimeError(said.text[-500:])
    note(f"file.push: {taken:.1f} s")
    return taken


if __name__ == "__main__":
    run("files", measure)
