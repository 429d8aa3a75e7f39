"""How long `run ping` takes through the daemon, against a bare CURVE round trip in the same run.

    python tests/bench/ping.py [ROUNDS]

The ratio is what to watch: it holds on any machine, the microseconds do not.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from pgha.common.keys import new_key_pair


def helpers() -> Any:
    """The processes that the tests of the bus use, too."""
    path = Path(__file__).parent.parent / "bus/conftest.py"
    spec = importlib.util.spec_from_file_location("bus_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def p50(rounds: int, once: Callable[[], None]) -> float:
    """Seconds; ten rounds before that are not counted."""
    times = []
    for _ in range(rounds + 10):
        since = time.perf_counter()
        once()
        times.append(time.perf_counter() - since)
    return statistics.median(times[10:])


def bare(rounds: int) -> float:
    """A ROUTER that sends back what a DEALER said, both blocking, both with CURVE."""
    server, client, context = new_key_pair(), new_key_pair(), zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.curve_server, router.curve_secretkey, router.curve_publickey = True, server.private, server.public
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer.curve_serverkey, dealer.curve_secretkey, dealer.curve_publickey = (
        server.public,
        client.private,
        client.public,
    )
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def echo() -> None:
        for _ in range(rounds + 10):
            router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()

    def once() -> None:
        dealer.send_multipart([b"header", b"x" * 200])
        dealer.recv_multipart()

    measured = p50(rounds, once)
    thread.join()
    context.destroy(0)
    return measured


def main(rounds: int) -> None:
    bus = helpers()
    with tempfile.TemporaryDirectory() as folder:
        master = bus.make_master(Path(folder) / "master")
        minion = bus.make_minion(Path(folder) / "n1", "n1")
        try:
            bus.join(master, minion)
            through = p50(rounds, lambda: master.ask("run", target="n1", function="ping"))
        finally:
            bus.end(minion, master)
    echo = bare(rounds)
    print(f"run ping   p50 {through * 1e3:8.2f} ms")
    print(f"bare CURVE p50 {echo * 1e3:8.2f} ms")
    print(f"ratio          {through / echo:8.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
