"""`run '*' ping` on very many minions, what one of them costs the master, and how all come back after it was killed.

The floor is a bare ROUTER that sends a message of the same size to the same swarm and counts as many answers.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pgha.tests.bench import crowd
from pgha.tests.bench.machine import cpu_s, processes, raise_file_limit, resident_bytes, wait_for
from pgha.tests.bench.table import Row, against, below, exactly, note, run

ROUNDS = 5
ORDER_BYTES, ANSWER_BYTES = 420, 260  # a JOB for a ping, and the event that tells its end


def measure(quick: bool) -> list[Row]:
    raise_file_limit()
    rows = []
    for count in (100, 300) if quick else (1000, 5000):
        rows += _fan_out(count, storm=count in (300, 5000))
    return rows


def _fan_out(count: int, *, storm: bool) -> list[Row]:
    floor_s, floor_connect_s = _floor(count)
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        big = crowd.master_of(Path(folder) / "master", started, count)
        before = resident_bytes(big.pid)
        connect_s = big.connect()
        time.sleep(2)  # what the welcome has left to do is no part of a run
        each = (resident_bytes(big.pid) - before) / count / 1024
        note(f"{count} connected in {connect_s:.1f} s")
        cpu = cpu_s(big.pid)
        taken = [_run(big, count) for _ in range(ROUNDS)]
        cpu_each = (cpu_s(big.pid) - cpu) / ROUNDS / count
        wall = statistics.median(taken)
        rows = [
            against(f"`run '*' ping`, {count:,} minions, all stored and shown", wall, floor_s, "s", 3, "bare fan-out"),
            Row("  processor time of the master for each answer", f"{cpu_each * 1e6:.0f} us"),
            below(f"  memory of the master for each of {count:,} connected", each, 60, "KiB"),
        ]
        if storm:
            rows += _storm(big, started, floor_connect_s)
        big.master.stop()
    return rows


def _floor(count: int) -> tuple[float, float]:
    with processes() as started:
        floor, _, connect_s = crowd.floor_of(started, count, size=ANSWER_BYTES)
        taken = [floor.ask(do="fan out", size=ORDER_BYTES)["seconds"] for _ in range(ROUNDS)]
    note(f"floor: {count} connected in {connect_s:.1f} s, fan-out {statistics.median(taken):.3f} s")
    return statistics.median(taken), connect_s


def _run(big: crowd.Big, count: int) -> float:
    since = time.perf_counter()
    lines: list[dict[str, Any]] = big.master.ask("run", target="*", function="ping")
    taken = time.perf_counter() - since
    done = sum(line["kind"] == "node_done" and line["state"] == "done" for line in lines)
    stored = big.stored("select count(*) from jobs where operation=? and state='done'", lines[0]["id"])
    if (done, stored) != (count, count):
        raise RuntimeError(f"of {count} answers {done} were shown and {stored} stored: {lines[-1]}")
    note(f"run '*' ping: {taken:.2f} s")
    return taken


def _storm(big: crowd.Big, started: crowd.Processes, floor_connect_s: float) -> list[Row]:
    """Kill the master while every minion has a job; all of these end before it is started again."""
    count = len(big.names)
    operation = _begin(big)
    ended = "select count(*) from jobs where operation=? and state='done'"
    wait_for("every minion has begun", lambda: big.crowd.ask(do="status")["held"] == count, 120)
    wait_for("every beginning is stored", lambda: big.crowd.ask(do="status")["waiting"] == 0, 120)
    big.master.signal(signal.SIGKILL)
    assert big.master.process is not None
    big.master.process.wait()
    big.crowd.ask(do="finish")
    big.crowd.ask(do="reset")
    crowd.start(big.master, started)
    since = time.monotonic()
    big.crowd.until("welcomed again", "welcomes", count, 180)
    welcomed_s = time.monotonic() - since
    wait_for("no event waits any more", lambda: big.crowd.ask(do="status")["waiting"] == 0, 120)
    stored_s = time.monotonic() - since
    twice = big.crowd.ask(do="status")["welcomes"] - count
    note(f"storm: all WELCOME after {welcomed_s:.1f} s ({twice} more than needed), all stored after {stored_s:.1f} s")
    shown = f"bare handshakes {floor_connect_s:.1f} s"
    return [
        below(f"{count:,} minions back after kill -9 of the master: all WELCOME", welcomed_s, 15, "s", shown),
        Row("  the ends of all their jobs are stored", f"{stored_s:.1f} s"),
        exactly("  ends of jobs that were lost", count - big.stored(ended, operation), 0, ""),
    ]


def _begin(big: crowd.Big) -> str:
    """A job on every minion, which goes on; nobody follows it. Its id."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(big.master.socket_path))
        order = {"verb": "run", "args": {"target": "*", "argv": ["sleep", "600"], "timeout_s": 600}}
        connection.sendall(json.dumps(order).encode() + b"\n")
        with connection.makefile("rb") as stream:
            identity: str = json.loads(stream.readline())["id"]
            return identity


if __name__ == "__main__":
    run("fanout", measure)
