"""The state engine: what it costs beside the plainest script, through a real minion, and beside its peers.

Rules:
1. The engine and the script run in processes of their own, one after the other by turns, in new folders: a file system
   that has just freed many inodes makes new ones slowly. Nothing is deleted before the end. Of first passes,
   which wait for the disk, the median counts; of the others the quickest, as what else runs only adds to it.
2. Through a minion means: the local socket of a real master's daemon, the bus, a real minion's daemon, and back.
3. A line's age counts from the minion's own stamp on the result, before it is written to its journal, to the moment
   when the line is read from the master's local socket. Both are of this machine's clock.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgha.common.sqlite import open_database
from pgha.tests.bench import peers
from pgha.tests.bench.converging import order
from pgha.tests.bench.machine import cpu_s, processes, proportional_bytes
from pgha.tests.bench.peers import Figures, Peak
from pgha.tests.bench.ping import bare
from pgha.tests.bench.salt import idle_percent
from pgha.tests.bench.states_master import VERB
from pgha.tests.bench.table import Row, against, amount, median_s, note, percentile, run
from pgha.tests.bus.conftest import Master, Minion, join, make_master, make_minion

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Taken:
    """By a job of files, from asking to its End. `ages` of its lines are in seconds."""

    seconds: float
    ages: list[float]


def measure(quick: bool) -> list[Row]:
    count, few, pairs, passes = (100, 10, 2, 5) if quick else (1000, 100, 5, 15)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _beside_a_script(folder, count, pairs, passes)
        idle_s = 3.0 if quick else 60.0
        ours, lines = _through_a_minion(folder, count, few, idle_s)
        return rows + lines + peers.beside(folder, ours, count, few, idle_s)


def _beside_a_script(folder: Path, count: int, pairs: int, passes: int) -> list[Row]:
    found: dict[str, list[dict[str, Any]]] = {"engine": [], "script": []}
    for pair in range(pairs):
        for how, taken in found.items():
            home = folder / f"{how}{pair}"
            (home / "files").mkdir(parents=True)
            (home / "order.json").write_bytes(order(home / "files", count))
            argv = (sys.executable, str(HERE / "converging.py"), how, str(home), str(passes))
            taken.append(json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout))
            note(f"{how}: first {taken[-1]['first'][0]:.2f} s, again {min(taken[-1]['again']) * 1e3:.1f} ms")

    both = ("engine", "script")
    first = [statistics.median(float(one["first"][0]) for one in found[how]) for how in both]
    again = [min(float(taken) for one in found[how] for taken in one["again"]) for how in both]
    return [
        against(f"{count:,} files of 1 KB by the engine, none there", first[0], first[1], "s", 2, "script"),
        against("  again, nothing to do", again[0] * 1e3, again[1] * 1e3, "ms", 2, "script"),
    ]


def _through_a_minion(folder: Path, count: int, few: int, idle_s: float) -> tuple[Figures, list[Row]]:
    with processes() as started:
        master, minion = _site(folder, started)
        pid = _pid(minion)
        small = [_job(master, minion, folder / "few", few).seconds for _ in range(2)]
        before, commits = cpu_s(pid), [_commit_s(folder / "before.db")]
        with Peak(pid) as peak:
            first = _job(master, minion, folder / "many", count)
        used = cpu_s(pid) - before
        commits.append(_commit_s(folder / "after.db"))  # also after: what a disk takes changes by the minute
        again = statistics.median(_job(master, minion, folder / "many", count).seconds for _ in range(5))
        ours = Figures(
            many=(first.seconds, again),
            few=(small[0], small[1]),
            peak_mib=peak.mib,
            idle_mib=proportional_bytes(pid) / 2**20,
            idle_percent=idle_percent([pid], idle_s),
        )
    assert len(first.ages) == count, f"{len(first.ages)} lines of {count} came"
    floor_ms = (sum(commits) + statistics.median(bare(200)) / 2) * 1e3
    shown = f"2 commits, half a round trip {floor_ms:.2f} ms"
    p50, p99 = (percentile(first.ages, percent) * 1e3 for percent in (50, 99))
    return ours, [
        Row("from a result on the minion to its line, p50", amount(p50, "ms"), shown, p50 / floor_ms),
        Row("  p99", amount(p99, "ms")),
        Row("  processor time of the minion for each changed file", amount(used / count * 1e6, "us")),
    ]


def _site(folder: Path, started: list[subprocess.Popen[bytes]]) -> tuple[Master, Minion]:
    """A master that knows one verb more, and its minion."""
    master = make_master(folder / "master")
    master.stop()
    master.argv = (sys.executable, str(HERE / "states_master.py"))
    master.start()
    assert master.process is not None
    started.append(master.process)
    minion = join(master, make_minion(folder / "minion", "n1"))
    assert minion.process is not None
    started.append(minion.process)
    return master, minion


def _pid(minion: Minion) -> int:
    assert minion.process is not None
    return minion.process.pid


def _job(master: Master, minion: Minion, folder: Path, count: int) -> Taken:
    folder.mkdir(exist_ok=True)
    request = {"verb": VERB, "args": {"node": minion.name, "folder": str(folder), "count": count}}
    came: dict[str, float] = {}  # Unix time
    since, line = time.perf_counter(), b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(600)
        connection.connect(str(master.socket_path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as stream:
            for line in stream:
                now = time.time()
                said = json.loads(line)
                if said["kind"] == "resource":
                    came[said["result"]["resource"]] = now
    end = json.loads(line)
    if end["kind"] != "end" or end["exit"] != 0:
        raise RuntimeError(f"the job failed: {end.get('message', end)}")
    seconds = time.perf_counter() - since
    with closing(sqlite3.connect(f"file:{minion.journal}?mode=ro", uri=True)) as journal:
        rows = journal.execute("select at, body from events where kind = 'res'").fetchall()
    made = {json.loads(body)["resource"]: at for at, body in rows}
    return Taken(seconds, [at - made[resource] for resource, at in came.items()])


def _commit_s(path: Path, times: int = 200) -> float:
    """A commit of one row of a result's size, as both journals make them."""
    with closing(open_database(path, "floor", ("create table rows (body blob)",))) as database:
        return median_s(lambda: database.execute("insert into rows values (?)", (b"x" * 1500,)), times, 20)


if __name__ == "__main__":
    run("states", measure)
