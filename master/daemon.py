"""pgha-master as a process: starts the master, its upkeep and local socket, tells systemd, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from functools import partial

from ..common.errors import HostError
from ..common.notify import notify
from ..common.paths import Paths
from .bus import limits
from .control import Control
from .operators import Operators
from .server import Master
from .setup import load_settings
from .verbs import VERBS

log = logging.getLogger("pgha.master")

SWITCH_S = 0.0005  # between threads: those of the bus and of the store must not wait for the loop, nor it for them
GARBAGE = 20_000  # objects between two looks for what refers to itself: there is little of that, and much else


def serve(paths: Paths) -> None:
    """Run until SIGTERM or SIGINT. Raises UserError or HostError when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    gc.set_threshold(GARBAGE)
    asyncio.run(_serve(paths))


async def _serve(paths: Paths) -> None:
    stopping, broken = asyncio.Event(), asyncio.Event()

    def died() -> None:
        broken.set()
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    control = Control(paths.admin_socket)
    if await control.taken():
        raise HostError(f"another pgha-master serves already on {paths.admin_socket}")
    limits.take_all()
    settings = load_settings(paths)
    master = Master(paths, died)
    try:
        await master.start()
        verbs = {name: (partial(verb, master), needs) for name, (verb, needs) in VERBS.items()}
        await control.start(verbs, Operators(settings.roles, master.store, master.clock))
        log.info("listening on %s, fingerprint %s", master.listen, master.fingerprint)
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
    finally:
        await control.close()
        await master.close()
    if broken.is_set():
        raise HostError("a part of the master broke, see above; it ended so that it can be started again")
