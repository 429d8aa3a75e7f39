"""systemd, asked and told through systemctl."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..common.errors import ActionFailed
from ..states.system import Output, UnitFacts

Runner = Callable[[tuple[str, ...], float], Output]  # argv, deadline in s

# the monotonic forms: the others are printed for people, and not every systemctl of a supported system knows `unix`
_ASKED = (
    "LoadState,ActiveState,UnitFileState,ActiveEnterTimestampMonotonic,NeedDaemonReload,"
    "ConditionResult,ConditionTimestampMonotonic"
)
SHOW = ("systemctl", "show", "-p", _ASKED, "--")
DEADLINE_S = 150.0  # more than the longest TimeoutStartSec pgha sets
UNDERWAY_S = 5.0


def parse(shown: str) -> UnitFacts:
    """Facts from KEY=value lines. Source: systemd, org.freedesktop.systemd1, unit properties."""
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    active = values.get("ActiveState", "inactive")
    tried = values.get("ConditionTimestampMonotonic", "") not in ("", "0")
    since = values.get("ActiveEnterTimestampMonotonic", "")
    booted = time.time() - time.monotonic()
    return UnitFacts(
        load=values.get("LoadState", "not-found"),
        active=active,
        enabled=values.get("UnitFileState", ""),
        started_at=booted + int(since) / 1e6 if active == "active" and since.isdigit() else 0.0,
        needs_daemon_reload=values.get("NeedDaemonReload") == "yes",
        condition_met=not (tried and values.get("ConditionResult") == "no"),
    )


def perform(run: Runner, verb: str, name: str, wait: bool) -> None:
    """Raises ActionFailed with the end of the unit's journal."""
    starts = verb in ("start", "restart")
    if starts:
        run(("systemctl", "reset-failed", "--", name), 15.0)  # a unit that failed too often would refuse
    blocking = ("--no-block",) if not wait else ()
    said = run(("systemctl", *blocking, verb, *(("--", name) if name else ())), DEADLINE_S)
    if said.rc != 0:
        journal = run(("journalctl", "-u", name, "-n", "12", "--no-pager", "-o", "cat"), 15.0) if name else Output(0)
        what = f"systemctl {verb} {name}".rstrip()
        raise ActionFailed(f"{what} failed", f"{said.stderr.strip()}\n{journal.stdout.strip()}".strip())
    if starts and not wait:
        _until_underway(run, name)


def _until_underway(run: Runner, name: str) -> None:
    """--no-block returns before the unit has left its old state; give systemd a moment to take the job up."""
    deadline = time.monotonic() + UNDERWAY_S
    while parse(run((*SHOW, name), 15.0).stdout).active == "inactive" and time.monotonic() < deadline:
        time.sleep(0.05)
