"""The steps of a whole cluster's restore on a node, as the master orders them; what takes long is a unit of systemd."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, get_args

from ...common.errors import HostError
from ...common.names import is_cluster_name
from ...common.results import Outcome
from ...states.action import Run, Unit
from ...states.backups.driver import KEEP, NO_RESTORE, USER, WAIT, TargetKind
from ..backups.restoring import Restore, Restores, serves
from ..backups.run import installed
from .cluster import etcdctl_here
from .request import Call, Doors, arguments, wrong

UNIT = "pgha-restore@{}.service"
STEPS = ("copy", "recover")
ETCD_S = 30.0


def look(call: Call, doors: Doors) -> Outcome:
    """Data: `restore`, `running`, `patroni`, `serving`, `wal`, `segment`, `free`, `tablespaces`, `mounted`."""
    arguments(call, 0, 0)
    here = installed(doors.system)
    restores = Restores(here)
    known, data = restores.ordered(), restores.data
    control = _control(doors, here.bin_dir, data)
    answer: dict[str, Any] = {
        "restore": known.model_dump(mode="json") if known else None,
        "running": [step for step in STEPS if doors.system.unit(UNIT.format(step)).active == "activating"],
        "patroni": doors.system.unit("patroni").active,
        "serving": serves(data),
        "wal": control.get("Latest checkpoint's REDO WAL file", ""),
        "segment": int(control.get("Bytes per WAL segment", 16 * 1024**2)),
        "free": _free(data),
        "tablespaces": len(doors.system.names(str(data / "pg_tblspc"))),
        "mounted": data.is_mount(),
    }
    return Outcome(ok=True, exit_code=0, data=answer)


def begin(call: Call, doors: Doors) -> Outcome:
    """Take the order down and start a step of it, unless that step is done or runs."""
    step, identity, kind, *rest = arguments(call, 6, 8)
    value, label, timeline, number, stanza = ("" if word == "-" else word for word in (*rest, "-", "-")[:5])
    known = step in STEPS and kind in get_args(TargetKind) and identity.isalnum()
    if not known or not (number.isdecimal() or not number) or not (is_cluster_name(stanza) or not stanza):
        raise wrong(call, "step, id, kind of target, its value, label, timeline, repository and stanza; - for none")
    what: dict[str, Any] = {"kind": kind, "value": value, "label": label, "timeline": timeline, "stanza": stanza}
    wanted = Restore(id=identity, repository=int(number or 0), **what)
    Restores(installed(doors.system)).order(wanted)
    doors.system.perform(Unit("start", UNIT.format(step), wait=False))
    return Outcome(ok=True, exit_code=0)


def stop(call: Call, doors: Doors) -> Outcome:
    """Stop Patroni and PostgreSQL, which archives all of its WAL before it ends; neither comes back by itself.

    Debian's unit gives Patroni 30 s and leaves PostgreSQL to itself then, so it is waited for here.
    """
    arguments(call, 0, 0)
    here = installed(doors.system)
    _touch(WAIT)
    if doors.system.unit("patroni").load == "loaded":
        doors.system.perform(Unit("stop", "patroni"))
    data = Restores(here).data
    if serves(data):
        limit = f"{max(60.0, call.timeout_s - 60.0):.0f}"
        words = (f"{here.bin_dir}/pg_ctl", "-D", str(data), "-m", "fast", "-w", "-t", limit, "stop")
        doors.system.perform(Run(words, user=USER, timeout_s=call.timeout_s))
    return Outcome(ok=True, exit_code=0)


def start(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    Path(WAIT).unlink(missing_ok=True)
    doors.system.perform(Unit("start", "patroni"))
    return Outcome(ok=True, exit_code=0)


def lift(call: Call, doors: Doors) -> Outcome:
    """Patroni may start again; whoever is to start it does."""
    arguments(call, 0, 0)
    Path(WAIT).unlink(missing_ok=True)
    return Outcome(ok=True, exit_code=0)


def drop(call: Call, doors: Doors) -> Outcome:
    """Take away what a restore that is given up has made here. Nothing of the data that was there is touched."""
    (identity,) = arguments(call, 1, 1)
    for step in STEPS:
        if doors.system.unit(UNIT.format(step)).active != "inactive":
            doors.system.perform(Unit("stop", UNIT.format(step)))
    Restores(installed(doors.system)).drop(identity)
    return Outcome(ok=True, exit_code=0)


def keep(call: Call, doors: Doors) -> Outcome:
    """Until `commit` no backup made here expires an older one: it may be the one that is wanted in the end."""
    arguments(call, 0, 0)
    _touch(KEEP)
    return Outcome(ok=True, exit_code=0)


def swap(call: Call, doors: Doors) -> Outcome:
    """On the node that recovered; the data directory that was there is kept. Data: `kept`."""
    (identity,) = arguments(call, 1, 1)
    restores = Restores(installed(doors.system))
    known = restores.ordered()
    if known is None or known.id != identity:
        raise HostError(f"this node knows of no restore {identity}")
    return Outcome(ok=True, exit_code=0, data={"kept": restores.swap(known).detail})


def aside(call: Call, doors: Doors) -> Outcome:
    """On the other nodes: what they have is put aside and kept; replicas are copied from the leader until `settle`."""
    (identity,) = arguments(call, 1, 1)
    if not identity.isalnum():
        raise wrong(call, f"{identity!r} is no id of a restore")
    kept = Restores(installed(doors.system)).aside(identity)
    _hold()
    return Outcome(ok=True, exit_code=0, data={"kept": str(kept) if kept else ""})


def hold(call: Call, doors: Doors) -> Outcome:
    """Until `settle`, this node's replica is not made from the repository, where backups are of another timeline."""
    arguments(call, 0, 0)
    _hold()
    return Outcome(ok=True, exit_code=0)


def settle(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    Path(NO_RESTORE).unlink(missing_ok=True)
    return Outcome(ok=True, exit_code=0)


def commit(call: Call, doors: Doors) -> Outcome:
    """Delete the data that restores have put aside. Data: `deleted`."""
    arguments(call, 0, 0)
    deleted = Restores(installed(doors.system)).commit()
    Path(KEEP).unlink(missing_ok=True)
    return Outcome(ok=True, exit_code=0, data={"deleted": deleted})


def forget(call: Call, doors: Doors) -> Outcome:
    """Have etcd forget who led and how far, so that the recovered data founds the cluster anew; settings stay.

    Refused while somebody leads. Source: Patroni, the keys of a scope: leader, initialize, history, status, sync.
    """
    (scope,) = arguments(call, 1, 1)
    prefix = f"/service/{scope}/"
    listed = doors.system.ask((*etcdctl_here(doors), "get", "--prefix", "--keys-only", prefix), timeout_s=ETCD_S)
    if listed.rc:
        raise HostError(f"etcd does not list the keys of {scope}: {listed.stderr.strip()[-300:]}")
    keys = [key for key in listed.stdout.split() if key.startswith(prefix)]
    if f"{prefix}leader" in keys:
        raise HostError(f"somebody still leads {scope}: Patroni must be stopped on every node")
    gone = [key for key in keys if key != f"{prefix}config"]
    for key in gone:
        said = doors.system.ask((*etcdctl_here(doors), "del", key), timeout_s=ETCD_S)
        if said.rc:
            raise HostError(f"etcd does not delete {key}: {said.stderr.strip()[-300:]}")
    return Outcome(ok=True, exit_code=0, data={"deleted": gone})


def _hold() -> None:
    _touch(NO_RESTORE)


def _touch(name: str) -> None:
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from None


def _control(doors: Doors, bin_dir: str, data: Path) -> dict[str, str]:
    said = doors.system.ask((f"{bin_dir}/pg_controldata", str(data)))
    pairs = (line.partition(":") for line in said.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs} if said.rc == 0 else {}


def _free(data: Path) -> int:
    """Bytes free where the data is, or will be."""
    there = next(path for path in (data, *data.parents) if path.exists())
    return shutil.disk_usage(there).free
