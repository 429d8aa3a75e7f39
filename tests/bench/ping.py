"""How long `run ping` takes on one real minion, and how long the command line needs to start.

The floor of the first is a bare CURVE round trip of the same size in the same run, of the second a Python that does
nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from pgha.common.keys import new_key_pair
from pgha.tests.bench.machine import processes
from pgha.tests.bench.table import Row, against, below, median_s, run
from pgha.tests.bus.conftest import MASTER, join, make_master, make_minion

WARM = 20
SIZE = 200  # bytes of an order, and of its answer


def measure(quick: bool) -> list[Row]:
    rounds = 50 if quick else 400
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        master = make_master(Path(folder) / "master")
        minion = make_minion(Path(folder) / "n1", "n1")
        assert master.process is not None
        started.append(master.process)
        join(master, minion)
        assert minion.process is not None
        started.append(minion.process)
        through = times(rounds, lambda: master.ask("run", target="n1", function="ping"))
        command = median_s(lambda: master.cli("run", "n1", "ping"), 5 if quick else 20)
    floor = bare(rounds)
    start = median_s(lambda: subprocess.run([MASTER, "--help"], check=True, capture_output=True), 5 if quick else 20)
    nothing = median_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 5 if quick else 20)
    p50, floor_p50 = statistics.median(through) * 1e3, statistics.median(floor) * 1e3
    return [
        against("`run ping` on one minion, through the daemon, p50", p50, floor_p50, "ms", 3, "bare CURVE"),
        Row("  the quickest of all", f"{min(through) * 1e3:.2f} ms", f"bare CURVE {min(floor) * 1e3:.2f} ms"),
        below("start of the command line (--help)", start * 1e3, 150, "ms", f"bare python {nothing * 1e3:.0f} ms"),
        Row("`pgha-master run n1 ping`, all in all", f"{command * 1e3:.0f} ms"),
    ]


def times(rounds: int, once: Callable[[], object], warm: int = WARM) -> list[float]:
    """Seconds of each; the `warm` rounds before that are not counted."""
    taken = []
    for _ in range(rounds + warm):
        since = time.perf_counter()
        once()
        taken.append(time.perf_counter() - since)
    return taken[warm:]


def bare(rounds: int) -> list[float]:
    """A ROUTER that sends back what a DEALER said, both blocking, both with CURVE."""
    server, client, context = new_key_pair(), new_key_pair(), zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.curve_server, router.curve_secretkey, router.curve_publickey = True, server.private, server.public
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.curve_serverkey = server.public
    dealer.curve_secretkey, dealer.curve_publickey = client.private, client.public
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def echo() -> None:
        for _ in range(rounds + WARM):
            router.send_multipart(router.recv_multipart())

    def once() -> None:
        dealer.send_multipart([b"header", b"x" * SIZE])
        dealer.recv_multipart()

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    measured = times(rounds, once)
    thread.join()
    context.destroy(0)
    return measured


if __name__ == "__main__":
    run("ping", measure)
