"""The way back from a change that can cut this node off, kept by systemd so that it survives the minion itself.

A service in /run with the revert's programs, and a timer for it: if nobody disarms it, the change is put back, even
when the minion was killed meanwhile. A reboot forgets both, and the change with it if it was not yet confirmed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import ActionFailed
from ..states.system import Output

Runner = Callable[[tuple[str, ...], float], Output]  # argv, deadline in s

UNITS = Path("/run/systemd/system")
GRACE_S = 60.0  # the timer is for a minion that died; a living one puts the change back itself
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Revert:
    run: Runner
    name: str
    units: Path = UNITS

    @classmethod
    def arm(
        cls, run: Runner, programs: tuple[tuple[str, ...], ...], confirm_s: float, units: Path = UNITS, name: str = ""
    ) -> Revert:
        """Raises ActionFailed when the timer cannot be started; then nothing was changed.

        `name` is for a revert that another process will disarm.
        """
        revert = cls(run, name or f"pgha-revert-{os.getpid()}-{next(_numbers)}", units)
        units.mkdir(0o755, parents=True, exist_ok=True)
        (units / f"{revert.name}.service").write_text(service(programs))
        (units / f"{revert.name}.timer").write_text(timer(confirm_s + GRACE_S))
        for argv in (("systemctl", "daemon-reload"), ("systemctl", "start", f"{revert.name}.timer")):
            said = run(argv, 30.0)
            if said.rc != 0:
                revert.disarm()
                raise ActionFailed("the timer that would put the change back cannot be started", said.stderr.strip())
        return revert

    def now(self) -> None:
        """Put the change back at once."""
        self.run(("systemctl", "start", f"{self.name}.service"), 120.0)
        self.disarm()

    def disarm(self) -> None:
        self.run(("systemctl", "stop", f"{self.name}.timer"), 30.0)
        for kind in ("timer", "service"):
            (self.units / f"{self.name}.{kind}").unlink(missing_ok=True)
        self.run(("systemctl", "daemon-reload"), 30.0)


def service(programs: tuple[tuple[str, ...], ...]) -> str:
    """A unit that runs all the programs in turn, whatever becomes of each."""
    lines = "".join(f"ExecStart=-{' '.join(map(quoted, argv))}\n" for argv in programs)
    return f"[Unit]\nDescription=pgha puts an unconfirmed change back\n[Service]\nType=oneshot\n{lines}"


def timer(after_s: float) -> str:
    return f"[Unit]\nDescription=pgha waits for a confirmation\n[Timer]\nOnActiveSec={after_s:g}s\nAccuracySec=1s\n"


def quoted(word: str) -> str:
    """A word as systemd's command lines take it literally. Source: systemd.service(5), COMMAND LINES."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
