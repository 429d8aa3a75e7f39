"""Backups of this node: what is there, what runs, and the order to make one. The work itself is a unit of systemd."""

from __future__ import annotations

from typing import Any

from ...common.backup import BACKUP_TYPES
from ...common.errors import HostError
from ...common.names import is_cluster_name
from ...common.results import Outcome
from ...states.action import Unit
from ..backups.history import History
from ..backups.run import installed
from ..backups.turn import turn
from ..probes.backup import told_of
from .request import Call, Doors, arguments, wrong

DRILL = "pgha-drill.service"
UNITS = ("systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", "pgha-backup@*.service")


def look(call: Call, doors: Doors) -> Outcome:
    """Data: `turn`, `running` (units), `progress` ([done, total] bytes), `operates`, `repositories`, `runs`.

    Given a stanza, the repositories are told as that cluster's backups in them.
    """
    (stanza,) = (*arguments(call, 0, 1), "")[:1]
    if stanza and not is_cluster_name(stanza):
        raise wrong(call, f"{stanza!r} is no name of a cluster")
    here = installed(doors.system)
    told = told_of(doors.system, here.model_copy(update={"stanza": stanza}) if stanza else here)
    try:
        whose, why = turn(doors.system, here).node, ""
    except HostError as error:
        whose, why = "", str(error)
    data: dict[str, Any] = {
        "turn": whose,
        "why": why,
        "running": running(doors),
        "progress": told.progress,
        "operates": here.operates,
        "repositories": [one.model_dump(mode="json") for one in told.repositories],
        "runs": [one.model_dump(mode="json") for one in History().runs()[-8:]],
    }
    return Outcome(ok=True, exit_code=0, data=data)


def start(call: Call, doors: Doors) -> Outcome:
    """Begin a backup of that type, unless one runs here; data as of `look`, of which `running` says what does."""
    (kind,) = arguments(call, 1, 1)
    if kind not in BACKUP_TYPES:
        raise wrong(call, f"{kind!r} is no type of a backup ({', '.join(BACKUP_TYPES)})")
    installed(doors.system)
    if not (active := running(doors)):
        doors.system.perform(Unit("start", f"pgha-backup@{kind}-now.service", wait=False))
    return Outcome(ok=True, exit_code=0, data={"running": active})


def running(doors: Doors) -> list[str]:
    """Names of the units that make a backup now; one that waits to be tried again makes none."""
    rows = [line.split() for line in doors.system.ask(UNITS).stdout.splitlines()]
    return [row[0] for row in rows if row and "auto-restart" not in row[1:4]]


def drill_look(call: Call, doors: Doors) -> Outcome:
    """Data: `running`, `drill`: the latest that has ended on this node, None when there was none."""
    arguments(call, 0, 0)
    installed(doors.system)
    drills = History().drills()
    running = doors.system.unit(DRILL).active in ("active", "activating", "deactivating")
    return Outcome(
        ok=True, exit_code=0, data={"running": running, "drill": drills[-1].model_dump(mode="json") if drills else None}
    )


def drill_start(call: Call, doors: Doors) -> Outcome:
    """Begin a restore for the proof, unless one runs here."""
    arguments(call, 0, 0)
    if not installed(doors.system).drills:
        raise HostError("restores are not proved on this node; backup.drill.on says where, else they are on data nodes")
    doors.system.perform(Unit("start", DRILL, wait=False))
    return Outcome(ok=True, exit_code=0)
