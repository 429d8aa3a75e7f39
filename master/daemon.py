"""pgha-master as a process: starts the master and its local socket, tells systemd, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial

from ..common.errors import HostError
from ..common.notify import notify
from ..common.paths import Paths
from .control import Control
from .server import Master
from .verbs import VERBS

log = logging.getLogger("pgha.master")


def serve(paths: Paths) -> None:
    """Run until SIGTERM or SIGINT. Raises UserError or HostError when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    asyncio.run(_serve(paths))


async def _serve(paths: Paths) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    control = Control(paths.admin_socket)
    if await control.taken():
        raise HostError(f"another pgha-master serves already on {paths.admin_socket}")
    master = Master(paths)
    try:
        await master.start()
        await control.start({name: partial(verb, master) for name, verb in VERBS.items()})
        log.info("listening on %s, fingerprint %s", master.listen, master.fingerprint)
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
    finally:
        await control.close()
        await master.close()
