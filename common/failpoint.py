"""Places where a test makes a process die, fail or hang: the durable steps of the bus, each by its name.

`PGHA_FAILPOINTS="journal.accept.before=kill;store.commit.after=kill@3"`: at the third time that the store has
committed, the process is killed as by `kill -9`. Nothing is armed without that variable, and the price is one lookup.

Actions: `kill`, `full` (the disk refuses, from then on), `full*N` (N times), `stop` (SIGSTOP), `slow:SECONDS`.
"""

from __future__ import annotations

import errno
import os
import signal
import time

VARIABLE = "PGHA_FAILPOINTS"


class _Armed:
    def __init__(self, action: str) -> None:
        word, _, nth = action.partition("@")
        self._word, _, times = word.partition("*")
        self._skip = int(nth or 1) - 1
        self._left = int(times) if times else (-1 if self._word.startswith(("full", "slow")) else 1)

    def act(self) -> None:
        if self._skip > 0:
            self._skip -= 1
            return
        if self._left == 0:
            return
        self._left -= 1
        if self._word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._word == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._word == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self._word.startswith("slow:"):
            time.sleep(float(self._word.removeprefix("slow:")))
        else:
            raise ValueError(f"{VARIABLE}: no action {self._word!r}")


def _read(text: str) -> dict[str, _Armed]:
    return {name: _Armed(action) for name, _, action in (part.partition("=") for part in text.split(";") if part)}


_ARMED = _read(os.environ.get(VARIABLE, ""))


def reach(name: str) -> None:
    """Called where the name says. Does what a test has armed there; raises OSError when that is a full disk."""
    if _ARMED and name in _ARMED:
        _ARMED[name].act()
