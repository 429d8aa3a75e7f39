"""Many events a second into the store for a minute: how soon each is acknowledged, and what the master needs meanwhile.

The swarm makes events at a fixed rate and sends them within the credit that it was given; an event that has to wait for
credit waits on the clock, too. The floor is a bare ROUTER that acknowledges the same events and stores nothing.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pgha.tests.bench import crowd
from pgha.tests.bench.machine import cpu_s, processes, raise_file_limit, resident_bytes, wait_for
from pgha.tests.bench.table import Row, below, exactly, note, percentile, run

PER_S, SECONDS, SIZE = 10_000, 60, 200
FEW, MANY = 100, 1000  # minions: each has much to tell, or each has little
GROWTH_MIB = 64.0  # what a minute may add to the master's memory


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the events: `delays` are in seconds, `cpu_us` is the master's processor time for each."""

    stored_per_s: float
    delays: list[float]
    cpu_us: float
    before_mib: float
    growth_mib: float
    lost: int


def measure(quick: bool) -> list[Row]:
    raise_file_limit()
    per_s, seconds, few, many = (2000, 5, 20, 100) if quick else (PER_S, SECONDS, FEW, MANY)
    floor = _floor(per_s, min(seconds, 10), few)
    taken, spread = _take(per_s, seconds, few), _take(per_s, seconds / 3, many)
    shown = f"no store {percentile(floor, 99) * 1000:.0f} ms"
    at_first = f"at first {taken.before_mib:.0f} MiB"
    return [
        Row(
            f"{per_s:,} events/s offered for {seconds} s by {few:,} minions",
            f"{taken.stored_per_s:,.0f} /s stored",
            target=f">= {per_s * 0.98:,.0f} /s",
            met=taken.stored_per_s >= per_s * 0.98,
        ),
        Row(
            "  acknowledged after the commit, p50",
            f"{percentile(taken.delays, 50) * 1000:.0f} ms",
            f"no store {percentile(floor, 50) * 1000:.0f} ms",
        ),
        below("  acknowledged after the commit, p99", percentile(taken.delays, 99) * 1000, 200, "ms", shown),
        Row("  processor time of the master for each event", f"{taken.cpu_us:.0f} us"),
        below("  growth of the master's memory", taken.growth_mib, GROWTH_MIB, "MiB", at_first),
        exactly("  events lost, or stored twice", taken.lost + spread.lost, 0, ""),
        Row(f"as many by {many:,} minions, which come one by one", f"{spread.stored_per_s:,.0f} /s stored"),
        Row("  acknowledged after the commit, p50", f"{percentile(spread.delays, 50) * 1000:.0f} ms"),
        Row("  processor time of the master for each event", f"{spread.cpu_us:.0f} us"),
    ]


def _take(per_s: int, seconds: float, minions: int) -> Taken:
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        big = crowd.master_of(Path(folder) / "master", started, minions)
        big.connect()
        _offer(big.crowd, per_s, 1)  # caches, the first pages of the store
        big.crowd.delays()
        before, cpu = resident_bytes(big.pid), cpu_s(big.pid)
        had, made = big.stored("select count(*) from events"), big.crowd.ask(do="status")["events"]
        since = time.monotonic()
        _begin(big.crowd, per_s, seconds)
        most = before
        while time.monotonic() - since < seconds:
            most = max(most, resident_bytes(big.pid))
            time.sleep(0.2)
        left = big.crowd.ask(do="status")["waiting"]
        stored = big.stored("select count(*) from events") - had
        kept = stored / (time.monotonic() - since)
        note(f"{minions:,} minions: {kept:,.0f} events a second stored, {left:,} on their way at the end")
        wait_for("the rest acknowledged", lambda: big.crowd.ask(do="status")["waiting"] == 0, 300)
        most = max(most, resident_bytes(big.pid))
        all_made = big.crowd.ask(do="status")["events"]
        delays = big.crowd.delays()
        used = (cpu_s(big.pid) - cpu) / (all_made - made) * 1e6
        lost = all_made - big.stored("select count(*) from events")
        sound = _sound(big.master.database)
        big.master.stop()
    return Taken(kept, delays, used, before / 2**20, (most - before) / 2**20, lost + (not sound))


def _begin(swarm: crowd.Crowd, per_s: float, seconds: float) -> None:
    swarm.ask(do="rate", per_s=per_s / len(swarm.helpers), size=SIZE, seconds=seconds)


def _offer(swarm: crowd.Crowd, per_s: float, seconds: float) -> None:
    _begin(swarm, per_s, seconds)
    time.sleep(seconds)
    wait_for("all acknowledged", lambda: swarm.ask(do="status")["waiting"] == 0, 120)


def _floor(per_s: float, seconds: float, minions: int) -> list[float]:
    with processes() as started:
        _, swarm, _ = crowd.floor_of(started, minions)
        _offer(swarm, per_s, seconds)
        return swarm.delays()


def _sound(database: Path) -> bool:
    """Of every minion the events are numbered without a gap."""
    gaps = "select count(*) from (select 1 from events group by node, epoch having count(*) <> max(seq) - min(seq) + 1)"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        return bool(store.execute(gaps).fetchone()[0] == 0)


if __name__ == "__main__":
    run("events", measure)
