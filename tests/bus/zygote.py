"""A process that has imported both daemons and forks one for each line it is given: 50 ms where a start takes 1 s.

A request is one JSON line: `what` (master or minion), `root`, `log`, `environment`; the answer is the child's pid. The
child is the daemon as its own command runs it. It ends when its standard input does, and takes its children along.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from pgha.common import failpoint
from pgha.common.paths import Paths
from pgha.master import daemon, verbs  # noqa: F401 - imported so that no child has to
from pgha.master.bus import ledger
from pgha.master.setup import load_settings  # noqa: F401 - as above
from pgha.minion import agent, apt, cli, greeting, host, journal, settings, telemetry, trust, worker  # noqa: F401 - as above
from pgha.minion.functions import upgrade  # noqa: F401 - as above

now = time.time
shifted = [0.0]  # seconds that this daemon's clock is ahead


def live(what: str) -> None:
    if what == "master":
        daemon.serve(Paths.from_environment())
    else:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
        asyncio.run(cli._run())


def become(request: dict[str, object]) -> None:
    """In the child: everything that exec would have given it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.update(environment, PGHA_ROOT=str(request["root"]))
    agent.PING_S, agent.SILENCE_S, greeting.WELCOME_S, agent.BACKOFF_S = 1.0, 5.0, 3.0, (0.2, 1.0)
    ledger.RESEND_S = 1.0  # what is waited for comes five times as fast
    arm(os.environ.get(failpoint.VARIABLE, ""))
    time.time = lambda: now() + shifted[0]
    shifted[0] = float(os.environ.get("PGHA_TEST_SHIFT_S", "0"))
    orders = Path(str(request["root"])) / "failpoints"
    signal.signal(signal.SIGUSR2, lambda *_: obey(orders))
    code = 1
    try:
        live(str(request["what"]))
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is: into the log, and never back into the parent
        logging.getLogger("zygote").error("ended by %s: %s", type(error).__name__, error)
    logging.shutdown()
    os._exit(code)


def arm(text: str) -> None:
    failpoint._ARMED.clear()
    failpoint._ARMED.update(failpoint._read(text))


def obey(orders: Path) -> None:
    """SIGUSR2: do what the file says, without a restart; it is gone when that has been done."""
    wanted = json.loads(orders.read_text())
    arm(wanted["failpoints"])
    shifted[0] = wanted["shift_s"]
    orders.unlink()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    children: list[int] = []
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
        children.append(child)
        print(child, flush=True)
    for child in children:
        if Path(f"/proc/{child}/root").exists() and os.getppid() and _mine(child):
            os.kill(child, signal.SIGKILL)


def _mine(pid: int) -> bool:
    """Still a child of this process, and not somebody who was given its number later."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False


if __name__ == "__main__":
    main()
