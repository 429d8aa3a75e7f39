"""Run the tool for as long as it takes, with what it says in the journal as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ...states.backups.driver import Argv
from ...states.system import Output
from ..spawn import stream

FOREVER_S = 7 * 86400.0
KEPT = 64 * 1024  # characters of each stream, the last
NOT_SHOWN = ("info",)


def execute(argv: Argv, cancelled: Callable[[], bool] = lambda: False) -> Output:
    """As `host.execute`, without a deadline worth the name; ended once it is `cancelled`."""
    said: dict[str, str] = {"stdout": "", "stderr": ""}
    shown = not any(word in argv for word in NOT_SHOWN)

    def tell(name: str, text: str) -> None:
        said[name] = (said[name] + text)[-KEPT:]
        if shown:
            (sys.stdout if name == "stdout" else sys.stderr).write(text)
            (sys.stdout if name == "stdout" else sys.stderr).flush()

    rc, why = stream(argv, FOREVER_S, tell, cancelled)
    return Output(rc, said["stdout"], said["stderr"] or why)
